"""A third-order multistep method of the DPM-Solver++ family, and its SDE form: one network call per step.

Lu et al. 2022 (arXiv:2211.01095), eq. 8, solve the ODE over a step except for x0 along the way,
x' = s' / s x + s' integral of e^lambda x0(lambda) dlambda. Here x0 is the parabola in lambda through the last three x0_hat, and
the integral is exact, with noise (a = 1 + eta^2, h = log(s / s')) as well as without:

    x' = (s' / s)^a x + integral over [0, 1] of a h e^(-a h (1 - u)) x0(u) du + s' sqrt(1 - (s' / s)^(2 eta^2)) noise

The third-order formula of diffusers and k-diffusion has half of the parabola's square term; its measured order is 2.
"""

from itertools import pairwise
from math import log

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta, check_order
from alphabar.sampling.samplers.quadrature import exponential_moments, weights
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def dpmpp_3m_sde(
    denoise: Denoiser, x: Images, sigmas: Grid, *, eta: float = 1.0, order: int = 3,
    noise: Noise | None = None, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Eq. 8 by the parabola through three x0_hat. n + 1 levels cost n network calls.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`.
        eta: 0 is `dpmpp_3m`, 1 has the noise of DDPM. The eta of k-diffusion's `sample_dpmpp_3m_sde` is our eta^2, as in
            `dpmpp_2m_sde`; they agree at 0 and 1.
        order: number of x0_hat that the polynomial passes through, 1 to 3; the first and the last steps have fewer.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, for an option out of range, and for eta > 0 without noise.
    """
    check_grid(sigmas)
    check_eta(eta, noise)
    check_order(order, 3)
    a, steps = 1 + eta**2, len(sigmas) - 1
    past: list[tuple[float, Images]] = []  # (s, x0_hat), the newest first
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        if s_next == 0:
            return x0_hat
        h = log(s / s_next)
        past = [(s, x0_hat), *past][: min(order, steps - i)]
        w = weights([-log(r / s) / h for r, _ in past], exponential_moments(a * h, len(past)))
        x = x * (s_next / s) ** a
        for w_k, (_, x0_k) in zip(w, past, strict=True):
            x.add_(x0_k, alpha=w_k)
        if noise is not None and eta > 0:
            x.add_(noise(i, x), alpha=s_next * (1 - (s_next / s) ** (2 * eta**2)) ** 0.5)
    return x


def dpmpp_3m(
    denoise: Denoiser, x: Images, sigmas: Grid, *, order: int = 3, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """`dpmpp_3m_sde` at eta = 0. n + 1 levels cost n network calls; noise is never drawn."""
    return dpmpp_3m_sde(denoise, x, sigmas, eta=0.0, order=order, on_step=on_step)
