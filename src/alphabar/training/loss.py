"""The loss of a batch, and its weighting by noise level."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.types import Images, Labels, Levels, Pixels
from alphabar.data.images import to_model
from alphabar.denoiser.precondition import Preconditioned
from alphabar.schedule.noising import snr

Weighting = Literal["plain", "min_snr", "soft_min_snr"]


def weight(kind: Weighting, prediction: str, snr_value: Tensor, gamma: float = 5.0) -> Tensor:
    """Weight of the squared error of the network's output, one per image.

    An error in another output than x0 is weighted as the error in x0 that it causes, which is larger by the factor sigma^2 for
    eps, sigma^2 / (1 + sigma^2) for v and (sigma / (1 + sigma))^2 for flow.

    plain: 1. min_snr: min(snr, gamma) for x0 (Hang et al. 2023, arXiv:2303.09556, sec. 3.4). soft_min_snr: snr gamma /
    (snr + gamma) = 1 / (sigma^2 + 1 / gamma) for x0 (Crowson et al. 2024, arXiv:2401.11605, sec. 4.5).

    >>> weight("min_snr", "x0", torch.tensor([1.0, 100.0]), gamma=5.0)
    tensor([1., 5.])
    """
    if kind == "plain":
        return torch.ones_like(snr_value)
    for_x0 = {"min_snr": snr_value.clamp(max=gamma), "soft_min_snr": snr_value * gamma / (snr_value + gamma)}.get(kind)
    if for_x0 is None:
        raise ValueError(f"loss weighting {kind!r} is unknown: use {', '.join(get_args(Weighting))}")
    scale = {
        "x0": torch.ones_like(snr_value), "v": 1 / (snr_value + 1), "eps": 1 / snr_value.clamp(min=1e-30),
        "flow": 1 / (1 + snr_value.sqrt()) ** 2,
    }[prediction]  # fmt: skip
    return for_x0 * scale


class LossModule(nn.Module):
    """The weighted loss, averaged over a batch, as a module that accelerate can wrap for processes and mixed precision."""

    def __init__(self, model: Preconditioned, weighting: Weighting = "plain", gamma: float = 5.0) -> None:
        super().__init__()
        self.model, self.weighting, self.gamma = model, weighting, gamma

    def forward(
        self, x0: Images, sigma: Levels, noise: Images, labels: Labels | None = None, augment: Tensor | None = None
    ) -> Tensor:
        errors = self.model.loss(x0, sigma, noise, labels, augment)
        w = weight(self.weighting, self.model.prediction, snr(sigma * self.model.data_range), self.gamma)
        return (w.to(errors) * errors).mean()


@torch.inference_mode()
def image_losses(
    loss: Callable[..., Tensor], pixels: Pixels, sigma: Float64[Tensor, " n"], seed: int, *, draw: int = 0, batch: int = 128,
    device: torch.device | str | None = None, labels: Labels | None = None,
) -> Float64[Tensor, " n"]:  # fmt: skip
    """The loss of every image, on noise that is a function of (seed, number of the image, draw).

    Args:
        loss: called as loss(x0, sigma, noise), or loss(x0, sigma, noise, labels); returns one value per image.
        pixels: n images (n, h, w, c) as stored, padded as in training.
        sigma: noise level of each image.
        draw: another one gives other noise.
        batch: images at a time.
        device: None is the CPU.
        labels: classes (n,) for a conditional model.
    """
    out = []
    for start in range(0, len(pixels), batch):
        rows = slice(start, min(start + batch, len(pixels)))
        x0 = to_model(pixels[rows], device)
        noise = seeds.SeededNoise(seed, range(start, rows.stop), stream=seeds.HELDOUT)(draw, x0)
        out.append(loss(x0, sigma[rows].to(x0), noise, *(() if labels is None else (labels[rows],))).cpu())
    return torch.cat(out).double()
