"""UniPC (Zhao et al. 2023, arXiv:2302.04867): each new answer first corrects the step that led to it. One call a step.

In x0_hat ("data prediction", app. A.2), h = log(s / s'), u = share of the step in lambda = -log s:
UniP-p is x' = s' / s x + integral over [0, 1] of h e^(-h (1 - u)) x0(u) du with x0 the polynomial through the last p
answers; UniC-p takes the answer at the step's end as one more node, and repeats the step. Theirs is A_p C_p = B(h) in
eqs. 3 and 9, in which B(h) cancels wherever the equations are solved. It matters in the two places where the paper
puts 1/2 for the solution (p = 2 of the predictor, p = 1 of the corrector): x' has the term B(h) / 2 times the difference.
"""

from itertools import pairwise
from math import log

import torch

from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.sampling.samplers.checks import check_order
from alphabar.sampling.samplers.quadrature import exponential_moments, weights
from alphabar.schedule.grid import check_grid


@torch.no_grad()
def unipc(
    denoise: Denoiser,
    x: Images,
    sigmas: Grid,
    *,
    order: int = 2,
    bh: int = 1,
    noise: Noise | None = None,
    on_step: OnStep | None = None,
) -> Images:
    """Images from the noise x of level sigmas[0]. n + 1 levels cost n calls of `denoise`; `noise` is never touched.

    order: the paper's p, 1 to 3: UniPC-p, whose error falls with steps^-(p + 1). The first and the last steps have a
    lower one. bh: 1 is B(h) = h, which goes further on a long step and is better at few calls of an unconditional model;
    2 is B(h) = e^h - 1. on_step: told (step, sigma, x, x0_hat) once a step, before x is corrected and moves on.
    Raises ValueError for a bad grid and for an unknown order or bh.
    """
    check_grid(sigmas)
    check_order(order, 3)
    if bh not in (1, 2):
        raise ValueError(f"bh = {bh}: give 1 for B(h) = h or 2 for B(h) = e^h - 1")
    steps = len(sigmas) - 1
    s_last, x_last = 0.0, x
    past: list[tuple[float, Images]] = []  # (s, x0_hat), the newest first
    for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
        x0_hat = denoise(x, x.new_full((len(x),), s))
        if on_step is not None:
            on_step(i, s, x, x0_hat)
        if s_next == 0:
            return x0_hat
        if past:
            x = _move(x_last, s_last, s, [*past, (s, x0_hat)], bh, simple=len(past) == 1)
        past = [(s, x0_hat), *past][: min(order, steps - i)]
        s_last, x_last = s, x
        x = _move(x, s, s_next, past, bh, simple=len(past) == 2)
    return x


def _move(x: Images, s: float, s_next: float, known: list[tuple[float, Images]], bh: int, simple: bool) -> Images:
    """From s to s_next with x0 through `known`, (level, x0_hat) with that of s first. simple: 1/2 for the solution."""
    h = log(s / s_next)
    moments = exponential_moments(h, len(known))
    nodes = [log(s / r) / h for r, _ in known]
    if simple:
        b = h if bh == 1 else moments[0]
        w = [moments[0] - b / 2 / nodes[1], b / 2 / nodes[1]]
    else:
        w = weights(nodes, moments)
    out = x * (s_next / s)
    for w_k, (_, x0_k) in zip(w, known, strict=True):
        out.add_(x0_k, alpha=w_k)
    return out
