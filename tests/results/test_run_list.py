"""`alphabar runs`: a list that can be filtered, and checkpoints whose removal leaves a record of what they were."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alphabar.cli.main import app
from alphabar.core.files import append_jsonl
from alphabar.core.run import Run
from alphabar.denoiser.model import save_weights
from alphabar.results.run_list import find_runs, origin, plan_removals, remove, summaries
from alphabar.sampling.sample import sample
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe, resolve
from alphabar.training.initial_model import cost, new_model
from alphabar.verbs.train import train

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def recipe(*more: str) -> Recipe:
    return resolve(
        "garments", ["--model.channels", "8", "--model.groups", "4", "--model.embedding", "8", "--model.attention", *more]
    )


def make_run(path: Path, *more: str, images: int = 320, end: str | None = "finished", seconds: float = 7200.0) -> Run:
    """A run as training would leave it, with one loss, a score, and two checkpoints of different weights."""
    run = Run(path)
    r = recipe(*more)
    run.start(r.toml())
    (path / "cost.json").write_text(json.dumps({"parameters": 10, "gflop_a_call": 0.5}))
    run.event("loss", images=images, loss=0.5)
    for k, name in enumerate(("best", "last")):
        model = new_model(r, (1, 8, 8))
        for p in model.parameters():
            p.data.add_(0.01 * (k + 1) + 0.001 * ord(path.name[0]))
        run.checkpoint(name).mkdir(parents=True)
        save_weights(run.checkpoint(name) / "ema.safetensors", model)
        (run.checkpoint(name) / "state.json").write_text(json.dumps({"images": images * (k + 1) // 2}))
    append_jsonl(run.scores, {"images": images, "metric": "fid", "value": 3.5, "interval": [3.0, 4.0], "n": 64, "nfe": 25})
    append_jsonl(run.scores, {"images": images // 2, "metric": "fid", "value": 9.5, "n": 64, "nfe": 25})
    if end:
        run.event(end, images=images, seconds=seconds)
    old = time.time() - 3600
    os.utime(run.events, (old, old))
    return run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "a", "--train.images", "320")
    make_run(tmp_path / "runs" / "deep" / "b", "--train.images", "640", "--train.lr", "5e-4", end="stopped", seconds=1800.0)
    (tmp_path / "runs" / "no run").mkdir()
    (tmp_path / "runs" / ".hidden").mkdir()
    make_run(tmp_path / "runs" / ".hidden" / "c")
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    app(list(words), result_action="return_value")
    return capsys.readouterr().out


def test_runs_are_found_below_a_folder_and_summarised(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_runs([Path("runs")]) == [Path("runs/a"), Path("runs/deep/b")] and find_runs([Path("runs/a")]) == [Path("runs/a")]
    a, b = json.loads(printed(capsys, "runs", "--json"))
    assert a["state"] == "finished" and a["images"] == a["budget"] == 320 and a["hours"] == 2
    assert a["tflop"] == pytest.approx(3 * 0.5 * 320 / 1000)
    assert a["fid"] == 3.5 and a["fid_interval"] == [3.0, 4.0] and a["fid_protocol"] == "64 images, 25 calls"
    assert (b["state"], b["images"], b["budget"], b["hours"]) == ("stopped", 320, 640, 0.5)
    assert a["differs"] == {"train.images": 320, "train.lr": 0.002} and b["differs"] == {"train.images": 640, "train.lr": 5e-4}
    assert a["checkpoints"] == ["best", "last"]
    line = printed(capsys, "runs")
    assert "stopped" in line and "3.5" in line and "lr" in line


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--where", "train.lr=0.0005"], ["b"]),
        (["--where", "train.lr=5e-4", "--where", "data.set=fashion_mnist"], ["b"]),
        (["--where", "train.lr=5"], []),
        (["--where", "train.flip=false"], ["a", "b"]),
        (["--state", "finished"], ["a"]),
        (["--state", "finished", "stopped"], ["a", "b"]),
    ],
)
def test_filters(place: Path, capsys: pytest.CaptureFixture[str], words: list[str], names: list[str]) -> None:
    assert [Path(r["path"]).name for r in json.loads(printed(capsys, "runs", *words, "--json"))] == names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--where", "train.rl=1"], r"no run has the recipe key train.rl; did you mean 'train.lr'\?"),
        (["--where", "lr"], "write KEY=VALUE"),
        (["--state", "done"], "use finished, stopped, diverged"),
    ],
)
def test_wrong_filters_are_refused(place: Path, words: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        app(["runs", *words], result_action="return_value")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        app(["runs", "nowhere"], result_action="return_value")


def test_a_folder_without_read_permission_does_not_hide_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs/a")
    make_run(tmp_path / "runs/locked/b")
    iterdir = Path.iterdir

    def refused(self: Path) -> Iterator[Path]:
        if self.name == "locked":  # chmod does not keep root out
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.warns(UserWarning, match=r"locked cannot be read \(Permission denied\): runs below it are left out"):
        assert find_runs([tmp_path / "runs"]) == [tmp_path / "runs/a"]


def test_a_run_of_an_older_release_has_no_cost(place: Path) -> None:
    (place / "runs" / "a" / "cost.json").unlink()
    (row,) = summaries([Path("runs/a")])
    assert row.tflop is None and row.fid == 3.5 and row.differs == {}


# ---- removing checkpoints


def test_samples_are_traced_to_a_removed_checkpoint(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("runs/a", "best")
    record = sample(model, 2, steps=2, progress=False).record
    (there,) = json.loads(printed(capsys, "runs", "--model", record["model"], "--json"))
    assert there == {"run": "runs/a", "checkpoint": "best", "images": 160, "there": True}
    out = json.loads(printed(capsys, "runs", "prune", "runs/a", "--keep", "last", "--yes", "--json"))
    assert out["removed"] == [["runs/a", "best", record["model"]]] and out["freed"] > 1000
    assert not Path("runs/a/checkpoints/best").exists() and Path("runs/a/checkpoints/last").is_dir()
    (gone,) = json.loads(printed(capsys, "runs", "--model", record["model"], "--json"))
    assert gone == {"run": "runs/a", "checkpoint": "best", "images": 160, "there": False}
    assert "removed" in printed(capsys, "runs", "--model", record["model"])
    assert "none of 2 runs" in printed(capsys, "runs", "--model", "0" * 16)


def test_prune_asks_first(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="there is no terminal to ask in"):
        app(["runs", "prune", "runs/a", "--keep", "best"], result_action="return_value")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, there in (("", True), ("n", True), ("y", False)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        app(["runs", "prune", "runs/a", "--keep", "best"], result_action="return_value")
        assert Path("runs/a/checkpoints/last").exists() == there
    assert "training cannot be resumed" in capsys.readouterr().err


def test_all_checkpoints_may_be_removed_and_the_record_stays(place: Path) -> None:
    remove(plan_removals([Path("runs/a")], ()))
    assert not list(Path("runs/a/checkpoints").iterdir())
    (row,) = summaries([Path("runs/a")])
    assert row.fid == 3.5 and row.checkpoints == [] and row.state == "finished"


def test_a_damaged_checkpoint_can_be_removed(place: Path) -> None:
    (Path("runs/a/checkpoints/last") / "ema.safetensors").write_bytes(b"broken")
    (gone,) = plan_removals([Path("runs/a")], ["best"])
    assert gone.name == "last" and gone.model is None
    remove([gone])
    assert origin([Path("runs/a")], "x") == []


def test_a_run_in_training_or_without_the_kept_checkpoint_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match=r"has the checkpoints .*, and none of snapshots"):
        plan_removals([Path("runs/a")], ["snapshots"])
    make_run(place / "runs" / "live", end=None)
    os.utime("runs/live/events.jsonl")
    with pytest.raises(ValueError, match="is being trained"):
        plan_removals([Path("runs/live")], ["last"])


def test_training_records_its_cost(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), dtype=np.uint8))
    r = recipe(
        "--data.set", str(tmp_path / "set.npy"), "--train.images", "32", "--train.batch", "32", "--watch.preview-every", "0"
    )
    train(r, tmp_path / "run", progress=False)
    wanted = cost(r)
    found = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert found == {"parameters": wanted["parameters"], "gflop_a_call": wanted["gflop_a_call"]}
    assert summaries([tmp_path / "run"])[0].tflop == pytest.approx(wanted["tflop_of_training"])
