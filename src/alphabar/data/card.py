"""The data card: what a set holds, in numbers that decide how a model should be trained on it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.data.sources import ImageSet

_CHUNK = 4096


def data_card(images: ImageSet) -> dict[str, Any]:
    """Plain data, ready for JSON.

    min, max, mean and std are in levels of 0..255, over all pixels and, as lists, a channel; sigma_data is the
    standard deviation in the model's range [-1, 1]. duplicates counts the images whose exact content occurs more
    than once; distinct counts contents. classes maps a name (or, unnamed, its number) to its count, or is None.
    """
    histogram = _histogram(images)
    total = histogram.sum(0)
    _, counts = np.unique(images.hashes, return_counts=True)
    mean, std = _moments(total)
    found = np.flatnonzero(total)
    by_channel = [_moments(h) for h in histogram]
    return {
        "name": images.name,
        "split": images.split,
        "source": images.source,
        "fingerprint": images.fingerprint,
        "count": len(images),
        "image_shape": list(images.image_shape),
        "dtype": str(images.pixels.dtype),
        "min": int(found[0]),
        "max": int(found[-1]),
        "levels": len(found),
        "mean": mean,
        "std": std,
        "sigma_data": std / 127.5,
        "channel_mean": [m for m, _ in by_channel],
        "channel_std": [s for _, s in by_channel],
        "classes": _classes(images),
        "distinct": len(counts),
        "duplicates": int(counts[counts > 1].sum()),
    }


def _histogram(images: ImageSet) -> NDArray[np.int64]:
    """Counts of the 256 levels, (channels, 256): moments from it are exact and never hold the set as floats."""
    channels = images.image_shape[0]
    out = np.zeros((channels, 256), dtype=np.int64)
    for i in range(0, len(images), _CHUNK):
        chunk = images.pixels[i : i + _CHUNK]
        for c in range(channels):
            out[c] += np.bincount(chunk[..., c].ravel(), minlength=256)
    return out


def _moments(histogram: NDArray[np.int64]) -> tuple[float, float]:
    levels = np.arange(256)
    share = histogram / histogram.sum()
    mean = float((share * levels).sum())
    return mean, float(np.sqrt((share * (levels - mean) ** 2).sum()))


def _classes(images: ImageSet) -> dict[str, int] | None:
    if images.labels is None:
        return None
    counts = np.bincount(images.labels, minlength=len(images.classes or ()))
    names = images.classes or tuple(str(i) for i in range(len(counts)))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
