"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2) and its SDE form: multistep, one network call per step.

The step is (a) of `dpmpp_2s`, with x0 extrapolated to the middle of the step along the line through the last two x0_hat:
D = x0_hat + h / (2 h_last) (x0_hat - x0_last), h = log(s / s') (1 / (2 r) with r = h_last / h in the paper). The SDE form is that
of app. B, as "midpoint" of k-diffusion and diffusers.
"""

from itertools import pairwise
from math import log

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def dpmpp_2m_sde(
    denoise: Denoiser, x: Images, sigmas: Grid, *, eta: float = 1.0, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """Algorithm 2 with noise. n + 1 levels cost n network calls; the first and the last step are of first order.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`.
        eta: 0 is `dpmpp_2m`, 1 has the noise of DDPM. The eta of k-diffusion's `sample_dpmpp_2m_sde` is our eta^2: a step adds
            noise of variance s'^2 (1 - (s' / s)^(2 eta^2)), there s'^2 (1 - (s' / s)^(2 eta)). They agree at 0 and 1.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, for eta outside [0, 1], and for eta > 0 without noise.
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
    """`dpmpp_2m_sde` at eta = 0: algorithm 2. n + 1 levels cost n network calls; noise is never drawn."""
    return dpmpp_2m_sde(denoise, x, sigmas, eta=0.0, on_step=on_step)
