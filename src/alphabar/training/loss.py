"""The loss of one batch, and what weights it by level."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from alphabar import seeds
from alphabar.data.images import to_model
from alphabar.denoiser.precondition import Preconditioned
from alphabar.schedule.noising import snr
from alphabar.types import Images, Levels, Pixels

Weighting = Literal["plain", "min_snr"]


def weight(kind: Weighting, prediction: str, snr_value: Tensor, gamma: float = 5.0) -> Tensor:
    """Weight of the squared error of the network's output, one an image.

    plain: 1. min_snr (Hang et al. 2023, arXiv:2303.09556, sec. 3.4): min(snr, gamma) in terms of x0, which is
    min(snr, gamma) / snr for eps, min(snr, gamma) for x0 and min(snr, gamma) / (snr + 1) for v.
    """
    if kind == "plain":
        return torch.ones_like(snr_value)
    if kind != "min_snr":
        raise ValueError(f"loss weighting {kind!r} is unknown: use plain or min_snr")
    held = snr_value.clamp(max=gamma)
    return {"x0": held, "v": held / (snr_value + 1), "eps": held / snr_value.clamp(min=1e-30)}[prediction]


class LossModule(nn.Module):
    """The weighted loss as a module, so that accelerate can wrap it for several processes and mixed precision.

    forward(x0 in [-1, 1], sigma, noise) -> mean over the batch, float32.
    """

    def __init__(self, model: Preconditioned, weighting: Weighting = "plain") -> None:
        super().__init__()
        self.model = model
        self.weighting = weighting

    def forward(self, x0: Images, sigma: Levels, noise: Images) -> Tensor:
        errors = self.model.loss(x0, sigma, noise)
        w = weight(self.weighting, self.model.prediction, snr(sigma * self.model.data_range))
        return (w.to(errors) * errors).mean()


@torch.inference_mode()
def image_losses(
    loss: Callable[[Images, Levels, Images], Tensor],
    pixels: Pixels,
    sigma: Float64[Tensor, " n"],
    seed: int,
    *,
    draw: int = 0,
    batch: int = 128,
    device: torch.device | str | None = None,
) -> Float64[Tensor, " n"]:
    """loss(x0, sigma, noise) of every image, on noise that belongs to (seed, number of the image, draw): the same each time."""
    out = []
    for start in range(0, len(pixels), batch):
        rows = range(start, min(start + batch, len(pixels)))
        x0 = to_model(pixels[start : rows.stop], device)
        noise = seeds.SeededNoise(seed, rows, stream=seeds.HELDOUT)(draw, x0)
        out.append(loss(x0, sigma[start : rows.stop].to(x0), noise).cpu())
    return torch.cat(out).double()
