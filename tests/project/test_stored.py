"""Files that commit 4f58efb wrote (tests/stored) open as before, under the names that they had then.

They were made by that commit's own commands: a run fine-tuned from another one, with a fitted sampler, samples, scores and
comparisons; an extractor; a sweep of the run.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import alphabar
from alphabar.cli import main as command_line
from alphabar.core.files import read_jsonl
from alphabar.core.machine import versions
from alphabar.results.runs import load_run

STORED = Path(__file__).parents[1] / "stored"
MODEL = "d2f89c2fe668cde6"  # the fingerprint that the run's model had


def alphabar_command(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(list(words))
    assert not ended.value.code


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "stored"
    shutil.copytree(STORED, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_run_opens_and_draws_what_it_drew(stored: Path) -> None:
    model = alphabar.load_model("run")
    assert model.fingerprint == MODEL
    before = alphabar.Samples.load("samples.npz")
    after = alphabar.sample(model, 4, sampler="ddim", steps=4, eta=1.0, plan="every(2)", progress=False)
    assert (after.images == before.images).all()
    assert after.record["nfe"] == before.record["nfe"]
    assert alphabar.resolve("run/recipe.toml").train.init_from == "first"  # train.begin in the file (old name)


def test_a_run_is_continued(stored: Path) -> None:
    before = Path("run/checkpoints/last/ema.safetensors").read_bytes()
    alphabar_command("train", "squares_train.npz", "--out", "run", "--resume")  # refused if the recipe's fingerprint had moved
    assert Path("run/checkpoints/last/ema.safetensors").read_bytes() == before  # the budget was spent already


def test_a_run_is_read_for_the_report(stored: Path) -> None:
    assert load_run(Path("run")).missing == []
    alphabar_command("report", "run", "--out", "page.html")
    assert "squares_train" in Path("page.html").read_text()


def test_a_fitted_sampler_is_found_and_carried_out(stored: Path) -> None:
    made = alphabar.sample(alphabar.load_model("run"), 4, sampler="tuned", steps=3, progress=False)
    assert made.record["tuned"]["name"] == "solver"
    assert made.record["nfe"] == 3
    assert made.record["tuned"]["digest"] == "32553a69ef675c83"


def test_an_extractor_gives_the_scores_that_it_gave(stored: Path) -> None:
    stored_rows = {row["metric"]: row for row in read_jsonl(Path("run/scores.jsonl"))}
    assert {"fid", "kid", "precision"} <= stored_rows.keys()
    with pytest.warns(UserWarning, match="floor is taken at 24 images"):
        scores = alphabar.score("run", "squares_test.npz", extractor="extractor.safetensors", n=40, steps=2, progress=False)
    assert len(scores) == len(stored_rows)
    for score in scores:
        assert np.isclose(score.value, stored_rows[score.metric]["value"], rtol=1e-9), score.metric
        assert score.extractor == stored_rows[score.metric]["extractor"]


def test_a_sweep_is_complete_and_draws_nothing_again(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = sorted(Path("sweep/rows").glob("*.npz"))
    times = [row.stat().st_mtime_ns for row in rows]
    protocol = Path("sweep/protocol.json")  # a sweep by other versions is refused: take it as made with the present ones
    protocol.write_text(json.dumps(json.loads(protocol.read_text()) | {"versions": versions()}))
    alphabar_command(
        "sweep", "run", "--against", "squares_test.npz", "--extractor", "extractor.safetensors", "--samplers", "ddim", "dpmpp_2m",
        "tuned", "--calls", "2", "3", "--n", "40", "--out", "sweep", "--json",
    )  # fmt: skip
    assert [row.stat().st_mtime_ns for row in rows] == times
    assert "dpmpp_2m" in capsys.readouterr().out
