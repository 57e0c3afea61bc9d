"""A run that was stopped or killed continues to the same bits, and only with its own recipe and images."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alphabar.core.files import read_jsonl
from alphabar.training.checkpoint import load_checkpoint
from alphabar.training.hooks import HeldOutLoss
from tests.fixtures.training import ChildTraining, assert_same_weights, interrupted, small_training

KILLS = int(os.environ.get("ALPHABAR_KILLS", "6"))


@pytest.fixture(scope="module")
def uninterrupted(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    small_training(pixels, folder, hooks=[HeldOutLoss(256)], dropout=0.1)
    return folder


@pytest.fixture
def file(pixels: NDArray[np.uint8], tmp_path: Path) -> Path:
    np.save(tmp_path / "pixels.npy", pixels)
    return tmp_path / "pixels.npy"


def test_a_stopped_run_continues_to_the_same_bits(pixels: NDArray[np.uint8], folder: Path, uninterrupted: Path) -> None:
    """Stopped in the second epoch, between two checkpoints."""
    interrupted(pixels, folder, 320, dropout=0.1)
    assert [e["event"] for e in read_jsonl(folder / "events.jsonl")][-1] == "stopped"
    small_training(pixels, folder, resume=True, dropout=0.1)
    assert_same_weights(folder, uninterrupted)


@pytest.mark.slow(15)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_a_signal_ends_is_continued_by_another(
    pixels: NDArray[np.uint8], file: Path, folder: Path, uninterrupted: Path, how: signal.Signals
) -> None:
    child = ChildTraining(file, folder, pause=0.05, dropout=0.1)
    child.wait_for_images(320)
    assert child.stop(how) != 0
    if how != signal.SIGKILL:
        assert [e["event"] for e in read_jsonl(folder / "events.jsonl")][-1] == "stopped"
    assert 0 < load_checkpoint(folder / "checkpoints/last").state["images"] < 640
    small_training(pixels, folder, resume=True, dropout=0.1)
    assert_same_weights(folder, uninterrupted)


@pytest.mark.slow(40)
def test_a_run_that_is_killed_many_times_ends_with_the_same_weights(
    file: Path, pixels: NDArray[np.uint8], folder: Path, tmp_path: Path
) -> None:
    """kill -9 at random moments; ALPHABAR_KILLS gives their number."""
    small_training(pixels, tmp_path / "uninterrupted")
    g, images = random.Random(0), 0
    for k in range(KILLS):
        child = ChildTraining(file, folder, resume=k > 0, pause=0.02)
        # a checkpoint is written at every multiple of 128 images: some kills come while it is written
        child.wait_for_images(images + 128 if k else 160)
        time.sleep(g.random() * 0.06)
        child.stop(signal.SIGKILL)
        images = min(load_checkpoint(folder / "checkpoints/last").state["images"], 384)
    assert ChildTraining(file, folder, resume=True).end() == 0
    assert_same_weights(folder, tmp_path / "uninterrupted")


def test_only_the_same_recipe_and_images_can_be_resumed(pixels: NDArray[np.uint8], folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        small_training(pixels, folder, resume=True)
    small_training(pixels, folder, images=64, fingerprint="a")
    with pytest.raises(ValueError, match="another recipe or other images"):
        small_training(pixels, folder, images=64, fingerprint="b", resume=True)
