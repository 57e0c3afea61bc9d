"""Noise levels by dynamic programming over the levels of a fine trajectory.

The error of a step from level i to level j has a closed form: the state at j is regressed on the state at i, the estimate x0_hat
there, and the estimate one level back. GITS (Chen et al. 2024, arXiv:2405.16645) counts the error of an Euler step.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from alphabar.core.types import Grid
from alphabar.fitting.trajectory import Trajectory


def step_costs(fine: Trajectory, back: int = 1, grams: Float64[Tensor, "k m m"] | None = None) -> Float64[Tensor, "h i j"]:
    """Error of the best step from level i to level j, if the level before i was h; infinite where h < i < j does not hold.

    An error at level s is weighted by what is left of it at the end: along a principal direction of the data with variance c^2
    the probability-flow ODE of a Gaussian shrinks it by sqrt(c^2 / (c^2 + s^2)).

    Args:
        fine: the fine trajectory, of K levels.
        back: 1: the best step is linear in x_i, x0_hat_i and x0_hat_h. 0: Euler's step, as in GITS.
        grams: `grams_of(fine)`, if known.

    Returns:
        Root mean square over pixels and images, float64 (K, K, K + 1).
    """
    k = len(fine.x)
    s = fine.sigmas
    # per level j, inner products of [x0_hat_0 .. x0_hat_{K-1}, end, eps_hat_0 .. eps_hat_{K-1}]
    grams = grams_of(fine) if grams is None else grams
    m = grams.shape[1]
    estimates = torch.eye(m, dtype=torch.float64)
    states = estimates[: k + 1].clone()  # x_j = x0_hat_j + s_j eps_hat_j; the last one is `end`
    states[:k] += s[:k, None] * estimates[k + 1 :]
    cost = torch.full((k, k, k + 1), torch.inf, dtype=torch.float64)
    for i in range(k):
        g = grams[i + 1 :]
        euler = estimates[i] + (s[i + 1 :, None] / s[i]) * (states[i] - estimates[i])
        error = (states[i + 1 :] - euler)[:, None]  # (j, 1, m)
        if back == 0:
            cost[:, i, i + 1 :] = (error @ g @ error.mT)[:, 0, 0].clamp_min(0).sqrt()
            continue
        first = torch.stack([states[i] / (1 + s[i] ** 2).sqrt(), estimates[i]]).expand(len(g), 2, m)
        error = _residual(error, first, g)
        square = (error @ g @ error.mT)[:, 0, 0]  # (j,)
        if i == 0:
            cost[0, 0, 1:] = square.clamp_min(0).sqrt()
            continue
        older = _residual(estimates[:i].expand(len(g), i, m), first, g)  # (j, h, m)
        size = ((older @ g) * older).sum(2)
        gain = (error @ g @ older.mT)[:, 0] ** 2 / (size + 1e-9 * g.diagonal(dim1=1, dim2=2).mean(1)[:, None])
        cost[:i, i, i + 1 :] = (square[:, None] - gain).clamp_min(0).sqrt().T
    return cost


def best_levels(fine: Trajectory, cost: Float64[Tensor, "h i j"], calls: int, power: float = 2.0) -> Grid:
    """The grid of `calls` steps from the first fine level to 0 with the smallest sum of cost^power.

    Raises ValueError for more calls than fine levels.
    """
    levels = len(fine.x)
    if not 1 <= calls <= levels:
        raise ValueError(f"{calls} calls on a fine trajectory of {levels} levels: give 1 to {levels}, or a finer trajectory")
    return fine.sigmas[shortest_path(cost**power, calls)]


def shortest_path(cost: Float64[Tensor, "h i j"], calls: int) -> list[int]:
    """The levels 0 = i_0 < i_1 < ... < i_calls = K of smallest total cost; a step's cost depends on the level before it."""
    k = cost.shape[1]
    best = torch.full((k, k + 1), torch.inf, dtype=torch.float64)  # (h, i): cost of having arrived at i from h
    best[0] = cost[0, 0]
    previous: list[Tensor] = []
    for _ in range(calls - 1):
        best, from_ = (best[:, :k, None] + cost).min(0)  # over h: (i, j)
        previous.append(from_)
    path = [k, int(best[:, k].argmin())]
    for from_ in reversed(previous):
        path.append(int(from_[path[-1], path[-2]]))
    return path[::-1]


def grams_of(fine: Trajectory) -> Float64[Tensor, "k m m"]:
    """For every level, mean inner products of all estimates, the end and all eps_hat, weighted as errors at that level are."""
    k, n = len(fine.x), len(fine)
    rows = [*fine.x0_hat, fine.end, *((x - a) / float(s) for x, a, s in zip(fine.x, fine.x0_hat, fine.sigmas, strict=False))]
    end = fine.end.flatten(1).double()
    pixels = end.shape[1]
    # Principal directions of the finished images; the smallest one stands for all the others.
    _, singular, directions = torch.linalg.svd(end - end.mean(0), full_matrices=False)
    variance = singular**2 / max(n - 1, 1)
    rank = max(1, min(len(variance), n - 1, pixels))
    variance, directions = variance[:rank], directions[:rank].float()
    rest = variance[-1]
    whole = torch.zeros((2 * k + 1, 2 * k + 1), dtype=torch.float64)
    projected = torch.empty((2 * k + 1, n, rank), dtype=torch.float32)
    some = max(1, min(16, (1 << 25) // (len(rows) * pixels)))  # images at a time: a quarter of a gigabyte in float64
    for start in range(0, n, some):
        part = torch.stack([r[start : start + some].flatten(1) for r in rows])
        projected[:, start : start + some] = part @ directions.T
        wide = part.flatten(1).double()
        whole += wide @ wide.T
    by_direction = torch.einsum("ank,bnk->kab", projected.double(), projected.double())  # (rank, m, m)
    out = []
    for s in fine.sigmas:
        w, w_rest = (v / (v + s**2) if s > 0 else torch.ones_like(v) for v in (variance, rest))  # a pixel may never change
        out.append(w_rest * whole + torch.einsum("k,kab->ab", w - w_rest, by_direction))
    return torch.stack(out) / (n * pixels)


def _residual(rows: Tensor, basis: Tensor, g: Tensor) -> Tensor:
    """rows (j, r, m) minus their projection on basis (j, b, m), by the inner products g (j, m, m)."""
    inner = basis @ g @ basis.mT
    small = 1e-10 * inner.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(inner.shape[1], dtype=torch.float64)
    out: Tensor = rows - torch.linalg.solve(inner + small, basis @ g @ rows.mT).mT @ basis
    return out
