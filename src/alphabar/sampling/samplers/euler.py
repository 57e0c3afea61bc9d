"""Euler's method on the probability-flow ODE in sigma. Karras et al. 2022 (arXiv:2206.00364), eq. 3, and algorithm 1
without its correction."""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def euler(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost n calls of `denoise`; `noise` is never touched.

    Written as the textbook has it, x <- x + (s' - s) dx/ds with dx/ds = (x - x0_hat) / s, so that it checks `ddim`,
    which at eta = 0 is the same method. Raises ValueError for a bad grid.
    """
    check_grid(sigmas)
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        slope = (x - x0_hat).div_(s)
        x = torch.add(x0_hat, slope, alpha=s_next)  # x = x0_hat + s dx/ds: no digits lost where s is far above s'
    return x
