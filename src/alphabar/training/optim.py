"""Optimisers (torch's Adam and AdamW, and Muon) and learning rates."""

import math
from typing import Any

import torch
from torch import nn

from alphabar.training.config import Policy, TrainRecipe
from alphabar.training.muon import Muon


def make_optimizer(recipe: TrainRecipe, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a recipe, for a model that already is on its device and in its memory layout."""
    options: dict[str, Any] = {"lr": recipe.lr, "betas": recipe.betas, "eps": recipe.eps, "weight_decay": recipe.weight_decay}
    options["fused"] = device.type in ("cpu", "cuda", "mps")
    if recipe.optimizer != "muon":
        return (torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW)(model.parameters(), **options)
    return Muon(model, **options)


def rate_at(recipe: TrainRecipe, step: int) -> tuple[float, float | None]:
    """Learning rate and first beta at a step, a function of recipe and step, so that a resumed run needs no stored state.

    Where the run's length was changed, the rate goes on a straight line from its last value to that of the new length, within
    the images of the warm-up and at most a tenth of the remaining ones.
    """
    batch, earlier = recipe.batch, recipe.earlier
    steps, start = math.ceil(recipe.images / batch), recipe.earlier_lengths[-2] // batch if earlier else 0
    if earlier and step < start:
        return rate_at(earlier, step)
    lr, beta1 = rate(recipe.policy, step, steps, recipe.lr, warmup=recipe.warmup_images // batch)
    if earlier and start:
        share = (step - start + 1) / max(min(recipe.warmup // batch, (steps - start) // 10), 1)
        last = rate_at(earlier, start - 1)[0]
        lr = last + (lr - last) * share if share < 1 else lr
    return lr, beta1


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine, from start at share 0 to end at share 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def rate(
    policy: Policy, step: int, steps: int, lr: float, *, warmup: int = 0, start_share: float = 0.25
) -> tuple[float, float | None]:
    """Learning rate and first beta at step 0 .. steps - 1 of a policy.

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
