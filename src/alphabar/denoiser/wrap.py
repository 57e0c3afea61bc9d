"""What samplers need not know: wrappers round a denoiser, each a denoiser itself, so that they combine.

Counting goes innermost, where calls are paid, and clipping outermost: ClipX0(SkipCalls(CountCalls(model), ...)).
"""

import numpy as np
import torch

from alphabar.denoiser.plan import Plan
from alphabar.schedule.grid import check_grid
from alphabar.types import Denoiser, Grid, Images, Levels, Times


class CountCalls:
    """Counts what is paid: `calls` of the network, and `images` that went through it (a batch of 64 is 64)."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise
        self.calls = 0
        self.images = 0

    def __call__(self, x: Images, sigma: Levels) -> Images:
        self.calls += 1
        self.images += len(x)
        return self.denoise(x, sigma)


class ClipX0:
    """Holds x0_hat within [low, high]. Samplers work out eps_hat = (x - x0_hat) / sigma from what they are given, so
    it is clipped along with x0_hat (diffusers' use_clipped_model_output, which is off there)."""

    def __init__(self, denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"clip to {low}..{high}: give low < high, as in ClipX0(denoise, -1, 1)")
        self.denoise = denoise
        self.low, self.high = low, high

    def __call__(self, x: Images, sigma: Levels) -> Images:
        return self.denoise(x, sigma).clamp(self.low, self.high)


class SkipCalls:
    """Calls the network only at the plan's steps; at the others x0_hat = x - sigma * eps_hat with the last eps_hat.

    sigmas: the grid that the sampler is given; the step is known by its level, compared in float32. times: the
    timesteps of these levels, for plans that look at them (`plan.timesteps`). A level off the grid, a mixed batch,
    a batch of another size and the first step always call. A call at sigmas[0] begins a new batch.
    Under a stochastic sampler the last eps_hat is that of the last call, not of the noise added since.
    """

    def __init__(self, denoise: Denoiser, plan: Plan, sigmas: Grid, times: Times | None = None) -> None:
        check_grid(sigmas)
        levels = sigmas[:-1]
        self.denoise = denoise
        self.called = plan(len(levels), times)
        self._step = {_key(s): k for k, s in enumerate(levels.tolist())}
        # eps_hat costs a pass over the images, so it is kept only where the next step is left out.
        self._keep = [not c for c in [*self.called.tolist()[1:], True]]
        self._eps: Images | None = None

    def reset(self) -> None:
        """Forgets the last eps_hat."""
        self._eps = None

    def __call__(self, x: Images, sigma: Levels) -> Images:
        levels = sigma.tolist()
        s = levels[0]
        step = self._step.get(_key(s)) if all(other == s for other in levels) else None
        if step == 0:
            self.reset()
        if step is not None and not self.called[step] and self._eps is not None and self._eps.shape == x.shape:
            return torch.sub(x, self._eps, alpha=s)
        x0_hat = self.denoise(x, sigma)
        if step is None or self._keep[step]:
            self._eps = (x - x0_hat).div_(sigma.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1)))
        return x0_hat


def _key(sigma: float) -> float:
    """A level as float32 has it, since samplers hand levels over in the type of the images."""
    return float(np.float32(sigma))
