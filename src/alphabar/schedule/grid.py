"""Grids: float64 levels that fall strictly and end in 0; n steps have n + 1 levels. A sampler reads every level from its grid.
These functions make grids for a schedule in the one coordinate (`model.schedule`); a hand-written tensor works as well."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from alphabar.core.types import Grid
from alphabar.schedule.base import Schedule


def check_grid(sigmas: Grid) -> None:
    """Raises ValueError unless `sigmas` is a float64 vector that falls strictly and ends in 0."""
    if not isinstance(sigmas, torch.Tensor):
        raise ValueError(
            f"a grid is a float64 tensor of levels, not {type(sigmas).__name__}: torch.tensor(levels, dtype=torch.float64)"
        )
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"a grid is a vector of at least 2 levels; this one has shape {tuple(sigmas.shape)}")
    if sigmas.dtype != torch.float64:
        raise ValueError(f"a grid is float64, since steps are differences of levels; this is {sigmas.dtype}: use sigmas.double()")
    if not torch.isfinite(sigmas).all():
        raise ValueError("a grid has finite levels; this one has inf or nan: start at a level where some signal is left")
    if sigmas[-1] != 0:
        raise ValueError(f"a grid ends in 0, the clean image; this one ends in {float(sigmas[-1]):g}: append a 0")
    if not (sigmas[1:] < sigmas[:-1]).all():
        k = int((sigmas[1:] >= sigmas[:-1]).nonzero()[0])
        raise ValueError(f"a grid falls strictly; this one goes {float(sigmas[k]):g}, {float(sigmas[k + 1]):g} at {k}, {k + 1}")


def at_times(schedule: Schedule, times: Sequence[float]) -> Grid:
    """The grid with the levels of the given times, which must fall strictly, and a final 0."""
    t = torch.as_tensor(list(times), dtype=torch.float64)
    low, high = schedule.t_min, schedule.t_max
    if len(outside := t[(t < low) | (t > high)]):
        raise ValueError(f"time {float(outside[0]):g} lies outside {low:g}..{high:g}, the times of this schedule")
    sigmas = torch.cat([schedule.sigma(t), torch.zeros(1, dtype=torch.float64)])
    check_grid(sigmas)
    return sigmas


def timesteps_of(schedule: Schedule, grid: Grid, *, distinct: bool = False) -> list[int]:
    """The integer timesteps nearest to a grid's levels, without its final 0, for `set_timesteps(timesteps=...)` of diffusers,
    which then steps through the grid `at_times(schedule, timesteps)`.

    Args:
        schedule: a schedule with integer timesteps.
        grid: levels.
        distinct: move levels that share a timestep apart, with the least sum of squared changes, instead of refusing them.

    Raises:
        ValueError: for a schedule of continuous time, and for two levels at one timestep.

    >>> from alphabar.schedule.betas import Linear
    >>> timesteps_of(Linear(), make_grid(Linear(), 4))
    [999, 749, 499, 249]
    """
    check_grid(grid)
    n, steps = len(grid) - 1, _integer_steps(schedule, len(grid) - 1)
    times = schedule.t(grid[:-1]).tolist()
    found = [round(t) for t in times]
    if distinct:
        from scipy.optimize import isotonic_regression

        # distinct timesteps fall by at least 1, so t_i + i must not rise
        fitted = isotonic_regression([t + i for i, t in enumerate(times)], increasing=False).x.tolist()
        return [min(max(round(t), n - 1), steps - 1) - i for i, t in enumerate(fitted)]
    for i, (a, b) in enumerate(pairwise(found)):
        if a == b:
            raise ValueError(
                f"levels {i} and {i + 1} of the grid, sigma {float(grid[i]):.4g} and {float(grid[i + 1]):.4g}, are both nearest "
                f"to timestep {a}, and diffusers takes each timestep once: use fewer calls, or distinct=True to move them apart"
            )
    return found


def _integer_steps(schedule: Schedule, n: int) -> int:
    if schedule.steps is None:
        raise ValueError("this schedule's time is continuous, without integer timesteps: use the grid 'time' or 'karras'")
    if not 1 <= n <= schedule.steps:
        raise ValueError(f"{n} steps of a schedule of {schedule.steps} timesteps: give 1 to {schedule.steps}")
    return schedule.steps


def every_kth(schedule: Schedule, k: int) -> Grid:
    """Every k-th timestep, from the noisiest down: steps - 1, steps - 1 - k, ... k = 1 takes all of them."""
    steps = _integer_steps(schedule, 1)
    if k < 1:
        raise ValueError(f"every {k}-th step: give k >= 1")
    return at_times(schedule, range(steps - 1, -1, -k))


def leading(schedule: Schedule, n: int, offset: int = 0) -> Grid:
    """diffusers' default "leading": (0, 1, ..., n - 1) * (steps // n) + offset. It does not start at the noisiest timestep,
    which `trailing` does (Lin et al. 2024, arXiv:2305.08891); use it to reproduce samples of diffusers."""
    steps = _integer_steps(schedule, n)
    return at_times(schedule, [i * (steps // n) + offset for i in reversed(range(n))])


def trailing(schedule: Schedule, n: int) -> Grid:
    """n even integer timesteps that start at the noisiest: round(steps * (n - i) / n) - 1.

    Halves are rounded as in diffusers, whose list has one timestep too many, -1, for n = 61 of 1000 and others.
    """
    steps = _integer_steps(schedule, n)
    return at_times(schedule, (np.arange(steps, 0, -steps / n).round() - 1)[:n].tolist())


def linspace(schedule: Schedule, n: int) -> Grid:
    """n even integer timesteps that include the first and the last one of the schedule."""
    steps = _integer_steps(schedule, n)
    return at_times(schedule, np.linspace(0, steps - 1, n).round()[::-1].tolist() if n > 1 else [steps - 1])


def even_time(schedule: Schedule, n: int) -> Grid:
    """n even real-valued times from t_max down to one interval above t_min: t_max - (t_max - t_min) i / n."""
    _positive(n)
    return at_times(schedule, [schedule.t_max - (schedule.t_max - schedule.t_min) * i / n for i in range(n)])


def even_log_sigma(schedule: Schedule, n: int) -> Grid:
    """n levels, even in log sigma, from sigma_max to sigma_min."""
    _positive(n)
    high, low = torch.tensor([schedule.sigma_max, schedule.sigma_min], dtype=torch.float64).log().tolist()
    return torch.cat([torch.linspace(high, low, n, dtype=torch.float64).exp(), torch.zeros(1, dtype=torch.float64)])


def for_consistency(schedule: Schedule, n: int) -> Grid:
    """sigma_max, then n - 1 levels around 0.8, each a factor of 4 below the one before: of n = 2, sigma_max and 0.8."""
    _positive(n)
    levels = [0.8 * 4.0 ** ((n - 2) / 2 - k) for k in range(n - 1)]
    inside = sorted({min(max(s, schedule.sigma_min), schedule.sigma_max) for s in levels} - {schedule.sigma_max}, reverse=True)
    return torch.tensor([schedule.sigma_max, *inside, 0.0], dtype=torch.float64)


def karras(schedule: Schedule, n: int, rho: float = 7.0, low: float = 0.002, high: float = 80.0) -> Grid:
    """sigma_i = (high^(1/rho) + i / (n - 1) (low^(1/rho) - high^(1/rho)))^rho. Karras et al. 2022, eq. 5.

    low and high are clamped to the levels that the model was trained on.
    """
    _positive(n)
    low, high = max(low, schedule.sigma_min), min(high, schedule.sigma_max)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def karras_few(schedule: Schedule, n: int) -> Grid:
    """Karras' levels for few steps: the lowest level is 1 / n instead of 0.002, which leaves more steps to the levels at which
    the image forms. On Fashion-MNIST it reduces FID by a quarter at 5 to 8 steps (benchmarks/RESULTS.md)."""
    _positive(n)
    return karras(schedule, n, low=min(max(1 / n, 0.002), schedule.sigma_max / 10))


def _positive(n: int) -> None:
    if n < 1:
        raise ValueError(f"{n} steps: give at least 1")


GRIDS: dict[str, Callable[[Schedule, int], Grid]] = {
    "leading": leading, "trailing": trailing, "linspace": linspace, "time": even_time, "log_sigma": even_log_sigma,
    "karras": karras, "karras_few": karras_few,
}  # fmt: skip


def default_grid(schedule: Schedule) -> str:
    """The default grid: trailing for integer timesteps, even in t for continuous time."""
    return "time" if schedule.steps is None else "trailing"


def make_grid(schedule: Schedule, n: int, name: str | None = None) -> Grid:
    """A grid by name. Raises ValueError for an unknown name, or more steps than the schedule has timesteps.

    Args:
        schedule: in the one coordinate, `model.schedule`.
        n: number of steps; the grid has n + 1 levels.
        name: a key of `GRIDS`, or "leading+1", which adds 1 to every timestep (diffusers' steps_offset); None is the
            schedule's default.

    >>> from alphabar.schedule.continuous import Cosine
    >>> make_grid(Cosine(), 3, "karras")
    tensor([8.0000e+01, 2.5152e+00, 2.0000e-03, 0.0000e+00], dtype=torch.float64)
    """
    name = name or default_grid(schedule)
    if later := re.fullmatch(r"leading\+(\d{1,6})", name):
        return leading(schedule, n, int(later[1]))
    if name not in GRIDS:
        raise ValueError(f"grid {name!r} is unknown: use one of {', '.join(GRIDS)}")
    return GRIDS[name](schedule, n)
