"""Trainings that end early: a held-out loss that has turned, and where the run, its model and its record are left."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alphabar.core.files import read_jsonl
from alphabar.core.run import Run
from alphabar.results.runs import load_run, state
from alphabar.training.checkpoint import back_to_best, load_checkpoint, load_model
from alphabar.training.hooks import HeldOutLoss, Hook, Training
from alphabar.training.loop import train
from alphabar.training.stopping import rise, turned
from tests.fixtures.training import assert_same_weights, small_model, small_recipe, small_training


class EndsAt(Hook):
    """Asks for the end of the training."""

    def __init__(self, images: int) -> None:
        self.every = images

    def on_interval(self, training: Training) -> None:
        training.improved("fid", training.images)
        if training.images == 2 * self.every:
            training.end_early("the loss has turned")


def overfitted(pixels: NDArray[np.uint8], folder: Path, images: int = 6400, **changes: object) -> torch.nn.Module:
    """Four images, seen until the network knows them, and 30 others."""
    recipe = small_recipe(images=images, heldout_every=320, lr=0.01, policy="constant", ema_half_life=100.0, **changes)
    return train(
        small_model(), pixels, np.arange(4), recipe, Run(folder), heldout=pixels[-30:], hooks=[HeldOutLoss(320)], progress=False
    )  # fmt: skip


@pytest.mark.slow(8)
def test_a_model_that_overfits_is_stopped_at_its_lowest_held_out_loss(pixels: NDArray[np.uint8], folder: Path) -> None:
    model = overfitted(pixels, folder, early_stop=True)
    rows = [row for row in read_jsonl(folder / "events.jsonl") if row["event"] == "heldout"]
    lowest = min(rows, key=lambda row: row["loss"])
    ended = load_run(folder).of("stopped_early")[0]
    assert ended["images"] == rows[-1]["images"] < 6400
    assert ended["model"] == lowest["images"] < rows[-3]["images"]
    assert all(row["rise"][1] > 0 for row in rows[-2:]) and "the held-out loss has risen by" in ended["reason"]
    best = load_model(folder, "best")
    assert model.fingerprint == best.fingerprint == load_model(folder).fingerprint  # type: ignore[attr-defined]
    overfitted(pixels, folder.with_name("on"), images=rows[-1]["images"])
    assert load_run(folder.with_name("on")).of("finished"), "only where train.early_stop is on"


def test_a_run_that_ended_early_is_finished_with_its_best_model(pixels: NDArray[np.uint8], folder: Path) -> None:
    model = small_training(pixels, folder, hooks=[EndsAt(128)], early_stop=True, fingerprint="f")
    assert load_checkpoint(folder / "checkpoints/last").state["images"] == 128, "the best one"
    assert model.fingerprint == load_model(folder, "best").fingerprint
    found = state(load_run(folder))
    assert (found.kind, found.images) == ("stopped early", 256)
    assert found.words.startswith("finished, stopped early: the loss has turned. The model is that of image 128")
    events = (folder / "events.jsonl").read_text()
    again = small_training(pixels, folder, hooks=[EndsAt(128)], early_stop=True, fingerprint="f", resume=True)
    assert again.fingerprint == model.fingerprint and (folder / "events.jsonl").read_text() == events
    small_training(pixels, folder, fingerprint="f", resume=True)
    assert state(load_run(folder)).kind == "finished"
    small_training(pixels, folder.with_name("whole"), fingerprint="f")
    assert_same_weights(folder, folder.with_name("whole"))


def test_the_end_of_the_budget_is_no_early_end(pixels: NDArray[np.uint8], folder: Path) -> None:
    small_training(pixels, folder, hooks=[EndsAt(320)], early_stop=True)
    assert "stopped_early" not in load_checkpoint(folder / "checkpoints/last").state
    assert state(load_run(folder)).kind == "finished"


def test_a_kill_before_the_best_checkpoint_is_put_back_loses_nothing(pixels: NDArray[np.uint8], folder: Path) -> None:
    small_training(pixels, folder, hooks=[EndsAt(128)], early_stop=True)
    (folder / "checkpoints/last").rename(folder / "checkpoints/new")
    (folder / "checkpoints/last.old").rename(folder / "checkpoints/last")  # as it was when the training ended, at image 256
    assert load_checkpoint(folder / "checkpoints/last").state["images"] == 256
    assert back_to_best(Run(folder), "the loss has turned") == 128 == back_to_best(Run(folder), "the loss has turned")
    assert load_checkpoint(folder / "checkpoints/last").state["stopped_early"] == "the loss has turned"


def test_a_resumed_run_knows_its_lowest_loss_and_what_came_after(pixels: NDArray[np.uint8], folder: Path) -> None:
    whole, resumed = HeldOutLoss(64), HeldOutLoss(64)
    changes = {"lr": 0.03, "clip": 0.0, "early_stop": True, "checkpoint_every": 192, "policy": "constant"}
    small_training(pixels, folder.with_name("whole"), hooks=[whole], images=384, fingerprint="f", **changes)
    small_training(pixels, folder, hooks=[HeldOutLoss(64)], images=192, fingerprint="f", **changes)
    small_training(pixels, folder, hooks=[resumed], images=384, fingerprint="f", resume=True, **changes)
    assert resumed.lowest is not None and whole.lowest is not None
    assert (resumed.lowest_at, resumed.rises) == (whole.lowest_at, whole.rises)
    assert torch.equal(resumed.lowest, whole.lowest)


def test_noise_does_not_stop_a_training() -> None:
    """Losses of 200 images that do not change but for the noise of the weights, measured 24 times, in 200 trainings."""
    rng, stopped, n = np.random.default_rng(0), 0, 100
    for _ in range(200):
        lowest, rises = None, []
        for _ in range(24):
            now = torch.from_numpy(1 + 0.1 * rng.standard_normal(n))
            if lowest is None or now.mean() < lowest.mean():
                lowest, rises = now, []
            else:
                rises.append(rise(lowest, now))
            if turned(rises):
                stopped += 1
                break
    worse = [rise(torch.ones(n).double(), torch.from_numpy(1.1 + 0.1 * rng.standard_normal(n))) for _ in range(3)]
    assert stopped <= 8 and turned(worse) and not turned(worse[:2])
