"""Grids: float64 levels that fall strictly and end in 0. n steps are n + 1 levels.

A sampler is given a grid and reads every level from it. These functions make grids; a hand-written
tensor is as good. All of them take a schedule in the one coordinate (`model.schedule`).
"""

from collections.abc import Callable, Sequence

import torch

from alphabar.schedule.vp import Schedule
from alphabar.types import Grid


def check_grid(sigmas: Grid) -> None:
    """Raises ValueError unless `sigmas` is a float64 vector that falls strictly and ends in 0."""
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"a grid is a vector of at least 2 levels; this one has the shape {tuple(sigmas.shape)}")
    if sigmas.dtype != torch.float64:
        raise ValueError(
            f"a grid is float64, since steps are differences of levels; this one is {sigmas.dtype}: write sigmas.double()"
        )
    if not torch.isfinite(sigmas).all():
        raise ValueError(
            "a grid has finite levels; this one has inf or nan in it (a schedule with no signal left at "
            "its last time? start at an earlier one)"
        )
    if sigmas[-1] != 0:
        raise ValueError(f"a grid ends in 0, the clean image; this one ends in {float(sigmas[-1]):g}: append a 0")
    if not (sigmas[1:] < sigmas[:-1]).all():
        k = int((sigmas[1:] >= sigmas[:-1]).nonzero()[0])
        raise ValueError(f"a grid falls strictly; this one goes {float(sigmas[k]):g}, {float(sigmas[k + 1]):g} at {k}, {k + 1}")


def at_times(schedule: Schedule, times: Sequence[float]) -> Grid:
    """The grid through the times given, falling, with the final 0 put at its end: any subset written by hand."""
    t = torch.as_tensor(list(times), dtype=torch.float64)
    outside = t[(t < schedule.t_min) | (t > schedule.t_max)]
    if len(outside):
        raise ValueError(
            f"time {float(outside[0]):g} lies outside {schedule.t_min:g}..{schedule.t_max:g}, which this model was trained on"
        )
    sigmas = torch.cat([schedule.sigma(t), torch.zeros(1, dtype=torch.float64)])
    check_grid(sigmas)
    return sigmas


def _integer_steps(schedule: Schedule, n: int) -> int:
    if schedule.steps is None:
        raise ValueError(
            "this schedule's time is continuous and has no integer timesteps: use the grid 'time', 'log_sigma' or 'karras'"
        )
    if not 1 <= n <= schedule.steps:
        raise ValueError(f"{n} steps of a schedule of {schedule.steps} timesteps: give 1 to {schedule.steps}")
    return schedule.steps


def every_kth(schedule: Schedule, k: int) -> Grid:
    """Every k-th timestep, from the noisiest down: steps - 1, steps - 1 - k, ... k = 1 are all of them."""
    steps = _integer_steps(schedule, 1)
    if k < 1:
        raise ValueError(f"every {k}-th step: give k >= 1")
    return at_times(schedule, range(steps - 1, -1, -k))


def leading(schedule: Schedule, n: int) -> Grid:
    """diffusers' default "leading": (0, 1, ..., n - 1) * (steps // n). Never starts at the noisiest timestep when n
    does not divide it well: kept for comparison, `trailing` is the better habit (Lin et al. 2024, arXiv:2305.08891)."""
    steps = _integer_steps(schedule, n)
    return at_times(schedule, [i * (steps // n) for i in reversed(range(n))])


def trailing(schedule: Schedule, n: int) -> Grid:
    """n integer timesteps, even, that begin at the noisiest: round(steps * (n - i) / n) - 1."""
    steps = _integer_steps(schedule, n)
    return at_times(schedule, [round(steps * (n - i) / n) - 1 for i in range(n)])


def linspace(schedule: Schedule, n: int) -> Grid:
    """n integer timesteps, even, with the first and the last one of the schedule among them."""
    steps = _integer_steps(schedule, n)
    return at_times(schedule, [round((steps - 1) * (n - 1 - i) / max(n - 1, 1)) if n > 1 else steps - 1 for i in range(n)])


def even_time(schedule: Schedule, n: int) -> Grid:
    """n real-valued times, even, from t_max down, one interval short of t_min: t_max - (t_max - t_min) i / n."""
    _positive(n)
    return at_times(schedule, [schedule.t_max - (schedule.t_max - schedule.t_min) * i / n for i in range(n)])


def even_log_sigma(schedule: Schedule, n: int) -> Grid:
    """n levels, even in log sigma, from sigma_max to sigma_min."""
    _positive(n)
    lo, hi = torch.tensor([schedule.sigma_min, schedule.sigma_max], dtype=torch.float64).log()
    levels = torch.linspace(float(hi), float(lo), n, dtype=torch.float64).exp()
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def karras(schedule: Schedule, n: int, rho: float = 7.0, low: float = 0.002, high: float = 80.0) -> Grid:
    """sigma_i = (high^(1/rho) + i / (n - 1) (low^(1/rho) - high^(1/rho)))^rho. Karras et al. 2022, eq. 5.

    low and high are held within the levels the model was trained on.
    """
    _positive(n)
    low, high = max(low, schedule.sigma_min), min(high, schedule.sigma_max)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def _positive(n: int) -> None:
    if n < 1:
        raise ValueError(f"{n} steps: give at least 1")


GRIDS: dict[str, Callable[[Schedule, int], Grid]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "time": even_time,
    "log_sigma": even_log_sigma,
    "karras": karras,
}


def default_grid(schedule: Schedule) -> str:
    """The grid used where none is named: trailing for integer timesteps, even in t for continuous time."""
    return "time" if schedule.steps is None else "trailing"


def make_grid(schedule: Schedule, n: int, name: str | None = None) -> Grid:
    """The grid called `name` (None: the schedule's default) with n steps.

    Raises ValueError for an unknown name or an n that the schedule cannot give.
    """
    name = name or default_grid(schedule)
    if name not in GRIDS:
        raise ValueError(f"grid {name!r} is unknown: use one of {', '.join(GRIDS)}")
    return GRIDS[name](schedule, n)
