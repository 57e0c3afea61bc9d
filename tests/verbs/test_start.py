"""A training that cannot start leaves no folder, so that the corrected command works; a short one gets a warm-up that fits."""

from pathlib import Path

import numpy as np
import pytest

from alphabar.core.files import read_jsonl
from alphabar.training.config import TrainRecipe, resolve
from alphabar.training.hooks import Hook, Training
from alphabar.verbs.train import train

TINY = (
    "--train.images 32 --train.batch 16 --train.log-every 16 --train.heldout-every 0 --watch.preview-every 0 "
    "--model.channels 8 --model.groups 8"
)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    np.save(path := tmp_path / "squares.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8))
    return path


def start(images: Path | str, folder: Path, words: str = "", hooks: tuple[Hook, ...] = ()) -> None:
    recipe = resolve("garments", [*TINY.split(), "--data.set", str(images), *(words or "--train.warmup 0").split()])
    train(recipe, folder, progress=False, hooks=hooks)


@pytest.mark.parametrize(
    "words",
    [
        "--train.batch 0", "--train.batch -16", "--train.images 0", "--train.images -5", "--train.lr -1", "--train.lr nan",
        "--train.clip -1", "--train.accumulate 3", "--model.dropout 5", "--model.patch 0", "--model.attention 2",
        "--train.ema-half-life -1", "--train.init-from nowhere", "--model.conditional", "--data.axes hwc", "--data.holdout 1",
        "--watch.extractor nowhere.safetensors", "--train.policy fast",
        "--schedule.kind linear --schedule.beta-min 0.5 --schedule.beta-max 0.1", "--data.range 9 1",
    ],
)  # fmt: skip
def test_a_start_that_fails_leaves_nothing(words: str, squares: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError)):
        start(squares, tmp_path / "run", words)
    assert not (tmp_path / "run").exists()


def test_the_corrected_command_works(squares: Path, tmp_path: Path) -> None:
    for images, words in (("missing", ""), (squares, "--train.accumulate 3")):
        with pytest.raises((ValueError, OSError)):
            start(images, tmp_path / "run", words)
    start(squares, tmp_path / "run")
    assert {"recipe.toml", "cost.json", "data.json", "machine.json"} <= {p.name for p in (tmp_path / "run").iterdir()}


class Full(Hook):
    def on_step(self, training: Training) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")


def test_too_little_memory_says_how_to_take_less(squares: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not fit into memory.*--train\.batch, a larger --train\.accumulate"):
        start(squares, tmp_path / "run", hooks=(Full(),))
    start(squares, tmp_path / "run")  # the first one took no step, so nothing is lost
    assert [*read_jsonl(tmp_path / "run/events.jsonl")][-1]["event"] == "finished"
    with pytest.raises(FileExistsError, match="already holds a run"):
        start(squares, tmp_path / "run")


def test_a_warmup_fits_into_the_training(squares: Path, tmp_path: Path) -> None:
    assert TrainRecipe(images=6400).warmup_images == 640
    assert TrainRecipe(images=25_600).warmup_images == TrainRecipe().warmup_images == 12_800
    assert TrainRecipe(images=6400, policy="one_cycle").warmup_images == 12_800
    with pytest.warns(UserWarning, match="train.warmup 12800 is longer than half of train.images 32: .* over 3 images"):
        start(squares, tmp_path / "run", "--train.warmup 12800 --train.policy constant")
    assert max(e["lr"] for e in read_jsonl(tmp_path / "run/events.jsonl") if e["event"] == "loss") == TrainRecipe().lr
