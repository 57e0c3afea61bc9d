"""Heun's method with churn: Karras et al. 2022 (arXiv:2206.00364), algorithm 2 (algorithm 1 where s_churn = 0)."""

from itertools import pairwise
from math import inf

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.schedule.grid import check_grid

HIGHEST = 1e6  # far above any level with signal left; zero terminal SNR stands at 2^32


@torch.no_grad()
def heun(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    s_noise: float = 1.0,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost 2 n - 1 calls of `denoise`: the last step has one.

    s_churn: how much fresh noise, spread over the steps, 0 (none) and up; a step raises the level by at most the
    factor sqrt(2). s_tmin, s_tmax: the levels between which that is done. s_noise: std of the fresh noise, near 1.
    noise: needed where s_churn > 0, not touched where it is 0. on_step: told (step, sigma, x, x0_hat) once a step,
    of its first call, at the raised level. No level is raised above sigmas[0], as a model may not know more noise
    (the paper's own s_tmax = 50 of 80 never gets there).

    Raises ValueError for a bad grid, one from above 1e6 (zero terminal SNR), for a negative or unordered option, and
    where noise is missing.
    """
    check_grid(sigmas)
    if not (s_churn >= 0 and s_noise >= 0 and 0 <= s_tmin <= s_tmax):
        raise ValueError(
            f"s_churn = {s_churn}, s_tmin = {s_tmin}, s_tmax = {s_tmax}, s_noise = {s_noise}: give s_churn and s_noise "
            "of 0 or more and 0 <= s_tmin <= s_tmax, as in s_churn=40, s_tmin=0.05, s_tmax=50, s_noise=1.003"
        )
    if s_churn > 0 and noise is None:
        raise ValueError(f"s_churn = {s_churn} adds noise: pass noise=SeededNoise(seed, indices)")
    top, steps = float(sigmas[0]), len(sigmas) - 1
    if top > HIGHEST:
        raise ValueError(
            f"the grid begins at sigma = {top:.3g}, all noise, and heun, which goes in a straight line in sigma, has nothing to "
            f"measure its first step by: begin at a level below {HIGHEST:g}, or use dpmpp_2s"
        )
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        gamma = min(s_churn / steps, 2**0.5 - 1) if s_tmin <= s <= s_tmax else 0.0
        s_hat = min(s + gamma * s, top)
        if noise is not None and s_hat > s:
            x = torch.add(x, noise(i, x).to(x), alpha=s_noise * (s_hat**2 - s**2) ** 0.5)
        x0_hat = denoise(x, x.new_full((len(x),), s_hat))
        if on_step is not None:
            on_step(i, s_hat, x, x0_hat)
        slope = (x - x0_hat).div_(s_hat)
        y = torch.lerp(x0_hat, x, s_next / s_hat)  # x + (s' - s_hat) slope
        if s_next > 0:
            change = (y - denoise(y, y.new_full((len(y),), s_next))).div_(s_next).sub_(slope)
            y = torch.add(y, change, alpha=(s_next - s_hat) / 2)
        x = y
    return x
