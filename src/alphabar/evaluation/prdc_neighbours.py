"""Nearest neighbours within one set of features, the balls that precision, recall, density and coverage are defined by, and
which images of one set lie in which balls of another.

Distances are float32 matrix products, tile by tile; wherever rounding could change a decision, the distance is computed again
in float64 from differences.
"""

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes
from alphabar.core.seeds import generator
from alphabar.features.stats import as_features, check_finite

MISS = 1e-3  # probability that a list of neighbours does not reach the k-th one that a random quarter of the images keeps
SAMPLE = 512  # images from which the distances to the near neighbours are estimated
BUDGET = 1 << 22  # pairs stored before those that are not needed are dropped
KEPT = 24  # pairs kept per image: a random half loses all of them with probability 2^-24, a quarter with 0.001

Ranked = tuple[NDArray[np.int64], NDArray[np.int64]]  # least ranks [rows, KEPT], and the partners; -1: no more pairs


@dataclass(frozen=True, eq=False)
class Balls:
    """Of one set: the squared radius of each image's ball, and its near neighbours with squared distances, nearest first."""

    features: Tensor
    radii: Tensor  # [n] float64, exact
    near: Tensor  # [n, l] numbers of the neighbours
    squares: Tensor  # [n, l] float64, rounded as the float32 products are
    k: int


def balls(features: Float[Tensor, "n d"] | NDArray[np.floating], k: int = 5, *, block: int = 2048, what: str = "real") -> Balls:
    """The balls of one set of images, for `prdc`: half of its cost where both sets are large.

    Args:
        features: One row per image; n > k.
        k: A ball reaches to the k-th nearest other image.
        block: Rows and columns of a tile.
        what: What to call the images in error messages.

    Raises:
        ValueError: For n <= k, or features that are not finite.
    """
    f = as_features(features).detach()
    if len(f) <= k:
        raise ValueError(f"{len(f)} {what} images have no {k}-th neighbour: give more than k = {k}")
    check_finite(f)
    f = f if f.dtype in (torch.float32, torch.float64) else f.float()
    length = _list_length(k, len(f))
    centre, unit = centre_and_scale(f)
    s = Scaled.of(f, centre, unit)
    nearest = _near_pairs(s, length, block)
    values, near = nearest.padded(math.inf)
    squares = 2 * unit**2 * values.to(torch.float64)
    # the k-th of the list is the k-th neighbour up to rounding: decide among all that are equally near within the rounding
    slack = s.rounding * (6 * s.half + 5 * values[:, k - 1]).to(torch.float64) * 2 * unit**2
    least = squares[:, k - 1] - 2 * slack
    radii, settled = _kth(f, near, squares, least, least + 4 * slack, k)
    # unsettled where the list is too short: few near images in the sample of `_bounds`, or many equally near ones
    unsettled = torch.nonzero(~settled | torch.isinf(values[:, -1])).flatten()
    if len(unsettled):
        copies = _multiplicity(f) > k
        redo = unsettled[~copies[unsettled] | torch.isinf(values[unsettled, -1])]
        radii[redo], near[redo], squares[redo] = _in_float64(f, redo, centre, unit, k, length)
        radii[copies] = 0.0
    return Balls(f, radii, near, squares, k)


@dataclass(frozen=True, eq=False)
class Scaled:
    """Features centred and scaled to mean square 1: squared distances are 2 unit^2 (half_i + half_j - u_i . u_j)."""

    u: Tensor  # [n, d]
    half: Tensor  # |u|^2 / 2
    unit: float

    @staticmethod
    def of(f: Tensor, centre: Tensor, unit: float, dtype: torch.dtype = torch.float32) -> "Scaled":
        u = torch.empty(f.shape, dtype=dtype, device=f.device)
        half = torch.empty(len(f), dtype=dtype, device=f.device)
        for part, out, squares in zip(*(torch.split(t, 2048) for t in (f, u, half)), strict=True):
            scaled = (part.to(torch.float64) - centre) / unit
            out.copy_(scaled)
            squares.copy_(scaled.square().sum(1) / 2)
        return Scaled(u, half, unit)

    @property
    def rounding(self) -> float:
        """Bound on the error of half_i + half_j - u_i . u_j, relative to |u_i|^2 + |u_j|^2 (Higham 2002, ch. 3)."""
        fast = self.u.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
        return (self.u.shape[1] + 8) * (2.0**-8 if fast else torch.finfo(self.u.dtype).eps / 2)


def centre_and_scale(*sets: Tensor) -> tuple[Tensor, float]:
    """Mean of the rows of all sets, and the root mean square of their distances from it (1 where that is 0)."""
    n = sum(len(f) for f in sets)
    centre = torch.stack([f.sum(0, dtype=torch.float64) for f in sets]).sum(0) / n
    squares = sum(float((part.to(torch.float64) - centre).square().sum()) for f in sets for part in torch.split(f, 2048))
    unit = math.sqrt(squares / n)
    if not math.isfinite(unit):
        raise ValueError("the squares of the features exceed float64: look at the extractor's weights")
    return centre, unit or 1.0


def half_squares(a: Scaled, b: Scaled, i: slice, j: slice, out: Tensor | None = None) -> Tensor:
    """A tile of half the squared distances, in units of unit^2. out: memory to write it into."""
    left, right = a.u[i], b.u[j]
    out = None if out is None else out[: len(left) * len(right)].view(len(left), len(right))
    return torch.addmm(b.half[j], left, right.T, alpha=-1, out=out).add_(a.half[i, None])


def exact_squares(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> Tensor:
    """Squared distances of a[i] and b[j] in float64: equal rows have bitwise equal distances."""
    out = torch.empty(len(i), dtype=torch.float64, device=a.device)
    step = max(1, (1 << 21) // max(1, a.shape[1]))
    for s in range(0, len(i), step):
        at = slice(s, s + step)
        out[at] = (a[i[at]].to(torch.float64) - b[j[at]].to(torch.float64)).square().sum(1)
    return out


class Smallest:
    """The `length` pairs of smallest value >= 0 in every row, of any number that are added; ties go to the smaller column.

    Within a row, pairs must be added in the order of columns, which holds when tiles are processed row by row.
    """

    def __init__(self, n: int, length: int, device: torch.device, dtype: torch.dtype) -> None:
        self.n, self.length, self.stored = n, length, 0
        none = torch.empty(0, dtype=torch.int64, device=device)
        self.parts = [(none, none, none.to(dtype))]

    def add(self, rows: Tensor, columns: Tensor, values: Tensor, bound: Tensor | None = None) -> None:
        """bound: largest value wanted in each row; it is lowered where a row is full and memory is needed."""
        if bound is not None:
            good = values <= bound[rows]
            rows, columns, values = rows[good], columns[good], values[good]
        self.parts.append((rows, columns, values))
        self.stored += len(rows)
        if self.stored > max(BUDGET, 4 * self.n * self.length):
            self._drop()
            if bound is not None:
                rows, _, values = self.parts[0]
                full = torch.bincount(rows, minlength=self.n) == self.length
                last = torch.zeros_like(bound).scatter_reduce_(0, rows, values, "amax")
                # from now on only strictly nearer ones: otherwise copies of one image would be stored without end
                last = torch.nextafter(last, torch.full_like(last, -math.inf))
                bound.copy_(torch.where(full, torch.minimum(bound, last), bound))

    def _drop(self) -> None:
        """Keeps the pairs that are needed, sorted by row and value; equal values keep their order of arrival."""
        rows, columns, values = (torch.cat(list(p)) for p in zip(*self.parts, strict=True))
        bits = values.view(torch.int32) if values.is_floating_point() else values  # positive floats sort as their bits do
        keys, order = torch.sort((rows << 32) | bits.to(torch.int64), stable=True)
        order = order[_place_in_row(keys >> 32) < self.length]
        self.parts = [(rows[order], columns[order], values[order])]
        self.stored = len(order)

    def gather(self) -> None:
        """Merges the pairs of all processes."""
        self._drop()
        if processes.world()[1] > 1:
            rows, columns, values = self.parts[0]
            every = torch.cat(processes.gather_rows(torch.stack([rows, columns, values.to(torch.float64)], 1)))
            every = every[torch.argsort(every[:, 1], stable=True)].to(rows.device)
            self.parts = [(every[:, 0].to(torch.int64), every[:, 1].to(torch.int64), every[:, 2].to(values.dtype))]
            self._drop()

    def padded(self, fill: float) -> tuple[Tensor, Tensor]:
        """Values and columns, [n, length] each, smallest first; `fill` and 0 where a row has fewer pairs."""
        rows, columns, values = self.parts[0]
        place = _place_in_row(rows)
        out = torch.full((self.n, self.length), fill, dtype=values.dtype, device=values.device)
        where = torch.zeros((self.n, self.length), dtype=torch.int64, device=values.device)
        out[rows, place], where[rows, place] = values, columns
        return out, where


def _place_in_row(rows: Tensor) -> Tensor:
    """The number of each entry within its row, for rows in ascending order."""
    starts = torch.cumsum(torch.bincount(rows), 0) - torch.bincount(rows)
    return torch.arange(len(rows), device=rows.device) - starts[rows]


def _list_length(k: int, n: int) -> int:
    """How many neighbours contain the k nearest ones of a random quarter, except with probability MISS."""
    length = k
    while length < n - 1 and sum(math.comb(length, c) * 0.25**c * 0.75 ** (length - c) for c in range(k)) > MISS:
        length += 1
    return length


def _near_pairs(s: Scaled, length: int, block: int) -> Smallest:
    """The `length` nearest neighbours of every image, from all tiles on and above the diagonal."""
    bound = _bounds(s, length, block)
    nearest = Smallest(len(s.u), length, s.u.device, s.u.dtype)
    memory = torch.empty(block * block, dtype=s.u.dtype, device=s.u.device)
    for i, j in processes.deal(_upper_tiles(len(s.u), block)):
        h = half_squares(s, s, i, j, memory)
        if i == j:
            h.fill_diagonal_(math.inf)
        rows, columns = torch.nonzero((h <= bound[i, None]) | (h <= bound[j]), as_tuple=True)
        h = h[rows, columns].clamp_min(0)
        rows, columns = rows + i.start, columns + j.start
        nearest.add(rows, columns, h, bound)
        if i != j:  # the tile below the diagonal is the transpose of this one
            nearest.add(columns, rows, h, bound)
    nearest.gather()
    return nearest


def _upper_tiles(n: int, block: int) -> list[tuple[slice, slice]]:
    """Tiles on and above the diagonal, row by row; those on it are a quarter as wide, because half of each is redundant."""
    small = max(1, block // 4)
    tiles = []
    for a in range(0, n, block):
        end = min(a + block, n)
        parts = [slice(b, min(b + small, end)) for b in range(a, end, small)]
        tiles += list(combinations_with_replacement(parts, 2))
        tiles += [(slice(a, end), slice(b, min(b + block, n))) for b in range(end, n, block)]
    return tiles


def _bounds(s: Scaled, length: int, block: int) -> Tensor:
    """For each image a distance within which `length` others very likely lie, and few more, estimated from a sample."""
    n = len(s.u)
    size = min(SAMPLE, n // 4)
    if size < 2 * length:
        return torch.full((n,), torch.finfo(s.half.dtype).max, device=s.u.device)
    picked = torch.from_numpy(generator(0, n).permutation(n)[:size]).to(s.u.device)
    sample = Scaled(s.u[picked], s.half[picked], s.unit)
    expected = length * size / n
    rank = min(int(expected + 3 * expected**0.5 + 4), size)  # one for the image itself, where it is in the sample
    bound = torch.zeros(n, dtype=s.half.dtype, device=s.u.device)
    for a in processes.deal(range(0, n, block)):
        rows = slice(a, a + block)
        bound[rows] = half_squares(s, sample, rows, slice(None)).kthvalue(rank, dim=1).values
    return processes.total(bound).to(bound)


def _kth(f: Tensor, near: Tensor, squares: Tensor, least: Tensor, most: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The exact squared distance of each image's k-th neighbour, and whether its list contains every candidate.

    least, most: the range of rounded squared distances that the candidates have.
    """
    unsure = (squares >= least[:, None]) & (squares <= most[:, None])
    sure = (squares < least[:, None]).sum(1)
    i, c = torch.nonzero(unsure, as_tuple=True)
    exact = torch.full(squares.shape, math.inf, dtype=torch.float64, device=f.device)
    exact[i, c] = exact_squares(f, i, f, near[i, c])
    place = (k - 1 - sure).clamp(0, near.shape[1] - 1)
    radii = exact.sort(dim=1).values.gather(1, place[:, None])[:, 0]
    complete = ~unsure[:, -1] if near.shape[1] < len(f) - 1 else torch.ones_like(unsure[:, -1])
    return radii, complete & torch.isfinite(radii)


def _multiplicity(f: Tensor) -> Tensor:
    """How often each row occurs."""
    rows = np.ascontiguousarray(f.detach().cpu().numpy() + 0.0)  # -0 is 0
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return torch.from_numpy(counts[which.ravel()]).to(f.device)


def _in_float64(f: Tensor, rows: Tensor, centre: Tensor, unit: float, k: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Radii, neighbours and squared distances of some rows, each compared with all images in float64."""
    s = Scaled.of(f, centre, unit, torch.float64)
    radii, near, squares = [], [], []
    for part in torch.split(rows, 128):
        own = Scaled(s.u[part], s.half[part], unit)
        h = half_squares(own, s, slice(None), slice(None))
        h[torch.arange(len(part), device=f.device), part] = math.inf
        values, columns = h.topk(length, dim=1, largest=False)
        kth = values[:, k - 1]
        slack = 2 * s.rounding * (6 * own.half + 5 * kth)
        i, j = torch.nonzero((h >= (kth - slack)[:, None]) & (h <= (kth + slack)[:, None]), as_tuple=True)
        exact = exact_squares(f, part[i], f, j)
        sure = (h < (kth - slack)[:, None]).sum(1)
        order = torch.argsort(exact, stable=True)
        order = order[torch.argsort(i[order], stable=True)]  # by row, then by distance
        first = torch.searchsorted(i[order].contiguous(), torch.arange(len(part), device=f.device))
        radii.append(exact[order[first + k - 1 - sure]])
        near.append(columns)
        squares.append(values * (2 * unit**2))
    return torch.cat(radii), torch.cat(near), torch.cat(squares)


@dataclass(frozen=True, eq=False)
class Membership:
    """Points against balls.

    The rank of a point at a ball is the number of the centre's own neighbours that are nearer to it than the point. The point
    lies in the ball where rank < k, and in the ball of a part of the set where fewer than k of those neighbours are in the part.
    """

    hits: NDArray[np.int64]  # of each point: in how many balls it lies
    points_inside: NDArray[np.int64]  # of each ball: how many points lie in it
    by_point: Ranked  # of each point: the least ranks, and the balls
    by_ball: Ranked  # of each ball: the least ranks, and the points
    ranks: NDArray[np.int64]  # [balls, l, 2]: number of points of each rank, even and odd points apart


def memberships(x: Balls, y: Balls, k: int, block: int) -> tuple[Membership, Membership]:
    """Points y against the balls of x, and points x against those of y, from one pass over all pairs."""
    centre, unit = centre_and_scale(x.features, y.features)
    sx, sy = Scaled.of(x.features, centre, unit), Scaled.of(y.features, centre, unit)
    in_x, in_y = _Finder(x, y, sx, k), _Finder(y, x, sy, k)
    memory = torch.empty(block * block, dtype=sx.u.dtype, device=sx.u.device)
    tiles = [(i, j) for i in range(0, len(x.features), block) for j in range(0, len(y.features), block)]
    for a, b in processes.deal(tiles):
        i, j = slice(a, a + block), slice(b, b + block)
        h = half_squares(sx, sy, i, j, memory)
        rows, columns = torch.nonzero((h <= in_x.bound[i, None]) | (h <= in_y.bound[j]), as_tuple=True)
        h = h[rows, columns]
        rows, columns = rows + a, columns + b
        in_x.add(rows, columns, h)
        in_y.add(columns, rows, h)
    return in_x.result(), in_y.result()


class _Finder:
    """Collects the membership of points in balls, tile by tile."""

    def __init__(self, balls: Balls, points: Balls, s: Scaled, k: int) -> None:
        self.balls, self.points, self.k = balls, points, k
        n, m, device = len(balls.features), len(points.features), balls.features.device
        scale = 2 * s.unit**2
        self.lists = (balls.squares / scale).to(s.half.dtype)
        self.radii = balls.radii / scale
        self.slack = s.rounding * (6 * s.half.to(torch.float64) + 5 * self.radii)
        self.bound = torch.maximum(self.lists[:, -1], (self.radii + 2 * self.slack).to(s.half.dtype))
        self.by_point, self.by_ball = (Smallest(size, KEPT, device, torch.int64) for size in (m, n))
        self.hits, self.inside = (torch.zeros(size, dtype=torch.int64, device=device) for size in (m, n))
        self.ranks = torch.zeros((n, self.lists.shape[1], 2), dtype=torch.int64, device=device)

    def add(self, ball: Tensor, point: Tensor, h: Tensor) -> None:
        for part in torch.split((h <= self.bound[ball]).nonzero()[:, 0], 1 << 18):
            self._add(ball[part], point[part], h[part])

    def _add(self, ball: Tensor, point: Tensor, h: Tensor) -> None:
        k, length = self.k, self.lists.shape[1]
        off = h.to(torch.float64) - self.radii[ball]
        inside = off < 0
        unsure = torch.nonzero(off.abs() <= self.slack[ball]).flatten()
        exact = exact_squares(self.balls.features, ball[unsure], self.points.features, point[unsure])
        inside[unsure] = exact <= self.balls.radii[ball[unsure]]
        rank = torch.searchsorted(self.lists[ball], h[:, None])[:, 0]  # how many of the ball's list are nearer
        rank = torch.where(inside, rank.clamp_max(k - 1), rank.clamp_min(k))
        near = rank < length
        ball, point, rank, inside = ball[near], point[near], rank[near], inside[near]
        self.hits += torch.bincount(point[inside], minlength=len(self.hits))
        self.inside += torch.bincount(ball[inside], minlength=len(self.inside))
        self.ranks.view(-1).index_add_(0, (ball * length + rank) * 2 + point % 2, torch.ones_like(rank))
        self.by_point.add(point, ball, rank)
        self.by_ball.add(ball, point, rank)

    def result(self) -> Membership:
        hits, inside, ranks = (processes.total(t).numpy() for t in (self.hits, self.inside, self.ranks))
        return Membership(hits, inside, _ranked(self.by_point), _ranked(self.by_ball), ranks)


def _ranked(pairs: Smallest) -> Ranked:
    pairs.gather()
    ranks, partners = pairs.padded(-1)
    return ranks.cpu().numpy(), partners.cpu().numpy()
