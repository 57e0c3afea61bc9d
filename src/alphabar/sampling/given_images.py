"""Images that a model is to work on: read as it was trained, checked, and brought into its coordinate."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
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

_PART = re.compile(r"(.+)\[(\d*:?\d*)\]")  # SET[3] is image 3, SET[2:5] are images 2 to 4
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
    found = open_images(model, images, reading_of_model(model, reading))
    check_shape(found.name, found.image_shape, image_shape(model))
    if n is not None and n > len(found):
        raise ValueError(f"{found.name} holds {len(found)} images, {n} were asked for: give --n {len(found)} or less")
    return found if n is None else found.subset(range(n))


def reading_of_model(model: Model, reading: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options of `alphabar.load` that read images as the model's were read, unless others are given."""
    own = reading_for(model, reading)
    return own | {"value_range": own.get("value_range") or getattr(model, "value_range", None)}


def open_images(model: Model, images: Any, reading: Mapping[str, Any]) -> ImageSet:
    """Images of any size, as `given_images` takes them. Raises ValueError for latents and another range than the model's."""
    found = _opened(images, reading)
    if found.latents is not None:
        raise ValueError(f"{found.name} holds latents: name the images that they were made from")
    if found.value_range is not None and found.value_range != getattr(model, "value_range", None):
        raise ValueError(
            f"{found.name} was read in the range {found.value_range}, and the model was trained on the range "
            f"{getattr(model, 'value_range', None)}: leave --range out"
        )
    return found


def check_shape(name: str, shape: Sequence[int], wanted: Sequence[int], needs: str = "the model makes") -> None:
    """Raises ValueError for images of another (channels, height, width) than is wanted."""
    (c, h, w), (channels, height, width) = shape, wanted
    if (h, w) != (height, width):
        size = f"{height}" if height == width else f"{height}x{width}"
        raise ValueError(
            f"{name} holds images of {h}x{w} pixels, and {needs} {height}x{width}: give --size {size} (in Python "
            f"size={size!r}), and --fit crop, pad or stretch"
        )
    if c != channels:
        raise ValueError(f"{name} holds images of {c} channel(s), and {needs} {channels}: convert them before")


def _opened(images: Any, reading: Mapping[str, Any]) -> ImageSet:
    if not isinstance(images, str | Path):
        return load(images, **reading)
    text, part = split_part(str(images))
    if as_path(text).is_file() and as_path(text).suffix.lower() in _PICTURES:
        found = replace(load([as_path(text)], **reading), name=text)
    else:
        name, split = parse_set(text)
        found = load(name, split, **({} if holds_latents(name) else reading))
    return part_of(found, text, part)


def split_part(text: str) -> tuple[str, str | None]:
    """SET[2:5] -> (SET, 2:5), and (SET, None) where no part is named."""
    found = None if as_path(text).exists() else _PART.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)


def part_of(found: ImageSet, text: str, part: str | None) -> ImageSet:
    """The part of a set that was typed as text[part]; None is all. Raises ValueError where it has none."""
    if part is None:
        return found
    first, colon, last = part.partition(":")
    start = int(first or 0)
    stop = int(last or len(found)) if colon else start + 1
    if not part or not start < stop <= len(found):
        raise ValueError(f"{text}[{part}]: {text} holds {len(found)} images, numbered from 0; write {text}[0] or {text}[0:2]")
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
