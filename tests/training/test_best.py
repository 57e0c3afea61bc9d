"""checkpoints/best holds the weights that the best figure was measured with, whatever the intervals, also after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file

from alphabar.core.files import read_jsonl
from alphabar.training.checkpoint import load_checkpoint
from alphabar.training.hooks import HeldOutLoss, Hook, Training
from tests.fixtures.training import ROOT, assert_same_weights, small_training


class GivenScores(Hook):
    """Reports given figures as FID, and keeps the weights that each was measured with."""

    def __init__(self, every: int, values: list[float]) -> None:
        self.every, self.values, self.measured = every, values, {}  # type: ignore[var-annotated]

    def on_interval(self, training: Training) -> None:
        value = self.values[min(len(self.measured), len(self.values) - 1)]
        self.measured[training.images] = {k: v.clone() for k, v in training.ema.state_dict().items()}
        training.improved("fid", value)


@pytest.mark.parametrize(
    ("checkpoint_every", "every", "values", "best"),
    [
        (0, 64, [5, 3, 4, 9], 128), (96, 64, [5, 3, 4, 9], 128), (128, 64, [5, 3, 4, 9], 128),
        (128, 160, [5, 7, 8, 9], 160), (640, 160, [5, 7, 8, 9], 160), (0, 0, [5], 640),
    ],
)  # fmt: skip
def test_best_has_the_weights_that_were_scored_best(
    pixels: NDArray[np.uint8], folder: Path, checkpoint_every: int, every: int, values: list[float], best: int
) -> None:
    hook = GivenScores(every, values)
    small_training(pixels, folder, hooks=[HeldOutLoss(32), hook], checkpoint_every=checkpoint_every)
    kept = load_checkpoint(folder / "checkpoints/best")
    assert (kept.state["images"], kept.state["best_by"], kept.state["best"]["fid"]) == (best, "fid", min(values))
    assert all((kept.ema[name] == value).all() for name, value in hook.measured[best].items())
    assert not (folder / "checkpoints/best.old").exists()


@pytest.mark.parametrize("checkpoint_every", [0, 128])
def test_best_by_held_out_loss_is_the_lowest_that_was_measured(
    pixels: NDArray[np.uint8], folder: Path, checkpoint_every: int
) -> None:
    small_training(pixels, folder, hooks=[HeldOutLoss(96)], lr=0.05, clip=0.0, checkpoint_every=checkpoint_every)
    measured = {e["images"]: e["loss"] for e in read_jsonl(folder / "events.jsonl") if e["event"] == "heldout"}
    state = load_checkpoint(folder / "checkpoints/best").state
    assert state["images"] == min(measured, key=lambda images: measured[images])
    assert (state["best_by"], state["best"]["heldout_loss"]) == ("heldout_loss", min(measured.values()))


DIES = """
import os, signal, sys, pathlib, numpy as np, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from tests.fixtures.training import small_training
from alphabar.training.hooks import HeldOutLoss, Training
report, kind, images = Training.report, sys.argv[4], int(sys.argv[5])
def dying(self, event, **values):
    report(self, event, **values)
    if (event, self.images) == (kind, images):
        os.kill(os.getpid(), signal.SIGKILL)
Training.report = dying
small_training(np.load(sys.argv[2]), pathlib.Path(sys.argv[3]), hooks=[HeldOutLoss(96)], fingerprint="f")
"""


@pytest.mark.slow(12)
@pytest.mark.parametrize("kind", ["heldout", "best"])
def test_a_process_that_dies_right_after_the_best_loses_nothing(
    pixels: NDArray[np.uint8], folder: Path, tmp_path: Path, kind: str
) -> None:
    """Killed when the figure was measured and not yet saved, and when it was saved; the last checkpoint is of image 256."""
    small_training(pixels, tmp_path / "whole", hooks=[HeldOutLoss(96)], fingerprint="f")
    np.save(tmp_path / "pixels.npy", pixels)
    words = [str(ROOT), str(tmp_path / "pixels.npy"), str(folder), kind, "288"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", DIES, *words], env=env, check=False, timeout=200).returncode != 0
    assert json.loads((folder / "checkpoints/last/state.json").read_text())["images"] == 256
    assert load_checkpoint(folder / "checkpoints/best").state["images"] == (288 if kind == "best" else 192)
    small_training(pixels, folder, hooks=[HeldOutLoss(96)], resume=True, fingerprint="f")
    assert_same_weights(folder, tmp_path / "whole")
    one, other = (load_file(run / "checkpoints/best/ema.safetensors") for run in (folder, tmp_path / "whole"))
    assert all((one[name] == other[name]).all() for name in one)
