"""The stream of training samples. Sample k's image, flip, noise level, noise, hidden class and augmentation are functions of
(seed, k), so they depend neither on where a run was stopped and resumed nor on the number of processes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import seeds
from alphabar.core.types import Pixels
from alphabar.data.augment import AUGMENT_DIM, Geometry
from alphabar.denoiser.model import Model
from alphabar.training.config import TrainRecipe

Indices = NDArray[np.int64]  # of images, or their classes


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a run: pixels (n, h, w, c) as stored, noise levels (n,) and noise (n, c, h, w).

    labels: classes (n,) for a conditional model. augment: (n, 9), the augmentation of each image (`Geometry`).
    """

    pixels: Pixels
    sigma: Tensor
    noise: Tensor
    labels: Tensor | None = None
    augment: Tensor | None = None

    def split(self, n: int) -> "Iterator[Batch]":
        """The batch in n equal parts, in order."""
        size = len(self.sigma) // n
        for rows in (slice(start, start + size) for start in range(0, size * n, size)):
            labels, augment = (None if v is None else v[rows] for v in (self.labels, self.augment))
            yield Batch(self.pixels[rows], self.sigma[rows], self.noise[rows], labels, augment)


class Stream:
    """All samples of a run, by number. Every epoch is one permutation of the images.

    With `stratified`, each noise level of a global batch lies in another of `batch` equal parts of the distribution.
    """

    def __init__(
        self, pixels: Pixels, indices: Indices, recipe: TrainRecipe, model: Model, labels: Indices | None = None
    ) -> None:
        """Samples of pixels[indices], without padding. labels: class of every image in `pixels`, for a conditional model."""
        if len(indices) == 0:
            raise ValueError("there are no images to train on: the held-out share took all, or the set is empty")
        if model.classes and labels is None:
            raise ValueError("a conditional model needs the class of every image: pass labels")
        self.pixels, self.indices, self.recipe, self.pad = pixels, indices, recipe, model.crop
        self.labels, self.classes = labels if model.classes else None, model.classes
        self.geometry = Geometry(recipe.augment) if recipe.augment else None
        self.schedule, self.density = model.schedule, recipe.density_value()
        self.image_shape = model.image_shape
        self._epoch = -1
        self._order = indices

    def batch(self, first: int, n: int) -> Batch:
        """Samples number first .. first + n - 1."""
        recipe, address = self.recipe, seeds.Addressed()
        rows: Shaped[np.ndarray, "n h w c"] = np.empty((n, *self.pixels.shape[1:]), self.pixels.dtype)
        noise = np.empty((n, *self.image_shape), np.float32)
        u = np.empty(n)
        labels = None if self.labels is None else np.empty(n, np.int64)
        augment = None if self.geometry is None else np.empty((n, AUGMENT_DIM), np.float32)
        for k, number in enumerate(range(first, first + n)):
            index = self._index(number)
            g = address.at(recipe.seed, number, 0, seeds.TRAIN)  # the order of draws from g decides every training
            u[k], mirror = g.random(), g.random() < 0.5
            g.standard_normal(dtype=np.float32, out=noise[k])
            image = self.pixels[index]
            rows[k] = image[:, ::-1] if mirror and recipe.flip else image
            if recipe.stratified:
                u[k] = (number % recipe.batch + u[k]) / recipe.batch
            if labels is not None and self.labels is not None:
                labels[k] = self.classes if g.random() < recipe.label_dropout else self.labels[index]
            if augment is not None and self.geometry is not None:
                augment[k] = self.geometry.draw(g)
        sigma = self.density.sigma(torch.from_numpy(u), self.schedule)
        as_tensors = (None if a is None else torch.from_numpy(a) for a in (labels, augment))
        return Batch(pad_pixels(rows, self.pad), sigma, torch.from_numpy(noise), *as_tensors)

    def _index(self, number: int) -> int:
        """The image of sample `number`."""
        epoch, position = divmod(number, len(self.indices))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.indices[seeds.permutation(self.recipe.seed, epoch, len(self.indices))]
        return int(self._order[position])


def pad_pixels(pixels: Pixels, pad: int) -> Shaped[np.ndarray, "n hp wp c"]:
    """The images with black borders of `pad` pixels: 2 makes 32x32 of 28x28."""
    return np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else pixels


@contextmanager
def prefetched(stream: Stream, steps: range, rank: int, world: int) -> Iterator[Iterator[Batch]]:
    """The equal parts of the batches of `steps` for process `rank` of `world`; a thread makes each one a step ahead."""
    size = stream.recipe.batch // world
    with ThreadPoolExecutor(1) as pool:
        parts = (pool.submit(stream.batch, step * stream.recipe.batch + rank * size, size) for step in steps)

        def batches() -> Iterator[Batch]:
            following = next(parts, None)
            while following is not None:
                ready, following = following, next(parts, None)
                yield ready.result()

        yield batches()
