"""An adaptive call plan: image by image, the network is called only where skipping it would move the image too far.

Between calls x0_hat is extrapolated linearly from its last two values, in the angle phi = arctan(sigma). In this coordinate
y = x / sqrt(1 + sigma^2) = cos(phi) x0 + sin(phi) eps turns uniformly, so that DDIM is a rotation of y (Salimans & Ho 2022,
arXiv:2202.00512, app. D). Such a plan is a multistep solver with an own step length for each image. Its error is measured at
every call as the network's x0_hat minus the extrapolated one. The error grows as h (h + g) with the angle h since the last call
and the angle g between the last two calls; its effect on the image is summed until it exceeds a limit, as caches sum the change
of a layer (TeaCache, arXiv:2411.19108).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.types import Denoiser, Grid, Images, Levels, Times
from alphabar.denoiser.plan import Adaptive, Plan
from alphabar.denoiser.wrappers import SkipCalls, select_rows
from alphabar.schedule.grid import check_grid
from alphabar.schedule.noising import per_image

MAX_GROWTH = 3.0  # ratio of a gap between calls to the previous one; limits the effect of an error that is small by chance
MAX_GAP = np.pi / 8  # angle of a gap between calls; sampling goes from nearly pi / 2 to 0
MIN_DECREASE = 0.5  # ratio of an estimate of the error to the previous one, for the same reason


class AdaptiveCalls:
    """Calls the network for those images of a batch that need it; x0_hat of the others is extrapolated.

    `calls` is the number of calls for each image of the present batch (int64). The decisions for an image do not depend on other
    images, so they are the same in any batch, except where a network's float32 output depends on the batch in its last digits
    (about one decision in a hundred thousand). An image at sigmas[0] starts anew.

    Under a stochastic sampler x0_hat is extrapolated, which fresh noise leaves unchanged on average, not eps_hat. The weight of
    the last slope is estimated at every call: 1 on an ODE, small under much noise.

    Args:
        denoise: the denoiser.
        tolerance: approximate error of an image that skipped calls may cause (root mean square over pixels in [-1, 1]). 0 always
            calls; a large one calls at the first two steps and then as MAX_GROWTH and MAX_GAP demand (nearly so from 1 on). It
            is fitted to neither model nor sampler: 0.02 may result in 0.01 or 0.04.
        sigmas: the grid that the sampler is given.
    """

    def __init__(self, denoise: Denoiser, tolerance: float, sigmas: Grid) -> None:
        check_grid(sigmas)
        self.denoise, self.tolerance = denoise, Adaptive(tolerance).tolerance
        # M gaps with an error of e each cause an error of M e. e grows as the cube of a gap's length, so M e goes as e^(2/3);
        # the factor 2 was measured (M is about 2 / sqrt(tolerance)).
        self._limit = tolerance**1.5 / 2
        levels = _as_float32(sigmas.numpy())
        self._start, self._ascending = levels[0], levels[::-1]
        self.reset()

    @property
    def calls(self) -> Tensor:
        return torch.from_numpy(self._calls.copy())

    def reset(self, images: int = 0) -> None:
        """Forgets all previous calls."""
        self._calls = np.zeros(images, dtype=np.int64)
        self._phi = np.zeros(images)  # angle of the last call
        self._gap = np.zeros(images)  # angle between the last two calls; 0 before the second
        self._curvature = np.zeros(images)  # the error of the extrapolation is curvature h (h + gap)
        self._weight = np.ones(images)  # of the last slope in the extrapolation, 0 to 1
        self._error = np.zeros(images)  # estimated error from the calls skipped since the last one
        self._x0: Tensor | None = None  # x0_hat of the last call
        self._slope: Tensor | None = None  # change of x0_hat per angle between the last two calls

    def __call__(self, x: Images, sigma: Levels) -> Images:
        s = _as_float32(sigma.detach().cpu().numpy())
        if self._x0 is None or self._slope is None or self._x0.shape != x.shape or bool((s >= self._start).all()):
            self.reset(len(x))
            self._x0, self._slope = torch.zeros_like(x), torch.zeros_like(x)
        self._calls[s >= self._start] = 0
        if self.tolerance == 0:
            self._calls += 1
            return self.denoise(x, sigma)
        phi = np.arctan(s)
        h = self._phi - phi
        # An error e of x0_hat moves x by (1 - s' / s) e in this step, and y, which has the image's scale, by cos(phi) of that.
        s_next = self._ascending[np.maximum(np.searchsorted(self._ascending, s) - 1, 0)]
        error = self._error + (1 - s_next / s) * np.cos(phi) * self._curvature * h * (h + self._gap)
        near = (self._calls > 1) & (h >= 0) & (h <= MAX_GROWTH * self._gap * (1 + 1e-6)) & (h <= MAX_GAP)
        again = (self._calls > 0) & (h == 0)  # Heun's method calls twice at a level; skipping the second keeps its order 2
        skip = again | near & (error < self._limit)  # False where the network's output was nan
        self._error = np.where(skip, error, 0.0)

        extrapolated = torch.addcmul(self._x0, per_image(torch.from_numpy(self._weight * h), x), self._slope)
        if skip.all():
            return extrapolated
        if skip.any():
            rows = torch.from_numpy(np.flatnonzero(~skip)).to(x.device)
            x0_hat = select_rows(self.denoise, rows)(x[rows], sigma[rows.to(sigma.device)])
        else:
            rows = torch.arange(len(x), device=x.device)
            x0_hat = self.denoise(x, sigma)
        self._update(rows, x0_hat, extrapolated[rows], phi, h)
        return extrapolated.index_copy_(0, rows, x0_hat) if skip.any() else x0_hat

    def _update(self, rows: Tensor, x0_hat: Images, extrapolated: Images, phi: NDArray[Any], h: NDArray[Any]) -> None:
        """Updates the state of these rows from the network's x0_hat: the error of their extrapolation, and the next one."""
        if self._x0 is None or self._slope is None:
            raise RuntimeError("the state is allocated by a call: call the denoiser instead")
        k = rows.cpu().numpy()
        h, gap, known = h[k], self._gap[k], self._calls[k] > 0
        step, slope = x0_hat - self._x0[rows], self._slope[rows]
        wide = torch.float32 if x0_hat.device.type == "mps" else torch.float64
        sums = [(x0_hat - extrapolated).to(wide).square(), step.to(wide) * slope, slope.to(wide).square()]
        error, along, length = torch.stack([v.flatten(1).sum(1) for v in sums]).cpu().double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            per_angle = np.where(known, 1 / h, 0.0)
            curvature = np.sqrt(error / x0_hat[0].numel()) / (np.abs(h) * (np.abs(h) + gap))
            agreement = np.clip(along / h / length, 0, 1)  # of the new slope with the old one
        self._curvature[k] = np.where(known, np.maximum(curvature, MIN_DECREASE * self._curvature[k]), 0.0)
        self._weight[k] = np.where(known & (length > 0), (self._weight[k] + agreement) / 2, 1.0)
        self._gap[k] = np.where(known, np.abs(h), 0.0)
        self._phi[k] = phi[k]
        self._calls[k] += 1
        self._slope.index_copy_(0, rows, step * per_image(torch.from_numpy(per_angle), step))
        self._x0.index_copy_(0, rows, x0_hat)


def apply_plan(denoise: Denoiser, plan: Plan | Adaptive, sigmas: Grid, times: Times | None = None) -> SkipCalls | AdaptiveCalls:
    """The denoiser under a fixed or an adaptive call plan. sigmas, times: as for `SkipCalls`."""
    if isinstance(plan, Adaptive):
        return AdaptiveCalls(denoise, plan.tolerance, sigmas)
    return SkipCalls(denoise, plan, sigmas, times)


def call_statistics(calls: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """Statistics of the calls per image, as plain data for a record: min, median, mean, max, and "histogram", which maps a number
    of calls (a string, as in JSON) to the number of images with so many."""
    each = np.asarray(calls, dtype=np.int64)
    if not each.size:
        raise ValueError("there are no images: give the calls of one image or more")
    values, images = np.unique(each, return_counts=True)
    return {
        "min": int(each.min()), "median": float(np.median(each)), "mean": float(each.mean()), "max": int(each.max()),
        "histogram": {str(v): int(n) for v, n in zip(values, images, strict=True)},
    }  # fmt: skip


def _as_float32(levels: NDArray[Any]) -> NDArray[np.float64]:
    """Levels rounded to float32, since samplers pass them in the type of the images."""
    return levels.astype(np.float32).astype(np.float64)
