"""The data card: the numbers of a set of images that decide how a model should be trained on it."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core.types import Pixels
from alphabar.data.image_set import ImageSet
from alphabar.data.values import scale_of, to_values

_CHUNK_BYTES = 1 << 26
_LOW_USE = 0.25  # share of the scale; 12 bits in 16 use a sixteenth


def data_card(images: ImageSet) -> dict[str, Any]:
    """The numbers of a set as plain data, ready for JSON.

    Returns:
        name, split, source, fingerprint, count, image_shape, dtype, value_range, skipped, left_out, hidden, jpeg: as in
            `ImageSet`. fit: how images got their size, as in "crop to 48x64", or None.
        scale: top of the scale, 255, 65535 or 1. min, max, mean, std: in stored levels, over all pixels.
        channel_mean, channel_std: the same for each channel. sigma_data: std in the model's range [-1, 1].
        levels: number of different levels, None for floats. values: min and max in the declared range, or None.
        used: share of the scale between min and max. note: advice if that is small, or None.
        duplicates: images whose exact content occurs more than once. distinct: number of different contents.
        classes: number of images by class name (or number), or None.
    """
    scale = scale_of(images.pixels.dtype)
    low, high, levels, channels = _floats(images.pixels) if scale == 1 else _levels(images.pixels, scale)
    means = [m for m, _ in channels]
    mean = sum(means) / len(means)
    std = math.sqrt(sum(s**2 + (m - mean) ** 2 for m, s in channels) / len(channels))
    _, counts = np.unique(images.hashes, return_counts=True)
    ends = None if images.value_range is None else to_values(np.array([low, high], images.pixels.dtype), images.value_range)
    return {
        "name": images.name, "split": images.split, "source": images.source, "fingerprint": images.fingerprint,
        "count": len(images), "image_shape": list(images.image_shape),
        "fit": str(images.reading) or None, "dtype": str(images.pixels.dtype), "scale": scale,
        "value_range": None if images.value_range is None else list(images.value_range),
        "values": None if ends is None else ends.tolist(),
        "min": low, "max": high, "used": (high - low) / scale, "note": _depth_note(images, low, high),
        "levels": levels, "mean": mean, "std": std, "sigma_data": std / (scale / 2),
        "channel_mean": means, "channel_std": [s for _, s in channels], "classes": _classes(images),
        "distinct": len(counts), "duplicates": int(counts[counts > 1].sum()), "skipped": list(images.skipped),
        "left_out": list(images.left_out), "hidden": images.hidden, "jpeg": images.jpeg,
    }  # fmt: skip


def _depth_note(images: ImageSet, low: float, high: float) -> str | None:
    """A warning about images whose levels low..high use little of their scale, as 12 bits in 16-bit files do, or None."""
    dtype = images.pixels.dtype.name
    scale = scale_of(dtype)
    used = (high - low) / scale
    if images.value_range is not None or dtype == "uint8" or used >= _LOW_USE:
        return None
    fits = next((2**bits - 1 for bits in (8, 10, 12, 14) if high < 2**bits), None) if dtype == "uint16" else None
    typed = "--range LOW HIGH" if fits is None else f"--range 0 {fits}, if they are {fits.bit_length()}-bit images"
    return (
        f"these {dtype} images use {used:.2%} of the scale 0..{scale}, from {low:.6g} to {high:.6g}, so a model sees little "
        f"contrast. If another range is meant, declare it: {typed}"
    )


def unused_depth(images: ImageSet) -> str | None:
    """The note of the data card, for a warning before training. Reads all pixels, except of sets that need no note."""
    if images.value_range is not None or images.pixels.dtype == np.uint8:
        return None
    lows, highs = zip(*((float(c.min()), float(c.max())) for c in _chunks(images.pixels)), strict=True)
    return _depth_note(images, min(lows), max(highs))


def _chunks(pixels: Pixels) -> Iterator[NDArray[Any]]:
    rows = max(1, _CHUNK_BYTES // max(1, pixels[:1].nbytes))
    return (np.asarray(pixels[i : i + rows]) for i in range(0, len(pixels), rows))


def _levels(pixels: Pixels, scale: int) -> tuple[int, int, int, list[tuple[float, float]]]:
    """(lowest, highest, number of levels, mean and std per channel), exact, from counts of levels."""
    channels = pixels.shape[-1]
    counts = np.zeros((channels, scale + 1), dtype=np.int64)
    for chunk in _chunks(pixels):
        for c in range(channels):
            counts[c] += np.bincount(chunk[..., c].ravel(), minlength=scale + 1)
    found = np.flatnonzero(counts.sum(0))
    return int(found[0]), int(found[-1]), len(found), [_moments(c) for c in counts]


def _moments(histogram: NDArray[np.int64]) -> tuple[float, float]:
    levels, share = np.arange(len(histogram)), histogram / histogram.sum()
    mean = float((share * levels).sum())
    return mean, float(np.sqrt((share * (levels - mean) ** 2).sum()))


def _floats(pixels: Pixels) -> tuple[float, float, None, list[tuple[float, float]]]:
    """The same for floats; the scatter is added up chunk by chunk (Chan, Golub & LeVeque 1983)."""
    n, mean, scatter = 0, np.zeros(pixels.shape[-1]), np.zeros(pixels.shape[-1])
    low, high = math.inf, -math.inf
    for chunk in _chunks(pixels):
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        flat = chunk.reshape(-1, chunk.shape[-1]).astype(np.float64)
        m, own = len(flat), flat.mean(0)
        scatter += ((flat - own) ** 2).sum(0) + (own - mean) ** 2 * (n * m / (n + m))
        mean += (own - mean) * (m / (n + m))
        n += m
    return low, high, None, list(zip(mean.tolist(), np.sqrt(scatter / n).tolist(), strict=True))


def _classes(images: ImageSet) -> dict[str, int] | None:
    if images.labels is None:
        return None
    counts = np.bincount(images.labels, minlength=len(images.classes or ()))
    names = images.classes or tuple(str(i) for i in range(len(counts)))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
