"""Fitting a sampler to a model: first its levels, then its coefficients, then both by gradient.

1. `record`: a fine trajectory of the probability-flow ODE, from a few hundred starting noises.
2. `best_levels`: dynamic programming over the levels of that trajectory. What a step from level i to level j would miss is
   known in closed form: the state at j is regressed on the state at i, the network's answer there and its answer one level
   back (GITS, Chen et al. 2024, arXiv:2405.16645, counts what an Euler step misses).
3. `least_squares`: the coefficients, step by step along the sampler's own trajectory, so that each step makes up for what
   the steps before it missed (cf. S4S, Frankel et al. 2025, arXiv:2502.17423).
4. `descend`: levels, coefficients and noise by gradient through all the calls, of a loss on the finished images: distance
   from the fine trajectory's (LD3, Tong et al. 2024, arXiv:2405.15506), or of feature statistics from those of real images
   (Watson et al. 2022, arXiv:2202.05830).

Inside a fit, states are y_i = x_i / sqrt(1 + sigma_i^2), of scale about 1 at all levels.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alphabar.core.progress import track
from alphabar.core.seeds import SUBSET, SeededNoise, generator, starting_noise
from alphabar.core.types import Denoiser, Grid, Images
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.wrappers import Labelled
from alphabar.sampling.catalogue import find
from alphabar.sampling.fitted import Tuned
from alphabar.sampling.samplers.heun import HIGHEST
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import check_grid
from alphabar.schedule.noising import input_scale, per_image, to_x0

FINE = 80  # levels of the fine trajectory, without its 0
TEACHER = "heun"
FEW = 16  # images that the way back takes at a time, at least: fewer make poor use of a processor
PURE = 1e4  # no signal to speak of above this level: zero terminal SNR stands at 2^32, with nothing on the way to it


@dataclass(frozen=True, eq=False)
class ByRow:
    """Denoisers for images by their number, as where a class-conditional model is told that of each: `at(rows)` is that of a
    batch. schedule: the model's."""

    at: Callable[[Sequence[int]], Denoiser]
    schedule: Schedule


def denoiser_of(denoise: Denoiser | ByRow, rows: Sequence[int]) -> Denoiser:
    """That of a batch of these images."""
    return denoise.at(rows) if isinstance(denoise, ByRow) else denoise


# ---- 1. the fine trajectory


@dataclass(frozen=True, eq=False)
class Trajectory:
    """sigmas: the grid, K + 1 levels. x, x0_hat: K states and answers (b, c, h, w) each, float32; end: the finished images."""

    sigmas: Grid
    x: list[Images]
    x0_hat: list[Images]
    end: Images

    def __len__(self) -> int:
        return len(self.x[0])

    def part(self, start: int, stop: int) -> "Trajectory":
        """That of some of the images."""
        rows = slice(start, stop)
        return Trajectory(self.sigmas, [x[rows] for x in self.x], [a[rows] for a in self.x0_hat], self.end[rows])

    def state(self, k: int) -> Images:
        return self.x[k] if k < len(self.x) else self.end


def fine_grid(schedule: Schedule, levels: int = FINE) -> Grid:
    """Levels even in log sigma, on integer timesteps where the model has those (fewer levels then, where two fall on one).

    Of a model of zero terminal SNR the first level is pure noise, and the others are even from `PURE` down.
    """
    high, low = schedule.sigma_max, schedule.sigma_min
    pure = high > HIGHEST
    top = PURE if pure else high
    low = max(low, top * 1e-9)
    sigma = torch.logspace(math.log10(top), math.log10(low), levels - pure, dtype=torch.float64)
    sigma[0], sigma[-1] = top, low
    if pure:
        sigma = torch.cat([sigma.new_tensor([high]), sigma])
    if schedule.steps is not None:
        t = torch.unique(schedule.t(sigma).round()).flip(0)
        sigma = schedule.sigma(t)
    grid = torch.cat([sigma, torch.zeros(1, dtype=torch.float64)])
    check_grid(grid)
    return grid


def teacher_of(sigmas: Grid) -> str:
    """Who goes the fine trajectory: `TEACHER`, but from pure noise, where its slopes have no digits left, dpmpp_2s."""
    return TEACHER if float(sigmas[0]) <= HIGHEST else "dpmpp_2s"


@torch.no_grad()
def record(
    denoise: Denoiser | ByRow, starts: Images, sigmas: Grid, sampler: str | None = None, batch: int = 64, progress: bool = True
) -> Trajectory:
    """The trajectory of `starts` (unit noise of images 0, 1, ...) over the grid, by a sampler that draws no noise (None:
    `teacher_of` the grid); kept on the CPU."""
    fn = find(sampler or teacher_of(sigmas)).fn
    levels = len(sigmas) - 1
    xs: list[list[Images]] = [[] for _ in range(levels)]
    answers: list[list[Images]] = [[] for _ in range(levels)]
    ends = []
    with track(len(starts), "fine trajectory", unit="images", show=progress) as advance:
        for first, part in zip(range(0, len(starts), batch), torch.split(starts, batch), strict=True):

            def keep(i: int, sigma: float, x: Tensor, x0_hat: Tensor, part: Images = part) -> None:
                xs[i].append(x.to("cpu", copy=True))
                answers[i].append(x0_hat.to("cpu", copy=True))
                advance(len(part) / levels)

            one = denoiser_of(denoise, range(first, first + len(part)))
            ends.append(fn(one, part * float(sigmas[0]), sigmas, on_step=keep).cpu())
    return Trajectory(sigmas, [torch.cat(x) for x in xs], [torch.cat(x) for x in answers], torch.cat(ends))


# ---- 2. levels by dynamic programming


def step_costs(fine: Trajectory, back: int = 1, grams: Float64[Tensor, "k m m"] | None = None) -> Float64[Tensor, "h i j"]:
    """What the best step from level i to level j misses of the state at j, coming from level h < i; infinite elsewhere.

    back = 1: the best step is linear in x_i, x0_hat_i and x0_hat_h. back = 0: Euler's step, as in GITS.
    A miss at level s counts as it arrives at the end: along a principal direction of the data with variance c^2 the
    probability-flow ODE of a Gaussian shrinks it by sqrt(c^2 / (c^2 + s^2)). Root mean square over pixels and images.
    grams: `grams_of` the trajectory, where they are known.
    """
    k = len(fine.x)
    s = fine.sigmas
    # one a level j, products of [x0_hat_0 .. x0_hat_{K-1}, end, eps_hat_0 .. eps_hat_{K-1}]
    grams = grams_of(fine) if grams is None else grams
    m = grams.shape[1]
    answers = torch.eye(m, dtype=torch.float64)
    states = answers[: k + 1].clone()  # x_j = x0_hat_j + s_j eps_hat_j; the last one is `end` itself
    states[:k] += s[:k, None] * answers[k + 1 :]
    cost = torch.full((k, k, k + 1), torch.inf, dtype=torch.float64)
    for i in range(k):
        g = grams[i + 1 :]
        euler = answers[i] + (s[i + 1 :, None] / s[i]) * (states[i] - answers[i])
        left = (states[i + 1 :] - euler)[:, None]  # (j, 1, m)
        if back == 0:
            cost[:, i, i + 1 :] = (left @ g @ left.mT)[:, 0, 0].clamp_min(0).sqrt()
            continue
        first = torch.stack([states[i] / (1 + s[i] ** 2).sqrt(), answers[i]]).expand(len(g), 2, m)
        missed = _without(left, first, g)
        square = (missed @ g @ missed.mT)[:, 0, 0]  # (j,)
        if i == 0:
            cost[0, 0, 1:] = square.clamp_min(0).sqrt()
            continue
        older = _without(answers[:i].expand(len(g), i, m), first, g)  # (j, h, m), less what x_i and x0_hat_i say already
        size = ((older @ g) * older).sum(2)
        gain = (missed @ g @ older.mT)[:, 0] ** 2 / (size + 1e-9 * g.diagonal(dim1=1, dim2=2).mean(1)[:, None])
        cost[:i, i, i + 1 :] = (square[:, None] - gain).clamp_min(0).sqrt().T
    return cost


def best_levels(fine: Trajectory, cost: Float64[Tensor, "h i j"], calls: int, power: float = 2.0) -> Grid:
    """The grid of `calls` steps from the first fine level to 0 of the least sum of cost^power.

    Raises ValueError for more calls than fine levels.
    """
    levels = len(fine.x)
    if not 1 <= calls <= levels:
        raise ValueError(f"{calls} calls on a fine trajectory of {levels} levels: give 1 to {levels}, or a finer trajectory")
    return fine.sigmas[_shortest(cost**power, calls)]


def _without(rows: Tensor, basis: Tensor, g: Tensor) -> Tensor:
    """rows (j, r, m) less their projection on basis (j, b, m), by the inner products g (j, m, m)."""
    inner = basis @ g @ basis.mT
    small = 1e-10 * inner.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(inner.shape[1], dtype=torch.float64)
    out: Tensor = rows - torch.linalg.solve(inner + small, basis @ g @ rows.mT).mT @ basis
    return out


def grams_of(fine: Trajectory) -> Float64[Tensor, "k m m"]:
    """For every level, mean products of the rows' pixels, weighted by what a miss at that level does to the end."""
    k, n = len(fine.x), len(fine)
    rows = [*fine.x0_hat, fine.end, *((x - a) / float(s) for x, a, s in zip(fine.x, fine.x0_hat, fine.sigmas, strict=False))]
    end = fine.end.flatten(1).double()
    pixels = end.shape[1]
    # Principal directions of the finished images; the smallest one stands for all that are left.
    _, singular, directions = torch.linalg.svd(end - end.mean(0), full_matrices=False)
    variance = singular**2 / max(n - 1, 1)
    rank = max(1, min(len(variance), n - 1, pixels))
    variance, directions = variance[:rank], directions[:rank].float()
    rest = variance[-1]
    whole = torch.zeros((2 * k + 1, 2 * k + 1), dtype=torch.float64)
    seen = torch.empty((2 * k + 1, n, rank), dtype=torch.float32)
    some = max(1, min(16, (1 << 25) // (len(rows) * pixels)))  # images at a time: a quarter of a gigabyte in float64
    for start in range(0, n, some):
        part = torch.stack([r[start : start + some].flatten(1) for r in rows])
        seen[:, start : start + some] = part @ directions.T
        wide = part.flatten(1).double()
        whole += wide @ wide.T
    by_direction = torch.einsum("ank,bnk->kab", seen.double(), seen.double())  # (rank, m, m)
    out = []
    for s in fine.sigmas:
        w, w_rest = (v / (v + s**2) if s > 0 else torch.ones_like(v) for v in (variance, rest))  # a pixel may never change
        out.append(w_rest * whole + torch.einsum("k,kab->ab", w - w_rest, by_direction))
    return torch.stack(out) / (n * pixels)


def _shortest(cost: Tensor, calls: int) -> list[int]:
    """The levels 0 = i_0 < i_1 < ... < i_calls = K of least summed cost, where a step's cost knows the level before it."""
    k = cost.shape[1]
    best = torch.full((k, k + 1), torch.inf, dtype=torch.float64)  # (h, i): of having arrived at i from h, steps so far
    best[0] = cost[0, 0]
    came: list[Tensor] = []
    for _ in range(calls - 1):
        best, from_ = (best[:, :k, None] + cost).min(0)  # over h: (i, j)
        came.append(from_)
    path = [k, int(best[:, k].argmin())]
    for from_ in reversed(came):
        path.append(int(from_[path[-1], path[-2]]))
    return path[::-1]


# ---- 3. coefficients by least squares


@dataclass(frozen=True, eq=False)
class Coefficients:
    """A sampler in the making, float64. sigmas: n levels without the 0. In y = x / sqrt(1 + sigma^2):

    y_{i+1} = keep_i y_i + sum_j mix_ij x0_hat_j + fresh_i z, with mix lower triangular (n, n), keep and fresh (n,).
    """

    sigmas: Tensor
    keep: Tensor
    mix: Tensor
    fresh: Tensor

    @staticmethod
    def of(fit: Tuned) -> "Coefficients":
        """Those of a fitted sampler."""
        g = (1 + fit.grid**2).sqrt()
        mix = torch.tensor([[*row, *[0.0] * (fit.calls - len(row))] for row in fit.mix], dtype=torch.float64)
        keep, fresh = torch.tensor([fit.keep, fit.fresh], dtype=torch.float64)
        return Coefficients(fit.grid[:-1], keep * g[:-1] / g[1:], mix / g[1:, None], fresh / g[1:])

    @staticmethod
    def ddim(sigmas: Grid, eta: float = 0.0) -> "Coefficients":
        """Those of DDIM on a grid (its final 0 included)."""
        s, s_next = sigmas[:-1], sigmas[1:]
        up = eta * s_next / s * (s**2 - s_next**2).sqrt()
        down = (s_next**2 - up**2).sqrt()
        g, g_next = (1 + s**2).sqrt(), (1 + s_next**2).sqrt()
        return Coefficients(s, down / s * g / g_next, torch.diag((1 - down / s) / g_next), up / g_next)

    def with_noise(self, eta: float) -> "Coefficients":
        """The same means with DDIM's share of fresh noise: what is kept of the deviation from x0_hat shrinks by
        s_down / s', and noise of s_up makes up for it."""
        grid = torch.cat([self.sigmas, torch.zeros(1, dtype=torch.float64)])
        s, s_next = grid[:-1], grid[1:]
        up = eta * s_next / s * (s**2 - s_next**2).sqrt()
        share = torch.where(s_next > 0, (s_next**2 - up**2).clamp_min(0).sqrt() / s_next.clamp_min(1e-300), 1.0)
        g_next = (1 + s_next**2).sqrt()
        mix = share[:, None] * self.mix + torch.diag((1 - share) / g_next)
        return Coefficients(self.sigmas, share * self.keep, mix, up / g_next)

    def grown(self, calls: int) -> "Coefficients":
        """The same sampler with more calls, whose answers count for nothing yet: a descent from here begins with its images.

        Levels go, one after another, into the middle of the widest step in log sigma; the last step, to 0, stays. DDIM walks
        to the new level, and the step from there undoes that and does what the whole one did. Of fresh noise half the variance
        comes at the new level, so that the descent can move it.
        Raises ValueError for fewer calls, and for a sampler of one call.
        """
        n = len(self.sigmas)
        if calls < n or (n == 1 and calls > 1):
            raise ValueError(f"a sampler of {n} calls does not grow to {calls}: begin with one of 2 to {calls} calls")
        c = self
        while len(c.sigmas) < calls:
            told = c.sigmas.clamp_max(PURE)
            c = c._split(int((told[:-1] / told[1:]).argmax()))
        return c

    def _split(self, i: int) -> "Coefficients":
        """With a level between numbers i and i + 1."""
        n = len(self.sigmas)
        level = (self.sigmas[i] * self.sigmas[i + 1]).sqrt()
        to_level = Coefficients.ddim(torch.stack([self.sigmas[i], level]))
        p, q, g = to_level.keep[0], to_level.mix[0, 0], (1 + level**2).sqrt()
        rest = self.keep[i] / p  # what the second half keeps of the new state
        most = self.fresh[i] / 2**0.5
        noise = torch.minimum(most / rest.abs().clamp_min(1e-12), level / g)
        old = [k if k <= i else k + 1 for k in range(n)]  # where rows and answers go
        mix = torch.zeros((n + 1, n + 1), dtype=torch.float64)
        for k, row in enumerate(old):
            mix[row if k != i else i + 1, old] = self.mix[k]
        mix[i, i] = q
        mix[i + 1, i] -= rest * q

        def with_two(values: Tensor, one: Tensor, two: Tensor) -> Tensor:
            return torch.cat([values[:i], torch.stack([one, two]), values[i + 1 :]])

        return Coefficients(
            with_two(self.sigmas, self.sigmas[i], level),
            with_two(self.keep, p, rest),
            mix,
            with_two(self.fresh, noise, (self.fresh[i] ** 2 - (rest * noise) ** 2).clamp_min(0).sqrt()),
        )

    def plain(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]:
        """(sigmas, keep, mix, fresh) in x, as `Tuned` holds them."""
        g = torch.cat([(1 + self.sigmas**2).sqrt(), torch.ones(1, dtype=torch.float64)])
        keep, fresh = self.keep * g[1:] / g[:-1], self.fresh * g[1:]
        mix = self.mix * g[1:, None]
        rows = tuple(tuple(row[: k + 1].tolist()) for k, row in enumerate(mix))
        return tuple(self.sigmas.tolist()), tuple(keep.tolist()), rows, tuple(fresh.tolist())


def coefficients_of(sampler: Callable[..., Images], sigmas: Grid) -> Coefficients:
    """The numbers of a sampler that draws no noise, calls once a step and is linear in what it is told, on a grid.

    It is run on unit vectors: the start is e_0, and the k-th answer is e_{k+1}, so that every state spells itself out.
    Raises ValueError for one that calls more often, or draws noise.
    """
    n = len(sigmas) - 1
    states: list[Tensor] = []

    def answer(x: Images, sigma: Tensor) -> Images:
        states.append(x.reshape(-1).clone())
        if len(states) > n:
            raise ValueError(
                f"{getattr(sampler, '__name__', sampler)} calls more than once a step, which a fitted sampler does not"
            )
        return torch.eye(n + 2, dtype=torch.float64)[len(states)].reshape(x.shape)

    start = torch.eye(n + 2, dtype=torch.float64)[0].reshape(1, 1, 1, n + 2)
    states.append(sampler(answer, start, sigmas, noise=None).reshape(-1))
    told = torch.stack(states)  # (n + 1, 1 + answers)
    keep = told[1:, 0] / told[:-1, 0]
    mix = told[1:, 1 : n + 1] - keep[:, None] * told[:-1, 1 : n + 1]
    g = (1 + sigmas**2).sqrt()
    return Coefficients(sigmas[:-1], keep * g[:-1] / g[1:], mix.tril() / g[1:, None], torch.zeros(n, dtype=torch.float64))


@torch.no_grad()
def least_squares(
    denoise: Denoiser | ByRow,
    starts: Images,
    sigmas: Grid,
    fine: Trajectory,
    *,
    memory: int = 3,
    ridge: float = 1e-6,
    batch: int = 64,
    progress: bool = True,
) -> Coefficients:
    """Coefficients on a grid whose levels are levels of the fine trajectory, by regression along the sampler's own way.

    At each step the state of the fine trajectory at the next level is regressed on the sampler's own state and its last
    `memory` answers; ridge (relative to the regressors' mean square) holds the coefficients near DDIM's. n calls of
    `denoise` over all `starts`, the unit noise that the trajectory began with.
    Raises ValueError for levels that the fine trajectory has not.
    """
    n = len(sigmas) - 1
    where = [int((fine.sigmas == s).nonzero()[0]) if bool((fine.sigmas == s).any()) else -1 for s in sigmas]
    if -1 in where:
        raise ValueError(
            f"level {float(sigmas[where.index(-1)]):.6g} is not on the fine trajectory: take the grid from best_levels"
        )
    c = Coefficients.ddim(sigmas)
    g = (1 + sigmas**2).sqrt()
    y = starts * float(sigmas[0] / g[0])
    said: list[Images] = []
    with track(n * len(starts), "least squares", unit="calls", show=progress) as advance:
        for i in range(n):
            parts = []
            for start, part in zip(range(0, len(y), batch), torch.split(y, batch), strict=True):
                one = denoiser_of(denoise, range(start, start + len(part)))
                parts.append(one(part * float(g[i]), part.new_full((len(part),), float(sigmas[i]))))
                advance(len(part))
            said.append(torch.cat(parts))
            first = max(0, i + 1 - memory)
            basis = torch.stack([y.cpu().flatten(), *(a.cpu().flatten() for a in said[first:])]).double()
            left = fine.state(where[i + 1]).flatten().double() / g[i + 1] - c.keep[i] * basis[0] - c.mix[i, i] * basis[-1]
            inner = basis @ basis.T
            inner += ridge * inner.diagonal().mean() * torch.eye(len(basis), dtype=torch.float64)
            more = torch.linalg.solve(inner, basis @ left)
            c.keep[i] += more[0]
            c.mix[i, first : i + 1] += more[1:]
            y = y * float(c.keep[i])
            for a, b in zip(said, c.mix[i].tolist(), strict=False):
                if b:
                    y = y + b * a
    return c


# ---- 4. by gradient


@runtime_checkable
class Loss(Protocol):
    """What `descend` makes small: of finished images (b, c, h, w), which may leave [-1, 1], made from the starting noise of
    `rows`; one number that has a gradient. It is a mean over images: that of a batch may be taken in parts."""

    def __call__(self, images: Images, rows: Sequence[int]) -> Tensor: ...


class ToTeacher:
    """Mean square distance from the finished images of the fine trajectory, which began with the same noise."""

    def __init__(self, fine: Trajectory) -> None:
        self.end = fine.end

    def __call__(self, images: Images, rows: Sequence[int]) -> Tensor:
        return (images - self.end[list(rows)].to(images)).square().mean()


class Free:
    """The numbers of a fit as a vector of deviations from where it begins: log levels, keep, mix, standard deviations of noise.

    The first level is that of the starting noise and stays. memory: answers that a row of mix may use, besides those that it
    uses already. noise, levels: whether those may move. lowest: the level below which none goes (unless it begins there).
    """

    def __init__(self, c: Coefficients, *, memory: int = 4, noise: bool = True, levels: bool = True, lowest: float = 0.0) -> None:
        n = len(c.sigmas)
        self.c = c
        self.lowest = min(lowest, float(c.sigmas[-1]))
        row, column = torch.arange(n)[:, None], torch.arange(n)
        self.mixed = (column <= row) & ((column > row - memory) | (c.mix != 0))
        self.moved = torch.arange(n) > 0 if levels else torch.zeros(n, dtype=torch.bool)
        self.noisy = c.fresh > 0 if noise else torch.zeros(n, dtype=torch.bool)
        self.size = int(self.moved.sum()) + n + int(self.mixed.sum()) + int(self.noisy.sum())

    def at(self, theta: Tensor) -> Coefficients:
        """The coefficients at deviations theta (size,), float64; gradients flow."""
        n = len(self.c.sigmas)
        counts = [int(self.moved.sum()), n, int(self.mixed.sum()), int(self.noisy.sum())]
        level, keep, mix, fresh = torch.split(theta, counts)

        def spread(values: Tensor, mask: Tensor) -> Tensor:
            return torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, values)

        return Coefficients(
            (self.c.sigmas * spread(level, self.moved).exp()).clamp_min(self.lowest),
            self.c.keep + keep,
            self.c.mix + spread(mix, self.mixed),
            (self.c.fresh + spread(fresh, self.noisy)).abs(),
        )


def _answer(model: Denoiser, x: Images, sigma: Tensor) -> Images:
    """x0_hat at one level that may have a gradient, which `Preconditioned` itself does not pass on."""
    whole, labels = (model.denoise, model.labels) if isinstance(model, Labelled) else (model, None)
    if not isinstance(whole, Preconditioned):
        return model(x, sigma.to(x.device, torch.float32).expand(len(x)))
    if whole.classes and labels is None:
        labels = whole.no_class(len(x))
    more = [] if labels is None else [labels.to(x.device)]
    r = whole.data_range
    s = sigma * r  # (), or one an image
    t = whole.own_schedule.t(s.detach())
    if s.requires_grad:
        step = s.detach() * 1e-4
        slope = (whole.own_schedule.t(s.detach() + step) - whole.own_schedule.t(s.detach() - step)) / (2 * step)
        t = t + slope * (s - s.detach())
    c_in = per_image(r * input_scale(whole.prediction, s), x)
    out = whole.network(c_in * x, t.to(x.device, torch.float32).expand(len(x)), *more)
    many = (r * sigma).to(x.device, torch.float32).expand(len(x))
    return to_x0(whole.prediction, out, r * x, many) / r


def unroll(
    model: Denoiser,
    start: Images,
    c: Coefficients,
    noise: SeededNoise | None = None,
    *,
    hold: Callable[[Images], Images] | None = None,
    recompute: bool = False,
) -> Images:
    """The finished images of unit noise `start`, through which gradients flow to the coefficients: one set for all images, or
    one an image (fields with a leading axis of as many).

    hold: what is done to x0_hat (clipping), if anything. recompute: keep only the states, and make each call again on the
    way back: the memory of one call instead of all, for half as much time again.
    """
    first = c.sigmas[..., 0]
    y = start * per_image(first / (1 + first**2).sqrt(), start)
    said: list[Images] = []

    def call(y: Images, level: Tensor) -> Images:
        x0_hat = _answer(model, y * per_image((1 + level**2).sqrt(), y), level)
        return x0_hat if hold is None else hold(x0_hat)

    for i in range(c.sigmas.shape[-1]):
        if recompute and torch.is_grad_enabled():
            said.append(checkpoint(call, y, c.sigmas[..., i], use_reentrant=False, preserve_rng_state=False))
        else:
            said.append(call(y, c.sigmas[..., i]))
        y = per_image(c.keep[..., i], y) * y
        for j in range(i + 1):
            y = y + per_image(c.mix[..., i, j], y) * said[j]
        if noise is not None and bool((c.fresh[..., i].detach() > 0).any()):
            y = y + per_image(c.fresh[..., i], y) * noise(i, y)
    return y


@dataclass(frozen=True, eq=False)
class Descended:
    """What `descend` found: the mean of the numbers over the last quarter of its steps, the loss of every step, and whether
    Ctrl-C ended it."""

    coefficients: Coefficients
    losses: list[float]
    stopped: bool = False


def descend(
    model: Denoiser | ByRow,
    begin: Coefficients,
    loss: Loss,
    *,
    shape: tuple[int, int, int],
    steps: int = 14,
    batch: int = 512,
    rate: float = 0.02,
    reach: float = 0.02,
    momentum: float = 0.5,
    probes: int = 1,
    seed: int = 1,
    pool: int | None = None,
    first: int = 0,
    noise: bool = True,
    levels: bool = True,
    memory: int = 4,
    bf16: bool = False,
    hold: Callable[[Images], Images] | None = None,
    device: torch.device | str = "cpu",
    room: float = 1e10,
    what: str = "descent",
    progress: bool = True,
) -> Descended:
    """Follows the gradient of `loss` on finished images, in log levels, coefficients and fresh noise (`Free`).

    The numbers act on the images with very unlike strength, and nearly as one where answers are alike; so a step is measured
    by what it does to the images: with J the derivative of the finished images, it goes along (J^T J)^-1 times the gradient (the
    mean of the past ones, `momentum`), as far as changes the images by `rate` (root mean square) and any number by `reach`;
    both fall to 0 as a cosine. Numbers that the images hardly depend on are held by `reach` alone.
    J^T J is estimated at the beginning from random projections of the images, `probes` times as many as numbers (Hutchinson).

    Starting noise is that of image first, first + 1, ... of `seed`; or, with a pool, of 0 .. pool - 1 again and again.
    memory: see `Free`. bf16: multiply in bfloat16 while fitting. room: bytes that may be kept for the way back: a step goes
    over its batch in parts that fit, each with its share of the loss, and makes calls twice instead where parts would have
    fewer than `FEW` images. Ctrl-C ends it early, with what was found so far.
    Raises FloatingPointError where the loss is not finite, ValueError where levels have crossed.
    """
    schedule = getattr(model, "schedule", None)
    lowest = 0.0 if schedule is None else float(schedule.sigma_min)
    free = Free(begin, memory=memory, noise=noise, levels=levels, lowest=lowest)
    n = len(begin.sigmas)
    device = torch.device(device)
    cast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with cast:
        apart = int(room // max(1.0, n * _kept(denoiser_of(model, range(2)), shape, device)))  # images whose calls fit in at once
    recompute = apart < min(batch, FEW)
    size = batch if recompute else min(batch, apart)

    def images_at(c: Coefficients, rows: Sequence[int], fresh: Sequence[int]) -> Images:
        start = starting_noise(seed, rows, shape).to(device).contiguous(memory_format=torch.channels_last)
        with cast:
            one = denoiser_of(model, rows)
            return unroll(one, start, c, SeededNoise(seed, fresh), hold=hold, recompute=recompute).float()

    losses: list[float] = []
    stopped = False
    recent: deque[Tensor] = deque(maxlen=max(1, steps // 4))
    few = max(1, min(8, batch))
    # Probes go together, each with numbers of its own, since calls with few images make poor use of any machine.
    together = max(1, min(tried_at_once(device), apart) // few)
    tried = probes * free.size
    with track((steps * batch + tried * few) * n, what, unit="calls", show=progress) as advance:
        try:
            drawn = []
            for k in range(0, tried, together):
                some = range(k, min(k + together, tried))
                thetas = torch.zeros((len(some), free.size), dtype=torch.float64, requires_grad=True)
                each = [free.at(theta) for theta in thetas]
                apiece = Coefficients(
                    *(torch.stack([getattr(c, f.name) for c in each]).repeat_interleave(few, 0) for f in fields(Coefficients))
                )
                rows = [*range(few)] * len(some)
                images = images_at(apiece, rows, rows)
                signs = [generator(seed, p, stream=SUBSET).integers(0, 2, (few, *shape)) * 2.0 - 1 for p in some]
                told = torch.from_numpy(np.concatenate(signs)).to(images)
                (images * told).sum().backward()  # type: ignore[no-untyped-call]
                drawn += list(grad_of(thetas))
                advance(len(some) * few * n)
            j = torch.stack(drawn) / (tried * few * math.prod(shape)) ** 0.5
            # so that theta^T J^T J theta is the mean square change;
            # of length 1 in phi, a step changes the images by `rate` and any one number by `reach`, at most
            curvature = j.T @ j / rate**2 + torch.eye(free.size, dtype=torch.float64) / reach**2
            values, vectors = torch.linalg.eigh(curvature)
            whiten = vectors / values.sqrt()  # theta = whiten @ phi
            theta = torch.zeros(free.size, dtype=torch.float64)
            mean = torch.zeros(free.size, dtype=torch.float64)
            for k in range(steps):
                theta = theta.detach().requires_grad_()
                rows = [r % pool if pool else first + r for r in range(k * batch, (k + 1) * batch)]
                # fresh noise differs from step to step even where the starting noise comes again
                value = 0.0
                for start in range(0, batch, size):
                    part = rows[start : start + size]
                    new = first + k * batch + start
                    share = loss(images_at(free.at(theta), part, range(new, new + len(part))), part) * (len(part) / batch)
                    value += float(share.detach())
                    if share.requires_grad:
                        share.backward()  # type: ignore[no-untyped-call]
                    advance(len(part) * n)
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss of step {k} is {value}: begin again with a smaller rate than {rate:g}")
                mean = momentum * mean + (1 - momentum) * (whiten.T @ grad_of(theta))
                far = (1 + math.cos(math.pi * k / steps)) / 2
                theta = theta.detach() - whiten @ (far * mean / mean.norm().clamp_min(1e-300))
                losses.append(value)
                recent.append(theta)
        except KeyboardInterrupt:
            if not recent:
                raise
            stopped = True
    c = free.at(torch.stack(list(recent)).mean(0))
    check_grid(torch.cat([c.sigmas, torch.zeros(1, dtype=torch.float64)]))
    return Descended(c, losses, stopped)


def tried_at_once(device: torch.device) -> int:
    """Images a call by which a kind of machine is busy."""
    return 64 if device.type == "cpu" else 1024


def grad_of(theta: Tensor) -> Tensor:
    """The gradient that a backward pass left."""
    if theta.grad is None:
        raise ValueError("the loss does not depend on the sampler: it has to be made of the images that it is given")
    return theta.grad


def _kept(model: Denoiser, shape: tuple[int, int, int], device: torch.device) -> float:
    """Bytes that one call keeps for its way back, an image."""
    kept = [0]

    def count(value: Tensor) -> Tensor:
        kept[0] += value.numel() * value.element_size()
        return value

    x = torch.zeros((2, *shape), device=device, requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        _answer(model, x, torch.ones((), dtype=torch.float64))
    return kept[0] / 2
