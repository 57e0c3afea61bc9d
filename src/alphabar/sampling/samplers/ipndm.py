"""iPNDM: Adams-Bashforth on the slope (x - x0_hat) / s. Zhang & Chen 2023 (arXiv:2204.13902), app. H; Liu et al. 2022
(arXiv:2202.09778), whose warm-up of several calls is replaced by lower orders.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_order
from alphabar.sampling.samplers.quadrature import weights
from alphabar.schedule.grid import check_grid

Coefficients = Literal["fixed", "exact"]
COEFFICIENTS: tuple[str, ...] = get_args(Coefficients)


@torch.no_grad()
def ipndm(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    order: int = 4,
    coefficients: str = "fixed",
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost n calls of `denoise`; `noise` is never touched.

    order: how many slopes a step uses, 1 to 4; the first steps have fewer. coefficients: "fixed" are those of equal
    steps, (3, -1) / 2, (23, -16, 5) / 12 and (55, -59, 37, -9) / 24, whatever the grid: the published method, of second
    order on a smooth grid and first on a rough one, and better than "exact" at few calls, as it extrapolates less far.
    "exact" integrates the polynomial in s through the past slopes, so that the error falls with steps^-order.
    on_step: told (step, sigma, x, x0_hat) once a step, before x moves on.
    Raises ValueError for a bad grid, an order out of range and unknown coefficients.
    """
    check_grid(sigmas)
    check_order(order, 4)
    if coefficients not in COEFFICIENTS:
        raise ValueError(f"coefficients {coefficients!r} are unknown: use one of {', '.join(COEFFICIENTS)}")
    past: list[tuple[float, Images]] = []  # (s, slope), the newest first
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        past = [(s, (x - x0_hat).div_(s)), *past][:order]
        if coefficients == "fixed":
            nodes = [float(-k) for k in range(len(past))]
        else:
            nodes = [(r - s) / (s_next - s) for r, _ in past]
        w = weights(nodes, [1 / (k + 1) for k in range(len(past))])  # the integral of u^k over [0, 1]
        w[0] -= 1  # that is Euler's step, which as a mean of x and x0_hat loses no digits from however high a level
        x = torch.lerp(x0_hat, x, s_next / s)
        for w_k, (_, slope) in zip(w, past, strict=True):
            x.add_(slope, alpha=w_k * (s_next - s))
    return x
