"""DPS (Chung et al. 2022, arXiv:2209.14687): every step moves along the gradient of the misfit, through the network."""

from itertools import count, pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Measured, Noise, OnStep
from alphabar.restoration.operators import Operator
from alphabar.schedule.grid import check_grid


def dps(
    denoise: Denoiser, y: Measured, operator: Operator, sigma_y: float, sigmas: Grid, noise: Noise, x: Images, *,
    zeta: float = 1.0, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Algorithm 1: the step of DDPM, then x - zeta * grad |y - A x0_hat| (with zeta_i = zeta / |y - A x0_hat|, section 4.2).

    One call a step, whose gradient costs about two more. Biased by construction: the step size is no likelihood, and sigma_y is
    not used. On the Gaussian of tests/restoration/problems.py (half of the pixels missing, sigma_y = 0.1) at 20, 100 and 400
    calls the mean is 0.64, 0.53 and 0.65 standard deviations of the posterior off, and the variance about 7 times the exact one.

    Args:
        denoise, y, operator, sigma_y, sigmas, noise, x, on_step: as in `ddrm`; any linear operator. PyTorch must be able to
            differentiate `denoise`.
        zeta: size of the step, above 0; the paper takes 0.3 to 1 with 1,000 steps.

    Returns:
        Images of level 0.
    """
    check_grid(sigmas)
    draw = count()
    for i, (s, to) in enumerate(pairwise(sigmas.tolist())):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0_hat = denoise(x, x.new_full((len(x),), s))
            misfit = (y - operator.forward(x0_hat)).flatten(1).norm(dim=1).sum()
            (slope,) = torch.autograd.grad(2 * misfit, x)  # the gradient of the square over the misfit
        x, x0_hat = x.detach(), x0_hat.detach()
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        x = x0_hat + (to / s) ** 2 * (x - x0_hat)
        if to > 0:
            x = x + to * (1 - (to / s) ** 2) ** 0.5 * noise(next(draw), x).to(x)
        # the paper's x is x / sqrt(1 + s^2) here, at either end of the step
        x = x - zeta * ((1 + s**2) * (1 + to**2)) ** 0.5 * slope
    return x
