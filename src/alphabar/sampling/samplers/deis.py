"""DEIS (Zhang & Chen 2023, arXiv:2204.13902), tAB: eps_hat is a polynomial in time, its integral is exact. One call a step.

In sigma ("rho" of sec. 3.2) the ODE is dx / dsigma = eps_hat. tAB-DEIS, eqs. 14 and 15, lets eps_hat be the polynomial
through its past values in the time t of the VP-SDE that the paper uses (beta_t from 0.1 to 20, Song et al. 2021,
arXiv:2011.13456, app. C), where log(1 + sigma^2) = 0.1 t + 19.9 t^2 / 2, whatever schedule the model has; "log_sigma"
takes a polynomial in log sigma instead, as diffusers does. (A polynomial in sigma itself, rhoAB, is `ipndm` with exact
coefficients.) The integrals are by Gauss-Legendre, in sqrt(t) and log sigma, where all is smooth: 64 points are exact.
"""

from itertools import pairwise
from math import log, log1p, sqrt
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_order
from alphabar.sampling.samplers.quadrature import weights
from alphabar.schedule.grid import check_grid

Variable = Literal["t", "log_sigma"]
VARIABLES: tuple[str, ...] = get_args(Variable)
BETA_MIN, BETA_SLOPE = 0.1, 19.9
_POINTS, _SHARES = np.polynomial.legendre.leggauss(64)


@torch.no_grad()
def deis(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    order: int = 3,
    variable: str = "t",
    data_range: float = 1.0,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost n calls of `denoise`; `noise` is never touched.

    order: how many eps_hat the polynomial goes through (the paper's r + 1), 1 to 4; the first steps have fewer.
    variable: "t" or "log_sigma", see above; the last step of "log_sigma" is of first order. data_range: half the width
    of the network's input range, in whose noise levels t is reckoned.
    on_step: told (step, sigma, x, x0_hat) once a step, before x moves on.
    Raises ValueError for a bad grid, an order out of range and an unknown variable.
    """
    check_grid(sigmas)
    check_order(order, 4)
    if variable not in VARIABLES:
        raise ValueError(f"variable {variable!r} is unknown: use one of {', '.join(VARIABLES)}")
    past: list[tuple[float, Images]] = []  # (s, eps_hat), the newest first
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        past = [(s, (x - x0_hat).div_(s)), *past][:order]
        if variable == "log_sigma" and s_next == 0:
            return x0_hat
        w = [w_k / data_range for w_k in _weights([r * data_range for r, _ in past], s_next * data_range, variable)]
        w[0] -= s_next - s  # that is DDIM's step, which as a mean of x and x0_hat loses no digits from however high a level
        x = torch.lerp(x0_hat, x, s_next / s)
        for w_k, (_, eps) in zip(w, past, strict=True):
            x.add_(eps, alpha=w_k)
    return x


def _weights(levels: list[float], s_next: float, variable: str) -> list[float]:
    """w_j = integral from s = levels[0] to s_next of the j-th Lagrange polynomial in the variable. Eq. 15."""
    of = _time if variable == "t" else log
    start, end = of(levels[0]), of(s_next)
    nodes = [(of(r) - start) / (end - start) for r in levels]
    u, slope = _points(start, end, variable)
    return weights(nodes, [s_next - levels[0], *(float((u**k * slope) @ _SHARES) for k in range(1, len(levels)))])


def _points(start: float, end: float, variable: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At the points of the integral: the share of the way from start to end, and dsigma / dpoint."""
    if variable == "log_sigma":
        v = (end + start) / 2 + (end - start) / 2 * _POINTS
        return (v - start) / (end - start), np.exp(v) * (end - start) / 2
    a, b = start**0.5, end**0.5
    w = (a + b) / 2 + (b - a) / 2 * _POINTS
    t = w**2
    log_term = BETA_MIN * t + BETA_SLOPE * t**2 / 2  # log(1 + sigma^2)
    slope = np.exp(log_term) * (BETA_MIN + BETA_SLOPE * t) * w / np.sqrt(np.expm1(log_term))  # dsigma / dw
    return (t - start) / (end - start), slope * (b - a) / 2


def _time(sigma: float) -> float:
    """t of the VP-SDE at level sigma: the positive root of 0.1 t + 19.9 t^2 / 2 = log(1 + sigma^2)."""
    level = log1p(sigma**2)
    return 2 * level / (BETA_MIN + sqrt(BETA_MIN**2 + 2 * BETA_SLOPE * level))
