"""Statistics of features. Those of parts add up, so features can be streamed or divided among processes in one pass."""

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes
from alphabar.core.types import Features, Pixels
from alphabar.features.extractor import FeatureExtractor

_ROWS = 4096  # the fewest that are centred and multiplied at once


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Count, mean and scatter of features; `a + b` gives those of both sets (Chan, Golub & LeVeque 1983).

    >>> f = torch.arange(12.0).reshape(6, 2)
    >>> total = FeatureStats.of(f[:2], "an extractor") + FeatureStats.of(f[2:], "an extractor")
    >>> total.n, total.mean.tolist(), total.cov.tolist()
    (6, [5.0, 6.0], [[14.0, 14.0], [14.0, 14.0]])
    """

    extractor: str  # fingerprint of weights and preprocessing; two of them never mix
    n: int
    mean: Float64[Tensor, " d"]
    scatter: Float64[Tensor, "d d"]  # sum over images of (f - mean)(f - mean)^T

    @classmethod
    def of(cls, features: Features | NDArray[np.floating], extractor: str) -> "FeatureStats":
        """Statistics of features [n, d], n >= 1, computed in float64. Raises ValueError for another shape, NaN or infinity.

        All of it is NumPy's on the CPU: threads of torch and of NumPy's BLAS, in turns, wait for each other, and NumPy calls the
        symmetric product (dsyrk).
        """
        f = torch.as_tensor(features)
        if f.ndim != 2 or len(f) == 0:
            raise ValueError(f"features of shape {tuple(f.shape)}: wanted (n, d) with n >= 1")
        values = f.detach().cpu().to(f.dtype if f.dtype == torch.float32 else torch.float64).numpy()
        with np.errstate(all="ignore"):
            mean = values.mean(0, dtype=np.float64)
        if not np.isfinite(mean).all():  # cheaper than a test of every feature
            check_finite(f)
            raise ValueError("the sum of the features is too large for float64: look at the extractor's weights")
        scatter = np.zeros((f.shape[1], f.shape[1]))
        step = max(_ROWS, 8 * f.shape[1])  # then sums of d x d are a small part, in memory of 8 d x d at most
        for start in range(0, len(values), step):
            rows = values[start : start + step] - mean
            scatter += rows.T @ rows
        return cls(extractor, len(f), torch.from_numpy(mean), torch.from_numpy(scatter))

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def cov(self) -> Float64[Tensor, "d d"]:
        """Unbiased covariance, scatter / (n - 1). Raises ValueError for a single image."""
        if self.n < 2:
            raise ValueError(f"{self.n} image(s) have no covariance: give at least 2")
        return self.scatter / (self.n - 1)

    def __add__(self, other: "FeatureStats") -> "FeatureStats":
        """Statistics of both sets together (Chan, Golub & LeVeque 1983, eq. 2.1, for vectors)."""
        same_extractor(self, other)
        n = self.n + other.n
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.n * other.n / n)
        return FeatureStats(self.extractor, n, self.mean + delta * (other.n / n), scatter)


def check_stats(stats: FeatureStats) -> None:
    """Raise ValueError for statistics that no features have, as those that were not made by `FeatureStats.of` may be."""
    mean, scatter = stats.mean, stats.scatter
    if not isinstance(mean, Tensor) or not isinstance(scatter, Tensor) or not mean.dtype == scatter.dtype == torch.float64:
        raise ValueError("mean and scatter of features: wanted tensors of float64, as FeatureStats.of makes them")
    if mean.ndim != 1 or scatter.shape != (len(mean), len(mean)):
        raise ValueError(f"mean of shape {tuple(mean.shape)}, scatter of {tuple(scatter.shape)}: wanted (d,) and (d, d)")
    if not bool(torch.isfinite(mean).all() and torch.isfinite(scatter).all()):
        raise ValueError("NaN or infinity in mean or scatter of features: look at the features, or compute the statistics again")
    largest = float(scatter.abs().max()) if len(mean) else 0.0
    if (off := float((scatter - scatter.T).abs().max()) if len(mean) else 0.0) > 1e-6 * largest:
        raise ValueError(
            f"the scatter of features is not symmetric (by {off:.3g} of {largest:.3g}): compute the statistics again"
        )


def same_extractor(a: FeatureStats, b: FeatureStats) -> None:
    """Raise ValueError when two statistics come from different extractors."""
    if a.extractor != b.extractor or a.dim != b.dim:
        raise ValueError(
            f"features of extractor {a.extractor} ({a.dim} wide) and of {b.extractor} ({b.dim} wide) cannot be "
            "compared: extract both sets of images with the same extractor"
        )


def stream(
    images: Pixels | Iterable[NDArray[np.generic]], extractor: FeatureExtractor, *, chunk: int = 4096, keep: bool = False
) -> tuple[FeatureStats, Features | None]:
    """Statistics of the features of images, chunk by chunk, in memory of one chunk.

    images: one array [n, h, w, c], which may be a memory map, or an iterable of such arrays. keep: also return the features
    [n, d]. Unlike `extract` it works in one process and caches nothing. Raises ValueError for no images, NaN or infinity.
    """
    total: FeatureStats | None = None
    kept: list[Tensor] = []
    seen = 0
    for array in [images] if isinstance(images, np.ndarray) else images:
        for block in pieces(array, range(0, len(array), chunk), chunk):
            f = extractor.features(block)
            check_finite(f, seen)
            seen += len(f)
            stats = FeatureStats.of(f, extractor.fingerprint)
            total = stats if total is None else total + stats
            if keep:
                kept.append(f)
    if total is None:
        raise ValueError("no images came: give at least one array of images, (n, h, w, c)")
    return total, torch.cat(kept) if keep else None


def pieces(images: Pixels, starts: Iterable[int], chunk: int) -> Iterator[Pixels]:
    """images[start : start + chunk] for every start, in memory of one chunk (see `read_rows`)."""
    return (read_rows(images, slice(start, start + chunk)) for start in starts)


def read_rows(array: NDArray[Any], which: slice | NDArray[np.int64]) -> NDArray[Any]:
    """array[which]. Rows of a memory-mapped file are copied, and its pages no longer count as memory of this process."""
    backing = _mapping(array)
    if backing is None:
        return np.asarray(array[which])
    rows = np.array(array[which]) if isinstance(which, slice) else np.asarray(array[which])  # indices copy already
    backing.madvise(mmap.MADV_DONTNEED)
    return rows


def _mapping(array: NDArray[np.generic]) -> mmap.mmap | None:
    """The mapped file of which an array is a view, where all changes are in the file (modes r and r+)."""
    mode, base = None, array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            mode = base.mode
        base = base.base  # type: ignore[assignment]
    known = isinstance(base, mmap.mmap) and mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED")
    return base if known else None


def check_finite(features: Features, first: int = 0) -> None:
    """Raise ValueError with the image's number where a feature is NaN or infinite. first: the number of the image of row 0."""
    good = torch.isfinite(features).all(1)
    if not bool(good.all()):
        bad = torch.nonzero(~good).flatten()
        others = f" and {len(bad) - 1} after it" if len(bad) > 1 else ""
        raise ValueError(
            f"NaN or infinity among the features of image {first + int(bad[0])} (the first is image 0){others}: look at "
            "that image, and at the extractor's weights"
        )


def as_features(features: Float[Tensor, "n d"] | NDArray[np.floating]) -> Features:
    """Features as a tensor of shape (n, d), or a ValueError."""
    if not isinstance(features, (Tensor, np.ndarray)):
        raise ValueError(f"features came as {type(features).__name__}: wanted floats of shape (n, d)")
    f = torch.as_tensor(features)
    if f.ndim != 2 or not f.is_floating_point():
        raise ValueError(f"features of type {f.dtype} and shape {tuple(f.shape)}: wanted floats of shape (n, d)")
    return f


def reduce_stats(own: Iterable[FeatureStats], count: int, dim: int, extractor: str) -> FeatureStats:
    """The sum of `count` statistics from all processes, in the order of their numbers, whichever process computed them.

    A sum of floats depends on its order, and this order does not depend on the number of processes. own: those of
    `processes.deal(range(count))`; they are taken one at a time, so that each process holds a single one.
    """
    _, size = processes.world()
    mine = iter(own)
    result: FeatureStats | None = None
    for _ in range(0, count, size):
        stats = next(mine, None)
        packed = torch.empty((0, dim), dtype=torch.float64)
        if stats is not None:
            n = torch.full((1, dim), float(stats.n), dtype=torch.float64)
            packed = torch.cat([n, stats.mean[None], stats.scatter])
        for part in processes.gather_rows(packed):
            if len(part):
                new = FeatureStats(extractor, int(part[0, 0]), part[1], part[2:])
                result = new if result is None else result + new
    if result is None:
        raise ValueError("no statistics to add up: give at least one")
    return result
