"""KID: the squared maximum mean discrepancy of features under a polynomial kernel (Bińkowski et al. 2018,
arXiv:1801.01401), over all pairs of images at once, so that it has no subsets, no seed and no spread of its own."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.evaluation.features import as_features
from alphabar.types import Features


def kid(
    x: Features | NDArray[np.floating],
    y: Features | NDArray[np.floating],
    *,
    degree: int = 3,
    block: int = 1024,
    dtype: torch.dtype = torch.float32,
) -> float:
    """The unbiased U-statistic of MMD^2 with k(x, y) = (x . y / d + 1)^degree. Around 0, and below it half of the time,
    when both sets come from one distribution.

    x, y: features [n, d] and [m, d] of the same extractor, n, m >= 2. degree: a whole number >= 1. block: memory is
    two tiles of block x block. dtype: of the products; sums are float64 in any case. float32 is good to about 1e-9 of
    the kernel's mean, since features are centred first and errors of either sign average out.

    Raises ValueError for unlike widths, fewer than 2 images, or NaN and infinity.
    """
    x, y = as_features(x), as_features(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features {x.shape[1]} and {y.shape[1]} wide: extract both sets with the same extractor")
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"{len(x)} and {len(y)} images: the unbiased KID needs at least 2 on either side")
    if degree < 1 or degree != int(degree):
        raise ValueError(f"degree = {degree}: give a whole number >= 1 (3 is KID's)")

    # x.y = (x-c).(y-c) + (c.x - c.c/2) + (c.y - c.c/2): centred products are smaller, and so are their rounding errors
    n, m = len(x), len(y)
    centre = (x.sum(0, dtype=torch.float64) + y.sum(0, dtype=torch.float64)) / (n + m)
    if not bool(torch.isfinite(centre).all()):
        raise ValueError("NaN or infinity among the features: look at the images and at the extractor's weights")
    xc, xs = _centred(x, centre, dtype)
    yc, ys = _centred(y, centre, dtype)
    within_x = sum(_within(xc, xs, degree, block)) / (n * (n - 1))
    within_y = sum(_within(yc, ys, degree, block)) / (m * (m - 1))
    between = sum(_between(xc, xs, yc, ys, degree, block)) / (n * m)
    return within_x + within_y - 2 * between


def _centred(f: Features, centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(f - centre) / sqrt(d), and each image's own share of the kernel's base, (f . c - c . c / 2) / d + 1/2."""
    d = f.shape[1]
    out = torch.empty(f.shape, dtype=dtype)
    own = torch.empty(len(f), dtype=dtype)
    for k in range(0, len(f), 4096):  # float64 in passing only
        part = f[k : k + 4096].to(torch.float64)
        out[k : k + 4096] = (part - centre) / d**0.5
        own[k : k + 4096] = (part @ centre - centre @ centre / 2) / d + 0.5
    return out, own


def _tile(a: Tensor, a_own: Tensor, b: Tensor, b_own: Tensor, degree: int, room: Tensor) -> Tensor:
    """The kernel between two blocks of images, written into `room`."""
    k = room[: len(a) * len(b)].view(len(a), len(b))
    torch.mm(a, b.T, out=k)
    k.add_(a_own[:, None]).add_(b_own)
    return k.pow_(degree)


def _room(block: int, like: Tensor) -> Tensor:
    return torch.empty(block * block, dtype=like.dtype)


def _between(a: Tensor, a_own: Tensor, b: Tensor, b_own: Tensor, degree: int, block: int) -> Iterator[float]:
    room = _room(block, a)
    for i in range(0, len(a), block):
        rows = slice(i, i + block)
        for j in range(0, len(b), block):
            columns = slice(j, j + block)
            yield float(_tile(a[rows], a_own[rows], b[columns], b_own[columns], degree, room).sum(dtype=torch.float64))


def _within(a: Tensor, own: Tensor, degree: int, block: int) -> Iterator[float]:
    """Sums over pairs of different images: tiles above the diagonal count twice, the diagonal itself not at all."""
    room = _room(block, a)
    for i in range(0, len(a), block):
        rows = slice(i, i + block)
        tile = _tile(a[rows], own[rows], a[rows], own[rows], degree, room)
        yield float(tile.sum(dtype=torch.float64) - tile.diagonal().sum(dtype=torch.float64))
        for j in range(i + block, len(a), block):
            columns = slice(j, j + block)
            yield 2 * float(_tile(a[rows], own[rows], a[columns], own[columns], degree, room).sum(dtype=torch.float64))
