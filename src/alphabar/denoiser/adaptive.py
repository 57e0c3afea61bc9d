"""An adaptive call plan: image by image, the network is called where going without it would move the image too far.

Between calls x0_hat is carried on in a straight line through its last two values, in the angle phi = arctan(sigma): the
coordinate in which y = x / sqrt(1 + sigma^2) = cos(phi) x0 + sin(phi) eps turns evenly, so that DDIM is a rotation of y
(Salimans & Ho 2022, arXiv:2202.00512, app. D). A plan of this kind is a multistep solver with a step length of its own for
each image, its error known at every call: the network's answer less the line's. That error grows as h (h + g) with the angle
h since the last call, g being the angle between the last two, and what it does to the image is added up until it is too
much, as caches add up the change of a layer (TeaCache, arXiv:2411.19108).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.types import Denoiser, Grid, Images, Levels, Times
from alphabar.denoiser.plan import Adaptive, Plan
from alphabar.denoiser.wrappers import SkipCalls, part
from alphabar.schedule.grid import check_grid
from alphabar.schedule.noising import per_image

GROWTH = 3.0  # a gap is at most so many times as long as the last one, since an error may be small by accident
LONGEST = np.pi / 8  # and spans at most this angle of the pi / 2 from pure noise to the image
MEMORY = 0.5  # the estimate of the error falls at most to this share of the last one, for the same reason


class AdaptiveCalls:
    """Calls the network for those images of a batch that need it; the others' x0_hat goes on in a straight line.

    tolerance: how far all that is left out may move an image, about: root mean square over its pixels, images in [-1, 1].
    0 always calls; a large one calls at the first two steps and then as GROWTH and LONGEST say (from 1 on nearly so). Fitted
    to neither model nor sampler, so 0.02 may turn out as 0.01 or 0.04. sigmas: the grid that the sampler is given.

    `calls`: how often each image of the present batch was called for, int64. No image's decisions look at another's, so they
    are the same in any batch, as far as the network's answers are: in float32 these depend on the batch in their last
    digits, and so, once in about a hundred thousand decisions, may a decision. An image at sigmas[0] begins anew.

    Under a stochastic sampler the line carries x0_hat, which fresh noise leaves alone on average, and never eps_hat; how
    much of the last slope to believe is learnt at every call (all of it on an ODE, little under much noise).
    """

    def __init__(self, denoise: Denoiser, tolerance: float, sigmas: Grid) -> None:
        check_grid(sigmas)
        self.denoise = denoise
        self.tolerance = Adaptive(tolerance).tolerance
        # M gaps that move the image by e each move it by M e. e grows as the cube of a gap's length, so M e goes as
        # e^(2/3); the 2 was measured (M is about 2 / sqrt(tolerance)).
        self._allowed = tolerance**1.5 / 2
        levels = _single(sigmas.numpy())
        self._start = levels[0]
        self._rising = levels[::-1]
        self.reset()

    @property
    def calls(self) -> Tensor:
        return torch.from_numpy(self._calls.copy())

    def reset(self, images: int = 0) -> None:
        """Forgets all that was said."""
        self._calls = np.zeros(images, dtype=np.int64)
        self._phi = np.zeros(images)  # angle of the last call
        self._gap = np.zeros(images)  # angle between the last two, 0 where there was but one
        self._bend = np.zeros(images)  # the line's error is bend h (h + gap)
        self._trust = np.ones(images)  # share of the last slope that is followed, 0 to 1
        self._moved = np.zeros(images)  # by what was left out since the last call, as estimated
        self._x0: Tensor | None = None  # x0_hat of the last call
        self._slope: Tensor | None = None  # its change per angle between the last two

    def __call__(self, x: Images, sigma: Levels) -> Images:
        s = _single(sigma.detach().cpu().numpy())
        if self._x0 is None or self._slope is None or self._x0.shape != x.shape or bool((s >= self._start).all()):
            self.reset(len(x))
            self._x0, self._slope = torch.zeros_like(x), torch.zeros_like(x)
        self._calls[s >= self._start] = 0
        if self.tolerance == 0:
            self._calls += 1
            return self.denoise(x, sigma)
        phi = np.arctan(s)
        h = self._phi - phi
        # An error of x0_hat moves x by 1 - s' / s of it in this step, and y, whose scale the image has, by cos(phi) of that.
        s_next = self._rising[np.maximum(np.searchsorted(self._rising, s) - 1, 0)]
        moved = self._moved + (1 - s_next / s) * np.cos(phi) * self._bend * h * (h + self._gap)
        near = (self._calls > 1) & (h >= 0) & (h <= GROWTH * self._gap * (1 + 1e-6)) & (h <= LONGEST)
        again = (self._calls > 0) & (h == 0)  # Heun's method asks twice at a level, and has order 2 all the same
        wait = again | near & (moved < self._allowed)  # never where the network answered nan
        self._moved = np.where(wait, moved, 0.0)

        line = torch.addcmul(self._x0, per_image(torch.from_numpy(self._trust * h), x), self._slope)
        if wait.all():
            return line
        if wait.any():
            rows = torch.from_numpy(np.flatnonzero(~wait)).to(x.device)
            x0_hat = part(self.denoise, rows)(x[rows], sigma[rows.to(sigma.device)])
        else:
            rows = torch.arange(len(x), device=x.device)
            x0_hat = self.denoise(x, sigma)
        self._learn(rows, x0_hat, line[rows], phi, h)
        return line.index_copy_(0, rows, x0_hat) if wait.any() else x0_hat

    def _learn(self, rows: Tensor, x0_hat: Images, line: Images, phi: NDArray[Any], h: NDArray[Any]) -> None:
        """Takes in the network's answers for these rows: how wrong their lines were, and how they go on."""
        if self._x0 is None or self._slope is None:
            raise RuntimeError("answers are taken in by a call, which makes room for them: call the denoiser instead")
        k = rows.cpu().numpy()
        h, gap, known = h[k], self._gap[k], self._calls[k] > 0
        step, slope = x0_hat - self._x0[rows], self._slope[rows]
        wide = torch.float32 if x0_hat.device.type == "mps" else torch.float64
        sums = [(x0_hat - line).to(wide).square(), step.to(wide) * slope, slope.to(wide).square()]
        error, along, length = torch.stack([v.flatten(1).sum(1) for v in sums]).cpu().double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            per_angle = np.where(known, 1 / h, 0.0)
            bend = np.sqrt(error / x0_hat[0].numel()) / (np.abs(h) * (np.abs(h) + gap))
            came_true = np.clip(along / h / length, 0, 1)  # of the old slope
        self._bend[k] = np.where(known, np.maximum(bend, MEMORY * self._bend[k]), 0.0)
        self._trust[k] = np.where(known & (length > 0), (self._trust[k] + came_true) / 2, 1.0)
        self._gap[k] = np.where(known, np.abs(h), 0.0)
        self._phi[k] = phi[k]
        self._calls[k] += 1
        self._slope.index_copy_(0, rows, step * per_image(torch.from_numpy(per_angle), step))
        self._x0.index_copy_(0, rows, x0_hat)


def apply_plan(denoise: Denoiser, plan: Plan | Adaptive, sigmas: Grid, times: Times | None = None) -> SkipCalls | AdaptiveCalls:
    """The denoiser under a call plan of either kind. times: as for `SkipCalls`."""
    if isinstance(plan, Adaptive):
        return AdaptiveCalls(denoise, plan.tolerance, sigmas)
    return SkipCalls(denoise, plan, sigmas, times)


def call_statistics(calls: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """How calls are spread over images, as plain data for a record: min, median, mean, max, and "histogram", which maps
    a number of calls (as text, as JSON has it) to the number of images that took so many."""
    each = np.asarray(calls, dtype=np.int64)
    if not each.size:
        raise ValueError("no image, no calls: give the calls of one image or more")
    values, images = np.unique(each, return_counts=True)
    return {
        "min": int(each.min()), "median": float(np.median(each)), "mean": float(each.mean()), "max": int(each.max()),
        "histogram": {str(v): int(n) for v, n in zip(values, images, strict=True)},
    }  # fmt: skip


def _single(levels: NDArray[Any]) -> NDArray[np.float64]:
    """Levels as float32 has them, since samplers hand them over in the type of the images."""
    return levels.astype(np.float32).astype(np.float64)
