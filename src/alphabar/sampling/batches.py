"""Batches of one call of `sample`: how one is made, how its x0_hat is kept, and how finished ones are kept until all are done."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from alphabar.core import processes
from alphabar.core.parts import Parts
from alphabar.core.seeds import DRAW, Ahead, SeededNoise, starting_noise
from alphabar.core.stored_values import naming
from alphabar.core.types import Denoiser, Images, Pixels
from alphabar.data.images import to_pixels
from alphabar.denoiser.adaptive import AdaptiveCalls
from alphabar.denoiser.wrappers import CountCalls
from alphabar.sampling.resolved import ResolvedOptions
from alphabar.sampling.start import Start


@dataclass(frozen=True, eq=False)
class SamplingStep:
    """The state of `sample` after one network step, passed to its `on_step`.

    Attributes:
        first: position (0 to n - 1) of the first image of the current batch.
        step: number of the step, from 0.
        steps: number of steps.
        sigma: noise level at which the step began.
        x0_hat: estimate of the batch's clean images, float (b, c, h, w), nominally in [-1, 1], not cropped.
        calls: network calls per image of this batch so far.
        seconds: sampling time of this batch so far.
    """

    first: int
    step: int
    steps: int
    sigma: float
    x0_hat: Images
    calls: float
    seconds: float


@dataclass(frozen=True)
class Batch:
    """One finished batch."""

    images: Pixels
    x0: list[Pixels]
    """x0_hat at the steps that are kept."""
    calls: int
    """Images that went through the network, summed over its calls."""
    seconds: float
    each: NDArray[np.int64] | None = None
    """Network calls of each image, where they vary."""

    def save(self, parts: Parts, first: int) -> None:
        """Keeps the batch, whose first image has position `first`, until all are complete."""
        x0 = np.stack(self.x0) if self.x0 else np.empty((0, *self.images.shape), dtype=self.images.dtype)
        arrays = {"images": self.images, "x0": x0, "calls": np.array(self.calls), "seconds": np.array(self.seconds)}
        parts.save(_name(first), arrays if self.each is None else arrays | {"each": self.each})

    @staticmethod
    def finished(parts: Parts, first: int, n: int, pixels: DTypeLike) -> "Batch | None":
        """A batch of n images that an earlier call has kept, or None. Raises ValueError, naming its file, if that is damaged."""
        with naming(f"{parts.path(_name(first))} is damaged: delete it, and the batch is made again"):
            if (arrays := parts.load(_name(first))) is None:
                return None
            images, x0, each = arrays["images"], arrays["x0"], arrays.get("each")
            if images.dtype != pixels or images.ndim != 4 or len(images) != n or x0.shape[1:] != images.shape:
                raise ValueError(f"images {images.dtype} {images.shape} and x0 {x0.shape}, wanted {n} images of {pixels}")
            return Batch(images, list(x0), int(arrays["calls"]), float(arrays["seconds"]), each)


def finished_batches(parts: Parts | None, sizes: Mapping[int, int], pixels: DTypeLike) -> dict[int, Batch]:
    """The batches in `parts`; sizes: first image -> number of images."""
    found = {} if parts is None else {first: Batch.finished(parts, first, n, pixels) for first, n in sizes.items()}
    return {first: batch for first, batch in found.items() if batch is not None}


def of_all_processes(own: Mapping[int, Batch], parts: Parts | None, sizes: Mapping[int, int], pixels: DTypeLike) -> list[Batch]:
    """All batches in their order, when every process of torchrun has made its own and stored them in `parts`.

    Raises ValueError where the processes do not see the same folder.
    """
    found = dict(own)
    if parts is not None and processes.world()[1] > 1:
        processes.everyone(True)  # from here on all batches are stored
        found |= finished_batches(parts, {first: n for first, n in sizes.items() if first not in found}, pixels)
        if not processes.everyone(len(found) == len(sizes)):
            raise ValueError(
                f"{parts.folder}: the processes do not see each other's batches: name a folder that all machines share"
            )
    return [found[first] for first in sizes]


def _name(first: int) -> str:
    return f"{first:08d}.npz"


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """What all batches of one call of `sample` have in common.

    Attributes:
        network: the denoiser that is called, which may be a faster form of the model.
        x0_steps: steps whose x0_hat is kept.
        finish: makes pixels of x.
        advance: called with the number of images done, in fractions.
    """

    network: Denoiser
    resolved: ResolvedOptions
    seed: int
    image_shape: tuple[int, int, int]
    x0_steps: tuple[int, ...]
    finish: Callable[[Images], Pixels]
    device: torch.device
    channels_last: bool
    advance: Callable[[float], None]
    on_step: Callable[[SamplingStep], None] | None
    start: Start | None = None

    def sample(self, first: int, indices: Sequence[int]) -> Batch:
        """Makes the images with these indices; the first of them is image number `first` of all."""
        count = CountCalls(self.network)
        report = _StepReport(self, count, first, len(indices))
        denoise, skipping = self.resolved.denoiser(count, [k % DRAW for k in indices], self.device)
        sigmas = self.resolved.sigmas
        if self.start is None:
            x = starting_noise(self.seed, indices, self.image_shape).to(self.device).mul_(float(sigmas[0]))
        else:
            x = self.start.x(indices, float(sigmas[0])).to(self.device)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        noise = SeededNoise(self.seed, indices)
        ahead = noise if self.device.type == "cpu" else Ahead(noise)
        x = self.resolved.sampler.fn(denoise, x, sigmas, noise=ahead, on_step=report, **self.resolved.arguments)
        images = self.finish(x)  # also waits for the device
        each = skipping.calls.numpy() if isinstance(skipping, AdaptiveCalls) else None
        return Batch(images, report.kept.x0(), count.images, report.seconds(), each)


class _StepReport:
    """Called by the sampler after each step: keeps x0_hat, advances the progress bar, and calls `on_step`."""

    def __init__(self, sampler: BatchSampler, count: CountCalls, first: int, size: int) -> None:
        self.sampler, self.count, self.first, self.size = sampler, count, first, size
        self.kept = KeepX0(sampler.x0_steps, sampler.finish)
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Time since the batch was begun, without the time that `on_step` took."""
        return time.perf_counter() - self._start

    def __call__(self, step: int, sigma: float, x: Tensor, x0_hat: Tensor) -> None:
        steps = self.sampler.resolved.steps
        self.kept(step, sigma, x, x0_hat)
        self.sampler.advance(self.size / steps)
        if self.sampler.on_step is not None:
            seconds = self.seconds()
            calls = self.count.images / self.size
            self.sampler.on_step(SamplingStep(self.first, step, steps, sigma, x0_hat, calls, seconds))
            self._start += self.seconds() - seconds


def chosen(keep: bool | Sequence[int], steps: int) -> tuple[int, ...]:
    """The steps to keep, from the noisiest: True for all, False for none, or their numbers (-1 is the last).

    Raises ValueError for a step that does not exist.
    """
    if isinstance(keep, bool):
        return tuple(range(steps)) if keep else ()
    if not isinstance(keep, Sequence) or any(type(k) is not int for k in keep):
        raise ValueError(f"keep_x0 = {keep!r:.60}: give True for all steps, or a list of their numbers")
    if bad := [k for k in keep if not -steps <= k < steps]:
        raise ValueError(f"keep x0_hat at step {bad[0]}: there are steps 0 to {steps - 1}")
    return tuple(sorted({k % steps for k in keep}))


def spread_out(steps: int, most: int) -> tuple[int, ...]:
    """At most `most` of the steps 0 to steps - 1, evenly spaced, with the first and the last."""
    if steps <= most:
        return tuple(range(steps))
    return tuple(dict.fromkeys(round(k * (steps - 1) / (most - 1)) for k in range(most))) if most > 1 else (0,)


class KeepX0:
    """An `on_step` that keeps x0_hat of one or more batches at these steps as pixels, N x H x W x C, made by `finish`."""

    def __init__(self, steps: Sequence[int], finish: Callable[[Images], Pixels] = to_pixels) -> None:
        self.steps = tuple(steps)
        self.finish = finish
        self._kept: dict[int, list[Pixels]] = {k: [] for k in self.steps}

    def __call__(self, step: int, sigma: float, x: Tensor, x0_hat: Tensor) -> None:
        if step in self._kept:
            self._kept[step].append(self.finish(x0_hat))

    def x0(self) -> list[Pixels]:
        """One array per kept step."""
        return [np.concatenate(self._kept[k]) for k in self.steps]
