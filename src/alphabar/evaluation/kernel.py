"""KID: the squared maximum mean discrepancy of features under a polynomial kernel (Bińkowski et al. 2018,
arXiv:1801.01401), over all pairs of images at once, so that it has no subsets, no seed and no spread of its own."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alphabar.evaluation.features import as_features


def kid(
    x: Float[Tensor, "n dx"] | NDArray[np.floating],
    y: Float[Tensor, "m dy"] | NDArray[np.floating],
    *,
    degree: int = 3,
    block: int = 1024,
    dtype: torch.dtype = torch.float32,
) -> float:
    """The unbiased U-statistic of MMD^2 with k(x, y) = (x . y / d + 1)^degree. Around 0, and below it half of the time,
    when both sets come from one distribution.

    x, y: features [n, d] and [m, d] of the same extractor, n, m >= 2. degree: a whole number >= 1. block: beside
    two centred copies of the features, memory is two tiles of block x block. dtype: of the products; their
    sums are float64.

    Raises ValueError for unlike widths, fewer than 2 images, or NaN and infinity.
    """
    x, y = as_features(x), as_features(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features {x.shape[1]} and {y.shape[1]} wide: extract both sets with the same extractor")
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"{len(x)} and {len(y)} images: the unbiased KID needs at least 2 on either side")
    if degree < 1 or degree != int(degree):
        raise ValueError(f"degree = {degree}: give a whole number >= 1 (3 is KID's)")

    n, m = len(x), len(y)
    centre = (x.sum(0, dtype=torch.float64) + y.sum(0, dtype=torch.float64)) / (n + m)
    if not bool(torch.isfinite(centre).all()):
        raise ValueError("NaN or infinity among the features: look at the images and at the extractor's weights")
    a, b = _Side.of(x, centre, dtype), _Side.of(y, centre, dtype)
    base = 1 + float(centre @ centre) / x.shape[1]
    # With x = centre + sqrt(d) u, the kernel is (base + z + own_i + own_j)^degree, where z = u_i . u_j and own belongs to
    # one image alone. What depends on one image, or on none, cancels between the three means, and the mean of z needs
    # no pairs. So only the powers from the second on go through the tiles, and large features cost no digits.
    linear = degree * base ** (degree - 1)
    powers = [math.comb(degree, k) * base ** (degree - k) for k in range(2, degree + 1)]
    within_a = (linear * (a.total @ a.total - a.squares) + _within(a, powers, block)) / (n * (n - 1))
    within_b = (linear * (b.total @ b.total - b.squares) + _within(b, powers, block)) / (m * (m - 1))
    between = (linear * (a.total @ b.total) + _between(a, b, powers, block)) / (n * m)
    return float(within_a + within_b - 2 * between)


@dataclass(frozen=True, eq=False)
class _Side:
    """left @ right.T of two sides is z + own_i + own_j. total and squares: sums of u and of u . u (float64)."""

    left: Tensor  # [u, own, 1]
    right: Tensor  # [u, 1, own]
    total: Tensor
    squares: Tensor

    @staticmethod
    def of(f: Tensor, centre: Tensor, dtype: torch.dtype) -> "_Side":
        n, d = f.shape
        left, right = torch.ones((2, n, d + 2), dtype=dtype)
        total, squares = torch.zeros_like(centre), torch.zeros((), dtype=torch.float64)
        for k in range(0, n, 4096):  # float64 in passing only
            rows = slice(k, k + 4096)
            u = (f[rows].to(torch.float64) - centre) / d**0.5
            left[rows, :d] = right[rows, :d] = u.to(dtype)
            left[rows, d] = right[rows, d + 1] = (u @ centre / d**0.5).to(dtype)
            total += u.sum(0)
            squares += u.square().sum()
        return _Side(left, right, total, squares)


def _tile(left: Tensor, right: Tensor, powers: list[float], room: Tensor) -> Tensor:
    """sum_k powers[k] b^(k + 2) for b = left @ right.T, in room of two tiles."""
    size = len(left) * len(right)
    b: Tensor = room[0, :size].view(len(left), len(right))
    out: Tensor = room[1, :size].view(len(left), len(right))
    torch.mm(left, right.T, out=b)
    if len(powers) == 1:
        return torch.mul(b, b, out=out)  # the highest power's factor is 1
    torch.add(b, powers[-2], out=out)
    for power in reversed(powers[:-2]):
        out.mul_(b).add_(power)
    out.mul_(b).mul_(b)
    return out


def _blocks(f: Tensor, block: int) -> list[Tensor]:
    return [f[k : k + block] for k in range(0, len(f), block)]


def _sum(tile: Tensor) -> float:
    return float(tile.sum(1).sum(dtype=torch.float64))  # torch adds a row up in pairs, so its float32 loses nothing


def _between(a: _Side, b: _Side, powers: list[float], block: int) -> float:
    if not powers:
        return 0.0
    total, room = 0.0, torch.empty((2, block * block), dtype=a.left.dtype)
    for left in _blocks(a.left, block):
        for right in _blocks(b.right, block):
            total += _sum(_tile(left, right, powers, room))
    return total


def _within(a: _Side, powers: list[float], block: int) -> float:
    """Over pairs of different images: tiles above the diagonal count twice, the diagonal itself not at all."""
    if not powers:
        return 0.0
    total, room = 0.0, torch.empty((2, block * block), dtype=a.left.dtype)
    lefts, rights = _blocks(a.left, block), _blocks(a.right, block)
    for i, left in enumerate(lefts):
        tile = _tile(left, rights[i], powers, room)
        total += _sum(tile) - float(tile.diagonal().sum(dtype=torch.float64))
        for right in rights[i + 1 :]:
            total += 2 * _sum(_tile(left, right, powers, room))
    return total
