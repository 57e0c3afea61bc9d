"""The denoising loss by noise level, on held-out and on training images: an early and cheap sign of over-fitting.

A model that memorises its training images denoises them better than other images, first at the levels where the noise leaves just
enough information to tell which image it was (Bonnaire et al. 2025, arXiv:2505.17638). No image has to be sampled to see it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num
from torch import Tensor, nn

from alphabar.core.files import Record
from alphabar.core.progress import track
from alphabar.core.types import Denoiser, Images, Labels, Levels, Pixels
from alphabar.denoiser.wrappers import Labelled
from alphabar.evaluation.estimate import LEVEL, Estimate, normal_quantile
from alphabar.schedule.noising import add_noise
from alphabar.training.loss import image_losses
from alphabar.training.stream import pad_pixels

LOWEST, HIGHEST, COUNT = 0.05, 20.0, 9  # of the default levels


@dataclass(frozen=True, eq=False)
class DenoisingLoss(Record):
    """E|D(x0 + sigma noise, sigma) - x0|^2 per pixel and channel, in the model's range [-1, 1], with one entry per level.

    Each image counts once, with the mean over its draws of noise.
    """

    sigma: tuple[float, ...]
    heldout: tuple[Estimate, ...]
    train: tuple[Estimate, ...] | None
    gap: tuple[Estimate, ...] | None  # held-out minus training
    overall: Estimate  # mean over the levels of (1 + 1 / sigma^2) times the loss, which is the loss of a v-prediction
    overall_train: Estimate | None
    overall_gap: Estimate | None
    relative_gap: Estimate | None  # overall_gap / overall_train; 0.1: the loss of held-out images is a tenth higher
    n_heldout: int
    n_train: int
    draws: int

    @property
    def weight(self) -> tuple[float, ...]:
        """1 + 1 / sigma^2 of every level: turns the loss of x0_hat into that of v, which is similar at all levels."""
        return tuple(1 + 1 / s**2 for s in self.sigma)

    def __str__(self) -> str:
        if self.relative_gap is None:
            return f"held-out loss {self.overall} ({self.n_heldout} images)"
        return (
            f"held-out loss {self.overall} ({self.n_heldout} images), train {self.overall_train} ({self.n_train}), "
            f"relative gap {self.relative_gap}"
        )


def heldout_loss(
    denoise: Denoiser, heldout: Pixels, train: Num[np.ndarray, "t ht wt ct"] | None = None, *,
    levels: Sequence[float] | None = None, draws: int = 2, seed: int = 0, batch: int = 128,
    device: torch.device | str | None = None, level: float = LEVEL, progress: bool = False,
    labels: tuple[Int64[Tensor, " n"], Int64[Tensor, " t"] | None] | None = None,
) -> DenoisingLoss:  # fmt: skip
    """Denoising loss of held-out images at several levels and, where given, that of training images and the gap between them.

    Standard errors are over images; more draws of noise reduce the part that the noise contributes. Image k of both sets has the
    same noise at every level, so that most of the noise cancels in the gap. The gap is slightly above 0 for every trained model,
    and rises long before samples are copies: compare it with that of earlier checkpoints.

    Args:
        denoise: The denoiser. A border that it was trained with (`crop`) is added to the images and left out of the loss.
        heldout: Pixels [n, h, w, c] as stored, n >= 2.
        train: Pixels of training images, likewise, or None.
        levels: Sigmas > 0; None: nine from 0.05 to 20, even in log sigma, within the range of the model's schedule.
        draws: Draws of noise per image and level; (n + t) x levels x draws network calls in all.
        seed: Of the noise.
        batch: Images per network call.
        device: Where to compute; None: where the model's weights are.
        level: Of the intervals.
        progress: Whether to show a progress bar.
        labels: Classes of the held-out and of the training images, for a conditional model; None: without classes.

    Raises:
        ValueError: For fewer than 2 images, different shapes, or levels that are not above 0.
    """
    sigmas = _levels(denoise, levels)
    sets = [heldout] if train is None else [heldout, train]
    if draws < 1:
        raise ValueError(f"draws = {draws}: give at least 1")
    for name, pixels in zip(("held-out", "training"), sets, strict=False):
        if len(pixels) < 2:
            raise ValueError(f"{len(pixels)} {name} image(s): give at least 2, a few hundred as a rule")
        if pixels.shape[1:] != heldout.shape[1:]:
            raise ValueError(f"held-out images of shape {heldout.shape[1:]}, training images of {pixels.shape[1:]} (h, w, c)")
    normal_quantile(level)  # raises for an invalid level
    if device is None and isinstance(denoise, nn.Module):
        device = next((p.device for p in denoise.parameters()), None)
    crop = int(getattr(denoise, "crop", 0))
    with track(sum(len(p) for p in sets) * len(sigmas) * draws, "denoising", show=progress) as advance:
        losses = [
            losses_by_level(denoise, pixels, sigmas, draws, seed, batch, device, advance, classes, crop)
            for pixels, classes in zip(sets, labels or (None, None), strict=False)
        ]
    return _summary(sigmas, losses, draws, level)


def losses_by_level(
    denoise: Denoiser, pixels: Pixels, sigmas: Sequence[float], draws: int = 2, seed: int = 0, batch: int = 128,
    device: torch.device | str | None = None, advance: Callable[..., None] = lambda amount: None,
    labels: Labels | None = None, crop: int = 0,
) -> Float64[Tensor, "levels n"]:  # fmt: skip
    """The mean loss of every image over its draws, one row per level; arguments as for `heldout_loss`. crop: pixels of the border
    that is added to the images and left out of the loss."""
    padded = pad_pixels(pixels, crop)

    def loss(x0: Images, sigma: Levels, noise: Images, *classes: Labels) -> Tensor:
        conditioned = Labelled(cast(Any, denoise), classes[0].to(x0.device)) if classes else denoise
        off = (conditioned(add_noise(x0, sigma, noise), sigma) - x0).float()
        h, w = off.shape[2:]
        return off[:, :, crop : h - crop, crop : w - crop].square().flatten(1).mean(1)

    out = torch.zeros((len(sigmas), len(pixels)), dtype=torch.float64)
    for i, s in enumerate(sigmas):
        sigma = torch.full((len(pixels),), s, dtype=torch.float64)
        for r in range(draws):  # every level has its own noise
            out[i] += (
                image_losses(loss, padded, sigma, seed, draw=i * draws + r, batch=batch, device=device, labels=labels) / draws
            )
            advance(len(pixels))
    return out


def _summary(sigmas: Sequence[float], losses: Sequence[Float64[Tensor, "_ _"]], draws: int, level: float) -> DenoisingLoss:
    """losses: of the held-out images and, if given, of the training images; one row per level, one column per image."""
    weight = 1 + 1 / torch.tensor(sigmas, dtype=torch.float64) ** 2
    heldout = losses[0]
    total = (weight @ heldout) / len(sigmas)
    out: dict[str, Any] = dict.fromkeys(("train", "gap", "overall_train", "overall_gap", "relative_gap"))
    if len(losses) > 1:
        train = losses[1]
        total_train = (weight @ train) / len(sigmas)
        ratio = float(total.mean() / total_train.mean()) if float(total_train.mean()) > 0 else math.inf
        out = {
            "train": tuple(_mean(row, level) for row in train),
            "gap": tuple(_difference(h, t, level) for h, t in zip(heldout, train, strict=True)),
            "overall_train": _mean(total_train, level),
            "overall_gap": _difference(total, total_train, level),
            "relative_gap": _relative(total, total_train, ratio, level),
        }
    return DenoisingLoss(
        sigma=tuple(sigmas), heldout=tuple(_mean(row, level) for row in heldout), overall=_mean(total, level),
        n_heldout=heldout.shape[1], n_train=losses[1].shape[1] if len(losses) > 1 else 0, draws=draws, **out,
    )  # fmt: skip


def _mean(values: Float64[Tensor, " n"], level: float) -> Estimate:
    return Estimate.normal(float(values.mean()), math.sqrt(float(values.var()) / len(values)), level)


def _difference(x: Tensor, y: Tensor, level: float, factor: float = 1.0) -> Estimate:
    """mean(x) - factor mean(y), where x[k] and y[k] have the same noise for every k that both have."""
    n, m, both = len(x), len(y), min(len(x), len(y))
    together = float(torch.cov(torch.stack([x[:both], y[:both]]))[0, 1])
    variance = float(x.var()) / n + factor**2 * float(y.var()) / m - 2 * factor * together * both / (n * m)
    return Estimate.normal(float(x.mean()) - factor * float(y.mean()), math.sqrt(max(variance, 0.0)), level)


def _relative(x: Tensor, y: Tensor, ratio: float, level: float) -> Estimate:
    """mean(x) / mean(y) - 1 by the delta method."""
    if not math.isfinite(ratio):
        return Estimate(math.inf, None, None, level, "no interval: the loss of the training images is 0")
    se = (_difference(x, y, level, ratio).se or 0.0) / float(y.mean())
    return Estimate.normal(ratio - 1, se, level)


def _levels(denoise: Denoiser, levels: Sequence[float] | None) -> list[float]:
    if levels is None:
        schedule = getattr(denoise, "schedule", None)
        low = max(LOWEST, float(getattr(schedule, "sigma_min", LOWEST)))
        high = min(HIGHEST, float(getattr(schedule, "sigma_max", HIGHEST)))
        return [float(s) for s in np.geomspace(low, high, COUNT)]
    sigmas = [float(s) for s in levels]
    if not sigmas or not all(math.isfinite(s) and s > 0 for s in sigmas):
        raise ValueError(f"levels {list(levels)}: give sigmas above 0, as in (0.1, 0.3, 1, 3, 10)")
    return sigmas
