"""Checkpoints: damage is detected, the one before is used, and a full disk costs nothing that was written."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alphabar.core.run import Run
from alphabar.training.checkpoint import last_good, load_checkpoint, load_model
from tests.fixtures.training import assert_same_weights, interrupted, small_training


@pytest.fixture(scope="module")
def uninterrupted(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    small_training(pixels, folder, ema_snapshots=5)
    return folder


@pytest.fixture(scope="module")
def stopped(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after 320 images; its checkpoint before that is of image 256."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    interrupted(pixels, folder, 320, ema_snapshots=5)
    return folder


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


FILES = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "averages.safetensors", "state.json"]


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "altered":
        data[len(data) // 2] ^= 1
    file.write_bytes(data[:-20] if how == "truncated" else data)
    if how == "deleted":
        file.unlink()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["altered", "truncated", "deleted"])
def test_a_damaged_checkpoint_is_detected_and_the_one_before_it_used(name: str, how: str, copy: Path) -> None:
    damage(copy / "checkpoints" / "last" / name, how)
    if (name, how) == ("state.json", "deleted"):  # then the folder is not a checkpoint at all
        assert last_good(Run(copy)).state["images"] == 256
        return
    with pytest.warns(UserWarning, match=r"Resuming from the checkpoint before it, at image 256"):
        assert last_good(Run(copy)).state["images"] == 256


def test_a_run_with_a_damaged_checkpoint_ends_with_the_same_weights(
    pixels: NDArray[np.uint8], uninterrupted: Path, copy: Path
) -> None:
    damage(copy / "checkpoints" / "last" / "ema.safetensors", "altered")
    with pytest.warns(UserWarning, match="Resuming from the checkpoint before it"):
        small_training(pixels, copy, resume=True, ema_snapshots=5)
    assert_same_weights(copy, uninterrupted)


def test_the_best_checkpoint_stands_in_for_two_damaged_ones(copy: Path) -> None:
    folder = copy / "checkpoints"
    shutil.copytree(folder / "last.old", folder / "best")
    damage(folder / "last" / "state.json", "truncated")
    damage(folder / "last.old" / "model.safetensors", "altered")
    with pytest.warns(UserWarning, match=r"Resuming from checkpoints/best, at image 256"):
        assert last_good(Run(copy)).state["images"] == 256


@pytest.mark.parametrize("key", ["images", "step", "fingerprint", "best", "sha256", "seconds"])
def test_every_value_of_the_state_stands_under_its_checksum(key: str, copy: Path) -> None:
    file = copy / "checkpoints" / "last" / "state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, key: None}))
    with pytest.raises(ValueError, match=r"state\.json is not what was written"):
        load_checkpoint(file.parent)


def test_a_state_of_an_earlier_version_without_checksum_opens(copy: Path) -> None:
    file = copy / "checkpoints" / "last" / "state.json"
    state = json.loads(file.read_text())
    del state["checksum"]
    file.write_text(json.dumps(state))
    assert load_checkpoint(file.parent).state == state


def test_two_damaged_checkpoints_are_refused_by_name(copy: Path) -> None:
    for name in ("last", "last.old"):
        (copy / "checkpoints" / name / "ema.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"last\.old/ema\.safetensors is not what was written"):
        last_good(Run(copy))


def test_a_crash_between_two_renames_leaves_a_checkpoint(copy: Path) -> None:
    last = copy / "checkpoints/last"
    shutil.rmtree(last)
    assert load_checkpoint(last).state["images"] == 256
    assert load_model(copy).image_shape == (1, 8, 8)


@pytest.fixture
def small_disk(tmp_path: Path, uninterrupted: Path) -> Iterator[Path]:
    """A disk that has room for two checkpoints and not for three."""
    size = sum(p.stat().st_size for p in (uninterrupted / "checkpoints" / "last").iterdir())
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={int(2.6 * size)}", "tmpfs", str(place)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("a small disk cannot be mounted here: there is no mount")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    pixels: NDArray[np.uint8], uninterrupted: Path, small_disk: Path
) -> None:
    with pytest.raises(OSError, match="the disk is full") as error:
        small_training(pixels, small_disk / "run", ema_snapshots=5)
    assert "Make room" in str(error.value)
    assert str(small_disk / "run") in str(error.value)
    assert 0 < load_checkpoint(small_disk / "run" / "checkpoints" / "last").state["images"] < 640
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    small_training(pixels, small_disk / "run", resume=True, ema_snapshots=5)
    assert_same_weights(small_disk / "run", uninterrupted, "model")
