"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095): the single-step 2S, the multistep 2M and 3M, and their SDE forms.

With lambda = -log s the ODE is d(x / s) / dlambda = e^lambda x0(lambda). For constant x0 and a = 1 + eta^2, a step of the SDE
dx = a (x - x0) / s ds + eta sqrt(2 s) dw is

    x' = (s' / s)^a x + (1 - (s' / s)^a) x0 + s' sqrt(1 - (s' / s)^(2 eta^2)) noise        (a)

which is DDIM at eta = 0 and DDPM at eta = 1.

- 2S (algorithm 1) takes half the step in lambda by (a), and then the whole step with the x0_hat of the middle.
- 2M (algorithm 2) takes (a) with x0 extrapolated to the middle of the step along the line through the last two x0_hat:
  D = x0_hat + h / (2 h_last) (x0_hat - x0_last), h = log(s / s') (1 / (2 r) with r = h_last / h in the paper). The SDE form is
  that of app. B, as "midpoint" of k-diffusion and diffusers.
- 3M: eq. 8 solves the ODE over a step except for x0 along the way, x' = s' / s x + s' integral of e^lambda x0(lambda) dlambda.
  Here x0 is the parabola in lambda through the last three x0_hat, and the integral is exact, with noise as well as without:
  x' = (s' / s)^a x + integral over [0, 1] of a h e^(-a h (1 - u)) x0(u) du + s' sqrt(1 - (s' / s)^(2 eta^2)) noise.
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
