"""A loss that is NaN, explodes, or has risen and stays high."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from alphabar.core.files import read_jsonl
from alphabar.results import runs
from alphabar.training.checkpoint import load_checkpoint
from alphabar.training.hooks import Hook, Training
from alphabar.training.stopping import Diverged, LossMonitor
from tests.fixtures.training import small_training


class FillWeights(Hook):
    """Sets all weights to a value once so many images have been seen."""

    def __init__(self, images: int, value: float) -> None:
        self.images, self.value = images, value

    def on_step(self, training: Training) -> None:
        if training.images == self.images:
            with torch.no_grad():
                for p in training.model.parameters():
                    p.fill_(self.value)


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(pixels: NDArray[np.uint8], folder: Path) -> None:
    with pytest.raises(Diverged, match=r"after 384 images the loss is not a number.*checkpoint is kept.*--train.lr"):
        small_training(pixels, folder, hooks=[FillWeights(320, float("nan"))])
    checkpoint = load_checkpoint(folder / "checkpoints" / "last")
    assert checkpoint.state["images"] == 256
    assert all(bool(torch.isfinite(v).all()) for v in checkpoint.ema.values())
    assert [e["loss"] for e in read_jsonl(folder / "events.jsonl") if e["event"] == "diverged"] == ["nan"]


def test_nan_is_never_written(pixels: NDArray[np.uint8], folder: Path) -> None:
    with pytest.raises(Diverged, match="is not a number"):
        small_training(pixels, folder, hooks=[FillWeights(192, float("nan"))], ema_snapshots=20, log_every=0)
    files = [p for p in folder.rglob("*.safetensors") if ".part" not in str(p)]
    assert len(files) > 8
    for path in files:
        assert all(bool(torch.isfinite(t.float()).all()) for t in load_file(path).values()), path


def test_too_high_a_learning_rate_diverges(pixels: NDArray[np.uint8], folder: Path) -> None:
    with pytest.raises(Diverged, match=r"rose to|is not a number"):
        small_training(
            pixels, folder, images=12800, policy="constant", lr=30.0, warmup=1280, clip=0.0, optimizer="adam", checkpoint_every=0
        )


def test_a_loss_that_stays_risen_gives_one_warning(pixels: NDArray[np.uint8], folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"the loss is .* has not come back.*--train\.lr") as warned:
        small_training(pixels, folder, hooks=[FillWeights(1600, 0.0)], images=3200, log_every=320, checkpoint_every=0)
    assert len(warned) == 1
    events = list(read_jsonl(folder / "events.jsonl"))
    (risen,) = [e for e in events if e["event"] == "risen"]
    assert risen["loss"] > 1.5 * risen["lowest"]
    assert risen["lowest"] == min(e["loss"] for e in events if e["event"] == "loss")
    assert "the loss rose from" in runs.state(runs.load_run(folder)).words


def test_the_monitor_waits_for_three_high_losses() -> None:
    monitor = LossMonitor()
    for loss, expected in ((1.0, None), (0.5, None), (0.8, None), (0.7, None), (0.8, None), (0.9, None), (0.8, (0.5, 0.8))):
        monitor.add(loss)
        assert monitor.stays_risen() == expected
    assert monitor.stays_risen() is None  # only once
    with pytest.raises(Diverged, match=r"rose to 50 from 0\.8"):
        monitor.add(50.0)
