"""Muon: steps that are nearly orthogonal matrices for the weight matrices of a network, and AdamW's steps for all else."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial a s + b s^3 + c s^5
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") for the `matrices` of networks, with
    AdamW for all their other parameters.

    The weight of a convolution counts as a matrix (out, in x height x width). Steps are scaled to the root mean square of
    AdamW's (Liu et al. 2025, arXiv:2502.16982, eq. 4), so that one learning rate and one weight decay suit both.

    torch.optim.Muon takes the same steps; it multiplies large matrices in bfloat16, where this multiplies small ones in float32
    (`orthogonalized`), which is exact enough and fast on every processor.

    Args:
        networks: The first and the last convolution of each are left to AdamW.
        options: Of `torch.optim.AdamW`. Matrices use lr and weight_decay.
    """

    def __init__(self, *networks: nn.Module, **options: Any) -> None:
        inner = [weight for network in networks for weight in matrices(network)]
        numbers = {id(weight) for weight in inner}
        others = [p for network in networks for p in network.parameters() if id(p) not in numbers]
        self.adamw = torch.optim.AdamW(others, **options)
        super().__init__([{"params": inner}, {"params": others}], self.adamw.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        group, *self.adamw.param_groups = self.param_groups
        self.adamw.state = self.state  # of all parameters, so that one state dict holds it
        loss = self.adamw.step(closure)
        alike = defaultdict[torch.Size, list[tuple[Tensor, Tensor]]](list)  # one product for all matrices of a shape
        for weight in group["params"]:
            if weight.grad is not None:
                if not (state := self.state[weight]):
                    state["momentum_buffer"] = torch.zeros_like(weight)
                average = state["momentum_buffer"].lerp_(weight.grad, 1 - MOMENTUM)
                matrix = flattened(weight, weight)
                alike[matrix.shape].append((matrix, flattened(weight.grad.lerp(average, MOMENTUM), weight)))
        for shape, pairs in alike.items():
            steps = orthogonalized(torch.stack([step for _, step in pairs])) * (0.2 * math.sqrt(max(shape)) * group["lr"])
            for (matrix, _), step in zip(pairs, steps, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step)
        return loss


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon updates: those of all linear layers, and of all convolutions except the first and the last one."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
    ends = {id(m) for m in (*convolutions[:1], *convolutions[-1:])}
    weights = [m.weight for m in layers if id(m) not in ends]
    return [w for w in weights if isinstance(w, nn.Parameter) and min(w.shape[:2]) > 1]


def flattened(x: Tensor, weight: Tensor) -> Tensor:
    """x, of the shape of `weight` (out, in, height, width), as a matrix (out, in x height x width), whose columns stand in the
    order of the weight's memory. So the weight's own matrix is a view of it.

    The order of columns does not matter to Muon. A linear layer's matrix stays unchanged.
    """
    channels_last = weight.ndim == 4 and not weight.is_contiguous()
    return (x.permute(0, 2, 3, 1) if channels_last else x).flatten(1)


def orthogonalized(x: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with each singular value s of X / |X| replaced by p(p(p(p(p(s))))), about 0.7 to 1.2.

    p(s) = a s + b s^3 + c s^5 of `COEFFICIENTS`. Because p is odd, its value for a matrix is P X, where P is a polynomial of
    the Gram matrix X X^T: all iterations take place in the Gram matrix, which has only as many columns as X has rows, and
    X itself is multiplied twice instead of ten times.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalized(x.mT).mT
    a, b, c = COEFFICIENTS
    x = x.float() / x.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    gram = x @ x.mT
    product = identity = torch.eye(gram.shape[-1], device=x.device)
    for left in reversed(range(ITERATIONS)):
        factor = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
        product = factor @ product
        gram = factor @ gram @ factor if left else gram
    return product @ x
