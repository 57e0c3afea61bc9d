"""DAPS (Zhang et al. 2024, arXiv:2407.01521): from level to level by way of a clean image drawn given y."""

from itertools import count, pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Measured, Noise, OnStep
from alphabar.restoration.conditional import condition
from alphabar.restoration.operators import Operator
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def daps(
    denoise: Denoiser, y: Measured, operator: Operator, sigma_y: float, sigmas: Grid, noise: Noise, x: Images, *,
    ode_steps: int = 4, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Algorithm 1. n levels cost at most `ode_steps` * n calls.

    The posterior of x0 given the noisy image is taken to be N(x0_hat, sigma^2) (eq. 8), which for a linear operator is sampled
    exactly, without the paper's Langevin steps. That Gaussian is the bias: on the one of tests/restoration/problems.py (half of
    the pixels missing, sigma_y = 0.1) at 100 and 400 calls the mean is 0.37 and 0.22 standard deviations of the posterior off,
    and the variance 2.0 and 1.4 times the exact one. Few levels are worse: 25 times at 20 calls.

    Args:
        denoise, y, operator, sigma_y, sigmas, noise, x, on_step: as in `ddrm`; any linear operator.
        ode_steps: Euler steps of the probability-flow ODE from a level to x0_hat.

    Returns:
        Images of level 0.
    """
    check_grid(sigmas)
    draw, low = count(), float(sigmas[-2])
    for i, (s, to) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = x
        levels = torch.linspace(s ** (1 / 7), low ** (1 / 7), ode_steps).pow(7).tolist() if s > low and ode_steps > 1 else [s]
        for here, there in pairwise([*levels, 0.0]):
            clean = denoise(x0_hat, x.new_full((len(x),), here))
            x0_hat = clean + there / here * (x0_hat - clean)
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        fresh = noise(next(draw), x).to(x), noise(next(draw), y).to(y)
        x0 = condition(x0_hat, s, y, operator, sigma_y, fresh)
        x = x0 + to * noise(next(draw), x).to(x) if to > 0 else x0
    return x
