"""Annealed split Gibbs sampling (PnP-DM: Wu et al. 2024, arXiv:2405.18782; DPnP: Xu & Chi 2024, arXiv:2403.17042)."""

from itertools import count

import torch

from alphabar.core.types import Denoiser, Grid, Images, Measured, Noise, OnStep
from alphabar.restoration.conditional import condition
from alphabar.restoration.operators import Operator, Spectral
from alphabar.sampling.samplers.dpmpp import dpmpp_2m_sde
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def gibbs(
    denoise: Denoiser, y: Measured, operator: Operator, sigma_y: float, sigmas: Grid, noise: Noise, x: Images, *,
    prior_steps: int = 4, reach: float = 8.0, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Algorithm 1 of PnP-DM: at falling levels rho, draw v given x and y, then x given v by reverse diffusion from rho.

    Both draws leave p(x) N(v; x, rho^2) N(y; A v, sigma_y^2) unchanged, whose marginal of x is the posterior for a measurement
    with noise of covariance sigma_y^2 + rho^2 A A^T. Here the draw of v takes sigma_y^2 - rho^2 s^2 for each singular value s in
    place of sigma_y^2 (0 where that is negative), so that the marginal is the posterior itself as soon as rho <= sigma_y / s.
    What is left is the error of the reverse diffusion and of a chain that is too short, and both fall as calls grow: on the
    Gaussian of tests/restoration/problems.py (half of the pixels missing, sigma_y = 0.1) at 20, 100, 400 and 1,600 calls the mean
    is 0.31, 0.19, 0.13 and 0.10 standard deviations of the posterior off, and the variance 0.60, 0.77, 1.00 and 1.00 of the exact
    one. Modes that lie further apart than sigma_y / s keep about the weights that they had at that distance (docs/restore.md).

    Args:
        denoise, y, operator, sigma_y, sigmas, noise, x, on_step: as in `ddrm`; any linear operator, but one without singular
            values keeps sigma_y. `sigmas` are the levels rho, with one draw of v and of x at each. The values of x are not used.
        prior_steps: network calls of a draw of x, by `dpmpp_2m_sde`, whose variance is of second order.
        reach: from rho / reach on x is x0_hat; the next v has more noise than that.

    Returns:
        Images of level 0.
    """
    check_grid(sigmas)
    draw, x = count(), torch.zeros_like(x)
    for i, rho in enumerate(sigmas[:-1].tolist()):
        left = (sigma_y**2 - (rho * operator.s) ** 2).clamp_min(0).sqrt() if isinstance(operator, Spectral) else sigma_y
        fresh = noise(next(draw), x).to(x), noise(next(draw), y).to(y)
        v = condition(x, rho, y, operator, left, fresh)
        inner = rho * reach ** -torch.linspace(0, 1, prior_steps, dtype=torch.float64)
        levels = torch.cat([inner, torch.zeros(1, dtype=torch.float64)])
        x = dpmpp_2m_sde(denoise, v, levels, noise=lambda _, like: noise(next(draw), like).to(like))
        if on_step is not None:
            on_step(i, rho, v, x)
    return x
