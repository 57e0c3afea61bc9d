"""Whatever happens to a training, it goes on from the last good state bit for bit, or says what is wrong."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from alphabar.core.files import read_jsonl
from alphabar.core.run import Run
from alphabar.training.checkpoint import load_checkpoint
from alphabar.training.divergence import Diverged
from alphabar.training.hooks import Hook, Training
from alphabar.training.loop import train
from tests.fixtures.training import small_model, small_recipe
from tests.training.test_loop import child, end, same, wait_for_images, weights

KILLS = int(os.environ.get("ALPHABAR_KILLS", "6"))


@pytest.fixture(scope="module")
def whole(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run that broken ones must end like."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(small_model(), pixels, np.arange(200), small_recipe(ema_snapshots=5), Run(folder), progress=False)
    return folder


class Stop(Hook):
    def __init__(self, images: int) -> None:
        self.images = images

    def on_step(self, training: Training) -> None:
        if training.images == self.images:
            os.kill(os.getpid(), signal.SIGINT)


def broken_at(images: int, pixels: NDArray[np.uint8], folder: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(
            small_model(), pixels, np.arange(200), small_recipe(ema_snapshots=5), Run(folder), hooks=[Stop(images)],
            progress=False,
        )  # fmt: skip
    return folder / "checkpoints" / "last"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "averages.safetensors", "state.json"]
)
@pytest.mark.parametrize("harm", ["altered", "cut short", "gone"])
def test_a_checkpoint_that_was_harmed_is_told_and_the_one_before_it_taken(
    name: str, harm: str, pixels: NDArray[np.uint8], whole: Path, folder: Path
) -> None:
    last = broken_at(320, pixels, folder)
    file = last / name
    data = bytearray(file.read_bytes())
    if harm == "altered":
        data[len(data) // 2] ^= 1
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(data[:-20] if harm == "cut short" else data)
    if (name, harm) == ("state.json", "gone"):  # then it is no checkpoint at all
        train(small_model(), pixels, np.arange(200), small_recipe(ema_snapshots=5), Run(folder), resume=True, progress=False)
    else:
        with pytest.warns(UserWarning, match=r"Resuming from the checkpoint before it, at image 256"):
            train(small_model(), pixels, np.arange(200), small_recipe(ema_snapshots=5), Run(folder), resume=True, progress=False)
    for which in ("model", "ema"):
        assert same(weights(folder, which), weights(whole, which))


def test_two_harmed_checkpoints_are_refused_by_name(pixels: NDArray[np.uint8], folder: Path) -> None:
    last = broken_at(320, pixels, folder)
    for place in (last, last.with_name("last.old")):
        (place / "ema.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"last\.old/ema\.safetensors is not what was written"):
        train(small_model(), pixels, np.arange(200), small_recipe(ema_snapshots=5), Run(folder), resume=True, progress=False)


@pytest.fixture
def small_disk(tmp_path: Path, whole: Path) -> Iterator[Path]:
    """A disk that has room for two checkpoints and not for three."""
    size = sum(p.stat().st_size for p in (whole / "checkpoints" / "last").iterdir())
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={int(2.6 * size)}", "tmpfs", str(place)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_costs_nothing_that_was_written(
    pixels: NDArray[np.uint8], whole: Path, small_disk: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(ema_snapshots=5)
    with pytest.raises(OSError, match=r"disk is full|No space left") as told:
        train(small_model(), pixels, np.arange(200), recipe, Run(small_disk / "run"), progress=False)
    assert "Make room and continue with --resume" in str(told.value) or "No space left" in str(told.value)
    images = load_checkpoint(small_disk / "run" / "checkpoints" / "last").state["images"]
    assert 0 < images < recipe.images
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)  # room was made
    train(small_model(), pixels, np.arange(200), recipe, Run(small_disk / "run"), resume=True, progress=False)
    assert same(weights(small_disk / "run"), weights(whole))


class Poison(Hook):
    """Puts NaN into a weight, as a bad batch would."""

    def on_step(self, training: Training) -> None:
        if training.images == 192:
            with torch.no_grad():
                next(training.model.parameters()).fill_(float("nan"))


def test_no_nan_is_ever_written(pixels: NDArray[np.uint8], folder: Path) -> None:
    recipe = small_recipe(ema_snapshots=20, log_every=0)
    with pytest.raises(Diverged, match="is not a number"):
        train(small_model(), pixels, np.arange(200), recipe, Run(folder), hooks=[Poison()], progress=False)
    files = [p for p in folder.rglob("*.safetensors") if ".part" not in str(p)]
    assert len(files) > 8
    for path in files:
        assert all(bool(torch.isfinite(t.float()).all()) for t in load_file(path).values()), path


def test_parts_of_a_batch_train_as_the_whole(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    losses = []
    for k in (1, 2, 8):
        run = Run(tmp_path / str(k))
        train(small_model(), pixels, np.arange(200), small_recipe(images=320, accumulate=k), run, progress=False)
        losses.append([e["loss"] for e in read_jsonl(run.events) if e["event"] == "loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] == pytest.approx(losses[2], rel=1e-5)
    with pytest.raises(ValueError, match=r"does not divide by 1 processes and train\.accumulate 3"):
        train(small_model(), pixels, np.arange(200), small_recipe(accumulate=3), Run(tmp_path / "x"), progress=False)


def test_a_run_that_is_killed_again_and_again_ends_like_any_other(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """kill -9 at random moments; ALPHABAR_KILLS says how often."""
    file = tmp_path / "pixels.npy"
    np.save(file, pixels)
    assert end(child(file, tmp_path / "whole")) == 0
    g = random.Random(0)
    last, images = tmp_path / "run/checkpoints/last", 0
    for k in range(KILLS):
        process = child(file, tmp_path / "run", resume=k > 0, pause=0.02)
        # at 128 images and every 128 more it writes: some kills come in the middle of that
        wait_for_images(process, images + 128 if k else 160)
        time.sleep(g.random() * 0.06)
        process.kill()
        process.communicate()
        images = min(load_checkpoint(last).state["images"], 384)
    assert end(child(file, tmp_path / "run", resume=True)) == 0
    for which in ("model", "ema", "optimizer"):
        assert same(weights(tmp_path / "whole", which), weights(tmp_path / "run", which))
