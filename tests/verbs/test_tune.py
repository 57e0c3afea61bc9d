"""`alphabar tune` from a run to a file that `alphabar sample` and diffusers use."""

import json
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.cli.main import app, main
from alphabar.core.files import locked
from alphabar.core.seeds import starting_noise
from alphabar.data.image_set import load
from alphabar.denoiser.model import Model, build, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.wrappers import ClipX0, Labelled, ThresholdX0
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.load import load_extractor
from alphabar.fitting import descent, frechet_loss, problem
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.descent import Descended, FreeParameters, TrajectoryLoss
from alphabar.fitting.options import SEED
from alphabar.fitting.trajectory import fine_grid, fine_trajectory
from alphabar.fitting.unroll import unroll
from alphabar.sampling.fitted import Tuned, load_tuned, run_tuned, save_tuned
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.schedule.grid import make_grid
from alphabar.training.checkpoint import BUNDLED as BUNDLED_MODEL
from alphabar.training.checkpoint import load_model
from alphabar.verbs import tune as tuning
from alphabar.verbs.tune import tune
from tests.fixtures.runs import untrained_extractor
from tests.fixtures.sets import Linear

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # as a user starts it
SMALL = ModelRecipe(channels=(8,), embedding=8, groups=4)
SHORT: dict[str, Any] = {"n": 8, "progress": False, "device": "cpu"}
BRIEF: dict[str, Any] = {"rounds": 2, "steps": 2, "batch": 16, "remember": 32}
BY_FEATURES: dict[str, Any] = {
    "fit": "features", "against": "real.npy", "extractor": "e0.safetensors", "heldout_extractor": "e1.safetensors",
}  # fmt: skip


def run_of(model: Model, folder: Path) -> Path:
    checkpoint = folder / "checkpoints" / "last"
    checkpoint.mkdir(parents=True)
    save_weights(checkpoint / "ema.safetensors", model)
    (checkpoint / "state.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody trained, two extractors of the same kind, and real images."""
    folder = tmp_path_factory.mktemp("tuning")
    run_of(build(SMALL, {"kind": "cosine"}, (1, 8, 8), 0), folder / "run")
    for seed in (0, 1):
        untrained_extractor(seed).save(folder / f"e{seed}.safetensors")
    columns = np.arange(8)[None, None, :, None]
    phase = np.random.default_rng(0).integers(0, 256, (300, 1, 1, 1))
    np.save(folder / "real.npy", ((columns * 20 + phase + np.arange(8)[None, :, None, None] * 9) % 256).astype(np.uint8))
    return folder


@pytest.fixture(autouse=True)
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where we are: a copy of those. The fine trajectory is a coarse one, for time's sake."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    for module in (problem, tuning):
        monkeypatch.setattr(module, "fine_grid", partial(fine_grid, levels=12))
    return tmp_path


def typed(*words: str) -> Any:
    return app([str(w) for w in words], result_action="return_value")


def no_work(*_: object, **__: object) -> None:
    raise AssertionError("it began to work")


# ---- from a run to a file


@pytest.mark.parametrize("fit", ["grid", "solver", "images"])
def test_a_fit_is_kept_with_the_run_and_found_there(fit: str, place: Path) -> None:
    found = tune("run", (2, 3), fit=fit, **BRIEF, **SHORT)
    model = load_model("run")
    for made, calls in zip(found, (2, 3), strict=True):
        assert made.path == Path("run/tuned") / f"{model.fingerprint}-{fit}-{calls}.json"
        kept = load_tuned(made.path)
        assert kept == made.fit and kept.model == model.fingerprint and kept.calls == calls and not kept.stochastic
        assert (kept.clip, kept.threshold) == (0.0, None)
        assert {"fit", "seed", "n", "fine", "versions", "start", "distance"} <= set(kept.how)
        assert kept.how["distance"] == made.distance and min(made.distance.values()) > 0
        assert made.distance["fitted"] <= 1.2 * min(made.distance.values())
        assert {"fitted", "ddim, time", "unipc, karras"} <= set(made.distance)
        assert ("losses" in kept.how) == (fit == "images")
        drawn = sample(model, 2, sampler=f"tuned:{fit}", steps=calls, progress=False)
        assert drawn.record["tuned"] == {"name": fit, "digest": kept.digest} and drawn.record["nfe"] == calls
    again = tune("run", (2,), fit=fit, name="again", **BRIEF, **SHORT)[0].fit
    assert again.digest == found[0].fit.digest  # whatever else is fitted beside it
    if fit == "images":
        assert len(again.how["losses"]) == BRIEF["rounds"] * BRIEF["steps"]


def test_the_distance_is_on_noise_that_no_fit_has_seen() -> None:
    made = tune("run", (3,), **SHORT)[0]
    model = load_model("run")
    unit = starting_noise(SEED + 1, range(64), (1, 8, 8))
    grid = problem.fine_grid(model.schedule)
    end = fine_trajectory(model, unit, grid, progress=False).end
    x = run_tuned(model, unit * made.fit.sigmas[0], made.fit.grid, fit=made.fit)
    assert made.distance["fitted"] == pytest.approx(float((x.clamp(-1, 1) - end.clamp(-1, 1)).square().mean().sqrt()), rel=1e-3)


def conditional(classes: tuple[str, ...], scale: float) -> Model:
    """One to which classes make a difference."""
    model = build(replace(SMALL, conditional=True), {"kind": "cosine"}, (1, 8, 8), 0, classes=classes)
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        p.data = scale * torch.randn(p.shape, generator=generator) * (10 if "classes" in name else 1)
    return model.eval()


@pytest.mark.parametrize("fit", ["solver", "images", pytest.param("features", marks=pytest.mark.slow(8))])
def test_images_take_the_classes_of_a_conditional_model_in_turn(fit: str, place: Path) -> None:
    model = conditional(("a", "b", "c"), 0.2)
    run_of(model, place / "classes")
    more = {
        "against": "real.npy",
        "extractor": "e0.safetensors",
        "heldout_extractor": "e1.safetensors",
        "n_heldout": 64,
    }
    brief = BRIEF | {"rounds": 1, "eta": 0.0}
    made = tune("classes", (2,), fit=fit, call_batch=7, **brief, **(SHORT | (more if fit == "features" else {})))[0]
    assert made.fit.how["classes"] == 3
    unit = starting_noise(SEED + 1, range(64), (1, 8, 8))
    ends = []
    for labels in (torch.arange(64) % 3, torch.zeros(64, dtype=torch.int64)):
        denoise = Labelled(model, labels)
        end = fine_trajectory(denoise, unit, problem.fine_grid(model.schedule), batch=64, progress=False).end
        x = run_tuned(denoise, unit * made.fit.sigmas[0], made.fit.grid, fit=made.fit)
        ends.append(float((x.clamp(-1, 1) - end.clamp(-1, 1)).square().mean().sqrt()))
    assert made.distance["fitted"] == pytest.approx(ends[0], rel=2e-4)
    assert made.distance["fitted"] != pytest.approx(ends[1], rel=1e-3)
    if fit == "features":  # and the images of the held-out extractor
        drawn = sample(model, 64, tuned=made.fit, sampler="tuned", seed=SEED + 1, batch=14, classes=range(3), progress=False)
        scored = ImageEval(load_extractor("e1.safetensors"), load("real.npy"), progress=False)
        fid = scored.measure(drawn.images, drawn.record, ("fid",)).scores["fid"].value
        assert made.fit.how["heldout"]["found"][0]["a"]["value"] == pytest.approx(fid, rel=1e-6)


def test_the_gradient_of_a_conditional_model() -> None:
    """Of finished images with respect to levels and coefficients, against differences."""
    model = conditional(("a", "b"), 0.1)
    unit = starting_noise(0, range(4), (1, 8, 8))
    free = FreeParameters(Coefficients.ddim(make_grid(model.schedule, 2, "karras")))

    def finished(labels: list[int], theta: torch.Tensor) -> torch.Tensor:
        return unroll(Labelled(model, torch.tensor(labels)), unit, free.at(theta))

    theta = torch.zeros(free.size, dtype=torch.float64, requires_grad=True)
    a, b = (finished(labels, theta) for labels in ([0, 1, 1, 0], [0, 0, 0, 0]))
    assert torch.equal(a[[0, 3]], b[[0, 3]]) and not torch.allclose(a[[1, 2]], b[[1, 2]], atol=1e-2)
    a.square().mean().backward()
    assert theta.grad is not None
    for k in range(free.size):
        step = torch.zeros(free.size, dtype=torch.float64)
        step[k] = 3e-3
        up, down = (float(finished([0, 1, 1, 0], sign * step).detach().double().square().mean()) for sign in (1, -1))
        assert float(theta.grad[k]) == pytest.approx((up - down) / 6e-3, rel=0.02, abs=1e-3), k


def test_the_commands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(place / "alone.safetensors", build(SMALL, {"kind": "linear"}, (1, 8, 8), 1))
    typed("tune", "alone.safetensors", "--calls", "2", "3", "--n", "8", "--fit", "grid", "--name", "own", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [len(r["fit"]["sigmas"]) for r in rows] == [2, 3]
    for row in rows:
        assert Path(row["path"]).parent == Path("tuned")  # a single file has no home
        assert Tuned.from_json(row["fit"]) == load_tuned(row["path"])
        with Image.open(row["picture"]) as picture:
            assert picture.width > 300 and len(picture.convert("L").getcolors()) > 10
    typed("sample", "alone.safetensors", "--n", "4", "--sampler", "tuned", "--steps", "2", "--out", "s.npz", "--json")
    record = json.loads(capsys.readouterr().out)
    digest = load_tuned(rows[0]["path"]).digest
    assert (record["nfe"], record["tuned"]) == (2, {"name": "own", "digest": digest})
    typed("sample", "alone.safetensors", "--n", "4", "--tuned", rows[0]["path"], "--out", "t.npz", "--json")
    assert np.array_equal(Samples.load("s.npz").images, Samples.load("t.npz").images)
    capsys.readouterr()
    typed("tune", "run", "--calls", "2", "--n", "8", "--out", "elsewhere")
    words = capsys.readouterr().out
    assert "fitted" in words and "elsewhere/" in words and len(list(Path("elsewhere").glob("*-solver-2.json"))) == 1


# ---- refusals, before any work


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--calls", "0"], "calls = 0: give a whole number from 1 to"),
        (["--calls", "2", "2"], r"calls = \[2, 2\]: give different numbers"),
        (["--calls", "81"], r"give different numbers from 1 to 80"),
        (["--calls", "2", "--n", "7"], "n = 7: give a whole number from 8 to"),
        (["--calls", "2", "--name", "a/b"], "a fitted sampler called 'a/b': use letters"),
        (["--calls", "2", "--fit", "features"], "--against SET --extractor PATH"),
        (["--calls", "2", "--fit", "features", "--against", "real.npy"], "--against SET --extractor PATH"),
        (["--calls", "2", "--fit", "features", "--extractor", "e0.safetensors"], "--against SET --extractor PATH"),
        (
            ["--calls", "2", "--fit", "features", "--against", "real.npy", "--extractor", "e0.safetensors", "--heldout-extractor",
             "e0.safetensors"],
            "the held-out extractor is the one that is fitted to .*: name another one, --heldout-extractor PATH",
        ),
        (["--calls", "3"], r"-solver-3.json exists already: pass another --name, or --overwrite"),
        (["--calls", "2", "3"], r"-solver-3.json exists already"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_any_work(
    words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model("run")
    save_tuned(plain_fit(model, 3, name="solver"), Path("run/tuned"))
    monkeypatch.setattr(problem, "fine_trajectory", no_work)
    monkeypatch.setattr(sys, "argv", ["alphabar", "tune", "run", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert len(list(Path("run/tuned").glob("*"))) == 1
    message = capsys.readouterr().err
    with pytest.raises(ValueError, match=reason):
        raise ValueError(message)


def plain_fit(model: Model, calls: int, eta: float = 0.0, name: str = "mine") -> Tuned:
    from alphabar.schedule.grid import make_grid

    return Tuned(name, model.fingerprint, *Coefficients.ddim(make_grid(model.schedule, calls), eta).plain())


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="fit = 'levels': give one of grid, solver, images, features"):
        tune("run", (2,), fit="levels", **SHORT)


def test_an_extractor_without_a_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet_loss, "load_extractor", lambda name: Linear(seed=len(str(name))))
    monkeypatch.setattr(problem, "fine_trajectory", no_work)
    with pytest.raises(ValueError, match="extractor plain has no gradients"):
        tune("run", (2,), fit="features", against="real.npy", extractor="plain", **SHORT)


def test_more_calls_than_fine_levels_are_refused_before_any_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(build(SMALL, {"kind": "linear", "steps": 12, "beta_max": 0.5}, (1, 8, 8), 0), place / "short")
    levels = len(problem.fine_grid(load_model("short").schedule)) - 1
    assert levels <= 12
    monkeypatch.setattr(problem, "fine_trajectory", no_work)
    with pytest.raises(ValueError, match=rf"calls = \[2, {levels + 1}\]: give different numbers from 1 to {levels}"):
        tune("short", (2, levels + 1), **SHORT)


def test_what_ships_is_fitted_to_what_ships() -> None:
    """Fits of other weights would lie there unseen: a sampler asks for those of its model."""
    model = load_model("bundled")
    shipped = [load_tuned(path) for path in sorted(BUNDLED_MODEL.with_suffix("").rglob("*.json"))]
    assert {f.model for f in shipped} == {model.fingerprint} and sorted(f.calls for f in shipped) == [5, 8, 10, 15, 20]
    for fit in shipped:
        record = sample(model, 2, sampler="tuned", steps=fit.calls, progress=False).record
        assert record["nfe"] == fit.calls and record["tuned"]["digest"] == fit.digest


def test_fits_of_the_bundled_model_are_kept_here_not_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "fine_trajectory", no_work)
    save_tuned(plain_fit(load_model("bundled"), 3, name="solver"), Path("tuned"))
    with pytest.raises(FileExistsError, match=r"^tuned/.*-solver-3.json exists already"):
        tune("bundled", (3,), **SHORT)


def test_overwrite() -> None:
    first = tune("run", (2,), fit="grid", name="mine", **SHORT)[0]
    with pytest.raises(FileExistsError, match="exists already: pass another --name, or --overwrite"):
        tune("run", (2,), fit="solver", name="mine", **SHORT)
    assert load_tuned(first.path) == first.fit
    second = tune("run", (2,), fit="solver", name="mine", overwrite=True, **SHORT)[0]
    assert second.path == first.path and load_tuned(first.path) == second.fit


# ---- where it begins


def test_a_second_process_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock is the operating system's, which holds within a process too; `tests/core/test_files.py` kills its owner."""
    monkeypatch.setattr(tuning.FittingProblem, "of", no_work)
    with locked(place / "run" / "tuned"), pytest.raises(SystemExit) as end:
        main(["tune", "run", "--calls", "3", "--fit", "grid"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"run/tuned is being written by another process \(process \d+ on .*\): wait until it ends", line)


def test_a_fit_can_begin_with_another(place: Path) -> None:
    model = load_model("run")
    begin = plain_fit(model, 3)
    made = tune("run", (3,), fit="images", init_from={3: begin}, rounds=0, **SHORT)[0].fit
    assert made.how["start"] == f"mine ({begin.digest})"
    assert made.sigmas == pytest.approx(begin.sigmas, rel=1e-6) and made.keep == pytest.approx(begin.keep, rel=1e-6, abs=1e-6)
    with pytest.raises(ValueError, match=r"init_from\[2\] is a fitted sampler of 3 calls"):
        tune("run", (2,), fit="images", init_from={2: begin}, **BRIEF, **SHORT)


def test_a_fit_can_begin_with_one_that_the_run_has(place: Path) -> None:
    first = tune("run", (3,), fit="solver", name="first", **SHORT)[0].fit
    made = tune("run", (3,), fit="images", name="second", init_from="first", rounds=0, **SHORT)[0].fit
    assert made.how["start"] == f"first ({first.digest})"
    assert made.keep == pytest.approx(first.keep, rel=1e-6, abs=1e-6)
    grown = tune("run", (5,), fit="images", name="second", init_from="first", rounds=0, **SHORT)[0].fit
    assert grown.how["start"] == f"first ({first.digest}), grown from 3 calls"
    model = load_model("run")
    few, more = (
        sample(model, 4, tuned=f, sampler="tuned", steps=f.calls, progress=False).images.astype(int) for f in (first, grown)
    )
    assert np.abs(few - more).max() <= 1  # it does what the other does, until a descent finds something better
    with pytest.raises(ValueError, match="has no fitted sampler of 2 calls called 'first'"):
        tune("run", (2,), fit="images", name="third", init_from="first", **BRIEF, **SHORT)


def test_a_fit_can_begin_with_one_of_the_model_before_it_was_trained_on(place: Path, tmp_path: Path) -> None:
    """Which itself is refused to sample with: the file says whose it is."""
    model = load_model("run")
    begin = plain_fit(model, 3)
    begin = replace(begin, model="0" * 16)
    path = save_tuned(begin, tmp_path)
    found = tune("run", (3, 4), fit="images", name="moved", init_from=str(path), rounds=0, **SHORT)
    assert found[0].fit.model == model.fingerprint and found[0].fit.sigmas == pytest.approx(begin.sigmas, rel=1e-6)
    assert found[0].fit.how["start"] == f"mine ({begin.digest}), fitted to model {'0' * 16}"
    assert found[1].fit.how["start"] == f"mine ({begin.digest}), grown from 3 calls, fitted to model {'0' * 16}"
    higher = replace(begin, sigmas=(2 * float(model.schedule.sigma_max), *begin.sigmas[1:]))
    with pytest.raises(ValueError, match=r"init_from\[3\] starts at level .* of the model it was fitted to"):
        tune("run", (3,), fit="images", name="high", init_from={3: higher}, rounds=0, **SHORT)
    with pytest.raises(FileNotFoundError):
        tune("run", (3,), fit="images", name="none", init_from="nowhere.json", **SHORT)


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_noise_that_is_there_is_kept(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit by features that begins with one that has its noise already does not put DDIM's in its place; nor does it walk a
    fine trajectory but the one that it is compared with."""
    walked: list[int] = []

    def counted(denoise: Any, starts: torch.Tensor, *more: Any, **options: Any) -> Any:
        walked.append(len(starts))
        return fine_trajectory(denoise, starts, *more, **options)

    monkeypatch.setattr(problem, "fine_trajectory", counted)
    begin = plain_fit(load_model("run"), 3, eta=0.9)
    made = tune(
        "run", (3,), init_from={3: begin}, n_heldout=64, rounds=0, eta=eta, **BY_FEATURES, **SHORT,
    )[0].fit  # fmt: skip
    assert made.fresh == pytest.approx(begin.fresh, rel=1e-5) and made.keep == pytest.approx(begin.keep, rel=1e-5, abs=1e-6)
    assert walked == [64]


# ---- by features


def test_a_fit_is_saved_before_it_is_scored(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring takes minutes for a larger network; stopping it does not lose the fit."""

    def stopped(*_: Any, **__: Any) -> Samples:
        raise KeyboardInterrupt

    monkeypatch.setattr(frechet_loss, "sample", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune("run", (2,), n_heldout=64, **BRIEF, **BY_FEATURES, **SHORT)
    (path,) = (place / "run").rglob("*-features-2.json")
    kept = load_tuned(path)
    assert len(kept.how["losses"]) == 4 and "heldout" not in kept.how
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert len(sample(load_model("run"), 2, tuned=kept, sampler="tuned", steps=2, progress=False).images) == 2


@pytest.mark.slow(6)
def test_what_the_rounds_before_have_found_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ctrl-C comes before the first step of a round; in the first one there is nothing to keep."""
    begun: list[int] = []
    descend = descent.descend

    def interrupted(*arguments: Any, **options: Any) -> Descended:
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return descend(*arguments, **options)

    monkeypatch.setattr(descent, "descend", interrupted)
    (made,) = tune("run", (2,), n_heldout=64, **BRIEF, **BY_FEATURES, **SHORT)
    assert len(made.fit.how["losses"]) == 2 and made.compared and load_tuned(made.path) == made.fit
    begun[:] = [1]
    with pytest.raises(KeyboardInterrupt):
        tune("run", (2,), n_heldout=64, **BRIEF, name="none", **BY_FEATURES, **SHORT)


def test_too_few_images_for_fid_of_the_heldout_extractor_leave_the_other_metrics(place: Path) -> None:
    (fit,) = tune("run", (2,), n_heldout=7, **BRIEF, **BY_FEATURES, **SHORT)
    metrics = {c.metric for c in fit.compared}
    assert "kid" in metrics and "fid" not in metrics


def test_a_fit_by_features(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scored: list[int] = []

    def seen(*arguments: Any, **options: Any) -> Samples:
        scored.append(options["seed"])
        return sample(*arguments, **options)

    monkeypatch.setattr(frechet_loss, "sample", seen)
    typed(
        "tune", "run", "--calls", "2", "--fit", "features", "--against", "real.npy", "--extractor", "e0.safetensors", "--n", "8",
        "--heldout-extractor", "e1.safetensors", "--n-heldout", "64", "--rounds", "2", "--steps", "3", "--batch", "16",
        "--json",
    )  # fmt: skip
    (row,) = json.loads(capsys.readouterr().out)
    fit = load_tuned(row["path"])
    assert fit.stochastic and fit.fresh[-1] == 0 and fit.name == "features"
    assert fit.how["extractor"] == untrained_extractor(0).fingerprint and len(fit.how["losses"]) == 6
    assert {c["metric"] for c in row["compared"]} == {"fid", "kid"} == {c["metric"] for c in fit.how["heldout"]["found"]}
    assert scored == [fit.how["heldout"]["seed"]] * 2 == [fit.how["seed"] + 1] * 2  # a seed that no fit has seen
    drawn = [sample(load_model("run"), 6, sampler="tuned", steps=2, batch=b, progress=False).images for b in (6, 4)]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 1


@pytest.mark.parametrize(
    ("base", "grid"), [("ddim", "karras_few"), pytest.param("unipc", "log_sigma", marks=pytest.mark.slow(4))]
)
def test_it_begins_with_the_sampler_whose_images_are_most_like_real_ones(place: Path, base: str, grid: str) -> None:
    """The real images are what one of the candidates draws; none of those of least squares comes as near."""
    drawn = sample(load_model("run"), 400, sampler=base, steps=3, grid=grid, seed=5, batch=200, progress=False)
    np.save("drawn.npy", drawn.images)
    how = tune(
        "run", (3,), fit="features", against="drawn.npy", extractor="e0.safetensors", heldout_extractor="e1.safetensors",
        n_heldout=64, rounds=0, remember=1024, eta=0.0, **SHORT,
    )[0].fit.how  # fmt: skip
    assert how["start"] == f"{base}, {grid}; eta 0"


# ---- models of diffusers and their clipping


@pytest.fixture
def pipeline(place: Path) -> Any:
    diffusers = pytest.importorskip("diffusers")

    def make(name: str, **scheduler: Any) -> str:
        torch.manual_seed(0)
        network = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )  # fmt: skip
        diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(**scheduler)).save_pretrained(place / name)
        return f"diffusers:{name}"

    return make


@pytest.mark.slow(7)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_folder_of_diffusers_is_fitted_with_its_clip(pipeline: Any) -> None:
    run = pipeline("clipped", clip_sample=True, clip_sample_range=0.5)
    made = tune(run, (3,), fit="images", **BRIEF, **SHORT)[0]
    assert (made.fit.clip, made.fit.threshold) == (0.5, None)
    assert made.path.parent == Path("clipped/alphabar/tuned")
    model = load_model(run)
    x = made.fit.sigmas[0] * starting_noise(0, range(4), (1, 8, 8))
    by_hand = run_tuned(ClipX0(model, -0.5, 0.5), x, made.fit.grid, fit=made.fit)
    drawn = sample(model, 4, sampler="tuned", steps=3, progress=False)
    assert np.abs(drawn.images / 127.5 - 1 - by_hand.clamp(-1, 1).permute(0, 2, 3, 1).numpy()).max() < 0.6 / 127.5
    assert drawn.record["clip"] == 0.5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_and_with_its_thresholding(pipeline: Any) -> None:
    run = pipeline("held", clip_sample=False, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5)
    made = tune(run, (2,), fit="images", **BRIEF, **SHORT)[0].fit
    assert (made.clip, made.threshold, made.threshold_max) == (0.0, 0.9, 1.5)
    model = load_model(run)
    x = made.sigmas[0] * starting_noise(0, range(4), (1, 8, 8))
    by_hand = run_tuned(ThresholdX0(model, 0.9, 1.5), x, made.grid, fit=made)
    drawn = sample(model, 4, sampler="tuned", steps=2, progress=False).images
    assert np.abs(drawn / 127.5 - 1 - by_hand.clamp(-1, 1).permute(0, 2, 3, 1).numpy()).max() < 0.6 / 127.5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_loss_of_a_descent_is_of_clipped_images(pipeline: Any) -> None:
    """Its first loss is that of the clipped starting sampler, from the clipped trajectory."""
    run = pipeline("clipped", clip_sample=True, clip_sample_range=0.5)
    model = load_model(run)
    begin, held = replace(plain_fit(model, 3), clip=0.5), ClipX0(model, -0.5, 0.5)
    made = tune(run, (3,), fit="images", init_from={3: begin}, **BRIEF, **SHORT)[0].fit
    unit = starting_noise(SEED, range(8), (1, 8, 8))
    end = fine_trajectory(held, unit, problem.fine_grid(model.schedule), progress=False).end
    off = run_tuned(held, unit * begin.sigmas[0], begin.grid, fit=begin) - end
    assert made.how["losses"][0] == pytest.approx(float(off.square().mean()), rel=1e-3)


def test_a_model_of_zero_terminal_snr(place: Path) -> None:
    run_of(build(SMALL, {"kind": "betas", "zero_snr": True}, (1, 8, 8), 0), place / "zero")
    made = tune("zero", (3,), **SHORT)[0]
    assert made.fit.sigmas[0] == pytest.approx(2.0**32, rel=1e-6) and made.fit.sigmas[1] < 2e4
    assert made.fit.how["fine"].startswith("dpmpp_2s, ")
    drawn = sample(load_model("zero"), 4, sampler="tuned", steps=3, progress=False)
    assert drawn.images.std() > 5 and made.distance["fitted"] <= 1.2 * min(made.distance.values())


def test_a_descent_that_diverges_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "run", "--calls", "2", "--n", "8", "--fit", "images", "--steps", "4", "--batch", "8"]
    monkeypatch.setattr(sys, "argv", ["alphabar", *words])
    monkeypatch.setattr(TrajectoryLoss, "__call__", lambda self, images, rows: images.sum() * float("nan"))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "the loss of step 0 is nan: start again with a smaller rate" in capsys.readouterr().err
