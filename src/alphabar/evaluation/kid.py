"""KID: the squared maximum mean discrepancy of features (Bińkowski et al. 2018, arXiv:1801.01401), over all pairs of images;
with a Gaussian kernel too, as CMMD (Jayasumana et al. 2024, arXiv:2401.09603)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes, seeds
from alphabar.evaluation.estimate import Expansion, steepness
from alphabar.features.stats import as_features

_NOT_FINITE = "NaN or infinity among the features: look at the images and at the extractor's weights"
CHUNK = 512  # images that are copied to float64 at once, so that the copy stays in the cache
FEW = 160  # images per side whose pairs show along which directions the samples vary most


def kid(
    x: Float[Tensor, "n dx"] | NDArray[np.floating], y: "Float[Tensor, 'm dy'] | NDArray[np.floating] | Within", *,
    degree: int = 3, bandwidth: float | None = None, block: int = 1024, dtype: torch.dtype = torch.float32,
) -> Expansion:  # fmt: skip
    """Unbiased estimate of MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (x . y / d + 1)^degree, or, where a
    bandwidth is given, k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2)).

    It is the U-statistic over all pairs (Gretton et al. 2012, eq. 3; Bińkowski et al. 2018), without random subsets. For equal
    distributions it is about 0, and negative half of the time. Its variance is estimated without bias from the same sums
    (Sutherland 2019, arXiv:1906.02104, here for n != m), and is at least the second-order part; it needs 4 images per side.

    Args:
        x: Features [n, d], n >= 2.
        y: Features [m, d], m >= 2, from the same extractor, or `within(y)`, which can be used for many x.
        degree: Of the polynomial, a whole number >= 1.
        bandwidth: Of the Gaussian kernel, above 0 (`median_distance`); None takes the polynomial.
        block: Memory is a centred copy of the features and two tiles of block x block. Under torchrun the tiles are
            distributed over the processes, which all hold the same features.
        dtype: Of the matrix products; their sums are float64.

    Returns:
        `.value` is KID; `.estimate()` has its interval.

    Raises:
        ValueError: For features of different widths, fewer than 2 images, or NaN and infinity.

    >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    >>> print(kid(x[:150], x[150:] + 0.5).estimate())
    0.9584 [0.5126, 1.755]
    """
    x, f = as_features(x), y if isinstance(y, Within) else as_features(y)
    n, (m, width) = len(x), (f.n, f.dim) if isinstance(f, Within) else f.shape
    if x.shape[1] != width:
        raise ValueError(f"features {x.shape[1]} and {width} wide: extract both sets with the same extractor")
    if n < 2 or m < 2:
        raise ValueError(f"{n} and {m} images: the unbiased KID needs at least 2 on either side")
    if isinstance(f, Within) and (f.degree, f.bandwidth) != (degree, bandwidth):
        raise ValueError(
            f"sums for degree {f.degree} and bandwidth {f.bandwidth} cannot be used for {degree} and {bandwidth}: make them with "
            "within(y, degree=..., bandwidth=...)"
        )
    if isinstance(f, Within):
        ready = f
    else:
        centre = (x.sum(0, dtype=torch.float64) + f.sum(0, dtype=torch.float64)) / (n + m)
        ready = within(f, centre=centre, degree=degree, bandwidth=bandwidth, block=block, dtype=dtype)
    kernel, b, yy = ready.kernel, ready.side, ready.sums
    a = _Side.of(x, ready.centre, kernel, b.u.dtype)
    if not bool(torch.isfinite(a.total).all()):
        raise ValueError(_NOT_FINITE)
    xx, xy = _sums(a, a, kernel, block), _sums(a, b, kernel, block)

    within_x, within_y, between = xx.mean_of_pairs(), yy.mean_of_pairs(), xy.total / (n * m)
    influence_x = 2 * (xx.rows / (n - 1) - xy.rows / m)
    influence_y = 2 * (yy.rows / (m - 1) - xy.columns / n)
    variance = second = second_x = None
    if n > 3 and m > 3:
        variance, second, second_x = _variances(xx, yy, xy)
    # with k(x_i, x_i) in the means it is a square, |mean feature of x - mean feature of y|^2
    square = within_x + within_y - 2 * between + (xx.own / n - within_x) / n + (yy.own / m - within_y) / m
    return Expansion(
        float(within_x + within_y - 2 * between), n, m, influence_x - influence_x.mean(), influence_y - influence_y.mean(),
        second=second or 0.0, second_x=second_x or 0.0, known_variance=variance, quadratic=float(square),
        steepness=steepness(_few(a, b, kernel), n, m),
        trouble=None if variance is not None else "no interval: the variance of KID needs at least 4 images on either side",
    )  # fmt: skip


@dataclass(frozen=True)
class _Kernel:
    """linear z + sum_k powers[k] b^(k + 2), or exp(scale b), where b = z + own_i + own_j (`_Side`)."""

    linear: float
    powers: list[float]
    scale: float | None = None

    def itself(self, side: "_Side") -> Tensor:
        """Sum of k(x_i, x_i), the first without terms of one image."""
        if self.scale is not None:
            return torch.tensor(float(len(side.own)), dtype=torch.float64, device=side.own.device)
        b = side.lengths + 2 * side.own
        return self.linear * side.lengths.sum() + sum(p * (b ** (k + 2)).sum() for k, p in enumerate(self.powers))


@dataclass(frozen=True, eq=False)
class Within:
    """Features of one side, ready for products, and their sums: what all sets that are scored against it share."""

    side: "_Side"
    sums: "_Sums"
    centre: Tensor
    kernel: _Kernel
    degree: int
    bandwidth: float | None

    @property
    def n(self) -> int:
        return len(self.side.own)

    @property
    def dim(self) -> int:
        return len(self.centre)


def within(
    y: Float[Tensor, "m d"], *, centre: Float64[Tensor, " d"] | None = None, degree: int = 3, bandwidth: float | None = None,
    block: int = 1024, dtype: torch.dtype = torch.float32,
) -> Within:  # fmt: skip
    """The sums over pairs within y, for many calls of `kid`.

    Args:
        y: Features [m, d].
        centre: Subtracted from all features, so that large features lose no digits; None: the mean of y.
        degree: This and the rest: as for `kid`.
    """
    if degree < 1 or degree != int(degree):
        raise ValueError(f"degree = {degree}: give a whole number >= 1 (3 is KID's)")
    if bandwidth is not None and not 0 < bandwidth < math.inf:
        raise ValueError(f"bandwidth = {bandwidth}: give a distance above 0, as median_distance(y)")
    centre = y.mean(0, dtype=torch.float64) if centre is None else centre
    if not bool(torch.isfinite(centre).all()):
        raise ValueError(_NOT_FINITE)
    base = 1 + float(centre @ centre) / y.shape[1]
    # With x = centre + sqrt(d) u, the kernel is (base + z + own_i + own_j)^degree, where z = u_i . u_j and own_i depends on image
    # i alone. Terms of one image or none cancel in the statistic and in its variance, and the sums of z need no pairs. So only
    # the powers from the second on are computed in tiles, and large features lose no digits.
    linear = degree * base ** (degree - 1)
    powers = [math.comb(degree, k) * base ** (degree - k) for k in range(2, degree + 1)]
    # The Gaussian kernel has own_i = -u_i . u_i / 2, so that z + own_i + own_j is -|u_i - u_j|^2 / 2.
    kernel = _Kernel(linear, powers) if bandwidth is None else _Kernel(0.0, [], y.shape[1] / bandwidth**2)
    side = _Side.of(y, centre, kernel, dtype)
    return Within(side, _sums(side, side, kernel, block), centre, kernel, degree, bandwidth)


def median_distance(y: Float[Tensor, "m d"]) -> float:
    """The median distance of two of up to 1,000 evenly spaced images: the bandwidth of the Gaussian kernel.

    Raises ValueError where there are fewer than two images, or most of them are the same.
    """
    some = y[seeds.evenly(len(y), 1000)].to(torch.float64)
    found = float(torch.pdist(some).median()) if len(some) > 1 else 0.0
    if not 0 < found < math.inf:
        raise ValueError(f"the median distance of {len(some)} images is {found}: give two and more that differ, finite ones")
    return found


@dataclass(frozen=True, eq=False)
class _Side:
    """b = u_i . u_j + own_i + own_j for images of two sides."""

    u: Tensor  # [n, d]
    own: Tensor  # float64
    lengths: Tensor  # u . u, float64
    total: Tensor  # sum of u, float64

    @staticmethod
    def of(f: Tensor, centre: Tensor, kernel: "_Kernel", dtype: torch.dtype) -> "_Side":
        n, d = f.shape
        side = torch.empty((n, d), dtype=dtype, device=f.device)
        own, lengths = torch.empty((2, n), dtype=torch.float64, device=f.device)
        total = torch.zeros_like(centre)
        for k in range(0, n, CHUNK):
            rows = slice(k, k + CHUNK)
            u = (f[rows].to(torch.float64) - centre) / d**0.5
            lengths[rows] = u.square().sum(1)
            own[rows] = u @ centre / d**0.5 if kernel.scale is None else -lengths[rows] / 2
            side[rows] = u
            total += u.sum(0)
        return _Side(side, own, lengths, total)

    def towards(self, total: Tensor) -> Tensor:
        """u_i . total for every image, float64."""
        return torch.cat([self.u[k : k + CHUNK].to(torch.float64) @ total for k in range(0, len(self.u), CHUNK)])

    def some(self, rows: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """u and own of some images, for `_tile`."""
        return self.u[rows], self.own[rows].to(self.u)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums of the kernel over pairs of different images."""

    rows: Tensor
    columns: Tensor
    squares: Tensor  # sum of all squares
    own: Tensor  # sum of k(x_i, x_i)

    @property
    def total(self) -> Tensor:
        return self.rows.sum()

    def mean_of_pairs(self) -> Tensor:
        n = len(self.rows)
        return self.total / (n * (n - 1))

    def shared(self) -> Tensor:
        """Mean of k_ij k_il over three different images of one side."""
        n = len(self.rows)
        return (self.rows.square().sum() - self.squares) / (n * (n - 1) * (n - 2))

    def apart(self) -> Tensor:
        """Mean of k_ij k_lm over four different images of one side."""
        n = len(self.rows)
        return (self.total**2 - 4 * self.rows.square().sum() + 2 * self.squares) / (n * (n - 1) * (n - 2) * (n - 3))


def _variances(xx: _Sums, yy: _Sums, xy: _Sums) -> tuple[float, float, float]:
    """Variance of KID, that of its second-order term, and the latter without the pairs within y; n, m >= 4.

    The first is E[h]^2 - E[h h'] for terms h, h' of the statistic that share no image (Sutherland 2019, eq. 3).
    """
    n, m = len(xy.rows), len(xy.columns)
    within_x, within_y, between = xx.mean_of_pairs(), yy.mean_of_pairs(), xy.total / (n * m)
    # means of products of two kernels that share no image: unbiased for products of expectations
    apart_x, apart_y = xx.apart(), yy.apart()
    apart = (xy.total**2 - xy.rows.square().sum() - xy.columns.square().sum() + xy.squares) / (n * (n - 1) * m * (m - 1))
    apart_xx = (xx.total * xy.total - 2 * xx.rows @ xy.rows) / (n * (n - 1) * (n - 2) * m)
    apart_yy = (yy.total * xy.total - 2 * yy.rows @ xy.columns) / (m * (m - 1) * (m - 2) * n)
    variance = float(
        (within_x**2 - apart_x) + (within_y**2 - apart_y) + 4 * (between**2 - apart)
        - 4 * (within_x * between - apart_xx) - 4 * (within_y * between - apart_yy)
    )  # fmt: skip
    # variances of the kernel minus its means over either image
    pair_x = xx.squares / (n * (n - 1)) - 2 * xx.shared() + apart_x
    pair_y = yy.squares / (m * (m - 1)) - 2 * yy.shared() + apart_y
    shared = (xy.rows.square().sum() - xy.squares) / (n * m * (m - 1))
    shared = shared + (xy.columns.square().sum() - xy.squares) / (m * n * (n - 1))
    pair = float((xy.squares / (n * m) - shared + apart).clamp_min(0))
    second_x = 2 * float(pair_x.clamp_min(0)) / (n * (n - 1)) + 4 * pair / (n * m)
    second = second_x + 2 * float(pair_y.clamp_min(0)) / (m * (m - 1))
    return max(variance, second), second, second_x


def _sums(a: _Side, b: _Side, kernel: _Kernel, block: int) -> _Sums:
    """Sums of the kernel over all pairs, without i = j where a is b."""
    n, m, same = len(a.own), len(b.own), a is b
    # from the tiles, with b = z + own_i + own_j: sums of the powers over rows and columns, and of (powers^2, powers b, b^2)
    found = torch.zeros(n + m + 3, dtype=torch.float64, device=a.own.device)
    rows, columns, squares = found[:n], found[n : n + m], found[n + m :]
    room = torch.empty((2, block * block), dtype=a.u.dtype, device=a.u.device)
    tiles = [(i, j) for i in range(0, n, block) for j in range(i if same else 0, m, block)]
    for i, j in processes.deal(tiles):
        tile, of_powers = _tile(a.some(slice(i, i + block)), b.some(slice(j, j + block)), kernel, room)
        if same and i == j:
            tile.fill_diagonal_(0)
            of_powers.fill_diagonal_(0)
        of_rows, of_columns = of_powers.sum(1), of_powers.sum(0)  # torch adds pairwise, so float32 is precise enough
        rows[i : i + block] += of_rows
        columns[j : j + block] += of_columns
        flat, flat_powers = tile.flatten(), of_powers.flatten()
        three = torch.stack([flat_powers @ flat_powers, flat_powers @ flat, flat @ flat]).to(torch.float64)
        squares += three if not same or i == j else 2 * three
        if same and i != j:  # the tile below the diagonal is the transpose of this one
            rows[j : j + block] += of_columns
            columns[i : i + block] += of_rows
    found = processes.total(found).to(found)
    rows, columns, squares = found[:n], found[n : n + m], found[n + m :]

    z_rows, z_columns = a.towards(b.total), b.towards(a.total)
    if same:
        z_rows, z_columns = z_rows - a.lengths, z_columns - b.lengths
    # the squares of linear z + powers follow from the sums above
    own_squares = m * a.own.square().sum() + n * b.own.square().sum() + 2 * a.own.sum() * b.own.sum()
    if same:
        own_squares = own_squares - 4 * a.own.square().sum()
    z_own = a.own @ z_rows + b.own @ z_columns
    powers_z = squares[1] - a.own @ rows - b.own @ columns
    z_squares = squares[2] - 2 * z_own - own_squares
    linear = kernel.linear
    all_squares = squares[0] + 2 * linear * powers_z + linear**2 * z_squares
    return _Sums(linear * z_rows + rows, linear * z_columns + columns, all_squares, kernel.itself(a))


def _few(a: _Side, b: _Side, kernel: _Kernel) -> Tensor:
    """The centred kernel at all pairs of some evenly spaced images of both sides, float64."""
    rows = [seeds.evenly(len(side.own), FEW) for side in (a, b)]
    u, own = (torch.cat(both) for both in zip(a.some(rows[0]), b.some(rows[1]), strict=True))
    tile, of_powers = _tile((u, own), (u, own), kernel, u.new_empty((2, len(u) ** 2)))
    k = (kernel.linear * tile + of_powers).to(torch.float64)
    return k - k.mean(0) - k.mean(1)[:, None] + k.mean()


def _tile(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], kernel: _Kernel, room: Tensor) -> tuple[Tensor, Tensor]:
    """b of all pairs of two sides' images and the kernel without its linear term, written into the memory `room`."""
    (u, own_u), (v, own_v), powers = left, right, kernel.powers
    b, out = room[:, : len(u) * len(v)].view(2, len(u), len(v))
    torch.add(own_u[:, None], own_v, out=b)
    torch.addmm(b, u, v.T, out=b)
    if kernel.scale is not None:
        return b, torch.mul(b, kernel.scale, out=out).exp_()
    if not powers:
        return b, out.zero_()
    if len(powers) == 1:
        return b, torch.mul(b, b, out=out)  # the highest power's factor is 1
    torch.add(b, powers[-2], out=out)
    for power in reversed(powers[:-2]):
        out.mul_(b).add_(power)
    return b, out.mul_(b).mul_(b)
