"""DPM-Solver++(2S) and its SDE form: two calls a step. Lu et al. 2022 (arXiv:2211.01095), algorithm 1.

With lambda = -log s the ODE is d(x / s) / dlambda = e^lambda x0(lambda). With noise, a = 1 + eta^2 and
z = a (lambda' - lambda), a step of dx = a (x - x0) / s ds + eta sqrt(2 s) dw is, x0 being held,

    x' = (s' / s)^a x + (1 - (s' / s)^a) x0 + s' sqrt(1 - (s' / s)^(2 eta^2)) noise        (a)

which at eta = 0 is DDIM and at eta = 1 is DDPM. (eta^2 is the "eta" of k-diffusion; at 0 and 1 they are the same.)
The method goes half-way by (a), in lambda, and takes the whole step with x0_hat of there.
"""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_eta
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def dpmpp_sde(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    eta: float = 1.0,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost 2 n - 1 calls of `denoise`: the last step has one.

    eta: 0 is `dpmpp_2s`, 1 the noise of DDPM. noise: needed when eta > 0, draws 2 i and 2 i + 1 at step i. The half
    step and the whole one share the noise of the first half, as one path does; with two unrelated draws the method
    is of first order. on_step: told (step, sigma, x, x0_hat) once a step, of its first call.
    Raises ValueError for a bad grid, for eta outside [0, 1], and for eta > 0 without noise.
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
    """`dpmpp_sde` without noise: 2 n - 1 calls for n steps; `noise` is never touched."""
    return dpmpp_sde(denoise, x, sigmas, eta=0.0, on_step=on_step)
