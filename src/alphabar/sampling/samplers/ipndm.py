"""iPNDM: Adams-Bashforth on the slope (x - x0_hat) / s. Zhang & Chen 2023 (arXiv:2204.13902), app. H; Liu et al. 2022
(arXiv:2202.09778), whose first steps of several calls are replaced by steps of lower order.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_choice, check_order
from alphabar.sampling.samplers.quadrature import weights
from alphabar.schedule.grid import check_grid

Coefficients = Literal["fixed", "exact"]


@torch.no_grad()
def ipndm(
    denoise: Denoiser, x: Images, sigmas: Grid, *, order: int = 4, coefficients: str = "fixed",
    noise: Noise | None = None, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Adams-Bashforth of app. H. n + 1 levels cost n network calls.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`; noise is never drawn.
        order: number of slopes in a step, 1 to 4; the first steps have fewer.
        coefficients: "fixed" are those of equal steps, (3, -1) / 2, (23, -16, 5) / 12 and (55, -59, 37, -9) / 24, on any grid:
            the published method, of second order on a smooth grid and first on a rough one, and better than "exact" at few
            calls, because it extrapolates less far. "exact" integrates the polynomial in s through the past slopes, so that the
            error falls as steps^-order.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, an order out of range, and unknown coefficients.
    """
    check_grid(sigmas)
    check_order(order, 4)
    check_choice("coefficients", coefficients, get_args(Coefficients))
    past: list[tuple[float, Images]] = []  # (s, slope), the newest first
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        past = [(s, (x - x0_hat).div_(s)), *past][:order]
        fixed = coefficients == "fixed"
        nodes = [float(-k) if fixed else (r - s) / (s_next - s) for k, (r, _) in enumerate(past)]
        w = weights(nodes, [1 / (k + 1) for k in range(len(past))])  # the integral of u^k over [0, 1]
        w[0] -= 1  # Euler's step, which is taken as a mean of x and x0_hat: no digits are lost at any level
        x = torch.lerp(x0_hat, x, s_next / s)
        for w_k, (_, slope) in zip(w, past, strict=True):
            x.add_(slope, alpha=w_k * (s_next - s))
    return x
