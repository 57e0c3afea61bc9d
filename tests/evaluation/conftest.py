"""A tiny labelled set and an extractor for it, made in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.data.cache import fingerprint_of
from alphabar.data.sources import ImageSet
from alphabar.data.split import image_hashes


def image_set(pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None = None, split: str = "train") -> ImageSet:
    hashes = image_hashes(pixels)
    classes = None if labels is None else tuple(f"class {k}" for k in range(int(labels.max()) + 1))
    fingerprint = fingerprint_of(pixels.shape[1:], hashes)
    return ImageSet("toy", split, pixels, labels, classes, fingerprint, hashes, "made up")


def stripes(n: int, seed: int, shape: tuple[int, int, int] = (9, 12, 3)) -> ImageSet:
    """Horizontal or vertical stripes (labels 0 and 1) under noise: easy to tell apart."""
    rng = np.random.default_rng(seed)
    h, w, c = shape
    labels = rng.integers(0, 2, n)
    rows, columns = np.arange(h)[None, :, None, None], np.arange(w)[None, None, :, None]
    phase = rng.integers(0, 4, (n, 1, 1, 1))
    position = np.where(labels[:, None, None, None] == 0, rows, columns) + phase
    clean = np.where(position % 4 < 2, 60, 190)
    pixels = np.clip(clean + rng.normal(0, 25, (n, h, w, c)), 0, 255).astype(np.uint8)
    return image_set(pixels, labels.astype(np.int64))


@dataclass
class Linear:
    """An extractor of `dim` fixed linear features; counts the images it has seen."""

    dim: int = 4
    seed: int = 0
    name: str = "linear"
    seen: int = field(default=0)

    @property
    def fingerprint(self) -> str:
        return f"linear-{self.dim}-{self.seed}"

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return {"input": "uint8 NHWC", "dim": self.dim}

    def features(self, pixels: NDArray[np.uint8]) -> Tensor:
        self.seen += len(pixels)
        flat = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float64) / 255)
        matrix = torch.from_numpy(np.random.default_rng(self.seed).standard_normal((flat.shape[1], self.dim)))
        return (flat @ matrix).float()


@pytest.fixture
def linear() -> Linear:
    return Linear()


@pytest.fixture(scope="session")
def toy_extractor():  # type: ignore[no-untyped-def]
    from alphabar.evaluation.learn import train_extractor

    return train_extractor(
        stripes(600, 0), test=stripes(200, 1), epochs=2, batch=32, lr=0.05, widths=(8, 12), dim=16, progress=False
    )
