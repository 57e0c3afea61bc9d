"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797) of generated images, with intervals.

A ball lies round every image of a set and reaches to the k-th nearest other image of that set. With B(x_i) the balls of
the n real images x_i, and B(y_j) those of the m generated ones y_j:

    precision = mean_j [y_j lies in any B(x_i)]      density  = sum_ij [y_j lies in B(x_i)] / (k m)
    recall    = mean_i [x_i lies in any B(y_j)]      coverage = mean_i [any y_j lies in B(x_i)]

Where the intervals come from. Given the real images, precision and density are means over independent generated ones, so
that this part of the variance is read off. The rest is due to the balls, and there the delta method, the jackknife and the
bootstrap fail: a nearest neighbour is no smooth function of the sample, a jackknife counts what takes r images together r
times, and a bootstrap has images twice. But a sample may be cut into halves (McCarthy 1969, "Pseudo-replication: half
samples"): the mean square of the difference of a statistic between two halves is twice its variance at half the images,
without bias and whatever the statistic. Quarters give the variance at a quarter of the images, and so its trend. All of
that is read from lists of near neighbours, which are long enough for quarters, for 64 random cuts at a time, since a
machine word has as many bits.
"""

import math
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes
from alphabar.core.seeds import generator
from alphabar.evaluation.estimate import LEVEL, Estimate, Expansion, normal_quantile
from alphabar.features.stats import as_features, check_finite

METRICS = ("precision", "recall", "density", "coverage")
WORDS = 2  # of 64 cuts each: a standard error is then known to 6 %
_RISK = 1e-3  # that a list of neighbours ends before the k-th that a quarter keeps
_KEPT = 24  # pairs kept for an image: a half loses all of them once in 2^24, a quarter in 1000
_SAMPLE = 512  # images that tell how far about the near neighbours lie
_BUDGET = 1 << 22  # pairs held before those that are not needed are dropped
_NO_INTERVAL = "no interval: a quarter of the images must be more than 2 k"

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Cover:
    """The four metrics with their intervals, and what a comparison of two models takes (`expansion`)."""

    precision: Estimate  # 0..1: how much of what is generated looks real
    recall: Estimate  # 0..1: how much of what is real could have been generated
    density: Estimate  # >= 0, about 1 for equal distributions: as precision, but an outlier's large ball counts once
    coverage: Estimate  # 0..1: how many real images have a generated one near by
    k: int
    n_real: int
    n_generated: int
    expansions: dict[str, Expansion]  # by the metric's name

    def expansion(self, metric: str) -> Expansion:
        """For `estimate.difference(a, b, paired=...)` of two models against the same real images in the same order.

        influence_x has a row for each generated image, influence_y for each real one, both centred; var(influence_x) / m
        + var(influence_y) / n is the variance. An image's own row is its influence where the metric is a mean over such
        images (the generated ones of precision and density, the real ones of recall); the other rows hold the
        differences between halves, which belong to all images together: their variances, and the covariances of two
        models, hold, a single row says nothing.
        """
        if metric not in self.expansions:
            raise ValueError(f"metric {metric!r} is unknown: use one of {', '.join(METRICS)}")
        return self.expansions[metric]


def cover(
    *,
    real: "Float[Tensor, 'n dr'] | NDArray[np.floating] | Balls",
    generated: Float[Tensor, "m dg"] | NDArray[np.floating],
    k: int = 5,
    block: int = 2048,
    seed: int = 0,
    level: float = LEVEL,
) -> Cover:
    """Precision, recall, density and coverage of generated images, each with an interval.

    real, generated: features [n, d] and [m, d] of the same extractor; for real also its `balls`, which serve for any number
    of generated sets. k: which neighbour a ball reaches to, 1 <= k < n, m;
    5 is Naeem et al.'s, 3 Kynkäänniemi et al.'s, and values of unlike k do not compare. block: rows of a tile. seed: of the
    cuts into halves, which the intervals come from; values do not depend on it. level: of the intervals.

    Balls are closed: a distance that equals the radius is inside, so that two equal sets have precision = recall =
    coverage = 1. An image that occurs more than k times in its set has a ball of radius 0, which holds its copies alone.
    Distances are float32 products; where rounding could change a decision it is made anew, in float64.

    The intervals are for the expectation of the value at these n and m and this k, and not for a limit: all four move with
    n. So compare values of equal numbers of images alone. They count the chance in both sets. Below 2 k + 1 images in a
    quarter of a set there is none.

    Cost is O(n m d + (n^2 + m^2) d / 2); memory is two float32 copies of the features, some hundred numbers an image, and
    a few tiles of block x block. Of very many images pass a random part on either side (`extract.sample_rows`). Under
    torchrun the tiles are dealt to the processes, which all hold the same features.

    Raises ValueError for unlike widths, n or m <= k, k < 1, or NaN and infinity.
    """
    x, y = real.f if isinstance(real, Balls) else as_features(real), as_features(generated)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features {x.shape[1]} and {y.shape[1]} wide: extract both sets with the same extractor")
    if k < 1 or k != int(k):
        raise ValueError(f"k = {k}: give a whole number >= 1 (5, or 3 as in the paper on precision and recall)")
    if block < 1:
        raise ValueError(f"block = {block}: give a whole number >= 1, as 1024")
    normal_quantile(level)
    if isinstance(real, Balls) and real.k != k:
        raise ValueError(f"balls to neighbour {real.k} of the real images, and k = {k}: make them with balls(real, k={k})")
    balls_x = real if isinstance(real, Balls) else balls(x, k, block=block, what="real")
    balls_y = balls(y.to(x.device), k, block=block, what="generated")
    x, y = balls_x.f, balls_y.f
    in_x, in_y = _pairs(balls_x, balls_y, k, block)
    cuts_x, cuts_y = _Cuts.of(len(x), seed, 0), _Cuts.of(len(y), seed, 1)
    precision = _any_ball(in_x, balls_x.near, cuts_x, k)
    recall = _any_ball(in_y, balls_y.near, cuts_y, k)
    density = _density(in_x, balls_x.near, cuts_x, k)
    coverage = _coverage(in_x, balls_x.near, cuts_x, cuts_y, k)
    recall = replace(recall, own=recall.other, other=recall.own)  # its mean goes over the real images
    parts = dict(zip(METRICS, (precision, recall, density, coverage), strict=True))
    enough = min(len(x), len(y)) // 4 > 2 * k
    expansions = {
        name: Expansion(
            p.value, len(y), len(x), torch.from_numpy(p.own), torch.from_numpy(p.other), trouble=None if enough else _NO_INTERVAL
        )
        for name, p in parts.items()
    }
    estimates = {
        name: p.estimate(level) if enough else Estimate(p.value, None, None, level, _NO_INTERVAL) for name, p in parts.items()
    }
    return Cover(**estimates, k=k, n_real=len(x), n_generated=len(y), expansions=expansions)


# --- balls -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Features, centred and of mean square 1: squared distances are 2 unit^2 (half_i + half_j - u_i . u_j)."""

    u: Tensor  # [n, d]
    half: Tensor  # |u|^2 / 2
    unit: float

    @staticmethod
    def of(f: Tensor, centre: Tensor, unit: float, dtype: torch.dtype = torch.float32) -> "_Scaled":
        u = torch.empty(f.shape, dtype=dtype, device=f.device)
        half = torch.empty(len(f), dtype=dtype, device=f.device)
        for part, out, squares in zip(*(torch.split(t, 2048) for t in (f, u, half)), strict=True):
            wide = (part.to(torch.float64) - centre) / unit
            out.copy_(wide)
            squares.copy_(wide.square().sum(1) / 2)
        return _Scaled(u, half, unit)

    @property
    def rounding(self) -> float:
        """A computed half_i + half_j - u_i . u_j is off by no more than this times |u_i|^2 + |u_j|^2 (Higham 2002, ch. 3)."""
        fast = self.u.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
        return (self.u.shape[1] + 8) * (2.0**-8 if fast else torch.finfo(self.u.dtype).eps / 2)


def _middle(*sets: Tensor) -> tuple[Tensor, float]:
    """Mean of the rows of all sets, and the root mean square of their distances from it (1 where that is 0)."""
    n = sum(len(f) for f in sets)
    centre = torch.stack([f.sum(0, dtype=torch.float64) for f in sets]).sum(0) / n
    squares = sum(float((part.to(torch.float64) - centre).square().sum()) for f in sets for part in torch.split(f, 2048))
    unit = math.sqrt(squares / n)
    if not math.isfinite(unit):
        raise ValueError("the features' squares are beyond float64: look at the extractor's weights")
    return centre, unit or 1.0


def _tile(a: _Scaled, b: _Scaled, i: slice, j: slice, room: Tensor | None = None) -> Tensor:
    """Half the squared distances, in squares of `unit`."""
    left, right = a.u[i], b.u[j]
    out = None if room is None else room[: len(left) * len(right)].view(len(left), len(right))
    return torch.addmm(b.half[j], left, right.T, alpha=-1, out=out).add_(a.half[i, None])


def _exact(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> Tensor:
    """Squared distances of a[i] and b[j] in float64: equal rows have equal distances, to the bit."""
    out = torch.empty(len(i), dtype=torch.float64, device=a.device)
    step = max(1, (1 << 21) // max(1, a.shape[1]))
    for s in range(0, len(i), step):
        at = slice(s, s + step)
        out[at] = (a[i[at]].to(torch.float64) - b[j[at]].to(torch.float64)).square().sum(1)
    return out


@dataclass(frozen=True, eq=False)
class Balls:
    """Of one set: the squared radii, and the near neighbours of each image with their squared distances, nearest first."""

    f: Tensor
    radii: Tensor  # float64, exact
    near: Tensor  # [n, l]
    squares: Tensor  # [n, l], float64, as the products gave them
    k: int


def _length(k: int, n: int) -> int:
    """How many neighbours hold the k nearest of a random quarter, but for a chance of _RISK."""
    most = k
    while most < n - 1 and sum(math.comb(most, c) * 0.25**c * 0.75 ** (most - c) for c in range(k)) > _RISK:
        most += 1
    return most


def balls(features: Float[Tensor, "n d"] | NDArray[np.floating], k: int = 5, *, block: int = 2048, what: str = "real") -> Balls:
    """The balls of one set of images, for `cover`; half of its cost where both sets are large. what: for errors.

    Raises ValueError for n <= k, or NaN and infinity.
    """
    f = as_features(features).detach()
    if len(f) <= k:
        raise ValueError(f"{len(f)} {what} images have no {k}-th neighbour: give more than k = {k}")
    check_finite(f)
    f = f if f.dtype in (torch.float32, torch.float64) else f.float()
    n, most = len(f), _length(k, len(f))
    centre, unit = _middle(f)
    s = _Scaled.of(f, centre, unit)
    bound = _bounds(s, most, block)
    smallest = _Smallest(n, most, f.device, s.u.dtype)
    room = torch.empty(block * block, dtype=s.u.dtype, device=f.device)
    for i, j in processes.deal(_upper(n, block)):
        h = _tile(s, s, i, j, room)
        if i == j:
            h.fill_diagonal_(math.inf)
        rows, columns = torch.nonzero((h <= bound[i, None]) | (h <= bound[j]), as_tuple=True)
        h = h[rows, columns].clamp_min(0)
        rows, columns = rows + i.start, columns + j.start
        smallest.add(rows, columns, h, bound)
        if i != j:  # the tile below the diagonal is this one turned
            smallest.add(columns, rows, h, bound)
    smallest.gather()
    values, near = smallest.padded(math.inf)
    squares = 2 * unit**2 * values.to(torch.float64)
    # the k-th of the list is the k-th but for rounding: decide among all that are as near as that
    slack = s.rounding * (6 * s.half + 5 * values[:, k - 1]).to(torch.float64) * 2 * unit**2
    least = squares[:, k - 1] - 2 * slack
    radii, settled = _kth(f, near, squares, least, least + 4 * slack, k)
    # not so where the list ends too soon: few near ones in the sample that set the bounds, or many that are equally near
    open_rows = torch.nonzero(~settled | torch.isinf(values[:, -1])).flatten()
    if len(open_rows):
        copies = _copies(f) > k
        unsure = open_rows[~copies[open_rows] | torch.isinf(values[open_rows, -1])]
        radii[unsure], near[unsure], squares[unsure] = _slowly(f, unsure, centre, unit, k, most)
        radii[copies] = 0.0
    return Balls(f, radii, near, squares, k)


def _upper(n: int, block: int) -> list[tuple[slice, slice]]:
    """Tiles on and above the diagonal, row by row; those on it are a quarter as wide, since half of each is for nothing."""
    small = max(1, block // 4)
    tiles = []
    for a in range(0, n, block):
        end = min(a + block, n)
        parts = [slice(b, min(b + small, end)) for b in range(a, end, small)]
        tiles += list(combinations_with_replacement(parts, 2))
        tiles += [(slice(a, end), slice(b, min(b + block, n))) for b in range(end, n, block)]
    return tiles


def _bounds(s: _Scaled, most: int, block: int) -> Tensor:
    """For each image a distance within which `most` others lie, very likely, and not many more, from a sample of the images."""
    n = len(s.u)
    size = min(_SAMPLE, n // 4)
    if size < 2 * most:
        return torch.full((n,), torch.finfo(s.half.dtype).max, device=s.u.device)
    picked = torch.from_numpy(generator(0, n).permutation(n)[:size]).to(s.u.device)
    sample = _Scaled(s.u[picked], s.half[picked], s.unit)
    expected = most * size / n
    rank = min(int(expected + 3 * expected**0.5 + 4), size)  # one for the image itself, where it is in the sample
    bound = torch.zeros(n, dtype=s.half.dtype, device=s.u.device)
    for a in processes.deal(range(0, n, block)):
        rows = slice(a, a + block)
        bound[rows] = _tile(s, sample, rows, slice(None)).kthvalue(rank, dim=1).values
    return processes.total(bound).to(bound)


def _kth(f: Tensor, near: Tensor, squares: Tensor, least: Tensor, most: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The exact squared distance of the k-th neighbour, where those from `least` to `most` are all there is in doubt;
    and whether the list holds all of them."""
    unsure = (squares >= least[:, None]) & (squares <= most[:, None])
    sure = (squares < least[:, None]).sum(1)
    i, c = torch.nonzero(unsure, as_tuple=True)
    exact = torch.full(squares.shape, math.inf, dtype=torch.float64, device=f.device)
    exact[i, c] = _exact(f, i, f, near[i, c])
    place = (k - 1 - sure).clamp(0, near.shape[1] - 1)
    radii = exact.sort(dim=1).values.gather(1, place[:, None])[:, 0]
    whole = ~unsure[:, -1] if near.shape[1] < len(f) - 1 else torch.ones_like(unsure[:, -1])
    return radii, whole & torch.isfinite(radii)


def _copies(f: Tensor) -> Tensor:
    """How often each row occurs."""
    rows = np.ascontiguousarray(f.detach().cpu().numpy() + 0.0)  # -0 is 0
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return torch.from_numpy(counts[which.ravel()]).to(f.device)


def _slowly(f: Tensor, rows: Tensor, centre: Tensor, unit: float, k: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Radii and lists of some rows, each against all images in float64."""
    s = _Scaled.of(f, centre, unit, torch.float64)
    radii, near, squares = [], [], []
    for part in torch.split(rows, 128):
        own = _Scaled(s.u[part], s.half[part], unit)
        h = _tile(own, s, slice(None), slice(None))
        h[torch.arange(len(part), device=f.device), part] = math.inf
        values, columns = h.topk(most, dim=1, largest=False)
        kth = values[:, k - 1]
        slack = 2 * s.rounding * (6 * own.half + 5 * kth)
        i, j = torch.nonzero((h >= (kth - slack)[:, None]) & (h <= (kth + slack)[:, None]), as_tuple=True)
        exact = _exact(f, part[i], f, j)
        sure = (h < (kth - slack)[:, None]).sum(1)
        order = torch.argsort(exact, stable=True)
        order = order[torch.argsort(i[order], stable=True)]  # by row, then by distance
        first = torch.searchsorted(i[order].contiguous(), torch.arange(len(part), device=f.device))
        radii.append(exact[order[first + k - 1 - sure]])
        near.append(columns)
        squares.append(values * (2 * unit**2))
    return torch.cat(radii), torch.cat(near), torch.cat(squares)


class _Smallest:
    """The `most` pairs of smallest value >= 0 for every row, of any number that are added; ties go to the smaller column.

    Within a row pairs must come in the order of columns, as they do when tiles are worked off row by row.
    """

    def __init__(self, n: int, most: int, device: torch.device, dtype: torch.dtype) -> None:
        self.n, self.most, self.held = n, most, 0
        none = torch.empty(0, dtype=torch.int64, device=device)
        self.parts = [(none, none, none.to(dtype))]

    def add(self, rows: Tensor, columns: Tensor, values: Tensor, bound: Tensor | None = None) -> None:
        """bound: only values up to that of their row; it is lowered where a row is full and room is needed."""
        if bound is not None:
            good = values <= bound[rows]
            rows, columns, values = rows[good], columns[good], values[good]
        self.parts.append((rows, columns, values))
        self.held += len(rows)
        if self.held > max(_BUDGET, 4 * self.n * self.most):
            self._drop()
            if bound is not None:
                rows, _, values = self.parts[0]
                full = torch.bincount(rows, minlength=self.n) == self.most
                last = torch.zeros_like(bound).scatter_reduce_(0, rows, values, "amax")
                # only what is nearer still: copies of one image would not end
                last = torch.nextafter(last, torch.full_like(last, -math.inf))
                bound.copy_(torch.where(full, torch.minimum(bound, last), bound))

    def _drop(self) -> None:
        """Keeps what is needed, sorted by row and value, and by column as it came."""
        rows, columns, values = (torch.cat(list(p)) for p in zip(*self.parts, strict=True))
        bits = values.view(torch.int32) if values.is_floating_point() else values  # positive floats sort as their bits do
        keys, order = torch.sort((rows << 32) | bits.to(torch.int64), stable=True)
        keep = _place(keys >> 32) < self.most
        order = order[keep]
        self.parts = [(rows[order], columns[order], values[order])]
        self.held = len(order)

    def gather(self) -> None:
        """From all processes."""
        self._drop()
        if processes.world()[1] > 1:
            rows, columns, values = self.parts[0]
            every = torch.cat(processes.gather_rows(torch.stack([rows, columns, values.to(torch.float64)], 1)))
            every = every[torch.argsort(every[:, 1], stable=True)].to(rows.device)
            self.parts = [(every[:, 0].to(torch.int64), every[:, 1].to(torch.int64), every[:, 2].to(values.dtype))]
            self._drop()

    def padded(self, fill: float) -> tuple[Tensor, Tensor]:
        """values [n, most] and columns [n, most], smallest first; `fill` and 0 where a row has fewer."""
        rows, columns, values = self.parts[0]
        place = _place(rows)
        out = torch.full((self.n, self.most), fill, dtype=values.dtype, device=values.device)
        where = torch.zeros((self.n, self.most), dtype=torch.int64, device=values.device)
        out[rows, place], where[rows, place] = values, columns
        return out, where


def _place(rows: Tensor) -> Tensor:
    """The number of each entry within its row, for rows that do not fall."""
    starts = torch.cumsum(torch.bincount(rows), 0) - torch.bincount(rows)
    return torch.arange(len(rows), device=rows.device) - starts[rows]


# --- which images lie in which balls ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Inside:
    """Points against balls. The rank of a point at a ball is the number of the centre's own neighbours that are nearer than
    it: the point lies in the ball where rank < k, and in that of a half where fewer than k of them are kept."""

    hits: NDArray[np.int64]  # of each point: in how many balls it lies
    holds: NDArray[np.int64]  # of each ball: how many points lie in it
    points: tuple[NDArray[np.int64], NDArray[np.int64]]  # of each point: the least ranks, and at which balls; -1: no more
    balls: tuple[NDArray[np.int64], NDArray[np.int64]]  # of each ball: the least ranks, and of which points
    ranks: NDArray[np.int64]  # [balls, l, 2]: points of each rank, even ones and odd ones


def _pairs(x: Balls, y: Balls, k: int, block: int) -> tuple[_Inside, _Inside]:
    """Points y against the balls of x, and points x against those of y, from one pass over all pairs."""
    centre, unit = _middle(x.f, y.f)
    sx, sy = _Scaled.of(x.f, centre, unit), _Scaled.of(y.f, centre, unit)
    in_x, in_y = _Finder(x, y, sx, k), _Finder(y, x, sy, k)
    room = torch.empty(block * block, dtype=sx.u.dtype, device=sx.u.device)
    tiles = [(i, j) for i in range(0, len(x.f), block) for j in range(0, len(y.f), block)]
    for a, b in processes.deal(tiles):
        i, j = slice(a, a + block), slice(b, b + block)
        h = _tile(sx, sy, i, j, room)
        rows, columns = torch.nonzero((h <= in_x.bound[i, None]) | (h <= in_y.bound[j]), as_tuple=True)
        h = h[rows, columns]
        rows, columns = rows + a, columns + b
        in_x.add(rows, columns, h)
        in_y.add(columns, rows, h)
    return in_x.result(), in_y.result()


class _Finder:
    def __init__(self, balls: Balls, points: Balls, s: _Scaled, k: int) -> None:
        self.balls, self.points, self.k = balls, points, k
        n, m, device = len(balls.f), len(points.f), balls.f.device
        whole = 2 * s.unit**2
        self.lists = (balls.squares / whole).to(s.half.dtype)
        self.radii = balls.radii / whole
        self.slack = s.rounding * (6 * s.half.to(torch.float64) + 5 * self.radii)
        self.bound = torch.maximum(self.lists[:, -1], (self.radii + 2 * self.slack).to(s.half.dtype))
        self.by_point = _Smallest(m, _KEPT, device, torch.int64)
        self.by_ball = _Smallest(n, _KEPT, device, torch.int64)
        self.hits, self.holds = torch.zeros(m, dtype=torch.int64, device=device), torch.zeros(n, dtype=torch.int64, device=device)
        self.ranks = torch.zeros((n, self.lists.shape[1], 2), dtype=torch.int64, device=device)

    def add(self, ball: Tensor, point: Tensor, h: Tensor) -> None:
        for part in torch.split((h <= self.bound[ball]).nonzero()[:, 0], 1 << 18):
            self._add(ball[part], point[part], h[part])

    def _add(self, ball: Tensor, point: Tensor, h: Tensor) -> None:
        k, most = self.k, self.lists.shape[1]
        off = h.to(torch.float64) - self.radii[ball]
        inside = off < 0
        unsure = torch.nonzero(off.abs() <= self.slack[ball]).flatten()
        exact = _exact(self.balls.f, ball[unsure], self.points.f, point[unsure])
        inside[unsure] = exact <= self.balls.radii[ball[unsure]]
        rank = torch.searchsorted(self.lists[ball], h[:, None])[:, 0]  # of the list, how many are nearer
        rank = torch.where(inside, rank.clamp_max(k - 1), rank.clamp_min(k))
        near = rank < most
        ball, point, rank, inside = ball[near], point[near], rank[near], inside[near]
        self.hits += torch.bincount(point[inside], minlength=len(self.hits))
        self.holds += torch.bincount(ball[inside], minlength=len(self.holds))
        self.ranks.view(-1).index_add_(0, (ball * most + rank) * 2 + point % 2, torch.ones_like(rank))
        self.by_point.add(point, ball, rank)
        self.by_ball.add(ball, point, rank)

    def result(self) -> _Inside:
        hits, holds, ranks = (processes.total(t).numpy() for t in (self.hits, self.holds, self.ranks))
        return _Inside(hits, holds, _kept(self.by_point), _kept(self.by_ball), ranks)


def _kept(pairs: _Smallest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pairs.gather()
    ranks, partners = pairs.padded(-1)
    return ranks.cpu().numpy(), partners.cpu().numpy()


# --- halves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cuts:
    """64 * WORDS random cuts of a set into four quarters: bit s of word w says who is in which at cut 64 w + s."""

    quarters: Words  # [WORDS, 4, n]
    halves: Words  # [WORDS, 2, n]: of two quarters each
    part: float  # of the images that are in a half

    @staticmethod
    def of(n: int, seed: int, side: int) -> "_Cuts":
        random = generator(seed, side)
        quarters, size = np.zeros((WORDS, 4, n), dtype=np.uint64), n // 4
        for cut in range(64 * WORDS):
            order, bit = random.permutation(n), np.uint64(1 << cut % 64)
            for q in range(4):
                quarters[cut // 64, q, order[q * size : (q + 1) * size]] |= bit
        return _Cuts(quarters, quarters[:, ::2] | quarters[:, 1::2], 2 * size / n)

    def spread_out(self, effects: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
        """Numbers for the images, whose variance over n is `variance` and whose covariances with those of another
        statistic are the covariances of the effects: sums of effects, with the sign of the half that an image was in."""
        out = np.zeros(self.halves.shape[2])
        for (a, b), part in zip(self.halves, effects.reshape(WORDS, 64), strict=True):
            out += (_bits(a).astype(np.float32) - _bits(b)) @ part
        out -= out.mean()
        scale = out.var(ddof=1)
        return out * math.sqrt(variance * len(out) / scale) if scale > 0 else np.zeros_like(out)


def _bits(words: Words) -> NDArray[np.uint8]:
    """[..., 64], bit s at place s."""
    little = np.ascontiguousarray(words.astype("<u8", copy=False))
    return np.unpackbits(little.view(np.uint8).reshape(*words.shape, 8), axis=-1, bitorder="little")


def _count(words: Words) -> NDArray[np.float64]:
    """How many words have each bit."""
    out = np.zeros(64)
    for s in range(0, len(words), 1 << 14):
        out += _bits(words[s : s + (1 << 14)]).sum(0, dtype=np.int32)
    return out


def _open(near: NDArray[np.int64], kept: Words, k: int) -> Words:
    """[n, l]: the bits of the cuts at which the ball's centre is kept, and fewer than k of its first l neighbours are."""
    found = np.zeros((k, len(near)), dtype=np.uint64)  # found[c]: more than c of them
    out = np.empty(near.shape, dtype=np.uint64)
    for place in range(near.shape[1]):
        out[:, place] = kept & ~found[k - 1]
        new = kept[near[:, place]]
        for c in range(k - 1, 0, -1):
            found[c] |= found[c - 1] & new
        found[0] |= new
    return out


@dataclass(frozen=True, eq=False)
class _Part:
    """A metric: its value; influences of the images that it is a mean over (or of the generated ones), and of the others.

    relative: its variance over value (1 - value), or over the value where that is no share.
    """

    value: float
    own: NDArray[np.float64]
    other: NDArray[np.float64]
    relative: float
    is_share: bool
    seen: bool = True  # whether the halves told anything

    def estimate(self, level: float) -> Estimate:
        """With a score interval (Wilson 1927): all true values that are no farther from the value than z of their own
        standard errors. It never leaves the range, and has a width where the value is 0 or 1."""
        z2 = normal_quantile(level) ** 2 * self.relative
        p = self.value
        if self.is_share:
            middle, half = (p + z2 / 2) / (1 + z2), math.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
            se = math.sqrt(self.relative * p * (1 - p))
            interval = (0.0 if p == 0 else max(middle - half, 0.0), 1.0 if p == 1 else min(middle + half, 1.0))
        else:
            middle, half = p + z2 / 2, math.sqrt(z2 * (p + z2 / 4))
            se = math.sqrt(self.relative * p)
            interval = (0.0 if p == 0 else max(middle - half, 0.0), middle + half)
        if se > 0 and self.seen:
            return Estimate(p, se, interval, level)
        note = f"all images count alike: the interval is that of {1 / self.relative:.0f} independent ones"
        return Estimate(p, se or None, interval, level, note)


def _any_ball(inside: _Inside, near: Tensor, cuts: _Cuts, k: int) -> _Part:
    """Mean over the points of whether they lie in any ball. cuts: of the balls' centres."""
    n, m = len(near), len(inside.hits)
    lies = (inside.hits > 0).astype(np.float64)
    value = float(lies.mean())
    lists = near.cpu().numpy()
    places = _places(inside.points, lists.shape)

    def of(parts: Words) -> tuple[NDArray[np.float64], float, float]:
        """Values at all parts and cuts; their mean; the variance of their expectation over points."""
        values, squares = [], []
        for kept in parts:
            words = [_either(_open(lists, part, k), places) for part in kept]
            counts = [_count(w) for w in words]
            values.append(np.array(counts) / m)
            for a, b in combinations(range(len(words)), 2):  # pairs of different points alone have no variance of the points
                squares.append(((counts[a] - counts[b]) ** 2 - _count(words[a] ^ words[b])) / (m * (m - 1)))
        at = np.array(values)
        return at, float(at.mean()), max(float(np.mean(squares)), 0.0) / 2

    halves, at_half, variance = of(cuts.halves)
    _, at_quarter, before = of(cuts.quarters)
    seen = 0 < at_half < 1
    relative = _at_all(variance, before, at_half * (1 - at_half), at_quarter * (1 - at_quarter)) * cuts.part if seen else 1 / n
    other = cuts.spread_out((halves[:, 0] - halves[:, 1]).ravel(), relative * value * (1 - value))
    return _Part(value, lies - value, other, 1 / (m - 1) + relative, True, seen)


def _at_all(at_half: float, at_quarter: float, by_half: float, by_quarter: float) -> float:
    """Twice the relative variance at all images, from variances at halves and quarters and what these are relative to.

    It is the one at halves, but where that is more than half of the one at quarters: then the trend goes on. Few images
    that are far off have large balls, and such chance falls more slowly than 1 / n.
    """
    half, quarter = at_half / by_half, at_quarter / by_quarter if by_quarter > 0 else 0.0
    return half * min(max(2 * half / quarter, 1.0), 2.0) if quarter > 0 else half


def _density(inside: _Inside, near: Tensor, cuts: _Cuts, k: int) -> _Part:
    n, m = len(near), len(inside.hits)
    own = inside.hits / k
    value = float(own.mean())
    lists = near.cpu().numpy()
    ranks = (inside.ranks / (k * np.array([(m + 1) // 2, m // 2]))).astype(np.float32)  # means over even and over odd points

    def of(parts: Words) -> tuple[NDArray[np.float64], float, float]:
        """Values at all parts and cuts; their mean; the variance of their expectation over points."""
        values = np.zeros((*parts.shape[:2], 2, 64))  # of even points, and of odd ones
        for w, kept in enumerate(parts):
            for p, part in enumerate(kept):
                words = _open(lists, part, k)
                for s in range(0, n, 2048):
                    rows = slice(s, s + 2048)
                    values[w, p] += ranks[rows].reshape(-1, 2).T @ _bits(words[rows].ravel()).astype(np.float32)
        # even and odd points are independent, so that the mean of the product is a squared difference of expectations
        pairs = [(values[:, a] - values[:, b]).prod(1).mean() for a, b in combinations(range(parts.shape[1]), 2)]
        return values.mean(2), float(values.mean()), max(float(np.mean(pairs)), 0.0) / 2

    halves, at_half, variance = of(cuts.halves)
    _, at_quarter, before = of(cuts.quarters)
    seen = at_half > 0
    relative = _at_all(variance, before, at_half, at_quarter) * cuts.part if seen else 1 / n
    other = cuts.spread_out((halves[:, 0] - halves[:, 1]).ravel(), relative * value)
    of_points = float(own.var(ddof=1)) / m / value if value > 0 else 1 / m
    if of_points + relative < 1e-10:  # copies of one image: parts differ by the rounding of sums in float32 alone
        return _Part(value, own - value, other, 1 / m + 1 / n, False, False)
    return _Part(value, own - value, other, of_points + relative, False, seen)


def _coverage(inside: _Inside, near: Tensor, cuts: _Cuts, point_cuts: _Cuts, k: int) -> _Part:
    """Mean over the balls of whether any point lies in them. Both sides are cut, which makes four statistics; from them come
    the effects of the balls' centres and of the points, each with half of what both have together."""
    lists = near.cpu().numpy()
    n, m = len(lists), point_cuts.halves.shape[2]
    value = float((inside.holds > 0).mean())
    places, points = _places(inside.balls, lists.shape, rows_are_balls=True), inside.balls[1]

    def of(centres: Words, kept: list[Words]) -> list[NDArray[np.float64]]:
        """Values for these centres and several parts of the points."""
        words = np.append(_open(lists, centres, k), np.uint64(0))
        out = np.zeros((len(kept), n), dtype=np.uint64)
        for place, point in zip(places.T, points.T, strict=True):
            found = words[place]
            for row, part in zip(out, kept, strict=True):
                row |= found & part[point]
        return [_count(row) / _count(centres) for row in out]

    halves = np.array([[of(c, list(point_cuts.halves[w])) for c in cuts.halves[w]] for w in range(WORDS)])
    both = [zip(cuts.quarters[w], point_cuts.quarters[w], strict=True) for w in range(WORDS)]
    quarters = np.array([[of(c, [p])[0] for c, p in pairs] for pairs in both])
    of_centres = (halves[:, 0].mean(1) - halves[:, 1].mean(1)).ravel()
    of_points = (halves[:, :, 0].mean(1) - halves[:, :, 1].mean(1)).ravel()
    centres, others = float((of_centres**2).mean()) / 2, float((of_points**2).mean()) / 2
    at_half, at_quarter = float(halves.mean()), float(quarters.mean())
    variance = centres + others
    if not 0 < at_half < 1 or variance == 0:
        return _Part(value, np.zeros(m), np.zeros(n), 1 / n + 1 / m, True, False)
    before = float(quarters.var(axis=1, ddof=1).mean())
    relative = _at_all(variance, before, at_half * (1 - at_half), at_quarter * (1 - at_quarter)) / variance
    centres, others = relative * centres * cuts.part, relative * others * point_cuts.part
    scale = value * (1 - value)
    return _Part(
        value,
        point_cuts.spread_out(of_points, others * scale),
        cuts.spread_out(of_centres, centres * scale),
        centres + others,
        True,
    )


def _places(
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]], shape: tuple[int, ...], *, rows_are_balls: bool = False
) -> NDArray[np.int64]:
    """Where the words of pairs (rank, ball) stand in a flat table [balls, l]; its end for pairs that are none."""
    ranks, partners = pairs
    balls = np.arange(len(ranks))[:, None] if rows_are_balls else partners
    return np.where(ranks >= 0, balls * shape[1] + ranks, shape[0] * shape[1])


def _either(words: Words, places: NDArray[np.int64]) -> Words:
    flat = np.append(words, np.uint64(0))
    out = np.zeros(len(places), dtype=np.uint64)
    for place in places.T:
        out |= flat[place]
    return out
