"""`alphabar experiment`: from a question in a file to a verdict, whatever stops it on the way."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.cli.main import app
from alphabar.core.files import read_jsonl
from alphabar.evaluation.estimate import Estimate
from alphabar.report.experiment_page import Outcome, _verdict, conclude
from alphabar.report.report_page import write_report
from alphabar.results.experiments import Budget, Experiment, read_experiment, shipped_experiments
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.verbs import experiment as experimenting
from alphabar.verbs.experiment import experiment
from tests.verbs.test_tune import made_up_extractor

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # as it is by a user
TOLD = """
hypothesis = "Training helps."
better = "trained"
than = "hardly"
recipe = "small.toml"
seeds = [0, 1]

[budget]
images = 640

[scoring]
against = "real.npy"
extractor = "extractor.safetensors"
n = 40
steps = 4
batch = 20

[variants.trained]
train.lr = 0.005

[variants.hardly]
train.lr = 1e-6
"""
RECIPE = """
[data]
set = "real.npy"
[model]
channels = [16]
embedding = 16
[train]
batch = 32
warmup = 64
log_every = 64
checkpoint_every = 64
heldout_every = 0
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    g = np.random.default_rng(0)
    pixels = np.clip(g.integers(0, 90, (300, 1, 1, 1)) + np.arange(8)[None, None, :, None] * 20, 0, 255).astype(np.uint8)
    np.save(folder / "real.npy", np.ascontiguousarray(np.broadcast_to(pixels, (300, 8, 8, 1))))
    made_up_extractor(0).save(folder / "extractor.safetensors")
    (folder / "small.toml").write_text(RECIPE)
    (folder / "told.toml").write_text(TOLD)
    return folder


@pytest.fixture(autouse=True)
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(told: Experiment, **options: Any) -> Outcome:
    return experiment(told, "out", progress=False, device="cpu", **options)


def test_from_a_question_to_a_verdict() -> None:
    told = read_experiment("told.toml")
    assert told.variants["hardly"].train.lr == 1e-6 and told.variants["trained"].train.batch == 32
    found = run(told)
    assert [(t.seed, t.variant) for t in found.trials] == [(0, "trained"), (0, "hardly"), (1, "trained"), (1, "hardly")]
    for t in found.trials:
        record = Samples.load(t.samples).record
        assert record["model"] == load_model(t.run).fingerprint and record["seed"] == 1000 * t.seed and t.images == 640
        events = [e["event"] for e in read_jsonl(t.run / "events.jsonl")]
        assert events[-1] == "finished" and "preview" not in events
    gaps = [a.value("fid") - b.value("fid") for a, b in zip(found.of("trained"), found.of("hardly"), strict=True)]
    assert found.differences["trained"]["fid"].value == pytest.approx(np.mean(gaps)) and max(gaps) < 0
    assert all(c.paired for cs in found.within["trained"].values() for c in cs)
    page = found.page.read_text()
    assert found.words.split(":")[0] in page and "train.lr" in page and page.count("data:image/png") == 3
    assert "http" not in page.replace("http://www.w3.org", "")
    book = write_report([Path("out")], Path("book.html"), draw=False).read_text()
    assert "<h1>4 runs</h1>" in book and found.words in book and f">{found.verdict}</p>" in book
    again = run(told)  # nothing is done twice
    assert [t.seconds for t in again.trials] == [t.seconds for t in found.trials]


def test_seeds_may_be_added_and_what_does_not_compare_is_refused() -> None:
    told = replace(read_experiment("told.toml"), seeds=(0,))
    one = run(told)
    assert one.verdict == "not decided" and "give two or more" in one.words
    assert len(run(replace(told, seeds=(0, 1))).trials) == 4
    with pytest.raises(ValueError, match="differs in budget: give another folder"):
        run(replace(told, budget=Budget(images=320)))
    other = replace(told.variants["hardly"], train=replace(told.variants["hardly"].train, lr=1e-5))
    with pytest.raises(ValueError, match=r"differs in variants\.hardly"):
        run(replace(told, variants={**told.variants, "hardly": other}))


def test_a_training_of_another_experiment_is_taken_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variants that two experiments have in common are trained once; what is taken is what would have been trained."""
    told = replace(read_experiment("told.toml"), seeds=(0,))
    first = experiment(told, "first", progress=False, device="cpu")
    begun: list[Path] = []
    real = experimenting.train_recipe
    monkeypatch.setattr(experimenting, "train_recipe", lambda r, out, **o: begun.append(Path(out)) or real(r, out, **o))
    base = told.variants["hardly"]
    other = replace(base, train=replace(base.train, lr=1e-3))
    asked = replace(told, variants={"trained": told.variants["trained"], "other": other}, than="other")
    second = experiment(asked, "second", reuse=[place / "first"], progress=False, device="cpu")
    assert [p.name for p in begun] == ["other-seed0"]
    a, b = first.of("trained")[0], second.of("trained")[0]
    assert b.run.parent.name == "second" and load_model(a.run).fingerprint == load_model(b.run).fingerprint
    assert a.value("fid") == b.value("fid") and a.seconds == b.seconds
    longer = replace(asked, budget=Budget(images=704))  # another budget is another training
    begun.clear()
    experiment(longer, "third", reuse=[place / "first", place / "second"], progress=False, device="cpu")
    assert len(begun) == 2
    with pytest.raises(FileNotFoundError, match="nowhere is no folder of an experiment"):
        experiment(asked, "fourth", reuse=[place / "nowhere"], progress=False, device="cpu")


def test_minutes_become_images_by_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = replace(read_experiment("told.toml"), budget=Budget(minutes=0.01), seeds=(0,))
    asked: list[str] = []

    def speed(recipe: Any, images: Any) -> float:
        asked.append(recipe.train.lr)
        return 1000.0 if recipe.train.lr == 1e-6 else 500.0

    monkeypatch.setattr(experimenting, "images_per_second", speed)
    found = run(told)
    assert {t.variant: t.images for t in found.trials} == {"trained": 288, "hardly": 608}  # 300 and 600 in batches of 32
    run(told)
    assert len(asked) == 4  # timed twice each, once for all


def test_the_speed_is_that_of_the_training() -> None:
    told = read_experiment("told.toml")
    from alphabar.data.image_set import load

    assert experimenting.images_per_second(told.variants["trained"], load("real.npy")) > 50


CHILD = """
import sys, torch
torch.set_num_threads(1)
from alphabar.results.experiments import read_experiment
from alphabar.verbs.experiment import experiment
experiment(read_experiment("told.toml"), "out", progress=False, device="cpu")
"""


SLOWLY = """
import alphabar.training.step as step, time
update = step.ema_update
def slowly(*a):
    time.sleep(0.05)
    return update(*a)
step.ema_update = slowly
"""


def test_a_killed_experiment_goes_on_to_the_same_end(place: Path) -> None:
    whole = experiment(read_experiment("told.toml"), "whole", progress=False, device="cpu")
    slow = CHILD.replace("experiment(read", SLOWLY + "experiment(read")
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", slow])
        before = len(list(Path("out").glob("*/events.jsonl")))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:  # in the middle of a training
            logs = [p for p in Path("out").glob("*/events.jsonl") if p.read_text().count('"loss"') >= 3]
            if len(logs) > before:
                break
            time.sleep(0.05)
        child.kill()
        child.wait()
    found = run(read_experiment("told.toml"))
    for a, b in zip(found.trials, whole.trials, strict=True):
        assert load_model(a.run).fingerprint == load_model(b.run).fingerprint
        assert a.value("fid") == b.value("fid")


def test_the_command_and_its_machine_form(capsys: pytest.CaptureFixture[str]) -> None:
    app(["experiment", "told.toml", "--out", "out", "--json"], result_action="return_value")
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] in ("supported", "not decided") and len(told["trials"]) == 4
    app(["experiment", "told.toml", "--out", "out"], result_action="return_value")
    words = capsys.readouterr().out
    assert "Training helps." in words and "hardly" in words and "index.html" in words
    app(["experiment", "told.toml", "--out", "other", "--dry-run"], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["seeds"] == [0, 1] and not Path("other").exists()


def test_side_by_side_comes_to_the_same_and_goes_on() -> None:
    told = replace(read_experiment("told.toml"), budget=Budget(images=128))
    found = run(told, at_once=2)
    assert {(t.variant, t.seed) for t in found.trials} == {(v, s) for v in ("trained", "hardly") for s in (0, 1)}
    alone = experiment(told, "alone", progress=False, device="cpu")
    for there, here in zip(found.trials, alone.trials, strict=True):
        assert (there.variant, there.seed) == (here.variant, here.seed)
        first = [next(e["loss"] for e in read_jsonl(t.run / "events.jsonl") if e["event"] == "loss") for t in (there, here)]
        assert first[0] == pytest.approx(first[1], rel=1e-3)  # other threads sum in another order
    (found.trials[0].run.parent / "rows" / "trained-seed1.json").unlink()
    assert len(run(told, at_once=3).trials) == 4  # the one that is missing is made again
    with pytest.raises(ValueError, match="at_once = 0: give 1 or more"):
        run(told, at_once=0)


def test_over_one_ray_node(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    told = replace(read_experiment("told.toml"), seeds=(0,), budget=Budget(images=128))
    found = run(told, ray="local")
    assert len(found.trials) == 2
    alone = experiment(told, "alone", progress=False, device="cpu")
    for there, here in zip(found.trials, alone.trials, strict=True):  # other threads sum in another order
        first = [next(e["loss"] for e in read_jsonl(t.run / "events.jsonl") if e["event"] == "loss") for t in (there, here)]
        assert first[0] == pytest.approx(first[1], rel=1e-3)
        assert there.images == here.images == 128 and there.samples.exists()


# ---- the verdict


@pytest.mark.parametrize(
    ("gap", "metric", "verdict"),
    [
        (Estimate(-1.0, 0.1, (-1.2, -0.8)), "fid", "supported"), (Estimate(1.0, 0.1, (0.8, 1.2)), "fid", "contradicted"),
        (Estimate(1.0, 0.1, (0.8, 1.2)), "recall", "supported"), (Estimate(-1.0, 0.6, (-2.2, 0.2)), "fid", "not decided"),
        (None, "fid", "not decided"),
    ],
)  # fmt: skip
def test_the_verdict(gap: Estimate | None, metric: str, verdict: str) -> None:
    assert _verdict(replace(read_experiment("told.toml"), metric=metric), gap)[0] == verdict


def test_an_unfinished_experiment_says_what_it_has() -> None:
    told = read_experiment("told.toml")
    found = run(told)
    half = conclude(told, found.folder, found.trials[:1], finished=False)
    assert half.verdict == "not decided" and half.words == "No seed has both trained and hardly yet."


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("seeds = [0, 1]", "seeds = [0, 0]"), "give unlike whole numbers"),
        (("images = 640", "imges = 640"), r"did you mean budget\.images"),
        (("images = 640", "images = 640\nminutes = 2"), "give one of both"),
        (('better = "trained"', 'better = "x"'), "is no variant"),
        (("train.lr = 1e-6", "train.lr = 0.005"), "are the same recipe"),
        (("train.lr = 1e-6", "train.rl = 1"), r"unknown key train\.rl"),
        (('than = "hardly"', 'than = "trained"'), "name two variants"),
        (("hypothesis", "hypothsis"), "did you mean hypothesis"),
        (("n = 40", "n = 2"), "2 images are too few"),
        (("steps = 4", 'sampler = "dimm"'), "did you mean 'ddim'"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_any_training(change: tuple[str, str], says: str, place: Path) -> None:
    (place / "told.toml").write_text(TOLD.replace(*change))
    with pytest.raises(ValueError, match=says):
        run(read_experiment("told.toml"))
    assert not list(place.rglob("checkpoints"))


def test_a_folder_of_something_else_is_left_alone(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds files that are no experiment"):
        run(read_experiment("told.toml"))


@pytest.mark.parametrize("name", shipped_experiments())
def test_the_experiments_that_ship_are_whole(name: str) -> None:
    told = read_experiment(name)
    assert len(told.seeds) >= 3 and len(told.variants) >= 2
    assert told.scoring.n >= 1000
