"""What samplers need not know: wrappers round a denoiser, each a denoiser itself, so that they combine.

Counting goes innermost, where calls are paid, then classes and guidance, and clipping outermost:
ClipX0(SkipCalls(Guided(Labelled(count, labels), Labelled(count, none), 2.0), ...)) with count = CountCalls(model).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.core.types import Denoiser, Grid, Images, Labels, Levels, Times
from alphabar.denoiser.plan import Plan
from alphabar.schedule.grid import check_grid


class CountCalls:
    """Counts what is paid: `calls` of the network, and `images` that went through it (a batch of 64 is 64)."""

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise
        self.calls = 0
        self.images = 0

    def __call__(self, x: Images, sigma: Levels, *more: Any) -> Images:
        """more: what a model is told besides, as the images' classes."""
        self.calls += 1
        self.images += len(x)
        return self.denoise(x, sigma, *more)


class Labelled:
    """A class-conditional model that is told the class of each image of the batch, model(x, sigma, labels).

    Raises ValueError where a batch has another number of images.
    """

    def __init__(self, denoise: Callable[[Images, Levels, Labels], Images], labels: Labels) -> None:
        self.denoise, self.labels = denoise, labels

    def __call__(self, x: Images, sigma: Levels) -> Images:
        if len(x) != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels for a batch of {len(x)} images: give one an image")
        return self.denoise(x, sigma, self.labels)

    def rows(self, rows: Tensor) -> "Labelled":
        """The same for some images of the batch."""
        return Labelled(self.denoise, self.labels[rows.to(self.labels.device)])


class Guided:
    """Guidance: x0_hat = w strong + (1 - w) weak, at levels of the interval; elsewhere the strong one alone, for half the calls.

    With a denoiser that knows the class for strong and one that does not for weak it is classifier-free guidance (Ho & Salimans
    2022, arXiv:2207.12598, eq. 6, whose w is this one less 1; eps_hat is linear in x0_hat, so that it is the same in either);
    with a smaller or less trained model for weak, autoguidance (Karras et al. 2024, arXiv:2406.02507, eq. 4). interval: low
    <= sigma <= high in the one coordinate (Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. 6).

    Raises ValueError for a weight that is not finite or an interval that is none.
    """

    def __init__(self, strong: Denoiser, weak: Denoiser, weight: float, interval: tuple[float, float] = (0.0, math.inf)) -> None:
        if not math.isfinite(weight):
            raise ValueError(f"guidance = {weight}: give a finite weight; 1 is none, more than 1 follows the class more closely")
        if not 0 <= interval[0] < interval[1]:
            raise ValueError(f"guidance from sigma = {interval[0]} to {interval[1]}: give 0 <= low < high")
        self.strong, self.weak = strong, weak
        self.weight, self.interval = weight, interval

    def __call__(self, x: Images, sigma: Levels) -> Images:
        told = self.strong(x, sigma)
        guided = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
        if self.weight == 1 or not bool(guided.any()):
            return told
        if bool(guided.all()):
            return torch.lerp(self.weak(x, sigma), told, self.weight)
        rows = guided.nonzero()[:, 0]
        here = rows.to(x.device)
        out = told.clone()
        out[here] = torch.lerp(part(self.weak, rows)(x[here], sigma[rows]), told[here], self.weight)
        return out

    def rows(self, rows: Tensor) -> "Guided":
        """The same for some images of the batch."""
        return Guided(part(self.strong, rows), part(self.weak, rows), self.weight, self.interval)


def part(denoise: Denoiser, rows: Tensor) -> Denoiser:
    """The denoiser of some images of a batch: one that was told something of each image is told that of these."""
    return denoise.rows(rows) if isinstance(denoise, (Labelled, Guided)) else denoise


class ClipX0:
    """Holds x0_hat within [low, high]. Samplers work out eps_hat = (x - x0_hat) / sigma from what they are given, so
    it is clipped along with x0_hat (diffusers' use_clipped_model_output, which is off there)."""

    def __init__(self, denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"clip to {low}..{high}: give low < high, as in ClipX0(denoise, -1, 1)")
        self.denoise = denoise
        self.low, self.high = low, high

    def __call__(self, x: Images, sigma: Levels) -> Images:
        return self.denoise(x, sigma).clamp(self.low, self.high)


class ThresholdX0:
    """Dynamic thresholding of x0_hat, image by image: Saharia et al. 2022 (arXiv:2205.11487), sec. 2.3.

    s is the level below which a `share` of the image's |x0_hat| lie, at least 1 and at most `largest` (None: no limit).
    x0_hat is held within [-s, s] and divided by s, so that saturated pixels move inwards. Where s = 1 it is plain
    clipping. eps_hat follows, as under `ClipX0`. Raises ValueError for a share outside (0.5, 1] and largest < 1.
    """

    def __init__(self, denoise: Denoiser, share: float = 0.995, largest: float | None = None) -> None:
        if not 0.5 < share <= 1:
            raise ValueError(
                f"threshold at a share of {share}: give more than 0.5 and at most 1, as in ThresholdX0(denoise, 0.995)"
            )
        if largest is not None and not largest >= 1:
            raise ValueError(f"largest = {largest}: give 1 or more, as images lie within [-1, 1], or None for no limit")
        self.denoise = denoise
        self.share, self.largest = share, largest

    def __call__(self, x: Images, sigma: Levels) -> Images:
        x0_hat = self.denoise(x, sigma)
        s = _quantile(x0_hat.abs().flatten(1), self.share).clamp(1.0, self.largest)
        s = s.reshape(-1, *[1] * (x0_hat.ndim - 1))
        return x0_hat.clamp(-s, s).div_(s)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """The quantile of each row, for a high share, between neighbours as torch.quantile, which takes no large images."""
    place = share * (rows.shape[1] - 1)
    below = int(place)
    top = rows.topk(rows.shape[1] - below, dim=1).values
    return torch.lerp(top[:, -1], top[:, max(top.shape[1] - 2, 0)], place - below)


class SkipCalls:
    """Calls the network only at the plan's steps; at the others x0_hat = x - sigma * eps_hat with the last eps_hat.

    sigmas: the grid that the sampler is given; the step is known by its level, compared in float32. times: the
    timesteps of these levels, for plans that look at them (`plan.timesteps`). A level off the grid, a mixed batch,
    a batch of another size and the first step always call. A call at sigmas[0] begins a new batch.
    Under a stochastic sampler the last eps_hat is that of the last call, not of the noise added since.
    """

    def __init__(self, denoise: Denoiser, plan: Plan, sigmas: Grid, times: Times | None = None) -> None:
        check_grid(sigmas)
        levels = sigmas[:-1]
        self.denoise = denoise
        self.called = plan(len(levels), times)
        self._step = {_key(s): k for k, s in enumerate(levels.tolist())}
        # eps_hat costs a pass over the images, so it is kept only where the next step is left out.
        self._keep = [not c for c in [*self.called.tolist()[1:], True]]
        self._eps: Images | None = None

    def reset(self) -> None:
        """Forgets the last eps_hat."""
        self._eps = None

    def __call__(self, x: Images, sigma: Levels) -> Images:
        levels = sigma.tolist()
        s = levels[0]
        step = self._step.get(_key(s)) if all(other == s for other in levels) else None
        if step == 0:
            self.reset()
        if step is not None and not self.called[step] and self._eps is not None and self._eps.shape == x.shape:
            return torch.sub(x, self._eps, alpha=s)
        x0_hat = self.denoise(x, sigma)
        if step is None or self._keep[step]:
            self._eps = (x - x0_hat).div_(sigma.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1)))
        return x0_hat


def _key(sigma: float) -> float:
    """A level as float32 has it, since samplers hand levels over in the type of the images."""
    return float(np.float32(sigma))
