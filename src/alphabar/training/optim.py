"""Optimisers: torch's Adam and AdamW, and torch's Muon for the weight matrices of a network with AdamW for the rest."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.training.config import TrainRecipe


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
        taken = matrices(model)
        mine = {id(p) for p in taken}
        rest = [p for p in model.parameters() if id(p) not in mine]
        super().__init__([{"params": taken}, {"params": rest}], {"lr": recipe.lr, "betas": recipe.betas})
        self.weights = taken
        self.flat = [nn.Parameter(flattened(p), requires_grad=True) for p in taken]  # views of the same memory
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
        """Numbered as in param_groups: Muon's matrices, then AdamW's parameters."""
        first, second = self.muon.state_dict()["state"], self.adam.state_dict()["state"]
        return {
            "state": first | {k + len(self.flat): v for k, v in second.items()},
            "param_groups": super().state_dict()["param_groups"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        n, state = len(self.flat), state_dict["state"]
        for optimizer, part in (
            (self.muon, {k: v for k, v in state.items() if k < n}),
            (self.adam, {k - n: v for k, v in state.items() if k >= n}),
        ):
            optimizer.load_state_dict({"state": part, "param_groups": optimizer.state_dict()["param_groups"]})


def flattened(weight: Tensor) -> Tensor:
    """A weight (out, in, height, width) as a matrix (out, in x height x width); a linear layer's matrix is returned unchanged.

    A view of the same memory for both memory layouts. The order of columns depends on the layout and does not matter to Muon.
    """
    if weight.ndim == 2:
        return weight.detach()
    if weight.is_contiguous():
        return weight.detach().flatten(1)
    return weight.detach().permute(0, 2, 3, 1).flatten(1)
