"""Heun's method with churn: Karras et al. 2022 (arXiv:2206.00364), algorithm 2 (algorithm 1 if s_churn = 0)."""

from itertools import pairwise
from math import inf

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_noise
from alphabar.schedule.grid import check_grid

HIGHEST = 1e6  # far above any level with signal left; zero terminal SNR is represented by 2^32


@torch.no_grad()
def heun(
    denoise: Denoiser, x: Images, sigmas: Grid, *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = inf,
    s_noise: float = 1.0, noise: Noise | None = None, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """Algorithm 2. n + 1 levels cost 2 n - 1 network calls: the last step has one.

    There is no eta: churn adds noise before a step and does not change the ODE. With the same options this is k-diffusion's
    `sample_heun`, except that no level is raised above sigmas[0], the highest that the model was trained on.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`. noise is needed if s_churn > 0, and not drawn if it is 0.
            `on_step` gets the first call of a step, at the raised level.
        s_churn: amount of fresh noise over all steps, 0 or more; a step raises the level by at most the factor sqrt(2).
        s_tmin: lowest level that is raised.
        s_tmax: highest level that is raised.
        s_noise: standard deviation of the fresh noise, near 1.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, one that starts above 1e6 (zero terminal SNR), an option out of range, and missing noise.
    """
    check_grid(sigmas)
    if not (s_churn >= 0 and s_noise >= 0 and 0 <= s_tmin <= s_tmax):
        raise ValueError(
            f"s_churn = {s_churn}, s_tmin = {s_tmin}, s_tmax = {s_tmax}, s_noise = {s_noise}: give s_churn and s_noise "
            "of 0 or more and 0 <= s_tmin <= s_tmax, as in s_churn=40, s_tmin=0.05, s_tmax=50, s_noise=1.003"
        )
    if s_churn > 0:
        check_noise(noise, f"s_churn = {s_churn} adds noise")
    top, steps = float(sigmas[0]), len(sigmas) - 1
    if top > HIGHEST:
        raise ValueError(
            f"the grid starts at sigma = {top:.3g}, pure noise, from which a straight line in sigma has no slope: start at a "
            f"level below {HIGHEST:g}, or use dpmpp_2s"
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
