"""Gradient descent on levels, coefficients and fresh noise, through all network calls of a sampler.

The loss is on finished images: their distance from those of a fine trajectory (LD3, Tong et al. 2024, arXiv:2405.15506), or that
of their feature statistics from those of real images (Watson et al. 2022, arXiv:2202.05830).
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from alphabar.core.progress import track
from alphabar.core.seeds import SUBSET, generator
from alphabar.core.types import Denoiser, Images
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.frechet_loss import FrechetLoss
from alphabar.fitting.problem import FittingProblem
from alphabar.fitting.starts import fill_statistics
from alphabar.fitting.trajectory import DenoiserByIndex, Trajectory
from alphabar.fitting.unroll import UnrolledSampler
from alphabar.schedule.grid import check_grid


@runtime_checkable
class Loss(Protocol):
    """A differentiable function of finished images (b, c, h, w), not clipped, made from the starting noise of `indices`.

    It is a mean over images, so that a batch may be split.
    """

    def __call__(self, images: Images, indices: Sequence[int]) -> Tensor: ...


class TrajectoryLoss:
    """Mean square distance from the finished images of the fine trajectory of the same noise."""

    def __init__(self, fine: Trajectory) -> None:
        self.end = fine.end

    def __call__(self, images: Images, indices: Sequence[int]) -> Tensor:
        return (images - self.end[list(indices)].to(images)).square().mean()


class FreeParameters:
    """The parameters of a descent as one vector of deviations from the start: log levels, keep, mix, fresh.

    The first level is that of the starting noise and does not move.

    Args:
        c: the start.
        memory: number of latest estimates that a row of mix may use, in addition to those that it uses already.
        noise: whether standard deviations of fresh noise move (those that are 0 stay 0).
        levels: whether levels move.
        lowest: lower bound of all levels, unless the last one is below it already.
    """

    def __init__(self, c: Coefficients, *, memory: int = 4, noise: bool = True, levels: bool = True, lowest: float = 0.0) -> None:
        n = len(c.sigmas)
        self.c = c
        self.lowest = min(lowest, float(c.sigmas[-1]))
        row, column = torch.arange(n)[:, None], torch.arange(n)
        self.mixed = (column <= row) & ((column > row - memory) | (c.mix != 0))
        self.moved = torch.arange(n) > 0 if levels else torch.zeros(n, dtype=torch.bool)
        self.noisy = c.fresh > 0 if noise else torch.zeros(n, dtype=torch.bool)
        self.counts = [int(self.moved.sum()), n, int(self.mixed.sum()), int(self.noisy.sum())]
        self.size = sum(self.counts)

    def at(self, theta: Tensor) -> Coefficients:
        """The coefficients at deviations theta (size,), float64; gradients flow."""
        level, keep, mix, fresh = torch.split(theta, self.counts)

        def placed(values: Tensor, mask: Tensor) -> Tensor:
            return torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, values)

        return Coefficients(
            (self.c.sigmas * placed(level, self.moved).exp()).clamp_min(self.lowest),
            self.c.keep + keep,
            self.c.mix + placed(mix, self.mixed),
            (self.c.fresh + placed(fresh, self.noisy)).abs(),
        )


@dataclass(frozen=True, eq=False)
class Descended:
    """Result of `descend`.

    Attributes:
        coefficients: mean of the parameters over the last quarter of the steps.
        losses: loss of every step.
        stopped: whether Ctrl-C ended the descent.
    """

    coefficients: Coefficients
    losses: list[float]
    stopped: bool = False


def descend(
    model: Denoiser | DenoiserByIndex, start: Coefficients, loss: Loss, *, shape: tuple[int, int, int], steps: int = 14,
    batch: int = 512, rate: float = 0.02, reach: float = 0.02, momentum: float = 0.5, seed: int = 1, pool: int | None = None,
    first: int = 0, noise: bool = True, levels: bool = True, bf16: bool = False,
    clip: Callable[[Images], Images] | None = None, device: torch.device | str = "cpu", room: float = 1e10,
    title: str = "descent", progress: bool = True,
) -> Descended:  # fmt: skip
    """Follows the gradient of `loss` in the parameters `FreeParameters`, with steps measured by their effect on the images.

    The parameters act on the images with very different strength, and almost alike where estimates are alike. With J the
    derivative of the finished images, a step therefore goes along (J^T J)^-1 times the mean of past gradients, as far as it
    changes the images by `rate` (root mean square) or any parameter by `reach`; both decrease to 0 as a cosine.

    Args:
        model: the denoiser.
        start: the coefficients to start from.
        loss: what is minimised.
        shape: (c, h, w) of an image.
        steps: descent steps.
        batch: images per step.
        rate: root mean square change of the images, in [-1, 1], at the first step.
        reach: largest change of a parameter at the first step.
        momentum: weight of the past gradients.
        seed: of all noise.
        pool: starting noise is that of images 0 to pool - 1, again and again; None: of images first, first + 1, ...
        first: see pool.
        noise: whether fresh noise is fitted.
        levels: whether levels are fitted.
        bf16: multiply in bfloat16.
        clip: what is done to x0_hat; None: nothing.
        device: where the model is.
        room: bytes for the backward pass. A batch is split into parts that fit; if fewer than 16 images fit, calls are repeated
            in the backward pass instead.
        title: of the progress bar.
        progress: whether to show one.

    Returns:
        What was found, also after Ctrl-C, unless it came before the first step.

    Raises:
        FloatingPointError: if the loss is not finite.
        ValueError: if levels have crossed, or if the loss does not depend on the images.
    """
    schedule = getattr(model, "schedule", None)
    free = FreeParameters(start, noise=noise, levels=levels, lowest=0.0 if schedule is None else float(schedule.sigma_min))
    n = len(start.sigmas)
    device = torch.device(device)
    sampler = UnrolledSampler.of(model, shape, seed, clip, device, bf16, calls=n, batch=batch, room=room)
    size = batch if sampler.recompute else min(batch, sampler.fitting)
    losses: list[float] = []
    stopped = False
    recent: deque[Tensor] = deque(maxlen=max(1, steps // 4))
    theta = mean = torch.zeros(free.size, dtype=torch.float64)
    few = max(1, min(8, batch))
    with track((steps * batch + free.size * few) * n, title, unit="calls", show=progress) as advance:
        try:
            whiten = _whitening(sampler, free, few, rate, reach, advance)
            for k in range(steps):
                numbers = range(k * batch, (k + 1) * batch)
                value, gradient = _gradient(sampler, free, theta, loss, numbers, first, pool, size, advance)
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss of step {k} is {value}: start again with a smaller rate than {rate:g}")
                mean = momentum * mean + (1 - momentum) * (whiten.T @ gradient)
                far = (1 + math.cos(math.pi * k / steps)) / 2
                theta = theta - whiten @ (far * mean / mean.norm().clamp_min(1e-300))
                losses.append(value)
                recent.append(theta)
        except KeyboardInterrupt:
            if not recent:
                raise
            stopped = True
    c = free.at(torch.stack(list(recent)).mean(0))
    check_grid(torch.cat([c.sigmas, torch.zeros(1, dtype=torch.float64)]))
    return Descended(c, losses, stopped)


def _whitening(
    sampler: UnrolledSampler, free: FreeParameters, few: int, rate: float, reach: float, advance: Callable[[float], None]
) -> Tensor:
    """The matrix W with theta = W phi, so that a step of length 1 in phi changes the images by at most `rate` and any parameter
    by at most `reach`.

    J^T J is estimated from as many random projections of `few` images as there are parameters (Hutchinson).
    """
    calls = len(free.c.sigmas)
    # Projections are made together, each with its own parameters, since calls with few images use any machine badly.
    together = max(1, min(64 if sampler.device.type == "cpu" else 1024, sampler.fitting) // few)
    rows = []
    for k in range(0, free.size, together):
        some = range(k, min(k + together, free.size))
        thetas = torch.zeros((len(some), free.size), dtype=torch.float64, requires_grad=True)
        each = [free.at(theta) for theta in thetas]
        per_image = Coefficients(
            *(torch.stack([getattr(c, f.name) for c in each]).repeat_interleave(few, 0) for f in fields(Coefficients))
        )
        indices = [*range(few)] * len(some)
        images = sampler(per_image, indices, indices)
        signs = [generator(sampler.seed, p, stream=SUBSET).integers(0, 2, (few, *sampler.shape)) * 2.0 - 1 for p in some]
        (images * torch.from_numpy(np.concatenate(signs)).to(images)).sum().backward()  # type: ignore[no-untyped-call]
        rows += list(_grad_of(thetas))
        advance(len(some) * few * calls)
    j = torch.stack(rows) / (free.size * few * math.prod(sampler.shape)) ** 0.5
    # theta^T J^T J theta is the mean square change of the images
    curvature = j.T @ j / rate**2 + torch.eye(free.size, dtype=torch.float64) / reach**2
    values, vectors = torch.linalg.eigh(curvature)
    whiten: Tensor = vectors / values.sqrt()
    return whiten


def _gradient(
    sampler: UnrolledSampler, free: FreeParameters, theta: Tensor, loss: Loss, numbers: range, first: int, pool: int | None,
    size: int, advance: Callable[[float], None],
) -> tuple[float, Tensor]:  # fmt: skip
    """Loss and gradient at theta, of the images with these numbers, in parts of `size` images.

    Fresh noise differs from step to step, also where the starting noise of a pool is used again.
    """
    theta = theta.detach().requires_grad_()
    value = 0.0
    for k in range(0, len(numbers), size):
        part = numbers[k : k + size]
        indices = [r % pool if pool else first + r for r in part]
        images = sampler(free.at(theta), indices, range(first + part.start, first + part.stop))
        share = loss(images, indices) * (len(part) / len(numbers))
        value += float(share.detach())
        if share.requires_grad:
            share.backward()  # type: ignore[no-untyped-call]
        advance(len(part) * len(free.c.sigmas))
    return value, _grad_of(theta) if math.isfinite(value) else theta


def _grad_of(theta: Tensor) -> Tensor:
    if theta.grad is None:
        raise ValueError("the loss does not depend on the sampler: it has to be made of the images that it is given")
    return theta.grad


SLOWER = 0.6  # the rate of a round over that of the round before


def descend_in_rounds(problem: FittingProblem, c: Coefficients, features: FrechetLoss | None) -> tuple[Coefficients, list[float]]:
    """The coefficients after all rounds of options.rounds, and the losses of all steps.

    features: the loss; None: the distance from the fine trajectory. Ctrl-C ends the descent, and what was found is returned.
    """
    options = problem.options
    losses: list[float] = []
    loss: Loss = TrajectoryLoss(problem.fine) if features is None else features
    pool = len(problem.fine) if features is None else None
    for k in range(options.rounds):
        seed = options.seed if features is None else options.seed + 2 + k
        try:
            if features is not None:  # the features of earlier rounds are of another sampler
                fill_statistics(problem, features, c, options.remember, seed)
            found = descend(
                problem.network, c, loss, shape=problem.model.image_shape, steps=options.steps,
                batch=options.batch if pool is None else min(options.batch, pool), rate=options.rate * SLOWER**k, seed=seed,
                pool=pool, first=options.remember, bf16=options.bf16, clip=problem.clip, device=problem.device,
                title=f"{len(c.sigmas)} calls, round {k + 1} of {options.rounds}", progress=problem.progress,
            )  # fmt: skip
        except KeyboardInterrupt:  # before the first step of a round: the result of the rounds before is kept
            if k == 0:
                raise
            break
        c = found.coefficients
        losses += found.losses
        if found.stopped:
            break
    return c, losses
