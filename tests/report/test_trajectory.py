"""Trajectories from noise to image: stored during training without more network calls, or sampled from the checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.core.run import Run
from alphabar.denoiser.model import Model, build
from alphabar.report import trajectory
from alphabar.report.trajectory import trajectories
from alphabar.results.runs import load_run
from alphabar.sampling.batches import spread_out
from alphabar.sampling.preview import Preview, watched
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import save_checkpoint
from alphabar.training.config import resolve
from alphabar.training.hooks import Training
from tests.fixtures.runs import MakeRun, add_trajectory

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
def test_a_preview_stores_the_trajectory_of_its_images_without_more_calls(tmp_path: Path, n: int) -> None:
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
    assert event["sheet"] == {"columns": {5: 3, 20: 5}[n], "scale": 2, "pad": 1, "image": [8, 8], "note": None}
    from PIL import Image

    sheet = np.asarray(Image.open(run.path / event["path"]))
    np.testing.assert_array_equal(sheet[1:17:2, 18:34:2], kept.images[1, ..., 0])  # image 1, to the right of image 0


def test_a_stored_trajectory_is_shown_without_sampling(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory, "_sample", lambda *a: pytest.fail("a stored trajectory is not sampled again"))
    runs = [make_run("a"), make_run("b")]
    for k, run in enumerate(runs):
        add_trajectory(run, steps=4 + 2 * k)
    found = trajectories([load_run(run) for run in runs], ["a", "b"])
    assert found.missing == [] and found.notes == []
    assert [len(one.frames) for one in found.found] == [5, 7]
    assert found.steps == 7
    assert found.found[0].about == "after 64,000 images of training, ddim, 4 calls, seed 0"


def test_a_run_without_one_gets_one_from_its_checkpoint(make_run: MakeRun) -> None:
    run = make_run()
    model = with_checkpoint(run)
    left = trajectories([load_run(run)], ["a"], draw=False)
    assert left.found == [] and left.missing == ["a: the run has no trajectory, and --no-trajectory forbids sampling one."]
    assert not Run(run).trajectory.exists()
    found = trajectories([load_run(run)], ["a"])
    assert found.missing == [] and len(found.found[0].frames) == 26
    kept = Samples.load(Run(run).trajectory)
    wanted = watched(model, 8, 25)
    np.testing.assert_array_equal(kept.images, wanted.images)
    assert kept.record["model"] == model.fingerprint and kept.record["images_seen"] == 640


def test_a_slow_model_is_sampled_only_on_request(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    with_checkpoint(run)
    monkeypatch.setattr(trajectory, "PATIENCE", 1e-6)
    found = trajectories([load_run(run)], ["a"])
    assert found.found == [] and "allow it with --trajectory" in found.missing[0]
    assert len(trajectories([load_run(run)], ["a"], draw=True).found) == 1


def test_the_reason_for_a_missing_trajectory_is_given(make_run: MakeRun) -> None:
    bare, torn, other, spoilt = (make_run(name) for name in ("bare", "torn", "other", "spoilt"))
    add_trajectory(torn)
    path = Run(torn).trajectory
    path.write_bytes(path.read_bytes()[:300])
    Samples(np.zeros((2, 4, 4, 1), np.uint8), {"n": 2}).save(Run(other).trajectory)
    with_checkpoint(spoilt)
    weights = Run(spoilt).checkpoint() / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    found = trajectories([load_run(run) for run in (bare, torn, other, spoilt)], ["bare", "torn", "other", "spoilt"])
    assert found.found == []
    reasons = dict(sentence.split(": ", 1) for sentence in found.missing)
    assert reasons["bare"] == "the run has no trajectory, and no checkpoint to sample one from."
    assert "samples/trajectory.npz cannot be read" in reasons["torn"]
    assert "samples/trajectory.npz cannot be read" in reasons["other"]
    assert "none can be sampled from the last checkpoint" in reasons["spoilt"]


def test_frames_of_large_images_are_reduced_to_the_budget(make_run: MakeRun) -> None:
    run = make_run()
    add_trajectory(run, steps=6, shape=(128, 128, 3))
    g = np.random.default_rng(0)
    made = Samples.load(Run(run).trajectory)
    noise = [g.integers(0, 256, made.images.shape, dtype=np.uint8) for _ in range(6)]
    Samples(made.images, made.record, noise).save(Run(run).trajectory)
    found = trajectories([load_run(run)], ["a"], budget=200_000)
    assert sum(len(frame.picture.uri) for frame in found.found[0].frames) <= 200_000 * 4 / 3 + 1_000
    assert "pixels wide and high" in found.notes[0]
