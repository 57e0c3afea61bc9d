"""`alphabar experiment`: from a hypothesis in a file to a verdict, also when it is interrupted."""

import itertools
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alphabar.cli.main import app
from alphabar.core.files import read_jsonl
from alphabar.data.image_set import load
from alphabar.report.report_page import write_report
from alphabar.results.experiments import Budget, Experiment, read_experiment
from alphabar.results.outcomes import Outcome, conclude
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.verbs import experiment as experiment_module
from alphabar.verbs.experiment import experiment
from tests.fixtures.runs import untrained_extractor

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
DEFINITION = """
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
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a definition, its recipe, real images, and an untrained extractor."""
    folder = tmp_path_factory.mktemp("experiment")
    g = np.random.default_rng(0)
    pixels = np.clip(g.integers(0, 90, (300, 1, 1, 1)) + np.arange(8)[None, None, :, None] * 20, 0, 255).astype(np.uint8)
    np.save(folder / "real.npy", np.ascontiguousarray(np.broadcast_to(pixels, (300, 8, 8, 1))))
    untrained_extractor(0).save(folder / "extractor.safetensors")
    (folder / "small.toml").write_text(RECIPE)
    (folder / "definition.toml").write_text(DEFINITION)
    return folder


@pytest.fixture(scope="module")
def finished(inputs: Path) -> Path:
    """The same folder, with the whole experiment in out/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs)
        patch.setenv("ALPHABAR_CACHE", str(inputs / "cache"))
        run(read_experiment("definition.toml"))
    return inputs


@pytest.fixture(autouse=True)
def place(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in inputs.glob("*.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def outcome(finished: Path, place: Path) -> Outcome:
    """The outcome of the finished experiment, in out/ of this test's folder."""
    shutil.copytree(finished / "out", place / "out")
    return run(read_experiment("definition.toml"))


def run(definition: Experiment, out: str = "out", **options: Any) -> Outcome:
    return experiment(definition, out, progress=False, device="cpu", **options)


def assert_same(outcome: Outcome, other: Outcome) -> None:
    """The same weights, bit for bit, and the same scores."""
    for a, b in zip(outcome.trials, other.trials, strict=True):
        assert (a.variant, a.seed) == (b.variant, b.seed)
        assert load_model(a.run).fingerprint == load_model(b.run).fingerprint
        assert a.value("fid") == b.value("fid")


def test_every_variant_is_trained_from_every_seed_and_the_page_shows_the_verdict(outcome: Outcome) -> None:
    definition = outcome.experiment
    assert definition.variants["hardly"].train.lr == 1e-6 and definition.variants["trained"].train.batch == 32
    assert [(t.seed, t.variant) for t in outcome.trials] == [(0, "trained"), (0, "hardly"), (1, "trained"), (1, "hardly")]
    for t in outcome.trials:
        record = Samples.load(t.samples).record
        assert record["model"] == load_model(t.run).fingerprint and record["seed"] == 1000 * t.seed and t.images == 640
        events = [e["event"] for e in read_jsonl(t.run / "events.jsonl")]
        assert events[-1] == "finished" and "preview" not in events
    gaps = [a.value("fid") - b.value("fid") for a, b in zip(outcome.of("trained"), outcome.of("hardly"), strict=True)]
    assert outcome.differences["trained"]["fid"].value == pytest.approx(np.mean(gaps)) and max(gaps) < 0
    assert all(c.paired for cs in outcome.within["trained"].values() for c in cs)
    page = outcome.page.read_text()
    assert outcome.words.split(":")[0] in page and "train.lr" in page and page.count("data:image/png") == 3
    assert "http" not in page.replace("http://www.w3.org", "")
    report = write_report([Path("out")], Path("report.html"), draw=False).read_text()
    assert "<h1>4 runs</h1>" in report and outcome.words in report and f">{outcome.verdict}</p>" in report


def test_the_same_call_again_trains_nothing(outcome: Outcome) -> None:
    again = run(outcome.experiment)
    assert [t.seconds for t in again.trials] == [t.seconds for t in outcome.trials]


def test_seeds_may_be_added() -> None:
    definition = replace(read_experiment("definition.toml"), seeds=(0,), budget=Budget(images=64))
    one = run(definition)
    assert one.verdict == "not decided" and "give two or more" in one.words
    assert len(run(replace(definition, seeds=(0, 1))).trials) == 4


def test_a_folder_of_another_experiment_is_refused(outcome: Outcome) -> None:
    definition = outcome.experiment
    with pytest.raises(ValueError, match="differs in budget: give another folder"):
        run(replace(definition, budget=Budget(images=320)))
    other = replace(definition.variants["hardly"], train=replace(definition.variants["hardly"].train, lr=1e-5))
    with pytest.raises(ValueError, match=r"differs in variants\.hardly"):
        run(replace(definition, variants={**definition.variants, "hardly": other}))


def test_a_reworded_hypothesis_resumes_the_experiment(outcome: Outcome) -> None:
    """The words of the hypothesis decide no training and no score; nor does the old name of a recipe key in a stored variant."""
    path = outcome.folder / "experiment.json"
    stored = json.loads(path.read_text())
    recipes = {name: text.replace("init_from =", "begin =") for name, text in stored["variants"].items()}
    assert recipes != stored["variants"]
    path.write_text(json.dumps(stored | {"variants": recipes}))
    again = run(replace(outcome.experiment, hypothesis="A network is better after training."))
    assert [t.seconds for t in again.trials] == [t.seconds for t in outcome.trials]
    assert json.loads(path.read_text())["hypothesis"] == "A network is better after training."
    assert "A network is better after training." in again.page.read_text()


def test_images_that_were_moved_are_the_same_and_others_are_refused(outcome: Outcome, place: Path) -> None:
    """Under any name: of the training images and of those that the scores are taken against."""
    shutil.copy("real.npy", "moved.npy")
    np.save("other.npy", np.load("real.npy")[::-1] // 2)
    definition, variants = outcome.experiment, outcome.experiment.variants

    def with_(training: str, against: str) -> Experiment:
        named = {k: replace(r, data=replace(r.data, set=training)) for k, r in variants.items()}
        return replace(definition, variants=named, scoring=replace(definition.scoring, against=against))

    again = run(with_("moved.npy", str(place / "moved.npy")))
    assert [t.seconds for t in again.trials] == [t.seconds for t in outcome.trials]
    with pytest.raises(ValueError, match=r"other.npy holds other images than those that out/\w+-seed0 was trained on"):
        run(with_("other.npy", "real.npy"))
    with pytest.raises(ValueError, match=r"other.npy holds other images than those that out/rows/\w+-seed0.json was scored with"):
        run(with_("real.npy", "other.npy"))
    copied = run(replace(with_("moved.npy", "moved.npy"), seeds=(0,)), "second", reuse=[place / "out"])
    assert [t.seconds for t in copied.trials] == [t.seconds for t in outcome.trials if t.seed == 0]


def test_a_training_of_another_experiment_is_copied(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two experiments have in common is trained once, and is the training that the second one would have done."""
    definition = replace(read_experiment("definition.toml"), seeds=(0,), budget=Budget(images=128))
    first = run(definition, "first")
    trained: list[str] = []
    real = experiment_module.train
    monkeypatch.setattr(experiment_module, "train", lambda r, out, **o: trained.append(Path(out).name) or real(r, out, **o))
    base = definition.variants["hardly"]
    other = replace(base, train=replace(base.train, lr=1e-3))
    changed = replace(definition, variants={"trained": definition.variants["trained"], "other": other}, than="other")
    second = run(changed, "second", reuse=[place / "first"])
    assert trained == ["other-seed0"]
    a, b = first.of("trained")[0], second.of("trained")[0]
    assert b.run.parent.name == "second" and load_model(a.run).fingerprint == load_model(b.run).fingerprint
    assert a.value("fid") == b.value("fid") and a.seconds == b.seconds
    trained.clear()
    longer = replace(changed, budget=Budget(images=192))  # another budget is another training
    run(longer, "third", reuse=[place / "first", place / "second"])
    assert len(trained) == 2
    with pytest.raises(FileNotFoundError, match="nowhere is not the folder of an experiment"):
        run(changed, "fourth", reuse=[place / "nowhere"])


def test_a_budget_in_minutes_becomes_images_by_the_speed_of_each_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = replace(read_experiment("definition.toml"), budget=Budget(minutes=0.002), seeds=(0,))
    timed: list[float] = []

    def speed(recipe: Any, images: Any) -> float:
        timed.append(recipe.train.lr)
        return 1000.0 if recipe.train.lr == 1e-6 else 500.0

    monkeypatch.setattr(experiment_module, "images_per_second", speed)
    outcome = run(definition)
    assert {t.variant: t.images for t in outcome.trials} == {"trained": 64, "hardly": 128}  # 60 and 120 in batches of 32
    run(definition)
    assert len(timed) == 4  # two measurements each, which the second call takes from the folder


def test_the_speed_counts_the_timed_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.chain([0.0, 100.0], itertools.count(200.0, 0.5))  # the warm-up steps are slow, the others take 0.5 s
    monkeypatch.setattr(experiment_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    recipe = read_experiment("definition.toml").variants["trained"]
    assert experiment_module.images_per_second(recipe, load("real.npy"), warm=2, timed=3) == recipe.train.batch / 0.5


KILLED = """
import sys, time, torch
torch.set_num_threads(1)
import alphabar.training.step as step
update = step.ema_update
def slow_update(*arguments):
    time.sleep(0.05)
    return update(*arguments)
step.ema_update = slow_update
from alphabar.results.experiments import read_experiment
from alphabar.verbs.experiment import experiment
experiment(read_experiment("definition.toml"), "killed", progress=False, device="cpu")
"""


@pytest.mark.slow(25)
def test_a_killed_experiment_resumes_to_the_same_end(outcome: Outcome) -> None:
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", KILLED])
        before = len(list(Path("killed").glob("*/events.jsonl")))
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:  # until it is in the middle of a training
            logs = [p for p in Path("killed").glob("*/events.jsonl") if p.read_text().count('"loss"') >= 3]
            if len(logs) > before:
                break
            assert child.poll() is None  # it must be killed before it ends
            time.sleep(0.05)
        child.kill()
        child.wait()
    assert_same(run(outcome.experiment, "killed"), outcome)


def test_the_command_prints_the_verdict_or_json(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    app(["experiment", "definition.toml", "--out", "out", "--json"], result_action="return_value")
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == outcome.verdict and len(printed["trials"]) == 4
    app(["experiment", "definition.toml", "--out", "out"], result_action="return_value")
    words = capsys.readouterr().out
    assert "Training helps." in words and "hardly" in words and "index.html" in words
    app(["experiment", "definition.toml", "--out", "other", "--dry-run"], result_action="return_value")
    shown = capsys.readouterr().out
    assert "Training helps." in shown and "4 trainings" in shown and "seeds 0, 1" in shown and "- hardly: " in shown
    app(["experiment", "definition.toml", "--out", "other", "--dry-run", "--json"], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["seeds"] == [0, 1] and not Path("other").exists()


@pytest.mark.slow(40)
def test_side_by_side_gives_the_same_results() -> None:
    definition = replace(read_experiment("definition.toml"), budget=Budget(images=128))
    outcome = run(definition, at_once=2)
    assert {(t.variant, t.seed) for t in outcome.trials} == {(v, s) for v in ("trained", "hardly") for s in (0, 1)}
    assert_same_first_loss(outcome, run(definition, "alone"))
    (Path("out") / "rows" / "trained-seed1.json").unlink()
    assert len(run(definition, at_once=3).trials) == 4  # the missing one is made again


def assert_same_first_loss(outcome: Outcome, other: Outcome) -> None:
    """Other processes may have other numbers of threads, which sum in another order."""
    for one, two in zip(outcome.trials, other.trials, strict=True):
        assert (one.variant, one.seed, one.images) == (two.variant, two.seed, two.images) and one.samples.exists()
        losses = [next(e["loss"] for e in read_jsonl(t.run / "events.jsonl") if e["event"] == "loss") for t in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow(40)
def test_one_ray_node_gives_the_same_results() -> None:
    pytest.importorskip("ray")
    definition = replace(read_experiment("definition.toml"), seeds=(0,), budget=Budget(images=128))
    assert_same_first_loss(run(definition, ray="local"), run(definition, "alone"))


def test_an_unfinished_experiment_shows_what_it_has(outcome: Outcome) -> None:
    half = conclude(outcome.experiment, outcome.folder, outcome.trials[:1], finished=False)
    assert half.verdict == "not decided" and half.words == "No seed has both trained and hardly yet."


def test_too_few_images_are_refused_before_any_training(place: Path) -> None:
    (place / "definition.toml").write_text(DEFINITION.replace("n = 40", "n = 2"))
    with pytest.raises(ValueError, match="2 images are too few"):
        run(read_experiment("definition.toml"))
    assert not list(place.rglob("checkpoints"))


def test_a_folder_of_other_files_is_not_touched(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="is not empty and holds no experiment"):
        run(read_experiment("definition.toml"))


def test_at_once_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at_once = 0: give a whole number from 1 to"):
        run(read_experiment("definition.toml"), at_once=0)
