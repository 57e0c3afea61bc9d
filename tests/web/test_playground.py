"""The playground behind `alphabar app`: what may be asked for, what is drawn, and that it can be drawn again. No browser."""

import os
import shlex
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.cli.main import app as command_line
from alphabar.data.contact_sheet import contact_sheet
from alphabar.denoiser.model import Model, build, save_weights
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import SampleSet
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.verbs.compare import compare
from alphabar.verbs.score import make_evaluator
from alphabar.web.html import sheet
from alphabar.web.job import Job
from alphabar.web.playground import Frame, Playground, SettingScores, done_words
from alphabar.web.request import MOST_SEED, Setting, whole
from tests.fixtures.runs import untrained_extractor
from tests.verbs.test_tune import run_of

SMALL = ModelRecipe(channels=(8,), embedding=8, groups=4)
CONDITIONAL = ModelRecipe(channels=(8,), embedding=8, groups=4, conditional=True)


def small(seed: int = 0, **more: Any) -> Model:
    return build(more.pop("recipe", SMALL), {"kind": "cosine"}, (1, 8, 8), seed, **more)


def fill(folder: Path) -> Path:
    """A root with runs in it, good, broken and forbidden, real images, and an extractor; what lies outside it is beside it."""
    root = folder / "runs"
    run_of(small(), root / "small")
    run_of(small(1), root / "deeper" / "still" / "other")
    run_of(small(recipe=CONDITIONAL, classes=("shoe", "bag", "coat")), root / "classes")
    run_of(small(2), root / ".hidden")
    run_of(small(2), root / "bundled")
    run_of(small(3), folder / "outside")
    (root / "link").symlink_to(folder / "outside")
    run_of(small(), root / "stolen")
    (root / "stolen" / "checkpoints" / "last" / "ema.safetensors").unlink()
    (root / "stolen" / "checkpoints" / "last" / "ema.safetensors").symlink_to(
        folder / "outside" / "checkpoints" / "last" / "ema.safetensors"
    )
    run_of(small(), root / "broken")
    (root / "broken" / "checkpoints" / "last" / "ema.safetensors").write_bytes(b"this is no checkpoint" * 100)
    run_of(small(), root / "empty")
    (root / "empty" / "checkpoints" / "last" / "ema.safetensors").unlink()
    (root / "notes").mkdir()
    (root / "notes" / "secret.txt").write_text("not for the page")
    untrained_extractor(0).save(folder / "extractor.safetensors")
    columns = np.arange(8)[None, None, :, None]
    phase = np.random.default_rng(0).integers(0, 256, (300, 1, 1, 1))
    np.savez(folder / "real.npz", images=np.broadcast_to((columns * 20 + phase) % 256, (300, 8, 8, 1)).astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("playground"))


@pytest.fixture
def play(root: Path) -> Playground:
    return Playground(root)


def last(frames: Any) -> Frame:
    *_, frame = frames
    assert isinstance(frame, Frame)
    return frame


def drawn(play: Playground, job: Job) -> Samples:
    samples = last(play.watch(job)).samples
    assert samples is not None
    return samples


# ---- runs


def test_runs_are_found_by_name_and_none_that_a_link_leads_out_to(play: Playground) -> None:
    names = play.runs.names()
    assert names[0] == "bundled"
    assert set(names[1:]) == {"small", "deeper/still/other", "classes", "./bundled", "broken", "empty", "stolen"}


def test_a_root_that_is_a_run_itself_is_offered(root: Path) -> None:
    play = Playground(root / "small")
    assert play.runs.names() == ["bundled", "."]
    assert play.prepare(Setting("."), 1, 0).model.image_shape == (1, 8, 8)


def test_the_run_called_bundled_is_not_taken_for_the_bundled_one(play: Playground) -> None:
    assert play.prepare(Setting("./bundled"), 1, 0).model.image_shape == (1, 8, 8)
    assert play.prepare(Setting("bundled"), 1, 0).model.image_shape == (1, 28, 28)


@pytest.mark.parametrize(
    "name", ["../outside", "small/../../outside", "link", "stolen", "/etc", "..", "~root/../..", "deeper/../../outside"]
)
def test_a_run_outside_the_root_is_refused(play: Playground, name: str) -> None:
    with pytest.raises(ValueError, match=r"outside|there is no run"):
        play.prepare(Setting(name), 1, 0)


def test_what_lies_outside_is_not_even_read(play: Playground, root: Path) -> None:
    for name in ("link", "stolen", "../outside", str(root.parent / "outside")):
        with pytest.raises(ValueError, match="lies outside"):
            play.runs.load(name)


@pytest.mark.parametrize(
    "name", [None, "", 3, ["small"], {"run": "small"}, "small\0", "x" * 2000, "nowhere", "notes", "diffusers:small"]
)
def test_a_name_that_is_no_run_is_refused_in_words(play: Playground, name: Any) -> None:
    with pytest.raises(ValueError, match=r"choose one of the list|there is no run"):
        play.prepare(Setting(name), 1, 0)


def test_a_file_that_is_no_checkpoint_is_an_error(play: Playground) -> None:
    with pytest.raises(ValueError, match="is not a safetensors file"):
        play.prepare(Setting("broken"), 1, 0)
    with pytest.raises(ValueError, match=r"no ema\.safetensors"):
        play.prepare(Setting("empty"), 1, 0)
    with pytest.raises(ValueError, match="with a checkpoint 'best'"):
        play.prepare(Setting("small", checkpoint="best"), 1, 0)
    with pytest.raises(ValueError, match="choose last or best"):
        play.prepare(Setting("small", checkpoint="../../../outside/checkpoints/last"), 1, 0)


def test_a_missing_root_is_refused_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="alphabar app runs"):
        Playground(tmp_path / "nowhere")


def test_a_run_that_was_trained_on_is_read_anew(tmp_path: Path) -> None:
    run = run_of(small(0), tmp_path / "run")
    play = Playground(tmp_path)
    first, _ = play.runs.load("run")
    assert play.runs.load("run")[0] is first
    weights = run / "checkpoints" / "last" / "ema.safetensors"
    save_weights(weights, small(5))
    os.utime(weights, ns=(1, weights.stat().st_mtime_ns + 10**9))
    assert play.runs.load("run")[0].fingerprint != first.fingerprint


def test_few_models_are_kept_in_memory(tmp_path: Path) -> None:
    for k in range(6):
        run_of(small(k), tmp_path / f"run{k}")
    play = Playground(tmp_path)
    for k in range(6):
        play.runs.load(f"run{k}")
    assert len(play.runs._models) == 4


# ---- requests


@pytest.mark.parametrize("n", [0, -1, 257, 2.5, 10**400, float("nan"), float("inf"), None, "16", True, [4]])
def test_a_number_of_images_that_is_none_is_refused_with_what_is_allowed(play: Playground, n: Any) -> None:
    with pytest.raises(ValueError, match=r"images = .*: give a whole number from 1 to 256"):
        play.prepare(Setting("small"), n, 0)


@pytest.mark.parametrize("seed", [-1, 2**53, 1e300, 0.5, None, "0"])
def test_a_seed_that_is_none_is_refused(play: Playground, seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed = .*: give a whole number from 0 to"):
        play.prepare(Setting("small"), 1, seed)


def test_the_ends_of_the_ranges_are_taken() -> None:
    assert whole("images", 256.0, 1, 256) == 256
    assert whole("seed", MOST_SEED, 0, MOST_SEED) == MOST_SEED


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (Setting("small", eta=2), "eta = 2.0: give a number from 0"),
        (Setting("small", eta="much"), "eta = 'much': give a number"),
        (Setting("small", eta="1e999"), "eta = '1e999': give a number"),
        (Setting("small", "euler", eta=0.5), "deterministic and takes no eta"),
        (Setting("small", "ddpm", eta=0.5), "the options of ddpm are"),
        (Setting("small", "ddmi"), "did you mean 'ddim'"),
        (Setting("small", amount=0), "calls = 0: give a whole number from 1 to 1,000"),
        (Setting("small", amount=10**9), "calls = 1000000000"),
        (Setting("small", counted="hours"), "choose calls or steps"),
        (Setting("small", plan="evry(3)"), "did you mean 'every'"),
        (Setting("small", plan="every(3" * 100), "at most 200 characters"),
        (Setting("small", plan="adaptive(0.1)"), "give steps"),
        (Setting("small", grid="karas"), "grid 'karas' is unknown"),
        (Setting("small", clip="perhaps"), "choose yes or no"),
        (Setting("small", guidance=2), "guidance leads towards a class"),
        (Setting("small", classes="all", guidance=2), "trained without classes"),
        (Setting("small", classes="shoe"), "trained without classes"),
        (Setting("classes", classes="shoo"), "did you mean 'shoe'"),
        (Setting("small", "tuned", 7), "has no fitted sampler of 7 calls"),
        (Setting("bundled", "tuned", 5, eta=0.5), "has its own levels"),
        (Setting("bundled", "tuned", 7), "features of 5"),
        (Setting("small", "heun", 1000, "steps"), "image-calls"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_the_librarys_words(play: Playground, setting: Setting, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        play.prepare(setting, 200, 0)
    assert words in str(refused.value)


def test_calls_are_counted_and_not_worked_out(play: Playground) -> None:
    heun = play.prepare(Setting("small", "heun", 25), 2, 0)
    assert (heun.steps, heun.calls) == (13, 25)
    skipped = play.prepare(Setting("small", plan="every(3)", amount=10), 2, 0)
    assert (skipped.steps, skipped.calls) == (30, 10)
    guided = play.prepare(Setting("classes", amount=10, classes="shoe, coat", guidance="2"), 2, 0)
    assert (guided.steps, guided.calls) == (10, 20)
    for job in (heun, skipped, guided):
        assert drawn(play, job).record["nfe"] == job.calls
    assert "13 steps, 25 calls an image; 2 images: 50 image-calls; heun calls more than once a step" in heun.cost
    assert "guidance calls more than once a step" in guided.cost


def test_an_adaptive_plan_is_bounded_by_the_most_it_can_call(play: Playground) -> None:
    job = play.prepare(Setting("small", "heun", 20, "steps", plan="adaptive(0.05)"), 4, 0)
    assert job.calls == 39
    assert "up to 39 calls" in job.cost
    record = drawn(play, job).record
    assert record["nfe"] <= 39
    assert f"({record['calls']['min']} to {record['calls']['max']})" in done_words(record)


# ---- images


def test_every_step_is_shown_as_the_network_saw_it(play: Playground) -> None:
    job = play.prepare(Setting("small", amount=6), 3, 7)
    *frames, end = play.watch(job, every=0)
    expected = sample(load_model(play.runs.root / "small"), 3, steps=6, seed=7, keep_x0=True, progress=False, channels_last=True)
    assert expected.x0 is not None
    seen = [next((k for k, x0 in enumerate(expected.x0) if np.array_equal(x0, f.pixels)), None) for f in frames]
    assert seen
    assert None not in seen
    assert seen == sorted(seen)  # some may be passed over by a slow reader, none is shown out of turn
    assert frames[0].caption.startswith("step 1 of 6, 1 call, ")
    assert end.samples is not None
    np.testing.assert_array_equal(end.pixels, expected.images)
    np.testing.assert_array_equal(end.samples.images, expected.images)
    assert end.caption.startswith("3 images, 6 calls an image, ")


def test_images_that_are_not_begun_are_grey_and_those_that_are_done_stay(play: Playground) -> None:
    job = play.prepare(Setting("small", amount=2), 70, 0)
    *frames, end = play.watch(job, every=0)
    assert frames[0].caption.startswith("images 1 to 64 of 70: step 1 of 2")
    assert (frames[0].pixels[64:] == 127).all()
    second = [f for f in frames if f.caption.startswith("images 65 to 70 of 70")]
    assert second
    np.testing.assert_array_equal(end.pixels, drawn(play, job).images)


def test_closing_stops_the_drawing(play: Playground) -> None:
    before = set(threading.enumerate())
    frames = play.watch(play.prepare(Setting("small", amount=1000), 64, 0), every=0)
    next(frames)
    (drawing,) = set(threading.enumerate()) - before
    frames.close()
    drawing.join(timeout=10)
    assert not drawing.is_alive()


def test_an_error_of_the_work_is_raised_to_whoever_waits(play: Playground) -> None:
    job = play.prepare(Setting("small", amount=2), 2, 0)
    job.arguments["eta"] = 3.0
    with pytest.raises(ValueError, match="eta = 3"):
        list(play.watch(job))


def test_two_at_once_do_not_mix(play: Playground) -> None:
    jobs = [play.prepare(Setting("small", "ddpm", 30), 8, seed) for seed in (1, 2)]
    got: dict[int, Samples] = {}
    threads = [threading.Thread(target=lambda j=j: got.update({j.seed: drawn(play, j)})) for j in jobs]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        alone = sample(
            load_model(play.runs.root / "small"), 8, sampler="ddpm", steps=30, seed=seed, progress=False, channels_last=True
        )
        np.testing.assert_array_equal(got[seed].images, alone.images)


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
@pytest.mark.parametrize(
    ("setting", "n", "seed"),
    [
        (Setting("small"), 5, 0),
        (Setting("small", "ddim", 12, "steps", eta=0.3, plan="every(3, last=2)", grid="karras", clip="yes"), 5, 2**53 - 1),
        (Setting("deeper/still/other", "heun", 9, clip="no"), 3, 1),
        (Setting("./bundled", "ddpm", 6), 3, 4),
        (Setting("classes", "unipc", 6, classes="coat, 0", guidance=1.5), 5, 3),
        (Setting("classes", "unipc", 6, classes="all"), 5, 3),
        (Setting("bundled", "tuned", 5), 2, 3),
    ],
    ids=lambda v: f"{v.run}-{v.sampler}" if isinstance(v, Setting) else None,
)
def test_the_command_and_the_lines_of_python_draw_the_same_pixels(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: Setting, n: int, seed: int
) -> None:
    monkeypatch.chdir(root.parent)
    play = Playground("runs")
    job = play.prepare(setting, n, seed)
    images = drawn(play, job).images
    words = shlex.split(job.command(str(tmp_path / "typed.npz")))
    assert words[:2] == ["alphabar", "sample"]
    command_line(words[1:], result_action="return_value")
    np.testing.assert_array_equal(Samples.load(tmp_path / "typed.npz").images, images)
    exec(job.python(str(tmp_path / "python.npz")), {})
    np.testing.assert_array_equal(Samples.load(tmp_path / "python.npz").images, images)


# ---- scores


def scored(play: Playground, jobs: dict[str, Job]) -> tuple[list[str], SettingScores]:
    *words, found = play.score(jobs, every=0)
    assert isinstance(found, SettingScores)
    return [str(w) for w in words], found


@pytest.fixture
def judging(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Playground:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    return Playground(root, str(root.parent / "real.npz"), str(root.parent / "extractor.safetensors"))


def test_two_settings_are_scored_and_compared_as_the_library_does(judging: Playground) -> None:
    jobs = {"A": judging.prepare(Setting("small", amount=6), 80, 0), "B": judging.prepare(Setting("small", amount=2), 80, 0)}
    words, found = scored(judging, jobs)
    assert found.note is None
    assert any(w.startswith("A: images 1 to 64 of 80: step") for w in words)
    assert any(w.startswith("B: ") for w in words)
    evaluate, real = make_evaluator(str(judging.against), str(judging.extractor), progress=False)
    opened = [SampleSet(k, drawn(judging, j).images, drawn(judging, j).record) for k, j in jobs.items()]
    expected = compare(*opened, evaluate, real, ("fid", "kid"))
    assert [c.words for c in found.comparisons] == [c.words for c in expected]
    assert all(c.paired for c in found.comparisons)
    assert [s.value for s in found.scores["A"]] == [c.a.value for c in expected]
    assert all(s.interval is not None and s.interval[0] <= s.value <= s.interval[1] for s in found.scores["B"])


def test_with_too_few_images_for_fid_kid_is_computed_and_the_reason_is_shown(judging: Playground) -> None:
    _, found = scored(judging, {"A": judging.prepare(Setting("small", amount=2), 4, 0)})
    assert [s.metric for s in found.scores["A"]] == ["kid"]
    assert found.note is not None
    assert "4 images are too few for FID" in found.note
    assert found.comparisons == []


def test_without_real_images_a_score_says_what_to_type(play: Playground) -> None:
    with pytest.raises(ValueError, match=r"alphabar app .* --against SET:SPLIT"):
        list(play.score({"A": play.prepare(Setting("small", amount=2), 4, 0)}))


def test_real_images_of_another_size_are_refused_before_anything_is_drawn(judging: Playground) -> None:
    job = judging.prepare(Setting("bundled", amount=900), 64, 0)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"\(28, 28, 1\).*\(8, 8, 1\)"):
        list(judging.score({"A": job}))
    assert time.monotonic() - began < 20


def test_a_sheet_shows_the_images_pixel_by_pixel(play: Playground) -> None:
    images = drawn(play, play.prepare(Setting("small", amount=2), 5, 0)).images
    picture = np.asarray(sheet(images))
    scale = 520 // (3 * 9)
    np.testing.assert_array_equal(picture, np.asarray(contact_sheet(images, columns=3, scale=scale)))
    np.testing.assert_array_equal(picture[1 : 1 + 8 * scale : scale, 1 : 1 + 8 * scale : scale], images[0, ..., 0])
