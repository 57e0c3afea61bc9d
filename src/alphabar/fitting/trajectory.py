"""The fine trajectory: the probability-flow ODE in many steps, from a few hundred starting noises. Fits are measured by it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.core.progress import track
from alphabar.core.types import Denoiser, Grid, Images
from alphabar.sampling.catalogue import find
from alphabar.sampling.samplers.heun import HIGHEST
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import check_grid

FINE = 80  # levels of the fine trajectory, without its 0
PURE = 1e4  # above this level there is practically no signal; zero terminal SNR starts at 2^32, with no level in between


@dataclass(frozen=True, eq=False)
class DenoiserByIndex:
    """Denoisers that depend on the image, as those of a class-conditional model: `at(indices)` is the denoiser of a batch."""

    at: Callable[[Sequence[int]], Denoiser]
    schedule: Schedule


def batch_denoiser(denoise: Denoiser | DenoiserByIndex, indices: Sequence[int]) -> Denoiser:
    """The denoiser of a batch of the images with these indices."""
    return denoise.at(indices) if isinstance(denoise, DenoiserByIndex) else denoise


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States and estimates of some images at K levels, float32 on the CPU.

    Attributes:
        sigmas: the grid, K + 1 levels.
        x: K states (b, c, h, w).
        x0_hat: K estimates (b, c, h, w).
        end: the finished images (b, c, h, w).
    """

    sigmas: Grid
    x: list[Images]
    x0_hat: list[Images]
    end: Images

    def __len__(self) -> int:
        return len(self.x[0])

    def part(self, start: int, stop: int) -> "Trajectory":
        """The trajectory of images start to stop - 1."""
        rows = slice(start, stop)
        return Trajectory(self.sigmas, [x[rows] for x in self.x], [a[rows] for a in self.x0_hat], self.end[rows])

    def state(self, k: int) -> Images:
        """The state at level k; the finished images at level K."""
        return self.x[k] if k < len(self.x) else self.end


def fine_grid(schedule: Schedule, levels: int = FINE) -> Grid:
    """Levels even in log sigma, rounded to integer timesteps if the model has those (fewer levels where two coincide).

    For a model of zero terminal SNR the first level is pure noise, and the others are even from `PURE` down.
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


def fine_sampler(sigmas: Grid) -> str:
    """The sampler of the fine trajectory: heun, but dpmpp_2s from pure noise, where slopes in sigma lose all digits."""
    return "heun" if float(sigmas[0]) <= HIGHEST else "dpmpp_2s"


@torch.no_grad()
def fine_trajectory(
    denoise: Denoiser | DenoiserByIndex, starts: Images, sigmas: Grid, *, batch: int = 64, progress: bool = True
) -> Trajectory:
    """The trajectory of the unit noise `starts` (of images 0, 1, ...) over a grid, by `fine_sampler`."""
    fn = find(fine_sampler(sigmas)).fn
    levels = len(sigmas) - 1
    xs: list[list[Images]] = [[] for _ in range(levels)]
    estimates: list[list[Images]] = [[] for _ in range(levels)]
    ends = []
    with track(len(starts), "fine trajectory", unit="images", show=progress) as advance:
        for first, part in zip(range(0, len(starts), batch), torch.split(starts, batch), strict=True):

            def keep(i: int, sigma: float, x: Tensor, x0_hat: Tensor, part: Images = part) -> None:
                xs[i].append(x.to("cpu", copy=True))
                estimates[i].append(x0_hat.to("cpu", copy=True))
                advance(len(part) / levels)

            one = batch_denoiser(denoise, range(first, first + len(part)))
            ends.append(fn(one, part * float(sigmas[0]), sigmas, on_step=keep).cpu())
    return Trajectory(sigmas, [torch.cat(x) for x in xs], [torch.cat(x) for x in estimates], torch.cat(ends))
