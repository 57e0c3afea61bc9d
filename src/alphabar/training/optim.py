"""Optimisers (torch's Adam and AdamW, and torch's Muon for the weight matrices with AdamW for the rest) and learning rates."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.training.config import Policy, TrainRecipe


def make_optimizer(recipe: TrainRecipe, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a recipe, for a model that already is on its device and in its memory layout.

    Raises ValueError for Muon with precision fp16, because accelerate's loss scaling does not reach Muon's gradients.
    """
    if recipe.optimizer == "muon":
        if recipe.precision == "fp16":
            raise ValueError("train.optimizer muon does not work with train.precision fp16: use bf16, or --train.optimizer adamw")
        return MuonAdamW(recipe, model, device)
    return _adam(recipe, list(model.parameters()), device)


def _adam(recipe: TrainRecipe, parameters: list[nn.Parameter], device: torch.device) -> torch.optim.Adam:
    kind: type[torch.optim.Adam] = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    fused = device.type in ("cpu", "cuda", "mps")
    return kind(parameters, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=fused)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon updates: those of all linear layers, and of all convolutions except the first and the last one
    (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks")."""
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    ends = {id(m) for m in (*convolutions[:1], *convolutions[-1:])}
    weights = [m.weight for m in layers if id(m) not in ends]
    return [w for w in weights if isinstance(w, nn.Parameter) and min(w.shape[:2]) > 1]


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon on convolutions' weights as matrices (out, in x height x width), and torch's AdamW on all other parameters.

    Muon's updates are scaled to the root mean square of AdamW's (Liu et al. 2025, arXiv:2502.16982, eq. 4), so that one
    learning rate and one weight decay suit both. Parameters and states are numbered: Muon's first, then AdamW's.
    """

    def __init__(self, recipe: TrainRecipe, model: nn.Module, device: torch.device) -> None:
        self.weights = matrices(model)
        numbers = {id(p) for p in self.weights}
        rest = [p for p in model.parameters() if id(p) not in numbers]
        super().__init__([{"params": self.weights}, {"params": rest}], {"lr": recipe.lr, "betas": recipe.betas})
        self.flat = [nn.Parameter(flattened(p), requires_grad=True) for p in self.weights]  # views of the same memory
        self.muon = torch.optim.Muon(
            self.flat, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        self.adam = _adam(recipe, rest, device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon here takes no closure: call backward yourself")
        for outer, inner in zip(self.param_groups, (self.muon.param_groups[0], self.adam.param_groups[0]), strict=True):
            inner["lr"] = outer["lr"]
            if "betas" in inner:
                inner["betas"] = outer["betas"]
        for weight, flat in zip(self.weights, self.flat, strict=True):
            flat.grad = None if weight.grad is None else flattened(weight.grad)
        self.muon.step()  # type: ignore[no-untyped-call]
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        first, second = self.muon.state_dict()["state"], self.adam.state_dict()["state"]
        state = first | {k + len(self.flat): v for k, v in second.items()}
        return {"state": state, "param_groups": super().state_dict()["param_groups"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        n, state = len(self.flat), state_dict["state"]
        first, second = {k: v for k, v in state.items() if k < n}, {k - n: v for k, v in state.items() if k >= n}
        for optimizer, part in ((self.muon, first), (self.adam, second)):
            optimizer.load_state_dict({"state": part, "param_groups": optimizer.state_dict()["param_groups"]})


def flattened(weight: Tensor) -> Tensor:
    """A weight (out, in, height, width) as a matrix (out, in x height x width), a view of the same memory in both layouts.

    The order of columns depends on the layout, which does not matter to Muon. A linear layer's matrix stays unchanged.
    """
    channels_last = weight.ndim == 4 and not weight.is_contiguous()
    return (weight.permute(0, 2, 3, 1) if channels_last else weight).detach().flatten(1)


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
