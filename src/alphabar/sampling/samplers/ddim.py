"""DDIM (Song et al. 2021, arXiv:2010.02502), which at eta = 1 is DDPM (Ho et al. 2020, arXiv:2006.11239)."""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def ddim(
    denoise: Denoiser, x: Images, sigmas: Grid, *, eta: float = 0.0, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """Eq. 12 with the variance of eq. 16, in sigma = sqrt((1 - alphabar) / alphabar) and eps_hat = (x - x0_hat) / s.

    Args:
        denoise: the denoiser, called once per step.
        x: noise of level sigmas[0], (b, c, h, w).
        sigmas: the grid, n + 1 levels for n steps.
        eta: 0 is deterministic (Euler's method on the probability-flow ODE), 1 is DDPM with the posterior variance. A step adds
            noise of variance eta^2 s'^2 (1 - s'^2 / s^2).
        noise: a function (draw, like) to standard normal noise. Needed if eta > 0, not called if eta = 0.
        on_step: called with (step, sigma, x, x0_hat) once per step, with the x that `denoise` was given.

    Returns:
        Images of level 0, (b, c, h, w).

    Raises:
        ValueError: for a bad grid, for eta outside [0, 1], and for eta > 0 without noise.
    """
    check_grid(sigmas)
    check_eta(eta, noise)
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):  # Python floats: the coefficients are float64
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        up = eta * s_next / s * (s**2 - s_next**2) ** 0.5  # standard deviation of the fresh noise
        down = (s_next**2 - up**2) ** 0.5  # that of the old noise that is kept: down^2 + up^2 = s_next^2
        x = torch.lerp(x0_hat, x, down / s)  # x0_hat + down * eps_hat
        if noise is not None and up > 0:
            x.add_(noise(i, x), alpha=up)
    return x
