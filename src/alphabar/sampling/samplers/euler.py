"""Euler's method on the probability-flow ODE in sigma: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, first order only.

With ancestral noise ("Euler a") a step on the ODE, eq. 3, leads to a level below s', and noise raises it to s': it is `ddim` with
the same eta, derived in another way.
"""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def euler(denoise: Denoiser, x: Images, sigmas: Grid, *, noise: Noise | None = None, on_step: OnStep | None = None) -> Images:
    """x + (s' - s) dx/ds with dx/ds = (x - x0_hat) / s, eq. 3. A check of `ddim`, which at eta = 0 is the same method.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`; noise is never drawn.

    Returns:
        Images of level 0, for n network calls on n + 1 levels.

    Raises:
        ValueError: for a bad grid.
    """
    check_grid(sigmas)
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        slope = (x - x0_hat).div_(s)
        x = torch.add(x0_hat, slope, alpha=s_next)  # x = x0_hat + s dx/ds: no digits are lost where s is far above s'
    return x


@torch.no_grad()
def euler_ancestral(
    denoise: Denoiser, x: Images, sigmas: Grid, *, eta: float = 1.0, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """Euler's method to level `down`, then noise of standard deviation `up`. n + 1 levels cost n network calls.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`.
        eta: as in `ddim`. k-diffusion's `sample_euler_ancestral` has the same eta up to 1; above 1, which is refused here, it
            limits the added noise to s'.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, for eta outside [0, 1], and for eta > 0 without noise.
    """
    check_grid(sigmas)
    check_eta(eta, noise)
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        up = eta * (s_next**2 * (s**2 - s_next**2) / s**2) ** 0.5
        down = (s_next**2 - up**2) ** 0.5
        slope = (x - x0_hat).div_(s)
        x = torch.add(x0_hat, slope, alpha=down)  # x + (down - s) slope: no digits are lost where s is far above down
        if noise is not None and up > 0:
            x.add_(noise(i, x), alpha=up)
    return x
