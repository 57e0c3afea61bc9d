"""How likely images are under a diffusion model, in bits per dimension.

The exact log-density of what the model samples by the probability-flow ODE (Song et al. 2021, arXiv:2011.13456, app. D.2), and
the variational bound, an integral of the denoising loss over log-SNR (Kingma et al. 2021, arXiv:2107.00630, eqs. 11 to 17).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from alphabar.core.files import Record
from alphabar.core.seeds import PROBE, SeededNoise
from alphabar.core.types import Denoiser, Images, Labels, Levels, Pixels
from alphabar.data.images import to_model
from alphabar.data.values import SCALE
from alphabar.denoiser.wrappers import Labelled
from alphabar.evaluation.estimate import Estimate
from alphabar.evaluation.heldout import losses_by_level
from alphabar.schedule.base import Schedule

HIGHEST = 1000.0  # sigma; above it a model of images in [-1, 1] knows their mean alone
LOWEST = 1e-4


@dataclass(frozen=True, eq=False)
class Likelihood(Record):
    """Bits per dimension, the mean over images with its interval. Fewer bits: more likely.

    Attributes:
        ode: by the probability-flow ODE; None where it was not asked for.
        bound: the variational bound, likewise.
        n, dimensions: images, and the number of values of each.
        levels: values that a pixel can have; None: floats, whose density is given per unit of their scale.
        sigma: the lowest and the highest noise level of the ODE.
        nfe: network calls per image, each of the ODE with a backward pass too.
        seconds: of all images.
        images, model: fingerprints.
        ode_bits, bound_bits: of each image.
        pixels: the images.
    """

    ode: Estimate | None
    bound: Estimate | None
    n: int
    dimensions: int
    levels: int | None
    sigma: tuple[float, float]
    nfe: float
    seconds: float
    images: str
    model: str | None
    ode_bits: Float64[np.ndarray, " n"] | None
    bound_bits: Float64[np.ndarray, " n"] | None
    pixels: Pixels


@dataclass(frozen=True)
class Scale:
    """The levels of stored images in the model's range [-1, 1].

    Attributes:
        levels: how many values a pixel can have, evenly spaced from -1 to 1; None for floats, whose density is given per unit of
            their own scale, 0 to 1.
    """

    levels: int | None

    @staticmethod
    def of(pixels: Pixels, levels: int | None = None) -> "Scale":
        """levels: 4096 for 12 bits that were read into 16, for example; None: those of the type.

        Raises ValueError for pixels that lie between such levels, and for levels of floats.
        """
        full = SCALE[pixels.dtype.name]
        if full == 1:
            if levels is not None:
                raise ValueError(f"levels = {levels}: float images have none; leave it out")
            return Scale(None)
        if levels is None:
            return Scale(full + 1)
        step = full / (levels - 1)
        if not np.array_equal(np.rint(np.rint(pixels / step) * step), pixels):
            raise ValueError(f"levels = {levels}: the images have values between those levels, of {full + 1:,}; leave it out")
        return Scale(levels)

    @property
    def width(self) -> float:
        """Distance of two levels in the model's range; of floats, the width of a unit of theirs."""
        return 2.0 if self.levels is None else 2 / (self.levels - 1)

    def bits(self, nats: Float64[Tensor, " n"], dimensions: int) -> Float64[Tensor, " n"]:
        """Bits per dimension of -log density in the model's range: -log2(p width^d) / d."""
        return nats / (dimensions * math.log(2)) - math.log2(self.width)


def ode_levels(schedule: Schedule, scale: Scale) -> tuple[float, float]:
    """The lowest and the highest level of the ODE: from the spread of the noise that fills a level, or the least that the model
    was trained on, to the highest."""
    spread = 0.0 if scale.levels is None else scale.width / math.sqrt(12)
    return max(schedule.sigma_min, spread, LOWEST), min(schedule.sigma_max, HIGHEST)


def trace_of_jacobian(denoise: Denoiser, x: Images, sigma: Levels, probe: Images | None) -> tuple[Images, Float64[Tensor, " b"]]:
    """x0_hat, and the trace of d x0_hat / dx of each image: v^T J v with the probe v (Hutchinson 1990), or exactly.

    Args:
        denoise: a denoiser that torch can differentiate.
        x: noisy images.
        sigma: their levels.
        probe: v, of independent entries -1 and 1; None: the exact trace, with a backward pass for every dimension.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        x0_hat = denoise(x, sigma)
        if probe is not None:
            (back,) = torch.autograd.grad(x0_hat, x, probe)
            return x0_hat.detach(), (back * probe).flatten(1).double().sum(1)
        trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for k in range(x[0].numel()):
            unit = torch.zeros_like(x)
            unit.flatten(1)[:, k] = 1
            (back,) = torch.autograd.grad(x0_hat, x, unit, retain_graph=True)
            trace += back.flatten(1)[:, k].double()
    return x0_hat.detach(), trace


def log_density(
    denoise: Denoiser, x: Images, levels: tuple[float, float], steps: int, probe: Images | None
) -> Float64[Tensor, " b"]:
    """log p(x) in nats, where p is what the probability-flow ODE makes of N(0, high^2) at level `high` when it arrives at `low`.

    The ODE is solved for z = x / sqrt(1 + sigma^2) in u = log sigma, dz/du = (x - (1 + sigma^2) x0_hat) / (1 + sigma^2)^(3/2),
    whose right-hand side is bounded at both ends, with the divergence (d - (1 + sigma^2) tr J) / (1 + sigma^2), by the classical
    Runge-Kutta method of order 4: four network calls a step, even in u.

    Args:
        denoise: E[x0 | x].
        x: images at level `low` (b, c, h, w).
        levels: low and high.
        steps: of the method.
        probe: as for `trace_of_jacobian`.
    """
    low, high = levels
    d, h = x[0].numel(), math.log(high / low) / steps

    def rate(z: Tensor, u: float) -> tuple[Tensor, Tensor]:
        sigma, v = math.exp(u), 1 + math.exp(2 * u)
        x = z * math.sqrt(v)
        x0_hat, trace = trace_of_jacobian(denoise, x, x.new_full((len(x),), sigma), probe)
        return (x - v * x0_hat) / v**1.5, (d - v * trace) / v

    z, total = x / math.sqrt(1 + low**2), torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for k in range(steps):
        u = math.log(low) + k * h
        a, p = rate(z, u)
        b, q = rate(z + h / 2 * a, u + h / 2)
        c, r = rate(z + h / 2 * b, u + h / 2)
        e, s = rate(z + h * c, u + h)
        z = z + h / 6 * (a + 2 * b + 2 * c + e)
        total += h / 6 * (p + 2 * q + 2 * r + s)
    variance = high**2 / (1 + high**2)
    start = -0.5 * (z.double().square().flatten(1).sum(1) / variance + d * math.log(2 * math.pi * variance))
    return start + total - d / 2 * math.log(1 + low**2)


def ode_bits(
    denoise: Denoiser, pixels: Pixels, scale: Scale, levels: tuple[float, float], *, steps: int = 25, draws: int = 1,
    seed: int = 0, batch: int = 64, exact: bool = False, device: torch.device | str | None = None, labels: Labels | None = None,
    dimensions: int | None = None, advance: Callable[[float], None] = lambda amount: None,
) -> Float64[Tensor, "draws n"]:  # fmt: skip
    """Bits per dimension of images by the ODE, with uniform dequantisation: every value is spread over the width of its level.

    Their mean is an upper bound of the bits of the stored images, which becomes equal as levels get finer (Theis et al. 2016,
    arXiv:1511.01844, sec. 3.1).

    Args:
        denoise: E[x0 | x].
        pixels: (n, h, w, c), with the padding of the model.
        scale: of the pixels.
        levels: `ode_levels`.
        steps: of the ODE; 4 calls each.
        draws: of the noise in the levels and of the probe, for each image.
        seed: of both.
        batch: images at a time.
        exact: the exact trace, in place of Hutchinson's estimate.
        device: where to compute.
        labels: classes of the images, for a conditional model.
        dimensions: of an image without padding, by which bits are divided; None: those of the pixels.
        advance: called with the number of images done.
    """
    out = torch.zeros((draws, len(pixels)), dtype=torch.float64)
    inner = dimensions or int(np.prod(pixels.shape[1:]))
    for first in range(0, len(pixels), batch):
        rows = range(first, min(first + batch, len(pixels)))
        x0 = to_model(np.asarray(pixels[rows.start : rows.stop]), device)
        here = denoise if labels is None else Labelled(cast(Any, denoise), labels[rows.start : rows.stop].to(x0.device))
        noise = SeededNoise(seed, rows, PROBE)
        for r in range(draws):
            spread = torch.special.ndtr(noise(2 * r, x0)) - 0.5  # uniform
            x = x0 if scale.levels is None else x0 + scale.width * spread
            probe = None if exact else noise(2 * r + 1, x0).sign()
            density = log_density(here, x, levels, steps, probe)
            padding = (x0[0].numel() - inner) * math.log(scale.width)  # counted as bits too, which leaves an upper bound
            out[r, rows.start : rows.stop] = scale.bits(-density.cpu() - padding, inner)
            advance(len(rows) / draws)
    return out


def bound_bits(
    denoise: Denoiser, pixels: Pixels, scale: Scale, levels: tuple[float, float], *, count: int = 41, draws: int = 1,
    seed: int = 0, batch: int = 128, device: torch.device | str | None = None, labels: Labels | None = None,
    dimensions: int | None = None,
    advance: Callable[..., None] = lambda amount: None,
) -> Float64[Tensor, " n"]:  # fmt: skip
    """Bits per dimension of images by the variational bound of the model's stochastic sampling in many steps, an upper bound.

    The sum of three terms (Kingma et al. 2021, eq. 11): KL(q(x_high | x0) || N(0, high^2)) = |x0|^2 / (2 high^2); the integral
    over log sigma of E|x0 - x0_hat|^2 / sigma^2 (eq. 17), by Simpson's rule over the loss at `count` levels; and
    -log p(x0 | x_low), with p proportional to N(x_low; x0, low^2) over the levels of a pixel (eq. 12 and app. E).

    Args:
        denoise: E[x0 | x].
        pixels: (n, h, w, c), with the padding of the model.
        scale: of the pixels.
        levels: low and high.
        count: levels at which the loss is measured, odd, even in log sigma.
        draws: draws of noise for each level and image.
        seed, batch, device, labels, dimensions: as for `ode_bits`.
        advance: called with the number of losses done.
    """
    low, high = levels
    sigmas = np.geomspace(low, high, count)
    losses = losses_by_level(denoise, pixels, sigmas.tolist(), draws, seed, batch, device, advance, labels)
    d = int(np.prod(pixels.shape[1:]))
    weights = simpson(count) * math.log(high / low) / (count - 1)
    diffusion = d * torch.from_numpy(weights / sigmas**2) @ losses
    fixed = torch.zeros(len(pixels), dtype=torch.float64)
    for first in range(0, len(pixels), batch):
        rows = range(first, min(first + batch, len(pixels)))
        x0 = to_model(np.asarray(pixels[rows.start : rows.stop])).double()
        noise = SeededNoise(seed, rows, PROBE)(0, x0).double()
        decoded = -_log_decoder(x0, noise, low, scale)
        fixed[rows.start : rows.stop] = (decoded + x0.square() / (2 * high**2)).flatten(1).sum(1)
    inner = dimensions or d
    # the bits of levels, which `Scale.bits` adds, are in the decoder already; floats have none
    return (diffusion + fixed) / (inner * math.log(2)) - (d / inner if scale.levels is None else 0.0)


def simpson(n: int) -> Float64[np.ndarray, " n"]:
    """Weights of Simpson's rule for n values at distance 1. Raises ValueError for an even number of them, or fewer than 3."""
    if n < 3 or n % 2 == 0:
        raise ValueError(f"{n} levels: give an odd number, 3 or more, as Simpson's rule takes")
    weights = np.ones(n)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return weights / 3


def _log_decoder(x0: Tensor, noise: Tensor, sigma: float, scale: Scale) -> Tensor:
    """log p(x0 | x) of each pixel at x = x0 + sigma noise: of floats a density, else N(x; x0, sigma^2) divided by its sum over
    all levels. The sum runs over those within 8 sigma, and is an integral where sigma is more than 16 widths, which differs
    from it by 4e-5 or less, at the ends of the scale."""
    if scale.levels is None:
        return -0.5 * noise**2 - math.log(sigma * math.sqrt(2 * math.pi))
    x, width = x0 + sigma * noise, scale.width
    if sigma > 16 * width:
        upper, lower = (torch.special.ndtr((end - x) / sigma) for end in (1 + width / 2, -1 - width / 2))
        return -0.5 * noise**2 - torch.log((upper - lower) * sigma * math.sqrt(2 * math.pi) / width)
    reach = math.ceil(8 * sigma / width) + 1
    total = torch.zeros_like(x)
    for k in range(-reach, reach + 1):  # levels near that of x0, relative to the term of x0 itself
        at = x0 + k * width
        inside = (at > -1 - width / 2) & (at < 1 + width / 2)
        total += torch.where(inside, torch.exp(0.5 * noise**2 - 0.5 * ((x - at) / sigma) ** 2), 0.0)
    return -torch.log(total)
