"""DDRM (Kawar et al. 2022, arXiv:2201.11793): the coefficients that are measured follow y as far as its noise allows."""

from itertools import count, pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Measured, Noise, OnStep
from alphabar.restoration.operators import Spectral
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def ddrm(
    denoise: Denoiser, y: Measured, operator: Spectral, sigma_y: float, sigmas: Grid, noise: Noise, x: Images, *,
    eta: float = 0.85, eta_b: float = 1.0, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Equations 7 and 8, in z = V^T x with zbar = U^T y / s. One network call a step.

    Biased at any number of steps: a coefficient below its own noise is drawn around x0_hat and y, not from its posterior. On the
    Gaussian of tests/restoration/problems.py (half of the pixels missing, sigma_y = 0.1) at 20, 100 and 400 calls the mean is
    0.34, 0.25 and 0.29 standard deviations of the posterior off, and the variance is 0.59, 0.55 and 0.46 of the exact one.

    Args:
        denoise: the denoiser.
        y: the measurement, A x0 + sigma_y * noise, one for each image of x.
        operator: A, with its singular values.
        sigma_y: standard deviation of the noise of y, above 0.
        sigmas: the grid; n + 1 levels cost n calls.
        noise: a function (draw, like) to standard normal noise.
        x: noise of level sigmas[0], (b, c, h, w).
        eta: share of fresh noise where y says nothing, 0 to 1.
        eta_b: weight of y where its noise is below the level, 0 to 1.
        on_step: called with (step, sigma, x, x0_hat) once per step.

    Returns:
        Images of level 0.
    """
    check_grid(sigmas)
    draw, s, u = count(), operator.s.to(x), operator.rotate(y)
    seen = s.abs() * float(sigmas[0]) > sigma_y
    zbar, own = u / torch.where(seen, s, 1.0), sigma_y / torch.where(seen, s.abs(), 1.0)  # y in z, with its own noise
    z = operator.analyse(x)
    # eq. 7: the start is y with noise up to the level, and noise alone where nothing is measured
    spread = (1 - (own / float(sigmas[0])) ** 2).clamp_min(0).sqrt()
    x = x + operator.synthesise(torch.where(seen, zbar + spread * z - z, 0.0))
    for i, (sigma, to) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), sigma))
        if on_step is not None:
            on_step(i, sigma, x, x0_hat)
        fresh = noise(next(draw), x).to(x) if to > 0 else torch.zeros_like(x)
        x = x0_hat + (1 - eta**2) ** 0.5 * to / sigma * (x - x0_hat) + eta * to * fresh  # eq. 8, s = 0
        z0, n = operator.analyse(x0_hat), operator.analyse(fresh)
        below = z0 + (1 - eta**2) ** 0.5 * to * (zbar - z0) / own + eta * to * n  # eq. 8, to < sigma_y / s
        above = z0 + eta_b * (zbar - z0) + (to**2 - (own * eta_b) ** 2).clamp_min(0).sqrt() * n  # eq. 8, to >= sigma_y / s
        z = torch.where(own > to, below, above)
        x = x + operator.synthesise(torch.where(seen, z - operator.analyse(x), 0.0))
    return x
