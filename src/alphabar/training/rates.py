"""Learning rates as functions of the step, so that a resumed run needs no stored state."""

import math
from typing import Literal

Policy = Literal["constant", "cosine", "one_cycle"]


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from start (share 0) to end (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def rate(
    policy: Policy, step: int, steps: int, lr: float, *, warmup: int = 0, start_share: float = 0.25
) -> tuple[float, float | None]:
    """Learning rate and first beta at step 0 .. steps - 1.

    constant: lr, after a linear warm-up. cosine: the same, then half a cosine to lr / 100. one_cycle (Smith & Topin 2018,
    arXiv:1708.07120), with the values of torch's OneCycleLR: from lr / 25 up to lr in `start_share` of the steps, then down to
    lr / 250,000; beta goes 0.95, 0.85, 0.95. Otherwise beta is None: the optimiser keeps its own.

    >>> rate("constant", 0, 100, 1e-3, warmup=4)
    (0.00025, None)
    """
    if policy == "one_cycle":
        peak = start_share * steps - 1
        if step <= peak:
            share = step / peak if peak > 0 else 1.0
            return _cosine(lr / 25, lr, share), _cosine(0.95, 0.85, share)
        share = (step - peak) / max(steps - 1 - peak, 1e-9)
        return _cosine(lr, lr / 25 / 1e4, share), _cosine(0.85, 0.95, share)
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if policy == "constant":
        return lr * up, None
    if policy == "cosine":
        return _cosine(lr, lr / 100, step / max(steps - 1, 1)) * up, None
    raise ValueError(f"learning-rate policy {policy!r} is unknown: use constant, cosine or one_cycle")
