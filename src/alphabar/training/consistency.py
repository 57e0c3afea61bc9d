"""Consistency tuning: the loss that turns a diffusion model into one that gives an image in one or two network calls.

Easy consistency tuning (Geng et al. 2024, arXiv:2406.14548), in the one coordinate. D(x, sigma), E[x0 | x] before, becomes a
function that has the same value along a whole path of the probability-flow ODE, which is the image at its end.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from alphabar.core.types import Images, Labels, Levels
from alphabar.denoiser.precondition import Preconditioned
from alphabar.schedule.noising import add_noise, per_image
from alphabar.training.targets import StableTargets

DRAWN = 10.0  # weight of the loss of drawn images, which is 1 and less, beside that of consistency, which is 12 or so


def lower_level(sigma: Levels, q: float, sigma_min: float) -> Levels:
    """r = sigma (1 - (1 + 8 sigmoid(-sigma)) / q), or 0 where that is below sigma_min (the mapping of Geng et al. 2024).

    The gap between both levels shrinks as q grows.

    >>> lower_level(torch.tensor([0.1, 1.0, 100.0]), q=4, sigma_min=0.01)
    tensor([ 0.0000,  0.2121, 75.0000])
    """
    r = sigma * (1 - (1 + 8 * torch.sigmoid(-sigma)) / q)
    return torch.where(r < sigma_min, 0.0, r)


@runtime_checkable
class DrawnLoss(Protocol):
    """A loss of images that the model draws in one or a few calls, which keeps a memory of those before."""

    def __call__(self, model: Preconditioned, noise: Images, labels: Labels | None, /) -> Tensor: ...

    def distances(self) -> dict[str, float]:
        """What it has measured, by name, for the record of the training."""

    def state(self) -> dict[str, Tensor]:
        """The memory, for a checkpoint."""

    def restore(self, tensors: Mapping[str, Tensor], /) -> None:
        """Takes up a memory that `state` gave."""


class ConsistencyLoss(nn.Module):
    """|| D(x0 + sigma noise, sigma) - D(x0 + r noise, r) || / (sigma - r), averaged over a batch; no gradient through the second.

    D(x, 0) is the clean image itself. Both calls have the same dropout masks.

    Attributes:
        stages: q of each stage; all stages are equally long.
        done: share of the training that is over, 0 <= done < 1; decides the stage.
        drawn_loss: added to it, times `DRAWN`, where there is one.
        targets: for high noise; x at r is then a step on the ODE of all training images (Wang, Geng & Li 2024, arXiv:2410.18958).
    """

    def __init__(
        self, model: Preconditioned, stages: tuple[float, ...], drawn_loss: DrawnLoss | None = None,
        targets: StableTargets | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.stages, self.done, self.drawn_loss, self.targets = model, stages, 0.0, drawn_loss, targets

    @property
    def q(self) -> float:
        """q of the present stage."""
        return self.stages[min(int(self.done * len(self.stages)), len(self.stages) - 1)]

    def forward(
        self, x0: Images, sigma: Levels, noise: Images, labels: Labels | None = None, augment: Tensor | None = None
    ) -> Tensor:
        drawn = noise  # images are drawn from noise that knows nothing of them
        if self.targets is not None:
            x0, noise = self.targets(x0, sigma, noise, labels, augment)
        r = lower_level(sigma, self.q, self.model.schedule.sigma_min)
        with torch.no_grad(), torch.random.fork_rng([x0.device] if x0.device.type == "cuda" else []):
            at_r = self.model(add_noise(x0, r, noise), r.clamp(min=self.model.schedule.sigma_min), labels, augment)
            target = torch.where(per_image(r, x0) > 0, at_r.float(), x0)
        error = self.model(add_noise(x0, sigma, noise), sigma, labels, augment).float() - target
        distance: Tensor = torch.linalg.vector_norm(error.flatten(1), dim=1)
        loss = (distance / (sigma - r).to(error)).mean()
        return loss if self.drawn_loss is None else loss + DRAWN * self.drawn_loss(self.model, drawn, labels)
