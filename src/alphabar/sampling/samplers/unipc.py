"""UniPC (Zhao et al. 2023, arXiv:2302.04867): each new x0_hat first corrects the step that led to it. One call per step.

In x0_hat (data prediction, app. A.2), with h = log(s / s') and u the completed share of the step in lambda = -log s:
UniP-p is x' = s' / s x + integral over [0, 1] of h e^(-h (1 - u)) x0(u) du with x0 the polynomial through the last p values;
UniC-p adds the value at the end of the step as one more node, and repeats the step. In eqs. 3 and 9 of the paper, A_p C_p = B(h),
B(h) cancels wherever the equations are solved. It matters in the two places where the paper replaces the solution by 1/2 (p = 2
of the predictor, p = 1 of the corrector): x' has the term B(h) / 2 times the difference of two values.
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
    denoise: Denoiser, x: Images, sigmas: Grid, *, order: int = 2, bh: int = 1,
    noise: Noise | None = None, on_step: OnStep | None = None,
) -> Images:  # fmt: skip
    """UniPC-p. n + 1 levels cost n network calls.

    Args:
        denoise, x, sigmas, noise, on_step: as in `ddim`; noise is never drawn. `on_step` gets x before its correction.
        order: p of the paper, 1 to 3: the error falls as steps^-(p + 1). The first and the last steps have a lower order.
        bh: 1 is B(h) = h, which extrapolates further on a long step and is better at few calls of an unconditional model;
            2 is B(h) = e^h - 1.

    Returns:
        Images of level 0.

    Raises:
        ValueError: for a bad grid, an order out of range, and an unknown bh.
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
    """From s to s_next with x0 through `known`, pairs (level, x0_hat), that of s first. simple: 1/2 replaces the solution."""
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
