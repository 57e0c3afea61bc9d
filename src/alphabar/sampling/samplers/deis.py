"""DEIS (Zhang & Chen 2023, arXiv:2204.13902), tAB: eps_hat as a polynomial in time, integrated exactly. One call per step.

In sigma (rho in sec. 3.2) the ODE is dx / dsigma = eps_hat. tAB-DEIS, eqs. 14 and 15, takes for eps_hat the polynomial through
its past values in the time t of the paper's VP-SDE (beta_t from 0.1 to 20, Song et al. 2021, arXiv:2011.13456, app. C), where
log(1 + sigma^2) = 0.1 t + 19.9 t^2 / 2, whatever the model's schedule is; "log_sigma" takes a polynomial in log sigma, as
diffusers does. (rhoAB, a polynomial in sigma, is `ipndm` with exact coefficients.) The integrals are computed by Gauss-Legendre
quadrature in sqrt(t) or log sigma, in which the integrands are smooth: 64 points are exact.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log, log1p, sqrt
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_choice, check_order
from alphabar.sampling.samplers.quadrature import weights
from alphabar.schedule.grid import check_grid

Variable = Literal["t", "log_sigma"]
BETA_MIN, BETA_SLOPE = 0.1, 19.9
_POINTS, _SHARES = np.polynomial.legendre.leggauss(64)


@torch.no_grad()
def deis(
    denoise: Denoiser, x: Images, sigmas: Grid, *, order: int = 3, variable: str = "t", data_range: float = 1.0,
    noise: Noise | None = None, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Eqs. 14 and 15. n + 1 levels cost n network calls.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`; noise is never drawn.
        order: number of eps_hat that the polynomial passes through (r + 1 in the paper), 1 to 4; the first steps have fewer.
        variable: t or log_sigma, see above; the last step of log_sigma is of first order.
        data_range: half the width of the network's input range, in which the levels are converted to t.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, an order out of range, and an unknown variable.
    """
    check_grid(sigmas)
    check_order(order, 4)
    check_choice("variable", variable, get_args(Variable))
    past: list[tuple[float, Images]] = []  # (s, eps_hat), the newest first
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        past = [(s, (x - x0_hat).div_(s)), *past][:order]
        if variable == "log_sigma" and s_next == 0:
            return x0_hat
        w = [w_k / data_range for w_k in deis_weights([r * data_range for r, _ in past], s_next * data_range, variable)]
        w[0] -= s_next - s  # DDIM's step, which is taken as a mean of x and x0_hat: no digits are lost at any level
        x = torch.lerp(x0_hat, x, s_next / s)
        for w_k, (_, eps) in zip(w, past, strict=True):
            x.add_(eps, alpha=w_k)
    return x


def deis_weights(levels: Sequence[float], s_next: float, variable: str) -> list[float]:
    """w_j = integral from levels[0] to s_next of the j-th Lagrange polynomial in the variable through the levels. Eq. 15."""
    of = vp_time if variable == "t" else log
    start, end = of(levels[0]), of(s_next)
    nodes = [(of(r) - start) / (end - start) for r in levels]
    u, slope = _points(start, end, variable)
    return weights(nodes, [s_next - levels[0], *(float((u**k * slope) @ _SHARES) for k in range(1, len(levels)))])


def vp_time(sigma: float) -> float:
    """t of the VP-SDE at level sigma: the positive root of 0.1 t + 19.9 t^2 / 2 = log(1 + sigma^2)."""
    level = log1p(sigma**2)
    return 2 * level / (BETA_MIN + sqrt(BETA_MIN**2 + 2 * BETA_SLOPE * level))


def _points(start: float, end: float, variable: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At the points of the quadrature: the completed share of the step, and dsigma / dpoint."""
    if variable == "log_sigma":
        v = (end + start) / 2 + (end - start) / 2 * _POINTS
        return (v - start) / (end - start), np.exp(v) * (end - start) / 2
    a, b = start**0.5, end**0.5
    w = (a + b) / 2 + (b - a) / 2 * _POINTS
    t = w**2
    log_term = BETA_MIN * t + BETA_SLOPE * t**2 / 2  # log(1 + sigma^2)
    slope = np.exp(log_term) * (BETA_MIN + BETA_SLOPE * t) * w / np.sqrt(np.expm1(log_term))  # dsigma / dw
    return (t - start) / (end - start), slope * (b - a) / 2
