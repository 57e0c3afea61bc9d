"""`FeatureStore`: the features of a set of images, in memory or in a file that is read in blocks."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes, seeds
from alphabar.core.types import Features
from alphabar.features.cache import Entry
from alphabar.features.stats import FeatureStats, read_rows, reduce_stats

BLOCK = 4096  # rows read at once; statistics are sums over blocks of this size, whatever the chunks of the extraction


class FeatureStore:
    """Features of n images by one extractor.

    >>> store = FeatureStore("an extractor", None, torch.arange(6.0).reshape(3, 2))
    >>> len(store), store.dim, store.rows([2, 0]).tolist()
    (3, 2, [[4.0, 5.0], [0.0, 1.0]])
    >>> store.stats().mean.tolist()
    [2.0, 3.0]
    """

    def __init__(self, extractor: str, images: str | None, source: Features | Entry) -> None:
        """extractor, images: fingerprints; images is None where unknown. source: the features [n, dim], or a cache entry."""
        self.extractor, self.images = extractor, images
        self._entry = source if isinstance(source, Entry) else None
        self._rows: NDArray[np.float32] = source.numpy() if isinstance(source, Tensor) else source.rows
        self._stats: FeatureStats | None = None
        self.n, self.dim = (int(size) for size in self._rows.shape)

    def __len__(self) -> int:
        return self.n

    @property
    def path(self) -> Path | None:
        """Folder of the cache entry; None for features in memory."""
        return None if self._entry is None else self._entry.folder

    def rows(self, which: slice | Sequence[int] | NDArray[np.generic]) -> Features:
        """The features of the images of a slice, or of indices in any order and with repetitions, read into memory.

        Raises IndexError for an index out of range, and ValueError for anything but integers, such as a mask.
        """
        index = np.arange(self.n)[which] if isinstance(which, slice) else np.asarray(which)
        if index.size == 0:
            index = index.astype(np.int64)
        if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(
                f"rows of type {index.dtype} and shape {index.shape}: give one integer per image; "
                "np.flatnonzero(mask) turns a mask into indices"
            )
        if index.size and not -self.n <= index.min() <= index.max() < self.n:
            raise IndexError(f"rows {index.min()} to {index.max()} of {self.n}: give numbers from 0 to {self.n - 1}")
        return torch.from_numpy(read_rows(self._rows, index.astype(np.int64)))

    def chunks(self, size: int = BLOCK) -> Iterator[Features]:
        """All features in order, `size` rows at a time, in memory of one chunk."""
        return (self._block(start, size) for start in range(0, self.n, size))

    def all(self) -> Features:
        """All features [n, dim]; those of a file are memory-mapped, and changes to them never reach the file."""
        return torch.from_numpy(self._rows if self._entry is None else self._entry.writable_rows())

    def stats(self) -> FeatureStats:
        """Count, mean and scatter of all features, in memory of one block; stored in the cache entry.

        Under torchrun every process must call this; the blocks are divided among them. The blocks are summed in the order
        of the images, so that the result is the same for every number of processes (with equal threads per process).
        """
        if self._stats is None:
            found = self._entry.read_stats(self.extractor) if self._entry is not None else None
            if not processes.everyone(found is not None):
                starts = range(0, self.n, BLOCK)
                blocks = (FeatureStats.of(self._block(start, BLOCK), self.extractor) for start in processes.deal(starts))
                found = reduce_stats(blocks, len(starts), self.dim, self.extractor)
                if self._entry is not None and processes.world()[0] == 0:
                    self._entry.write_stats(found)
            self._stats = found
        if self._stats is None:
            raise RuntimeError("the processes disagree about the statistics: call stats() in all of them")
        return self._stats

    def _block(self, start: int, size: int) -> Features:
        return torch.from_numpy(read_rows(self._rows, slice(start, start + size)))


def sample_rows(n: int, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """A random subset of at most `limit` of the numbers 0 to n - 1, sorted; all of them where n <= limit.

    The same in every process and at every call. Used where a standard error needs no more than a sample of many images.

    >>> sample_rows(4, 10).tolist(), len(sample_rows(1000, 10))
    ([0, 1, 2, 3], 10)
    """
    if n < 0 or limit < 1:
        raise ValueError(f"n = {n}, limit = {limit}: give n >= 0 images and a limit of at least 1")
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    # n is the draw, so that subsets of sets of different sizes are independent
    chosen = seeds.generator(seed, draw=n, stream=seeds.SUBSET).choice(n, limit, replace=False)
    return np.sort(chosen).astype(np.int64)
