"""A run that was pushed is the same run when it is fetched: weights, images, scores; and what may not be shared is refused."""

import json
import platform
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

import alphabar
from alphabar.cli.main import main
from alphabar.core.weights import read_tensors
from alphabar.denoiser import from_hub
from alphabar.denoiser.from_hub import SOURCE, WEIGHTS, local_run
from alphabar.denoiser.model import build, save_weights
from alphabar.evaluation.score import Score
from alphabar.sampling.fitted import Tuned, save_tuned
from alphabar.schedule.continuous import Cosine
from alphabar.training.checkpoint import load_model
from alphabar.verbs.push import push
from tests.denoiser.test_to_onnx import TINY, filled
from tests.fixtures.hub import Hub
from tests.fixtures.runs import fill, score, untrained_extractor, untrained_model

# huggingface_hub itself calls httpx so
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with scores of its last weights and of earlier ones, a fitted sampler, an extractor and a distilled model."""
    run = fill(tmp_path / "house" / "shapes", images=64_000, every=1_600, previews=0)
    for folder, seed in ((run, 0), (run / "distilled", 1)):
        weights = folder / WEIGHTS
        weights.parent.mkdir(parents=True)
        save_weights(weights, untrained_model(seed))
        (weights.parent / "state.json").write_text('{"images": 64000}')
    (run / "distilled" / "recipe.toml").write_text((run / "recipe.toml").read_text())
    (run / "data.json").write_text(
        json.dumps({"set": "shapes", "fingerprint": "5eb5eb5eb5eb5eb5", "images": 900, "skipped": ["secret.png"]})
    )
    model = untrained_model(0)
    save_tuned(Tuned("grid", model.fingerprint, (80.0, 1.0), (0.1, 0.0), ((0.9,), (0.0, 1.0)), (0.0, 0.0)), run / "tuned")
    mine = score("fid", 7.25) | {"interval": [6.5, 8.0], "seeds": {"seed": 3}}
    for name, value in ((model.fingerprint, 7.25), ("0" * 16, 1.0), (untrained_model(1).fingerprint, 9.5)):
        row = mine | {"value": value, "sampler": {**mine["sampler"], "model": name}}
        with (run / "scores.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    (run / "extractor").mkdir()
    untrained_extractor().save(run / "extractor" / "auto.safetensors")
    return run


def test_a_pushed_run_is_the_same_when_it_is_fetched(
    run: Path, hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = push(run, "anna/shapes", license="mit", private=True, extractor="auto", shown=4, progress=False)
    repo = hub.repos["anna/shapes"]
    (_, files), commit = repo.commits[-1], repo.commits[-1][0]
    assert repo.private and commit in done[0] and commit[:12] in done[1]
    assert not any(name.endswith((".pt", ".pth", ".bin", ".pkl")) for name in files) and "secret" not in str(files["data.json"])
    wanted, got = load_model(run), load_model("hf:anna/shapes")
    assert got.fingerprint == wanted.fingerprint and got.source == f"hf:anna/shapes@{commit}"
    for options in ({"steps": 3}, {"sampler": "tuned", "steps": 2}):
        theirs, ours = (alphabar.sample(m, 4, **options, progress=False) for m in (got, wanted))
        assert np.array_equal(theirs.images, ours.images) and theirs.record["source"] == got.source
    assert alphabar.load_extractor("hf:anna/shapes").fingerprint == untrained_extractor().fingerprint
    with pytest.raises(SystemExit) as end:
        main(["sample", f"hf:anna/shapes@{commit[:9]}", "--sampler", "distilled", "--steps", "2", "--n", "2", "--fast", "none",
              "--out", str(tmp_path / "two.npz")])  # fmt: skip
    assert end.value.code == 0
    record = alphabar.Samples.load(tmp_path / "two.npz").record
    assert record["model"] == untrained_model(1).fingerprint and record["source"] == got.source
    before = len(hub.fetched)
    assert load_model(f"hf:anna/shapes@{commit}").fingerprint == wanted.fingerprint and len(hub.fetched) == before
    capsys.readouterr()


def test_the_card_shows_the_scores_of_these_weights_alone(run: Path, tmp_path: Path) -> None:
    push(run, "anna/shapes", license="mit", extractor="auto", shown=4, dry_run=True, out=tmp_path / "out", progress=False)
    text = (tmp_path / "out" / "README.md").read_text()
    about = yaml.safe_load(text.split("---\n")[1])
    assert (about["license"], about["library_name"]) == ("mit", "alphabar")
    results = about["model-index"][0]["results"]
    metrics = [m for r in results for m in r["metrics"]]
    assert [m["value"] for m in metrics] == [7.25, 9.5]
    assert metrics[0]["args"]["interval"] == [6.5, 8.0] and metrics[0]["args"]["n"] == 1024
    assert "| FID | 7.25 [6.5, 8] | 1.1 |" in text and "5eb5eb5eb5eb5eb5" in text and untrained_extractor().fingerprint in text
    assert "alphabar sample hf:anna/shapes --n 1024 --sampler ddim --steps 25 --seed 3 --out scored.npz" in text
    assert [Score.from_json(line).value for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()] == [7.25, 9.5]
    assert load_model(tmp_path / "out").fingerprint == load_model(run).fingerprint  # what is sent is a run


def test_the_commands_of_the_card_measure_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a class-conditional run, by an extractor that travels along and by one that does not."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        Path("photos").mkdir(exist_ok=True)
        np.save(f"photos/{split}.npy", rng.integers(0, 256, (400, 8, 8, 1), np.uint8))
    run = fill(tmp_path / "house" / "shapes", images=64_000, every=1_600, previews=0)
    made = build(replace(TINY, conditional=True), Cosine().spec(), (1, 8, 8), classes=("a", "b c", "d"))
    (run / WEIGHTS).parent.mkdir(parents=True)
    save_weights(run / WEIGHTS, filled(made))
    (run / WEIGHTS).with_name("state.json").write_text('{"images": 64000}')
    (run / "scores.jsonl").write_text("")
    untrained_extractor(0).save(Path("own.safetensors"))
    untrained_extractor(1).save(Path("own_extractor.safetensors"))
    ways = (
        ["--classes", "b c", "a", "--guidance", "1.5", "--guidance-interval", "0.1", "9", "--steps", "3", "--n", "70"],
        ["--classes", "all", "--sampler", "unipc", "--options.order", "1", "--grid", "karras", "--steps", "4", "--n", "80"],
        ["--classes", "d", "--eta", "1", "--steps", "3", "--seed", "5", "--n", "70"],
    )
    for way, extractor in zip(ways, ("own", "own_extractor", "own"), strict=True):
        run_command("sample", run, *way, "--out", "drawn.npz")
        run_command("score", "drawn.npz", "--against", "photos:test", "--extractor", f"{extractor}.safetensors", "--keep", run)
    push(run, "anna/shapes", license="mit", extractor="own.safetensors", shown=1, dry_run=True, out="out", progress=False)
    blocks = re.findall("```bash\n(.*?)```", (tmp_path / "out" / "README.md").read_text().partition("## Scores")[2], re.DOTALL)
    written = [Score.from_json(line) for line in Path("out/scores.jsonl").read_text().splitlines()]
    for line in "".join(blocks[:3]).splitlines():
        address = "out/extractor.safetensors" if line.startswith("alphabar score") else "out"
        words = shlex.split(line.replace("hf:anna/shapes", address))[1:]
        run_command(*words, *(["--keep", "out"] if words[0] == "score" else []))
    again = [Score.from_json(line) for line in Path("out/scores.jsonl").read_text().splitlines()][len(written) :]
    assert len(written) == len(again) > 9
    for old, new in zip(written, again, strict=True):
        assert (old.value, old.interval, old.reference, old.seeds) == (new.value, new.interval, new.reference, new.seeds)


def run_command(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == 0, words


@pytest.mark.parametrize("where", ["recipe.toml", "data.json", "weights"])
def test_what_tells_of_this_machine_is_refused(
    where: str, run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "steppe-station")
    if where == "weights":
        tensors, header = read_tensors(run / WEIGHTS)
        save_file(tensors, run / WEIGHTS, {**header, "made by": "steppe-station"})
    else:
        text = (run / where).read_text()
        (run / where).write_text(text.replace("shapes", "by steppe-station").replace("fashion_mnist", "by steppe-station"))
    with pytest.raises(ValueError, match="holds the name of this machine"):
        push(run, "anna/shapes", license="mit", shown=1, progress=False)
    assert not hub.repos


def test_a_second_push_takes_away_what_is_no_longer_there(run: Path, hub: Hub) -> None:
    push(run, "anna/shapes", license="mit", shown=1, progress=False)
    (next((run / "tuned").iterdir())).unlink()
    push(run, "anna/shapes", license="mit", shown=1, progress=False)
    assert [any(name.startswith("tuned/") for name in files) for _, files in hub.repos["anna/shapes"].commits] == [
        False,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="exists and is public"):
        push(run, "anna/shapes", license="mit", private=True)
    hub.repos["anna/shapes"].commit({"thesis.pdf": b""})
    with pytest.raises(FileExistsError, match=r"thesis\.pdf"):
        push(run, "anna/shapes", license="mit")


def test_refusals_say_what_to_do(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, why in (
        (("anna/shapes", {}), "--license apache-2.0"), (("shapes", {"license": "mit"}), "OWNER/NAME"),
        (("leo/shapes", {"license": "mit", "shown": 1}), "may write to leo"),
    ):  # fmt: skip
        with pytest.raises((ValueError, OSError), match=why):
            push(run, words[0], **words[1], progress=False)
    for address, why in (("hf:anna/none", "no such model"), ("hf:../x", "OWNER/NAME"), ("hf:anna/x@../..", "revision after @")):
        with pytest.raises((ValueError, OSError), match=why):
            load_model(address)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="hf auth login"):
        push(run, "anna/shapes", license="mit")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="cannot be reached"):
        load_model("hf:anna/shapes")


def test_a_hostile_repository_is_refused_and_leaves_nothing(run: Path, hub: Hub, tmp_path: Path) -> None:
    push(run, "anna/shapes", license="mit", shown=1, progress=False)
    repo = hub.repos["anna/shapes"]
    good = dict(repo.commits[-1][1])
    more = {
        "../../evil.json": b"{}",
        "tuned/../x.json": b"{}",
        "checkpoints/last/model.pt": b"\x80",
        "hub.json": b"{}",
        "run.py": b"",
    }
    repo.commit(good | more)
    path = Path(local_run("hf:anna/shapes"))
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert there == {n for n in good if n not in (".gitattributes", "README.md", "samples.png")} | {SOURCE}
    for lie, why in (
        ({WEIGHTS: good[WEIGHTS][:-1] + b"?"}, "not what the Hub lists"),
        ({"data.json": b"{" + b" " * (1 << 24)}, "a text of at most"),
    ):
        repo.commit(good | ({} if WEIGHTS in lie else lie))
        hub.lies = lie if WEIGHTS in lie else {}
        from_hub._fetched.cache_clear()
        with pytest.raises(ValueError, match=why):
            load_model("hf:anna/shapes")
        assert not (tmp_path / "cache/hub/anna/shapes" / repo.commits[-1][0]).exists()
    repo.commit({"model_index.json": b"{}"})
    hub.lies = {}
    with pytest.raises(ValueError, match=r"no run that `alphabar push` made.*diffusers:FOLDER"):
        load_model(f"hf:anna/shapes@{repo.commits[-1][0]}")
