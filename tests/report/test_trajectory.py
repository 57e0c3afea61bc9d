"""The way from noise to image: kept in training at no call's cost, or drawn from the checkpoint, or told to be missing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.core.run import Run
from alphabar.denoiser.model import Model, build
from alphabar.report import trajectory
from alphabar.report.trajectory import ways
from alphabar.results.runs import load_run
from alphabar.sampling.preview import Preview, watched
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.sampling.trajectory import spread_out
from alphabar.training.checkpoint import save_checkpoint
from alphabar.training.config import resolve
from alphabar.training.hooks import Training
from tests.fixtures.runs import MakeRun, add_way

RECIPE = resolve("garments", ["--model.channels", "8", "--model.embedding", "16"])


def small() -> Model:
    return build(RECIPE.model, RECIPE.schedule.spec(), (1, 8, 8), 0).eval()


def with_checkpoint(path: Path) -> Model:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (path / "checkpoints").mkdir()
    save_checkpoint(Run(path).checkpoint(), model, model.state_dict(), optimizer, {"images": 640, "step": 10, "seconds": 1.0})
    return model


def test_steps_are_spread_evenly_with_both_ends() -> None:
    assert spread_out(5, 9) == (0, 1, 2, 3, 4)
    assert spread_out(1_000, 5) == (0, 250, 500, 749, 999)
    assert spread_out(10, 1) == (0,)


@pytest.mark.parametrize("n", [5, 20])
def test_a_preview_keeps_the_way_of_the_very_images_of_its_sheet_and_pays_no_call_for_it(tmp_path: Path, n: int) -> None:
    model, run = small(), Run(tmp_path)
    calls: list[int] = []
    model.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    Preview(64, n=n, steps=6, seed=3).on_interval(Training(run, RECIPE.train, model, model, torch.device("cpu"), images=128))
    assert sum(calls) == 6 * n
    kept = Samples.load(run.trajectory)
    plain = sample(model, n, steps=6, seed=3, progress=False)
    few = min(n, 8)
    assert kept.x0 is not None and len(kept.x0) == 6 and len(kept.images) == few
    assert np.abs(kept.images.astype(int) - plain.images[:few].astype(int)).max() <= 1  # of other batches, so to rounding
    assert kept.record["images_seen"] == 128 and kept.record["model"] == model.fingerprint and kept.record["seed"] == 3
    (event,) = (json.loads(line) for line in run.events.read_text().splitlines())
    assert event["sheet"] == {"columns": {5: 3, 20: 5}[n], "scale": 2, "pad": 1, "image": [8, 8]}
    from PIL import Image

    sheet = np.asarray(Image.open(run.path / event["path"]))
    np.testing.assert_array_equal(sheet[1:17:2, 18:34:2], kept.images[1, ..., 0])  # image 1 beside image 0


def test_what_was_kept_is_shown_and_nothing_is_drawn(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory, "_draw", lambda *a: pytest.fail("a way that was kept is not drawn again"))
    runs = [make_run("a"), make_run("b")]
    for k, run in enumerate(runs):
        add_way(run, steps=4 + 2 * k)
    found = ways([load_run(run) for run in runs], ["a", "b"])
    assert found.missing == [] and found.notes == []
    assert [len(way.frames) for way in found.ways] == [5, 7]
    assert found.steps == 7
    assert found.ways[0].about == "after 64,000 images of training, ddim, 4 calls, seed 0"


def test_of_a_run_without_one_it_is_drawn_from_the_checkpoint_and_kept(make_run: MakeRun) -> None:
    run = make_run()
    model = with_checkpoint(run)
    left = ways([load_run(run)], ["a"], draw=False)
    assert left.ways == [] and left.missing == ["a: no way was kept, and --no-trajectory said not to draw one."]
    assert not Run(run).trajectory.exists()
    found = ways([load_run(run)], ["a"])
    assert found.missing == [] and len(found.ways[0].frames) == 26
    kept = Samples.load(Run(run).trajectory)
    wanted = watched(model, 8, 25)
    np.testing.assert_array_equal(kept.images, wanted.images)
    assert kept.record["model"] == model.fingerprint and kept.record["images_seen"] == 640


def test_what_takes_long_is_drawn_only_when_asked_for(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    with_checkpoint(run)
    monkeypatch.setattr(trajectory, "PATIENCE", 1e-6)
    found = ways([load_run(run)], ["a"])
    assert found.ways == [] and "add --trajectory if it may" in found.missing[0]
    assert len(ways([load_run(run)], ["a"], draw=True).ways) == 1


def test_what_cannot_be_shown_is_told(make_run: MakeRun) -> None:
    bare, torn, other, spoilt = (make_run(name) for name in ("bare", "torn", "other", "spoilt"))
    add_way(torn)
    path = Run(torn).trajectory
    path.write_bytes(path.read_bytes()[:300])
    Samples(np.zeros((2, 4, 4, 1), np.uint8), {"n": 2}).save(Run(other).trajectory)
    with_checkpoint(spoilt)
    weights = Run(spoilt).checkpoint() / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    found = ways([load_run(run) for run in (bare, torn, other, spoilt)], ["bare", "torn", "other", "spoilt"])
    assert found.ways == []
    told = dict(sentence.split(": ", 1) for sentence in found.missing)
    assert told["bare"] == "no way was kept, and there is no checkpoint to draw one from."
    assert "samples/trajectory.npz cannot be read" in told["torn"]
    assert "samples/trajectory.npz cannot be read" in told["other"]
    assert "the last checkpoint draws none" in told["spoilt"]


def test_the_frames_of_large_images_are_made_small_enough(make_run: MakeRun) -> None:
    run = make_run()
    add_way(run, steps=6, shape=(128, 128, 3))
    g = np.random.default_rng(0)
    made = Samples.load(Run(run).trajectory)
    noise = [g.integers(0, 256, made.images.shape, dtype=np.uint8) for _ in range(6)]
    Samples(made.images, made.record, noise).save(Run(run).trajectory)
    found = ways([load_run(run)], ["a"], budget=200_000)
    assert sum(len(frame.uri) for frame in found.ways[0].frames) <= 200_000 * 4 / 3 + 1_000
    assert "pixels wide and high" in found.notes[0]
