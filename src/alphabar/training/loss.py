"""The loss of one batch, and what weights it by level."""

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
    """Weight of the squared error of the network's output, one an image.

    plain: 1. min_snr (Hang et al. 2023, arXiv:2303.09556, sec. 3.4): min(snr, gamma) in terms of x0. soft_min_snr (Crowson et
    al. 2024, arXiv:2401.11605, sec. 4.5): snr gamma / (snr + gamma), which is 1 / (sigma^2 + 1 / gamma). In terms of another
    output these are multiplied by what its error does to x0: sigma^2 for eps, sigma^2 / (1 + sigma^2) for v,
    (sigma / (1 + sigma))^2 for flow, where snr = 1 / sigma^2.
    """
    if kind == "plain":
        return torch.ones_like(snr_value)
    held = {"min_snr": snr_value.clamp(max=gamma), "soft_min_snr": snr_value * gamma / (snr_value + gamma)}.get(kind)
    if held is None:
        raise ValueError(f"loss weighting {kind!r} is unknown: use {', '.join(get_args(Weighting))}")
    scale = {
        "x0": torch.ones_like(snr_value),
        "v": 1 / (snr_value + 1),
        "eps": 1 / snr_value.clamp(min=1e-30),
        "flow": 1 / (1 + snr_value.sqrt()) ** 2,
    }[prediction]
    return held * scale


class LossModule(nn.Module):
    """The weighted loss as a module, so that accelerate can wrap it for several processes and mixed precision.

    forward(x0 in [-1, 1], sigma, noise, labels or None, augment or None) -> mean over the batch, float32.
    """

    def __init__(self, model: Preconditioned, weighting: Weighting = "plain", gamma: float = 5.0) -> None:
        super().__init__()
        self.model = model
        self.weighting, self.gamma = weighting, gamma

    def forward(
        self, x0: Images, sigma: Levels, noise: Images, labels: Labels | None = None, augment: Tensor | None = None
    ) -> Tensor:
        errors = self.model.loss(x0, sigma, noise, labels, augment)
        w = weight(self.weighting, self.model.prediction, snr(sigma * self.model.data_range), self.gamma)
        return (w.to(errors) * errors).mean()


@torch.inference_mode()
def image_losses(
    loss: Callable[..., Tensor],
    pixels: Pixels,
    sigma: Float64[Tensor, " n"],
    seed: int,
    *,
    draw: int = 0,
    batch: int = 128,
    device: torch.device | str | None = None,
    labels: Labels | None = None,
) -> Float64[Tensor, " n"]:
    """loss(x0, sigma, noise), or loss(x0, sigma, noise, labels) where there are some, of every image, on noise that belongs to
    (seed, number of the image, draw): the same each time."""
    out = []
    for start in range(0, len(pixels), batch):
        rows = range(start, min(start + batch, len(pixels)))
        x0 = to_model(pixels[start : rows.stop], device)
        noise = seeds.SeededNoise(seed, rows, stream=seeds.HELDOUT)(draw, x0)
        more = () if labels is None else (labels[start : rows.stop],)
        out.append(loss(x0, sigma[start : rows.stop].to(x0), noise, *more).cpu())
    return torch.cat(out).double()
