"""Random numbers addressed by (seed, image index, draw), the same on every device.

The bits come from Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based generator.
Its key is (seed, index) and its counter starts at (0, 0, stream, draw), so every draw of every image is a function of its
address, whatever was drawn before and in whichever process.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.types import Images

# Streams separate draws for different purposes under one seed.
START, STEP, TRAIN, ORDER, SUBSET, HELDOUT, MEASURE, PROBE = range(8)
DRAW = 2**32  # several draws of one image: draw d of image k has the index k + d * DRAW
_WORD = 2**64


class Addressed:
    """One generator that is set to any address; creating a generator for every draw costs more than the draw."""

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._state: Any = self._bits.state

    def at(self, seed: int, index: int, draw: int, stream: int) -> np.random.Generator:
        """The generator at an address, valid until the next call of `at`. Raises ValueError for numbers outside 64 bits.

        Args:
            seed: of the run or the samples.
            index: of the image.
            draw: number of the draw for this image, such as the step of a sampler.
            stream: START, STEP, TRAIN, ORDER, SUBSET, HELDOUT, MEASURE or PROBE.
        """
        for name, value in (("seed", seed), ("index", index), ("draw", draw)):
            if not 0 <= value < _WORD:
                raise ValueError(f"{name} = {value}: pass a whole number from 0 to 2**64 - 1")
        self._state["state"]["key"][:] = (seed, index)
        self._state["state"]["counter"][:] = (0, 0, stream, draw)
        self._state |= {"buffer_pos": 4, "has_uint32": 0}  # discards what is left from the last address
        self._bits.state = self._state
        return self._generator


def generator(seed: int, index: int = 0, draw: int = 0, *, stream: int = SUBSET) -> np.random.Generator:
    """A new NumPy generator at an address (`Addressed.at`).

    >>> bool(generator(0, index=37).random() == generator(0, index=37).random())
    True
    """
    return Addressed().at(seed, index, draw, stream)


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of n indices, without chance, from all over what may be sorted.

    >>> evenly(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The order of n images in an epoch, the same in every process."""
    return generator(seed, epoch, stream=ORDER).permutation(n)


@contextmanager
def weights_of(seed: int) -> Iterator[None]:
    """Layers made inside, on the CPU, draw their weights from this seed; torch's global generator is afterwards as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would leave the generators of GPUs changed
        yield


@dataclass(frozen=True)
class SeededNoise:
    """Standard normal noise for the images `indices` of a seed: row k is a function of (seed, indices[k], draw).

    Calling it with (draw, like) returns float32 noise of like's shape on like's device, with the same bits in any batch, in any
    order, on any device, since they are drawn on the CPU.

    >>> one, three = SeededNoise(0, [37]), SeededNoise(0, [5, 37, 2])
    >>> torch.equal(one(0, torch.empty(1, 1, 4, 4))[0], three(0, torch.empty(3, 1, 4, 4))[1])
    True
    """

    seed: int
    indices: Sequence[int]
    stream: int = STEP

    def __call__(self, draw: int, like: Images) -> Images:
        if len(like) != len(self.indices):
            n, batch = len(self.indices), len(like)
            raise ValueError(f"noise for {n} images was asked for a batch of {batch}: pass one index per image to SeededNoise")
        out = torch.empty(tuple(like.shape))
        self.fill(out.numpy(), draw)
        return out.to(like.device, non_blocking=True)

    def fill(self, out: NDArray[np.float32], draw: int, first: int = 0) -> None:
        """Writes the noise of indices[first : first + len(out)] into an array."""
        address = Addressed()
        for row, index in zip(out, self.indices[first : first + len(out)], strict=True):
            address.at(self.seed, int(index), draw, self.stream).standard_normal(dtype=np.float32, out=row)


class Ahead:
    """Noise for a GPU: while it uses draw k, CPU threads compute draw k + 1. The bits are those of `noise`, in any order."""

    def __init__(self, noise: SeededNoise, threads: int | None = None) -> None:
        self.noise = noise
        self.threads = threads or max(1, min(8, (os.cpu_count() or 2) - 1))
        self._next: tuple[int, Images, list[Future[None]]] | None = None

    def __call__(self, draw: int, like: Images) -> Images:
        shape = tuple(like.shape)
        if self._next is None or self._next[0] != draw or tuple(self._next[1].shape) != shape:
            self._next = self._submit(draw, shape, like.is_cuda)
        _, out, parts = self._next
        self._next = self._submit(draw + 1, shape, like.is_cuda)
        for part in parts:
            part.result()
        return out.to(like.device, non_blocking=True)

    def _submit(self, draw: int, shape: tuple[int, ...], pinned: bool) -> tuple[int, Images, list[Future[None]]]:
        if shape[0] != len(self.noise.indices):
            self.noise(draw, torch.empty(shape, device="meta"))  # raises the error
        out = torch.empty(shape, pin_memory=pinned)
        rows, size, pool = out.numpy(), -(-shape[0] // self.threads), _pool(self.threads)
        return draw, out, [pool.submit(self.noise.fill, rows[k : k + size], draw, k) for k in range(0, shape[0], size)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Shared by all, since starting threads costs more than a draw."""
    return ThreadPoolExecutor(threads, "noise")


def starting_noise(seed: int, indices: Sequence[int], shape: tuple[int, ...]) -> Images:
    """Unit noise from which a sampler starts, on the CPU: float32 (len(indices), *shape) for shape (channels, height, width)."""
    return SeededNoise(seed, indices, stream=START)(0, torch.empty((len(indices), *shape), device="cpu"))
