"""The denoising loss by level, on held-out images and on those trained on: the cheap early signal of over-fitting.

A model that learns its training images by heart denoises them better than images it never saw, and does so first at the
levels where the noise just leaves room to tell which image it was (Bonnaire et al. 2025, arXiv:2505.17638). No image has
to be sampled to see it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num
from torch import Tensor, nn

from alphabar.core.progress import track
from alphabar.core.types import Denoiser, Images, Labels, Levels, Pixels
from alphabar.denoiser.wrappers import Labelled
from alphabar.evaluation.estimate import LEVEL, Estimate, normal_quantile
from alphabar.schedule.noising import add_noise
from alphabar.training.loss import image_losses
from alphabar.training.stream import pad_pixels

LOWEST, HIGHEST, COUNT = 0.05, 20.0, 9  # of the levels that are looked at where none are given


@dataclass(frozen=True, eq=False)
class DenoisingLoss:
    """E|D(x0 + sigma noise, sigma) - x0|^2 a pixel and channel, in squares of the model's range, of which [-1, 1] is 2 wide.

    One entry a level. A mean over images is meant: each image counts once, with the mean over its draws of noise.
    """

    sigma: tuple[float, ...]
    heldout: tuple[Estimate, ...]
    train: tuple[Estimate, ...] | None
    gap: tuple[Estimate, ...] | None  # held-out less train
    overall: Estimate  # mean over the levels of (1 + 1 / sigma^2) times the loss, which is the loss of a v-prediction
    overall_train: Estimate | None
    overall_gap: Estimate | None
    relative_gap: Estimate | None  # overall_gap / overall_train; 0 at best, 0.1: held-out images have a tenth more
    n_heldout: int
    n_train: int
    draws: int

    @property
    def weight(self) -> tuple[float, ...]:
        """1 + 1 / sigma^2 of every level: by it the loss of x0_hat becomes that of v, which is alike at all levels."""
        return tuple(1 + 1 / s**2 for s in self.sigma)

    def __str__(self) -> str:
        if self.relative_gap is None:
            return f"held-out loss {self.overall} ({self.n_heldout} images)"
        return (
            f"held-out loss {self.overall} ({self.n_heldout} images), train {self.overall_train} ({self.n_train}), "
            f"relative gap {self.relative_gap}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        told: dict[str, Any] = {"sigma": list(self.sigma)}
        for name in ("heldout", "train", "gap"):
            values = getattr(self, name)
            told[name] = None if values is None else [v.to_json() for v in values]
        for name in ("overall", "overall_train", "overall_gap", "relative_gap"):
            value = getattr(self, name)
            told[name] = None if value is None else value.to_json()
        return told | {"n_heldout": self.n_heldout, "n_train": self.n_train, "draws": self.draws}


def heldout_loss(
    denoise: Denoiser,
    heldout: Pixels,
    train: Num[np.ndarray, "t ht wt ct"] | None = None,
    *,
    levels: Sequence[float] | None = None,
    draws: int = 2,
    seed: int = 0,
    batch: int = 128,
    device: torch.device | str | None = None,
    level: float = LEVEL,
    progress: bool = False,
    labels: tuple[Int64[Tensor, " n"], Int64[Tensor, " t"] | None] | None = None,
) -> DenoisingLoss:
    """Denoising loss of held-out images at several levels and, with train, that of training images and the gap between them.

    heldout, train: pixels [n, h, w, c], n >= 2 each, as they are stored; a model that was trained with a border (`crop`)
    gets it added, and the loss is that of the image itself. levels: sigmas > 0; None: nine from 0.05 to 20, even in log sigma, or
    from the lowest to the highest that the model's schedule knows where it knows less. draws: of noise for each image and level;
    calls are (n + t) x levels x draws. device: None is where the model's weights are. labels: the classes of heldout and of
    train, which a conditional model is then told; None: it is told none.

    Standard errors are those of a mean over images, which are what was sampled: further draws of one image tell about the
    noise alone. Image k of both sets has the same noise at every level, which then mostly drops out of the gap; its
    interval counts that the two sets are independent images with noise in common.

    The gap is above 0 by a little for every trained model. It rises long before samples are copies: compare it with that of
    earlier checkpoints.

    Raises ValueError for fewer than 2 images, unlike shapes, or levels that are not above 0.
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
    normal_quantile(level)
    if device is None and isinstance(denoise, nn.Module):
        device = next((p.device for p in denoise.parameters()), None)
    with track(sum(len(p) for p in sets) * len(sigmas) * draws, "denoising", show=progress) as advance:
        told = (None, None) if labels is None else labels
        losses = [
            losses_by_level(denoise, p, sigmas, draws, seed, batch, device, advance, known)
            for p, known in zip(sets, told, strict=False)
        ]
    return _summary(sigmas, losses, draws, level)


def losses_by_level(
    denoise: Denoiser,
    pixels: Pixels,
    sigmas: Sequence[float],
    draws: int = 2,
    seed: int = 0,
    batch: int = 128,
    device: torch.device | str | None = None,
    advance: Callable[..., None] = lambda amount: None,
    labels: Labels | None = None,
) -> Float64[Tensor, "levels n"]:
    """The mean loss of every image over its draws, a row a level; units as in `DenoisingLoss`."""
    crop = int(getattr(denoise, "crop", 0))
    padded = pad_pixels(pixels, crop)

    def loss(x0: Images, sigma: Levels, noise: Images, *known: Labels) -> Tensor:
        told = Labelled(cast(Any, denoise), known[0].to(x0.device)) if known else denoise
        off = (told(add_noise(x0, sigma, noise), sigma) - x0).float()
        h, w = off.shape[2:]
        return off[:, :, crop : h - crop, crop : w - crop].square().flatten(1).mean(1)

    out = torch.zeros((len(sigmas), len(pixels)), dtype=torch.float64)
    for i, s in enumerate(sigmas):
        sigma = torch.full((len(pixels),), s, dtype=torch.float64)
        for r in range(draws):  # noise of its own for every level
            out[i] += (
                image_losses(loss, padded, sigma, seed, draw=i * draws + r, batch=batch, device=device, labels=labels) / draws
            )
            advance(len(pixels))
    return out


def _summary(sigmas: Sequence[float], losses: Sequence[Float64[Tensor, "_ _"]], draws: int, level: float) -> DenoisingLoss:
    """losses: of the held-out images and, where there are any, of the training images; a row a level, a column an image."""
    weight = 1 + 1 / torch.tensor(sigmas, dtype=torch.float64) ** 2
    held = losses[0]
    total = (weight @ held) / len(sigmas)
    out: dict[str, Any] = dict.fromkeys(("train", "gap", "overall_train", "overall_gap", "relative_gap"))
    if len(losses) > 1:
        seen = losses[1]
        total_seen = (weight @ seen) / len(sigmas)
        ratio = float(total.mean() / total_seen.mean()) if float(total_seen.mean()) > 0 else math.inf
        out = {
            "train": tuple(_mean(row, level) for row in seen),
            "gap": tuple(_difference(h, t, level) for h, t in zip(held, seen, strict=True)),
            "overall_train": _mean(total_seen, level),
            "overall_gap": _difference(total, total_seen, level),
            "relative_gap": _relative(total, total_seen, ratio, level),
        }
    return DenoisingLoss(
        sigma=tuple(sigmas), heldout=tuple(_mean(row, level) for row in held), overall=_mean(total, level),
        n_heldout=held.shape[1], n_train=losses[1].shape[1] if len(losses) > 1 else 0, draws=draws, **out,
    )  # fmt: skip


def _mean(values: Float64[Tensor, " n"], level: float) -> Estimate:
    return Estimate.normal(float(values.mean()), math.sqrt(float(values.var()) / len(values)), level)


def _difference(x: Tensor, y: Tensor, level: float, factor: float = 1.0) -> Estimate:
    """mean(x) - factor mean(y), where x[k] and y[k] have noise in common for every k that both have."""
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
