"""DPM-Solver++(2S) (Lu et al. 2022, arXiv:2211.01095, algorithm 1) and its SDE form: two network calls per step.

With lambda = -log s the ODE is d(x / s) / dlambda = e^lambda x0(lambda). For constant x0 and a = 1 + eta^2, a step of the SDE
dx = a (x - x0) / s ds + eta sqrt(2 s) dw is

    x' = (s' / s)^a x + (1 - (s' / s)^a) x0 + s' sqrt(1 - (s' / s)^(2 eta^2)) noise        (a)

which is DDIM at eta = 0 and DDPM at eta = 1. The method takes half the step in lambda by (a), and then the whole step with the
x0_hat of the middle.
"""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def dpmpp_sde(
    denoise: Denoiser, x: Images, sigmas: Grid, *, eta: float = 1.0, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """Algorithm 1 with noise. n + 1 levels cost 2 n - 1 network calls: the last step has one.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`. `on_step` gets the first call of a step. Step i draws 2 i and 2 i + 1;
            half step and whole step share the first draw, as on one Brownian path (with unrelated draws the order would be 1).
        eta: 0 is `dpmpp_2s`, 1 has the noise of DDPM. A step adds noise of variance s'^2 (1 - (s' / s)^(2 eta^2)).
            k-diffusion's `sample_dpmpp_sde` and `sample_dpmpp_2s_ancestral` take ancestral steps, as `ddim`, with variance
            eta^2 s'^2 (1 - (s' / s)^2): the same at 0 and 1, and in the limit of small steps.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, for eta outside [0, 1], and for eta > 0 without noise.
    """
    check_grid(sigmas)
    check_eta(eta, noise)
    a = 1 + eta**2
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        if s_next == 0:
            return x0_hat
        s_mid = (s * s_next) ** 0.5
        half = (s_mid / s) ** a
        half_std = (1 - (s_mid / s) ** (2 * eta**2)) ** 0.5
        y = torch.lerp(x0_hat, x, half)
        fresh = noise(2 * i, x).to(x) if noise is not None and eta > 0 else None
        if fresh is not None:
            y.add_(fresh, alpha=s_mid * half_std)
        x0_hat = denoise(y, y.new_full((len(y),), s_mid))
        x = torch.lerp(x0_hat, x, half**2)
        if fresh is not None and noise is not None:
            x.add_(fresh, alpha=half * s_mid * half_std).add_(noise(2 * i + 1, x).to(x), alpha=s_next * half_std)
    return x


def dpmpp_2s(denoise: Denoiser, x: Images, sigmas: Grid, *, noise: Noise | None = None, on_step: OnStep | None = None) -> Images:
    """`dpmpp_sde` at eta = 0: algorithm 1. n + 1 levels cost 2 n - 1 network calls; noise is never drawn."""
    return dpmpp_sde(denoise, x, sigmas, eta=0.0, on_step=on_step)
