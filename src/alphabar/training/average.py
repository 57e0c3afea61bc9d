"""Exponential moving average of weights (EMA), its half-life counted in images, so that batch size does not change it."""

from collections.abc import Iterable

import torch
from torch import Tensor


def ema_decay(batch: int, images_seen: int, half_life: float, ramp: float) -> float:
    """Decay of one step of `batch` images: 0.5^(batch / h), h = min(half_life, ramp * images_seen).

    The ramp lets the average forget the first weights (Karras et al. 2022, arXiv:2206.00364, app. F.2, ramps the same way).
    """
    h = min(half_life, ramp * images_seen)
    return 0.5 ** (batch / h) if h > 0 else 0.0


@torch.no_grad()
def ema_update(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * weights, in place; float32 weights, one fused call."""
    torch._foreach_lerp_(list(average), [w.detach() for w in weights], 1 - decay)
