from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alphabar import seeds
from alphabar.denoiser.build import Model, ModelRecipe, build
from alphabar.training.loop import TrainRecipe


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    """200 small pictures: a bright square at a random place on a dim slope."""
    g = seeds.generator(0)
    out = np.zeros((200, 8, 8, 1), np.uint8)
    for image in out:
        top, left = g.integers(0, 5, 2)
        image[:] = (np.arange(8) * 8)[None, :, None]
        image[top : top + 3, left : left + 3] = g.integers(150, 256)
    return out


def small_model(seed: int = 0, dropout: float = 0.0) -> Model:
    recipe = ModelRecipe(channels=(16, 16), embedding=16, dropout=dropout)
    return build(recipe, {"kind": "cosine"}, (1, 8, 8), seed)


def conditional_model(classes: int = 3) -> Model:
    recipe = ModelRecipe(channels=(16, 16), embedding=16, conditional=True)
    return build(recipe, {"kind": "cosine"}, (1, 8, 8), 0, classes=tuple(str(k) for k in range(classes)))


def small_recipe(**changes: object) -> TrainRecipe:
    values = {"images": 640, "batch": 32, "warmup": 64, "log_every": 64, "checkpoint_every": 128, "heldout_every": 256}
    return TrainRecipe(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
