"""`interpolate`: images on the way from one to another, by spherical interpolation of their noise."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from alphabar.core.bounds import Bounds
from alphabar.core.messages import as_path
from alphabar.core.options import takes
from alphabar.core.seeds import starting_noise
from alphabar.core.types import Sampled
from alphabar.data.image_set import ImageSet
from alphabar.sampling.given_images import given_images
from alphabar.sampling.guidance import class_numbers
from alphabar.sampling.invert import invert
from alphabar.sampling.model import Model
from alphabar.sampling.options import InvertOptions, SampleOptions
from alphabar.sampling.resolved import ResolvedOptions, resolve_options
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.sampling.start import Start
from alphabar.training.checkpoint import load_model


@takes(SampleOptions)
def interpolate(
    model: Model | str | Path, a: Any, b: Any, n: Annotated[int, Bounds(2, 10_000)] = 9,
    options: SampleOptions = SampleOptions(), *, iterations: Annotated[int, Bounds(1, 1000)] = 10,
    reading: Mapping[str, Any] | None = None, out: str | Path | None = None, progress: bool = True,
    device: torch.device | str | None = None,
) -> Samples:  # fmt: skip
    """n images from a to b, both included, by spherical interpolation of their noise (Song et al. 2021,
    arXiv:2010.02502, app. D.5).

    >>> from alphabar import interpolate
    >>> interpolate("bundled", 0, 1, n=3, steps=4, progress=False).images.shape
    (3, 28, 28, 1)

    Args:
        model: as for `sample`.
        a: a seed, as 3 or "3", or SEED:INDEX for another image of the seed than its first; or one image, as `given_images` takes
            it, which is inverted.
        b: likewise.
        n: images, 2 or more.
        options: those of `sample`, for a deterministic sampler and at most one class; with images the sampler is DDIM, on the
            grid karras if none is named.
        iterations: of the inversion of images, as in `InvertOptions`.
        reading: options of `alphabar.load` for images, as {"size": 28}.
        out: as for `sample`.
        progress: likewise.
        device: likewise.

    Raises:
        ValueError: for a sampler that adds noise, several classes, another sampler than DDIM for images, and several images.
    """
    model = load_model(model) if isinstance(model, str | Path) else model
    resolved = resolve_options(model, options)
    if _adds_noise(resolved):
        raise ValueError(
            f"sampler {resolved.sampler.name} adds noise at its steps, so that neighbours would differ by chance: name a "
            "deterministic one, as ddim with eta 0, or unipc"
        )
    if options.classes is not None and len(class_numbers(options.classes, model)) > 1:
        raise ValueError("classes: give one, which all images of the way have")
    ends = [_seed_of(end) for end in (a, b)]
    if options.grid is None and None in ends:
        options = replace(options, grid=InvertOptions.grid)
    images = [None if e else _one_image(model, end, options, reading) for e, end in zip(ends, (a, b), strict=True)]
    noise = [
        _of_seed(model, *end) if image is None and end else _inverted(model, image, options, iterations, device)
        for image, end in zip(images, ends, strict=True)
    ]
    frames = torch.stack([slerp(noise[0][0], noise[1][0], k / (n - 1)) for k in range(n)])

    def x(indices: Sequence[int], sigma: float) -> Sampled:
        return frames[list(indices)] * sigma

    pixels = next((kind for _, _, kind in noise if kind is not None), None)
    start = Start(x, None, pixels, {"from": "interpolation", "a": noise[0][1], "b": noise[1][1]})
    return sample(model, n, options, start=start, out=out, progress=progress, device=device, channels_last=True)


def slerp(a: Float[Tensor, "*s"], b: Float[Tensor, "*s"], t: float) -> Float[Tensor, "*s"]:
    """sin((1 - t) w) / sin w a + sin(t w) / sin w b, with the angle w between a and b (Shoemake 1985).

    The straight line between two independent draws of noise leads through points that are too short for noise, by the factor
    sqrt(2) in the middle. Parallel ones (sin w = 0) are joined by that line.
    """
    x, y = a.double().flatten(), b.double().flatten()
    w = math.acos(max(-1.0, min(1.0, float(x @ y / (x.norm() * y.norm()).clamp_min(1e-300)))))
    if math.sin(w) < 1e-6:
        return torch.lerp(a, b, t)
    return math.sin((1 - t) * w) / math.sin(w) * a + math.sin(t * w) / math.sin(w) * b


def _seed_of(end: Any) -> tuple[int, int] | None:
    """(seed, index) of an end that is a seed; None for an image."""
    if isinstance(end, int) and not isinstance(end, bool):
        return end, 0
    found = re.fullmatch(r"(\d{1,19})(?::(\d{1,19}))?", end) if isinstance(end, str) and not as_path(end).exists() else None
    return None if found is None else (int(found[1]), int(found[2] or 0))


def _adds_noise(resolved: ResolvedOptions) -> bool:
    arguments, entry = resolved.arguments, resolved.sampler
    return bool(arguments.get("eta", entry.stochastic) or arguments.get("s_churn"))


def _of_seed(model: Model, seed: int, index: int) -> tuple[Tensor, str, None]:
    return starting_noise(seed, [index], model.image_shape)[0], f"{seed}:{index}", None


def _inverted(
    model: Model, image: Any, options: SampleOptions, iterations: int, device: torch.device | str | None
) -> tuple[Tensor, str, str]:
    """The noise of an image, by the grid on which it is then sampled; its fingerprint; and the type of its pixels."""
    how = InvertOptions(
        options.steps, iterations, grid=options.grid or InvertOptions.grid, classes=options.classes, guidance=options.guidance
    )
    found = invert(model, image, how, progress=False, device=device)
    return found.noise[0], str(found.record["images"]), str(found.record["pixels"])


def _one_image(model: Model, image: Any, options: SampleOptions, reading: Mapping[str, Any] | None) -> ImageSet:
    """An end that is an image, checked before any is inverted. Raises ValueError for several, and for options that do not fit."""
    if options.sampler not in (None, "ddim"):
        raise ValueError(f"sampler {options.sampler!r:.60}: the noise of images is found for ddim at eta 0; leave it out")
    names = ("plan", "clip", "threshold", "tuned", "guidance_interval")
    if given := [name for name in names if getattr(options, name) is not None]:
        value = getattr(options, given[0])
        raise ValueError(f"{given[0]} = {value!r:.60}: the noise of images is found without it; leave it out")
    found = given_images(model, image, reading=reading)
    if len(found) != 1:
        raise ValueError(f"{image!s:.200} holds {len(found)} images: name one, as {image!s:.200}[0]")
    return found
