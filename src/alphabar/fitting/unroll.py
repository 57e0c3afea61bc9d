"""The sampler under fit as a function of its coefficients, through which gradients flow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.core.types import Denoiser, Images
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.wrappers import Labelled
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.trajectory import DenoiserByIndex, batch_denoiser
from alphabar.schedule.noising import input_scale, per_image, to_x0

FEW = 16  # smallest number of images for which a batch is split: smaller parts use a processor badly


def unroll(
    model: Denoiser, start: Images, c: Coefficients, noise: SeededNoise | None = None, *,
    clip: Callable[[Images], Images] | None = None, recompute: bool = False,
) -> Images:  # fmt: skip
    """The finished images of a sampler, through which gradients flow to its coefficients.

    Args:
        model: the denoiser.
        start: unit noise (b, c, h, w).
        c: one set of coefficients for all images, or one per image (fields with a leading axis of length b).
        noise: fresh noise, drawn where c.fresh > 0.
        clip: what is done to x0_hat; None: nothing.
        recompute: keep only the states, and repeat each call in the backward pass: the memory of one call instead of all, for
            half as much time again.
    """
    first = c.sigmas[..., 0]
    y = start * per_image(first / (1 + first**2).sqrt(), start)
    estimates: list[Images] = []

    def call(y: Images, level: Tensor) -> Images:
        x0_hat = differentiable_x0(model, y * per_image((1 + level**2).sqrt(), y), level)
        return x0_hat if clip is None else clip(x0_hat)

    for i in range(c.sigmas.shape[-1]):
        if recompute and torch.is_grad_enabled():
            estimates.append(checkpoint(call, y, c.sigmas[..., i], use_reentrant=False, preserve_rng_state=False))
        else:
            estimates.append(call(y, c.sigmas[..., i]))
        y = per_image(c.keep[..., i], y) * y
        for j in range(i + 1):
            y = y + per_image(c.mix[..., i, j], y) * estimates[j]
        if noise is not None and bool((c.fresh[..., i].detach() > 0).any()):
            y = y + per_image(c.fresh[..., i], y) * noise(i, y)
    return y


def differentiable_x0(model: Denoiser, x: Images, sigma: Tensor) -> Images:
    """x0_hat at a level (a scalar, or one per image) that may have a gradient, which `Preconditioned` does not propagate."""
    whole, labels = (model.denoise, model.labels) if isinstance(model, Labelled) else (model, None)
    if not isinstance(whole, Preconditioned):
        return model(x, sigma.to(x.device, torch.float32).expand(len(x)))
    if whole.classes and labels is None:
        labels = whole.no_class(len(x))
    more = [] if labels is None else [labels.to(x.device)]
    r = whole.data_range
    s = sigma * r
    t = whole.own_schedule.t(s.detach())
    if s.requires_grad:
        step = s.detach() * 1e-4
        slope = (whole.own_schedule.t(s.detach() + step) - whole.own_schedule.t(s.detach() - step)) / (2 * step)
        t = t + slope * (s - s.detach())
    c_in = per_image(r * input_scale(whole.prediction, s), x)
    out = whole.network(c_in * x, t.to(x.device, torch.float32).expand(len(x)), *more)
    levels = (r * sigma).to(x.device, torch.float32).expand(len(x))
    return to_x0(whole.prediction, out, r * x, levels) / r


def kept_bytes(model: Denoiser, shape: tuple[int, int, int], device: torch.device) -> float:
    """Bytes per image that one network call keeps for the backward pass."""
    kept = [0]

    def count(value: Tensor) -> Tensor:
        kept[0] += value.numel() * value.element_size()
        return value

    x = torch.zeros((2, *shape), device=device, requires_grad=True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
        differentiable_x0(model, x, torch.ones((), dtype=torch.float64))
    return kept[0] / 2


@dataclass(frozen=True, eq=False)
class UnrolledSampler:
    """Images by their indices for any coefficients, in batches whose backward pass fits in memory.

    Attributes:
        fitting: images whose calls fit in memory at once.
        recompute: whether calls are repeated in the backward pass, because fewer than `FEW` images fit.
    """

    model: Denoiser | DenoiserByIndex
    shape: tuple[int, int, int]
    seed: int
    clip: Callable[[Images], Images] | None
    device: torch.device
    bf16: bool
    fitting: int
    recompute: bool

    @staticmethod
    def of(
        model: Denoiser | DenoiserByIndex, shape: tuple[int, int, int], seed: int, clip: Callable[[Images], Images] | None,
        device: torch.device, bf16: bool, *, calls: int, batch: int, room: float,
    ) -> "UnrolledSampler":  # fmt: skip
        """Measures how many images fit in `room` bytes. calls: of the sampler. batch: images that are wanted at once."""
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            per_call = kept_bytes(batch_denoiser(model, range(2)), shape, device)
        fitting = int(room // max(1.0, calls * per_call))
        return UnrolledSampler(model, shape, seed, clip, device, bf16, fitting, fitting < min(batch, FEW))

    def __call__(self, c: Coefficients, indices: Sequence[int], fresh: Sequence[int]) -> Images:
        """Images from the starting noise of `indices` and the fresh noise of indices `fresh`."""
        start = starting_noise(self.seed, indices, self.shape).to(self.device).contiguous(memory_format=torch.channels_last)
        noise = SeededNoise(self.seed, fresh)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            model = batch_denoiser(self.model, indices)
            return unroll(model, start, c, noise, clip=self.clip, recompute=self.recompute).float()
