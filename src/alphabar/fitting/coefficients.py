"""The coefficients of a sampler under fit, and three ways to get them: a formula, any linear sampler, and least squares.

Inside a fit, states are y_i = x_i / sqrt(1 + sigma_i^2), of scale about 1 at all levels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.core.progress import track
from alphabar.core.types import Denoiser, Grid, Images
from alphabar.fitting.trajectory import PURE, DenoiserByIndex, Trajectory, batch_denoiser
from alphabar.sampling.fitted import Tuned


@dataclass(frozen=True, eq=False)
class Coefficients:
    """y_{i+1} = keep_i y_i + sum_j mix_ij x0_hat_j + fresh_i z_i with y = x / sqrt(1 + sigma^2); all float64.

    Attributes:
        sigmas: n levels, without the final 0.
        keep: (n,).
        mix: lower triangular (n, n).
        fresh: (n,) standard deviations of noise.
    """

    sigmas: Tensor
    keep: Tensor
    mix: Tensor
    fresh: Tensor

    @staticmethod
    def of(fit: Tuned) -> "Coefficients":
        """The coefficients of a fitted sampler."""
        g = (1 + fit.grid**2).sqrt()
        mix = torch.tensor([[*row, *[0.0] * (fit.calls - len(row))] for row in fit.mix], dtype=torch.float64)
        keep, fresh = torch.tensor([fit.keep, fit.fresh], dtype=torch.float64)
        return Coefficients(fit.grid[:-1], keep * g[:-1] / g[1:], mix / g[1:, None], fresh / g[1:])

    @staticmethod
    def ddim(sigmas: Grid, eta: float = 0.0) -> "Coefficients":
        """The coefficients of DDIM on a grid (with its final 0)."""
        s, s_next = sigmas[:-1], sigmas[1:]
        up = eta * s_next / s * (s**2 - s_next**2).sqrt()
        down = (s_next**2 - up**2).sqrt()
        g, g_next = (1 + s**2).sqrt(), (1 + s_next**2).sqrt()
        return Coefficients(s, down / s * g / g_next, torch.diag((1 - down / s) / g_next), up / g_next)

    def with_noise(self, eta: float) -> "Coefficients":
        """The same means with DDIM's share of fresh noise: the deviation from x0_hat that is kept shrinks by s_down / s', and
        noise of standard deviation s_up replaces it."""
        grid = torch.cat([self.sigmas, torch.zeros(1, dtype=torch.float64)])
        s, s_next = grid[:-1], grid[1:]
        up = eta * s_next / s * (s**2 - s_next**2).sqrt()
        share = torch.where(s_next > 0, (s_next**2 - up**2).clamp_min(0).sqrt() / s_next.clamp_min(1e-300), 1.0)
        g_next = (1 + s_next**2).sqrt()
        mix = share[:, None] * self.mix + torch.diag((1 - share) / g_next)
        return Coefficients(self.sigmas, share * self.keep, mix, up / g_next)

    def grown(self, calls: int) -> "Coefficients":
        """A sampler with more calls that makes the same images: the estimates of the new calls have no effect yet.

        New levels are inserted, one after another, in the middle of the widest step in log sigma; the last step, to 0, stays.
        DDIM steps to the new level, and the step from there undoes that and does what the whole one did. Half the variance of
        fresh noise is drawn at the new level, so that a descent can move it.

        Raises:
            ValueError: for fewer calls, and for a sampler of one call.
        """
        n = len(self.sigmas)
        if calls < n or (n == 1 and calls > 1):
            raise ValueError(f"a sampler of {n} calls does not grow to {calls}: start from one of 2 to {calls} calls")
        c = self
        while len(c.sigmas) < calls:
            levels = c.sigmas.clamp_max(PURE)
            c = c._split(int((levels[:-1] / levels[1:]).argmax()))
        return c

    def _split(self, i: int) -> "Coefficients":
        """With one more level, between numbers i and i + 1."""
        n = len(self.sigmas)
        level = (self.sigmas[i] * self.sigmas[i + 1]).sqrt()
        to_level = Coefficients.ddim(torch.stack([self.sigmas[i], level]))
        p, q, g = to_level.keep[0], to_level.mix[0, 0], (1 + level**2).sqrt()
        rest = self.keep[i] / p  # what the second half keeps of the new state
        noise = torch.minimum(self.fresh[i] / 2**0.5 / rest.abs().clamp_min(1e-12), level / g)
        old = [k if k <= i else k + 1 for k in range(n)]  # new numbers of the old rows and columns
        mix = torch.zeros((n + 1, n + 1), dtype=torch.float64)
        for k, row in enumerate(old):
            mix[row if k != i else i + 1, old] = self.mix[k]
        mix[i, i] = q
        mix[i + 1, i] -= rest * q

        def with_two(values: Tensor, one: Tensor, two: Tensor) -> Tensor:
            return torch.cat([values[:i], torch.stack([one, two]), values[i + 1 :]])

        fresh = with_two(self.fresh, noise, (self.fresh[i] ** 2 - (rest * noise) ** 2).clamp_min(0).sqrt())
        return Coefficients(with_two(self.sigmas, self.sigmas[i], level), with_two(self.keep, p, rest), mix, fresh)

    def plain(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]:
        """(sigmas, keep, mix, fresh) for x instead of y, as `Tuned` holds them."""
        g = torch.cat([(1 + self.sigmas**2).sqrt(), torch.ones(1, dtype=torch.float64)])
        keep, fresh = self.keep * g[1:] / g[:-1], self.fresh * g[1:]
        mix = self.mix * g[1:, None]
        rows = tuple(tuple(row[: k + 1].tolist()) for k, row in enumerate(mix))
        return tuple(self.sigmas.tolist()), tuple(keep.tolist()), rows, tuple(fresh.tolist())


def coefficients_of(sampler: Callable[..., Images], sigmas: Grid) -> Coefficients:
    """The coefficients of a deterministic sampler on a grid, if it calls once a step and is linear in x and x0_hat.

    Basis vectors are fed through the sampler: the start is e_0 and the k-th estimate is e_{k+1}, so that each state lists its
    own coefficients.

    Raises:
        ValueError: for a sampler that calls more often or draws noise.
    """
    n = len(sigmas) - 1
    states: list[Tensor] = []

    def estimate(x: Images, sigma: Tensor) -> Images:
        states.append(x.reshape(-1).clone())
        if len(states) > n:
            raise ValueError(
                f"{getattr(sampler, '__name__', sampler)} calls more than once a step, which a fitted sampler does not"
            )
        return torch.eye(n + 2, dtype=torch.float64)[len(states)].reshape(x.shape)

    start = torch.eye(n + 2, dtype=torch.float64)[0].reshape(1, 1, 1, n + 2)
    states.append(sampler(estimate, start, sigmas, noise=None).reshape(-1))
    rows = torch.stack(states)  # (n + 1, 1 + estimates)
    keep = rows[1:, 0] / rows[:-1, 0]
    mix = rows[1:, 1 : n + 1] - keep[:, None] * rows[:-1, 1 : n + 1]
    g = (1 + sigmas**2).sqrt()
    return Coefficients(sigmas[:-1], keep * g[:-1] / g[1:], mix.tril() / g[1:, None], torch.zeros(n, dtype=torch.float64))


@torch.no_grad()
def least_squares(
    denoise: Denoiser | DenoiserByIndex, starts: Images, sigmas: Grid, fine: Trajectory, *, memory: int = 3, ridge: float = 1e-6,
    batch: int = 64, progress: bool = True,
) -> Coefficients:  # fmt: skip
    """Coefficients by regression along the sampler's own trajectory, so that each step corrects the errors of those before it
    (cf. S4S, Frankel et al. 2025, arXiv:2502.17423).

    At each step the state of the fine trajectory at the next level is regressed on the sampler's state and its last estimates.

    Args:
        denoise: called n times with all images.
        starts: the unit noise of the fine trajectory.
        sigmas: a grid whose levels are levels of the fine trajectory.
        fine: the fine trajectory.
        memory: estimates that a step may use.
        ridge: penalty on the deviation from DDIM's coefficients, relative to the regressors' mean square.
        batch: images in a call.
        progress: whether to show a progress bar.

    Raises:
        ValueError: for a level that is not on the fine trajectory.
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
    estimates: list[Images] = []
    with track(n * len(starts), "least squares", unit="calls", show=progress) as advance:
        for i in range(n):
            parts = []
            for start, part in zip(range(0, len(y), batch), torch.split(y, batch), strict=True):
                one = batch_denoiser(denoise, range(start, start + len(part)))
                parts.append(one(part * float(g[i]), part.new_full((len(part),), float(sigmas[i]))))
                advance(len(part))
            estimates.append(torch.cat(parts))
            first = max(0, i + 1 - memory)
            basis = torch.stack([y.cpu().flatten(), *(a.cpu().flatten() for a in estimates[first:])]).double()
            left = fine.state(where[i + 1]).flatten().double() / g[i + 1] - c.keep[i] * basis[0] - c.mix[i, i] * basis[-1]
            inner = basis @ basis.T
            inner += ridge * inner.diagonal().mean() * torch.eye(len(basis), dtype=torch.float64)
            more = torch.linalg.solve(inner, basis @ left)
            c.keep[i] += more[0]
            c.mix[i, first : i + 1] += more[1:]
            y = y * float(c.keep[i])
            for a, b in zip(estimates, c.mix[i].tolist(), strict=False):
                if b:
                    y = y + b * a
    return c
