"""Wrappers around a denoiser, each a denoiser itself, so that they combine and work under every sampler.

The order, from the inside: counting, then classes and guidance, then a call plan, then clipping:
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
from alphabar.schedule.noising import per_image


class CountCalls:
    """Counts `calls` of the network, and `images` that went through it (a batch of 64 is 64).

    >>> count = CountCalls(lambda x, sigma: torch.zeros_like(x))
    >>> _ = count(torch.ones(64, 1, 8, 8), torch.ones(64))
    >>> count.calls, count.images
    (1, 64)
    """

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise
        self.calls = self.images = 0

    def __call__(self, x: Images, sigma: Levels, *more: Any) -> Images:
        self.calls += 1
        self.images += len(x)
        out = self.denoise(x, sigma, *more)
        if not isinstance(out, Tensor) or out.shape != x.shape or not out.is_floating_point():
            came = f"{out.dtype} of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the denoiser gave {came} for images of shape {tuple(x.shape)}: wanted floats of that shape")
        if self.calls == 1 and not bool(torch.isfinite(out).all()):  # once: a GPU waits for the answer
            level = float(sigma.flatten()[0])
            raise ValueError(f"the denoiser gave NaN or infinity at its first call (sigma = {level:.4g}): its training diverged")
        return out


class Labelled:
    """A class-conditional model with the class of each image of the batch: model(x, sigma, labels)."""

    def __init__(self, denoise: Callable[[Images, Levels, Labels], Images], labels: Labels) -> None:
        self.denoise, self.labels = denoise, labels

    def __call__(self, x: Images, sigma: Levels) -> Images:
        if len(x) != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels for a batch of {len(x)} images: give one per image")
        return self.denoise(x, sigma, self.labels)

    def rows(self, rows: Tensor) -> "Labelled":
        return Labelled(self.denoise, self.labels[rows.to(self.labels.device)])


class Guided:
    """Guidance: x0_hat = w strong + (1 - w) weak. Outside the interval of levels only `strong` is called.

    With a denoiser that knows the class as `strong` and one that does not as `weak` this is classifier-free guidance (Ho &
    Salimans 2022, arXiv:2207.12598, eq. 6, whose w is this one minus 1). With a smaller or less trained model as `weak` it is
    autoguidance (Karras et al. 2024, arXiv:2406.02507, eq. 4).

    Args:
        strong: the denoiser that guidance follows.
        weak: the denoiser that guidance moves away from.
        weight: w, any finite number; 1 is no guidance.
        interval: guidance acts where low <= sigma <= high (Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. 6).
    """

    def __init__(self, strong: Denoiser, weak: Denoiser, weight: float, interval: tuple[float, float] = (0.0, math.inf)) -> None:
        if not math.isfinite(weight):
            raise ValueError(f"guidance = {weight}: give a finite weight; 1 is none, more than 1 follows the class more closely")
        if not 0 <= interval[0] < interval[1]:
            raise ValueError(f"guidance from sigma = {interval[0]} to {interval[1]}: give 0 <= low < high")
        self.strong, self.weak, self.weight, self.interval = strong, weak, weight, interval

    def __call__(self, x: Images, sigma: Levels) -> Images:
        strong = self.strong(x, sigma)
        guided = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
        if self.weight == 1 or not bool(guided.any()):
            return strong
        if bool(guided.all()):
            return torch.lerp(self.weak(x, sigma), strong, self.weight)
        rows = guided.nonzero()[:, 0]
        here = rows.to(x.device)
        out = strong.clone()
        out[here] = torch.lerp(select_rows(self.weak, rows)(x[here], sigma[rows]), strong[here], self.weight)
        return out

    def rows(self, rows: Tensor) -> "Guided":
        return Guided(select_rows(self.strong, rows), select_rows(self.weak, rows), self.weight, self.interval)


def select_rows(denoise: Denoiser, rows: Tensor) -> Denoiser:
    """The denoiser of some images of a batch, with their labels where it has one label per image."""
    return denoise.rows(rows) if isinstance(denoise, (Labelled, Guided)) else denoise


class ClipX0:
    """Clips x0_hat to [low, high]. Samplers compute eps_hat = (x - x0_hat) / sigma from the clipped value, as diffusers does only
    with use_clipped_model_output=True."""

    def __init__(self, denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"clip to {low}..{high}: give low < high, as in ClipX0(denoise, -1, 1)")
        self.denoise, self.low, self.high = denoise, low, high

    def __call__(self, x: Images, sigma: Levels) -> Images:
        return self.denoise(x, sigma).clamp(self.low, self.high)


class ThresholdX0:
    """Dynamic thresholding of x0_hat, image by image (Saharia et al. 2022, arXiv:2205.11487, sec. 2.3).

    x0_hat is clipped to [-s, s] and divided by s, where s is the quantile `share` (in (0.5, 1]) of the image's |x0_hat|, at least
    1 and at most `largest` (None: no limit). Where s = 1 this is plain clipping. eps_hat follows, as with `ClipX0`.
    """

    def __init__(self, denoise: Denoiser, share: float = 0.995, largest: float | None = None) -> None:
        if not 0.5 < share <= 1:
            hint = "give more than 0.5 and at most 1, as in ThresholdX0(denoise, 0.995)"
            raise ValueError(f"threshold at a share of {share}: {hint}")
        if largest is not None and not largest >= 1:
            raise ValueError(f"largest = {largest}: give 1 or more, as images lie within [-1, 1], or None for no limit")
        self.denoise, self.share, self.largest = denoise, share, largest

    def __call__(self, x: Images, sigma: Levels) -> Images:
        x0_hat = self.denoise(x, sigma)
        s = per_image(_quantile(x0_hat.abs().flatten(1), self.share).clamp(1.0, self.largest), x0_hat)
        return x0_hat.clamp(-s, s).div_(s)


def _quantile(rows: Tensor, share: float) -> Tensor:
    """A high quantile of each row, interpolated as by torch.quantile, which refuses large images."""
    place = share * (rows.shape[1] - 1)
    below = int(place)
    top = rows.topk(rows.shape[1] - below, dim=1).values
    return torch.lerp(top[:, -1], top[:, max(top.shape[1] - 2, 0)], place - below)


class SkipCalls:
    """Calls the network only at the plan's steps; at the others x0_hat = x - sigma * eps_hat with the last eps_hat.

    A step is recognised by its level, compared in float32. Levels off the grid, batches of mixed levels, batches of another
    size and the first step always call; a call at sigmas[0] starts a new batch. Under a stochastic sampler the last eps_hat is
    that of the last call and does not include the noise added since.

    Args:
        denoise: the denoiser.
        plan: which steps call.
        sigmas: the grid that the sampler is given.
        times: the timesteps of its levels, for plans that need them (`plan.timesteps`).
    """

    def __init__(self, denoise: Denoiser, plan: Plan, sigmas: Grid, times: Times | None = None) -> None:
        check_grid(sigmas)
        levels = sigmas[:-1]
        self.denoise = denoise
        self.called = plan(len(levels), times)
        self._step = {float(np.float32(s)): k for k, s in enumerate(levels.tolist())}
        # eps_hat costs a pass over the images, so it is computed only where the next step is skipped.
        self._keep = [not c for c in [*self.called.tolist()[1:], True]]
        self._eps: Images | None = None

    def reset(self) -> None:
        """Forgets the last eps_hat."""
        self._eps = None

    def __call__(self, x: Images, sigma: Levels) -> Images:
        levels = sigma.tolist()
        s = levels[0]
        step = self._step.get(float(np.float32(s))) if all(other == s for other in levels) else None
        if step == 0:
            self.reset()
        if step is not None and not self.called[step] and self._eps is not None and self._eps.shape == x.shape:
            return torch.sub(x, self._eps, alpha=s)
        x0_hat = self.denoise(x, sigma)
        if step is None or self._keep[step]:
            self._eps = (x - x0_hat).div_(per_image(sigma, x))
        return x0_hat
