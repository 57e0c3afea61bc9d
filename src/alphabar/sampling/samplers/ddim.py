"""DDIM (Song et al. 2021, arXiv:2010.02502), which at eta = 1 is DDPM (Ho et al. 2020, arXiv:2006.11239)."""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def ddim(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost n calls of `denoise`.

    eta: 0 is deterministic (Euler's method on the probability-flow ODE), 1 is DDPM with the posterior variance,
    anything between is allowed. noise: needed when eta > 0, not touched when eta = 0.
    on_step: told (step, sigma, x, x0_hat) once a step, before x moves on.

    Eq. 12 with the variance of eq. 16, in sigma = sqrt((1 - alphabar) / alphabar) and eps_hat = (x - x0_hat) / s.
    Raises ValueError for a bad grid, for eta outside [0, 1], and for eta > 0 without noise.
    """
    check_grid(sigmas)
    check_eta(eta, noise)
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):  # Python floats: the coefficients are float64
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        up = eta * s_next / s * (s**2 - s_next**2) ** 0.5  # std of the noise put back
        down = (s_next**2 - up**2) ** 0.5  # what is kept of the old noise: down^2 + up^2 = s_next^2
        x = torch.lerp(x0_hat, x, down / s)  # x0_hat + down * eps_hat
        if noise is not None and up > 0:
            x.add_(noise(i, x), alpha=up)
    return x
