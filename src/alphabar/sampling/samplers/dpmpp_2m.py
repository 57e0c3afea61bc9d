"""DPM-Solver++(2M) and its SDE form: one call a step, and the one before. Lu et al. 2022 (arXiv:2211.01095), algorithm 2.

The step (a) of `dpmpp_2s`, with x0 carried on to the middle of the step along a line through the last two x0_hat:
D = x0_hat + h / (2 h_last) (x0_hat - x0_last), h = log(s / s') (the paper's 1 / (2 r) with r = h_last / h).
The SDE form is that of its app. B as in k-diffusion and diffusers ("midpoint"), with eta^2 for k-diffusion's "eta".
"""

from itertools import pairwise
from math import log

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def dpmpp_2m_sde(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    eta: float = 1.0,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost n calls of `denoise`.

    eta: 0 is `dpmpp_2m`, 1 the noise of DDPM. noise: needed when eta > 0, not touched when eta = 0.
    on_step: told (step, sigma, x, x0_hat) once a step, before x moves on. The first and the last step are of first order.
    Raises ValueError for a bad grid, for eta outside [0, 1], and for eta > 0 without noise.
    """
    check_grid(sigmas)
    check_eta(eta, noise)
    last, h_last = None, 0.0
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        if s_next == 0:
            return x0_hat
        h = log(s / s_next)
        ahead = x0_hat if last is None else torch.lerp(last, x0_hat, 1 + h / (2 * h_last))
        x = torch.lerp(ahead, x, (s_next / s) ** (1 + eta**2))
        if noise is not None and eta > 0:
            x.add_(noise(i, x), alpha=s_next * (1 - (s_next / s) ** (2 * eta**2)) ** 0.5)
        last, h_last = x0_hat, h
    return x


def dpmpp_2m(denoise: Denoiser, x: Images, sigmas: Grid, *, noise: Noise | None = None, on_step: OnStep | None = None) -> Images:
    """`dpmpp_2m_sde` without noise: n calls for n steps; `noise` is never touched."""
    return dpmpp_2m_sde(denoise, x, sigmas, eta=0.0, on_step=on_step)
