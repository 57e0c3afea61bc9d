"""Which images of one set lie in which balls of another."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes
from alphabar.evaluation.prdc_neighbours import Balls, Scaled, Smallest, centre_and_scale, exact_squares, half_squares

KEPT = 24  # pairs kept per image: a random half loses all of them with probability 2^-24, a quarter with 0.001

Ranked = tuple[NDArray[np.int64], NDArray[np.int64]]  # least ranks [rows, KEPT], and the partners; -1: no more pairs


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
