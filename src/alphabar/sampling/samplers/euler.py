"""Euler's method on the probability-flow ODE in sigma: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, first order only."""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
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
