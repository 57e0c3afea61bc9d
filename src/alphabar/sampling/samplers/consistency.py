"""Multistep consistency sampling (Song et al. 2023, arXiv:2303.01469, algorithm 1)."""

from itertools import pairwise

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def consistency(
    denoise: Denoiser, x: Images, sigmas: Grid, *, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """At every level the model gives a finished image, to which fresh noise of the next level is added.

    Args:
        denoise: a consistency model, called once per step.
        x: noise of level sigmas[0], (b, c, h, w).
        sigmas: the grid, n + 1 levels for n steps.
        noise: a function (draw, like) to standard normal noise; not called for one step.
        on_step: called with (step, sigma, x, x0_hat) once per step, with the x that `denoise` was given.

    Returns:
        Images of level 0, (b, c, h, w).

    Raises:
        ValueError: for a bad grid, and for two steps or more without noise.
    """
    check_grid(sigmas)
    if noise is None and len(sigmas) > 2:
        raise ValueError("consistency sampling in two steps or more adds noise: pass noise=")
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        x = x0_hat if noise is None or s_next == 0 else torch.add(x0_hat, noise(i, x), alpha=s_next)
    return x
