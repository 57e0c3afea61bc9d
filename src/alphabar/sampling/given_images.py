"""Images that a model is to work on: read as it was trained, checked, and brought into its coordinate."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.core.messages import as_path
from alphabar.core.types import Pixels, Sampled
from alphabar.data.image_set import ImageSet, load, parse_set
from alphabar.data.images import to_model
from alphabar.data.latents import holds_latents
from alphabar.sampling.model import Model, image_shape
from alphabar.sampling.sample_set import reading_for
from alphabar.training.stream import pad_pixels

_PART = re.compile(r"(.+)\[(\d*)(:?)(\d*)\]")  # SET[3] is image 3, SET[2:5] are images 2 to 4
_PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".jp2", ".avif"}


def given_images(model: Model, images: Any, n: int | None = None, reading: Mapping[str, Any] | None = None) -> ImageSet:
    """The images of a set, or its first n, in the size and with the channels of the model's.

    Args:
        model: decides the size, the channels and, where one was declared, the range of values.
        images: SET[:SPLIT], the path of one image or of an .npz, SET[a:b] or SET[k] for a part; or images in memory.
        n: the first n images; None: all.
        reading: options of `alphabar.load`, as size=28.

    Raises:
        ValueError: for images of another size, number of channels or range of values, latents, and fewer than n images.
    """
    own = reading_for(model, reading)
    own["value_range"] = own.get("value_range") or getattr(model, "value_range", None)
    found = _opened(images, own)
    if found.latents is not None:
        raise ValueError(f"{found.name} holds latents: name the images that they were made from")
    if found.value_range is not None and found.value_range != getattr(model, "value_range", None):
        raise ValueError(
            f"{found.name} was read in the range {found.value_range}, and the model was trained on the range "
            f"{getattr(model, 'value_range', None)}: leave --range out"
        )
    (c, h, w), wanted = found.image_shape, image_shape(model)
    if (h, w) != wanted[1:]:
        size = f"{wanted[1]}" if wanted[1] == wanted[2] else f"{wanted[1]}x{wanted[2]}"
        raise ValueError(
            f"{found.name} holds images of {h}x{w} pixels, and the model makes {wanted[1]}x{wanted[2]}: give --size {size} "
            f"(in Python size={size!r}), and --fit crop, pad or stretch"
        )
    if c != wanted[0]:
        raise ValueError(f"{found.name} holds images of {c} channel(s), and the model makes {wanted[0]}: convert them before")
    if n is not None and n > len(found):
        raise ValueError(f"{found.name} holds {len(found)} images, {n} were asked for: give --n {len(found)} or less")
    return found if n is None else found.subset(range(n))


def _opened(images: Any, reading: dict[str, Any]) -> ImageSet:
    if not isinstance(images, str | Path):
        return load(images, **reading)
    text = str(images)
    part = None if as_path(text).exists() else _PART.fullmatch(text)
    text = part[1] if part else text
    if as_path(text).is_file() and as_path(text).suffix.lower() in _PICTURES:
        found = load([as_path(text)], **reading)
    else:
        name, split = parse_set(text)
        found = load(name, split, **({} if holds_latents(name) else reading))
    if part is None:
        return found
    start = int(part[2] or 0)
    stop = int(part[4] or len(found)) if part[3] else start + 1
    if (not part[2] and not part[3]) or not start < stop <= len(found):
        raise ValueError(f"{images}: {text} holds {len(found)} images, numbered from 0; write {text}[0] or {text}[0:2]")
    return found.subset(range(start, stop))


def to_coordinate(model: Model, pixels: Pixels) -> Sampled:
    """Pixels as x0 of the model: in [-1, 1] with its padding, or latents where it makes those. On the CPU."""
    latents = getattr(model, "latents", None)
    if latents is None:
        return to_model(pad_pixels(np.asarray(pixels), int(getattr(model, "crop", 0))))
    autoencoder = getattr(model, "autoencoder", None)
    if autoencoder is None or autoencoder.fingerprint != latents.autoencoder:
        raise ValueError("the model makes latents, and their autoencoder is not with it: name its run, which holds autoencoder/")
    x0: Sampled = latents.scaled(autoencoder.encode(np.asarray(pixels)))
    return x0
