"""`extract`: the features of a set of images, computed once, by all processes together, and cached; `FeatureStore` holds them."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes, seeds
from alphabar.core.machine import memory_for, versions
from alphabar.core.progress import track
from alphabar.core.types import Features, Pixels
from alphabar.data.cache import fingerprint_of
from alphabar.data.image_set import ImageSet
from alphabar.data.split import image_hashes
from alphabar.features.cache import AVAILABLE, LAYOUT, Builder, Entry, entry_folder, evict_features, open_entry
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.stats import FeatureStats, check_finite, pieces, read_rows, reduce_stats

BLOCK = 4096  # rows read at once; statistics are sums over blocks of this size, whatever the chunks of the extraction
_WAIT = 60.0  # seconds until the other processes must see a file that process 0 has written (network disks lag)


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


def extract(
    images: ImageSet | Pixels, extractor: FeatureExtractor, *, fingerprint: str | None = None,
    cache: str | os.PathLike[str] | bool | None = None, chunk: int = 1024, progress: bool = False, what: str = "features",
) -> FeatureStore:  # fmt: skip
    """Features of images; where the cache holds them, they are read and the extractor is not called.

    Under torchrun every process calls this with the same images. The chunks are divided among the processes, no image is
    counted twice, and every process gets the same complete features; all of them must see the same cache folder. A process
    that works alone calls this inside `processes.alone()`.

    Args:
        images: a set, an array [n, h, w, c] with n >= 1, or a memory map of one, which is read chunk by chunk.
        extractor: computes the features.
        fingerprint: of exactly these images (`alphabar.data.cache.fingerprint_of`); None means that of the set, or computed.
        cache: the cache folder; None or True means the usual one, False keeps the features in memory only (as on Windows,
            where the file locks that protect an entry are missing).
        chunk: images per call of the extractor.
        progress: show a progress bar.
        what: title of the progress bar.

    Raises:
        ValueError: for features that are NaN or infinite (with the image's number) or do not have the extractor's `dim`, for
            no images, for a fingerprint of other images, and where processes were given different images.
        OSError: where the cache cannot be written.
    """
    if isinstance(images, ImageSet):
        fingerprint = fingerprint or images.fingerprint
        images = images.pixels
    if len(images) == 0:
        raise ValueError("no images came: give at least one, (n, h, w, c)")
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: give the number of images per call, at least 1")
    cached = cache is not False and AVAILABLE
    if fingerprint is None and cached:
        hashes = [image_hashes(block) for block in pieces(images, range(0, len(images), BLOCK), BLOCK)]
        fingerprint = fingerprint_of(images.shape[1:], np.concatenate(hashes))
    if not processes.alike(json.dumps([len(images), extractor.dim, fingerprint, extractor.fingerprint, chunk, cached])):
        raise ValueError(
            "the processes were given different images, extractors or chunks: give all of them the same whole set (images "
            "that each process made for itself must be gathered first)"
        )
    if not cached or fingerprint is None:
        features, end = torch.empty((len(images), extractor.dim)), 0
        for rows in _extracted(images, extractor, chunk, 0, progress, what):
            features[end : end + len(rows)] = rows
            end += len(rows)
        return FeatureStore(extractor.fingerprint, fingerprint, features)
    about: dict[str, Any] = {"layout": LAYOUT, "n": len(images), "dim": int(extractor.dim)}
    about |= {"images": fingerprint, "extractor": extractor.fingerprint}
    folder = entry_folder(None if isinstance(cache, bool) else cache, about)
    entry = open_entry(folder, about, verify=processes.world()[0] == 0)
    if not processes.everyone(entry is not None):
        del entry  # releases its lock
        entry = _build(folder, about, images, extractor, chunk, progress, what)
    if entry is None:
        raise OSError(f"{folder} cannot be read back: is the disk full? Set ALPHABAR_CACHE to a folder with room")
    return FeatureStore(extractor.fingerprint, fingerprint, entry)


def _build(
    folder: Path, about: Mapping[str, Any], images: Pixels, extractor: FeatureExtractor, chunk: int, progress: bool, what: str
) -> Entry | None:
    """Compute the features in all processes, and write the entry in process 0; the other processes then open it."""
    entry: Entry | None = None
    builder = Builder(folder, about, chunk) if processes.world()[0] == 0 else None
    with builder or contextlib.nullcontext():
        done = processes.from_first(builder.done if builder is not None else 0)
        for rows in _extracted(images, extractor, chunk, done, progress, what):
            if builder is not None:
                builder.append(rows)
        if builder is not None:
            about_extractor = {"extractor_name": extractor.name, "preprocessing": dict(extractor.preprocessing)}
            entry = builder.finish({**about_extractor, "versions": versions()})
    processes.everyone(True)  # from here on it is written
    end = time.monotonic() + _WAIT
    while entry is None and (entry := open_entry(folder, about, verify=False)) is None and time.monotonic() < end:
        time.sleep(0.5)
    if not processes.everyone(entry is not None):
        raise OSError(
            f"not every process finds {folder}, which process 0 has written: set ALPHABAR_CACHE to a folder that all "
            "machines share, or pass cache=False"
        )
    if builder is not None:
        evict_features(cache=folder.parent.parent)
    return entry


def _extracted(
    images: Pixels, extractor: FeatureExtractor, chunk: int, done: int, progress: bool, what: str
) -> Iterator[Features]:
    """The features of chunk number `done` and of all later ones, in order and in every process, whoever computed them."""
    rank, size = processes.world()
    count = -(-len(images) // chunk)
    blocks = pieces(images, (k * chunk for k in range(done + rank, count, size)), chunk)
    first = done * chunk
    with track(len(images), what, "images", done=first, show=progress and rank == 0) as advance:
        for _ in range(done, count, size):
            block = next(blocks, None)
            features = torch.empty((0, extractor.dim)) if block is None else _features(extractor, block)
            for rows in processes.gather_rows(features):
                if len(rows):
                    check_finite(rows, first)  # after gathering, so that all processes raise
                    first += len(rows)
                    advance(len(rows))
                    yield rows


def _features(extractor: FeatureExtractor, block: Pixels) -> Features:
    with memory_for(f"a chunk of {len(block)} images", "pass a smaller chunk, or an extractor with a smaller batch"):
        features = extractor.features(block).detach()
    if tuple(features.shape) != (len(block), extractor.dim):
        raise ValueError(
            f"extractor {extractor.name!r} gave features of shape {tuple(features.shape)} for {len(block)} images; its dim "
            f"says ({len(block)}, {extractor.dim})"
        )
    return features.to("cpu", torch.float32).contiguous()
