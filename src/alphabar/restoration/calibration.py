"""Intervals that hold what they state: how much wider they must be is learned on images whose originals are known."""

import numpy as np
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray

from alphabar.data.values import scale_of
from alphabar.restoration.scores import LEVEL, interval

LEAST_IMAGES = 20  # with known originals
NARROWEST = 1 / 255  # half width that a factor multiplies, of the scale: draws that are all equal say nothing of their error


def widened(draws: Shaped[np.ndarray, "k *shape"], factor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the intervals of draws whose half widths, below and above the median, are multiplied by a factor."""
    middle, below, above = _widths(draws)
    return middle - factor * below, middle + factor * above


def widening(
    draws: Shaped[np.ndarray, "k n h w c"], originals: Shaped[np.ndarray, "n h w c"],
    where: Bool[np.ndarray, "n h w c"] | None = None, level: float = LEVEL,
) -> float:  # fmt: skip
    """The least factor whose intervals hold `level` of the pixels of one more image, in expectation.

    Conformal risk control (Angelopoulos et al. 2022, arXiv:2208.02814, eq. 4; for images Angelopoulos et al. 2022,
    arXiv:2202.05265): the share R of pixels outside, the mean over n images, must satisfy (n R + 1) / (n + 1) <= 1 - level. It
    holds for any model, method and distribution, if the images and that one more come from the same source.

    Args:
        draws: (K, n, h, w, c), K >= `FEWEST` of the scores.
        originals: (n, h, w, c), which neither the model nor the method has seen.
        where: the pixels that count, in the shape of originals; None: all. Images without any do not count.
        level: 0 to 1.

    Raises:
        ValueError: for fewer than `LEAST_IMAGES` images.
    """
    counted = np.ones(originals.shape, bool) if where is None else where
    each = counted.reshape(len(counted), -1).sum(1)
    n = int((each > 0).sum())
    if n < LEAST_IMAGES:
        raise ValueError(f"{n} images with known originals: intervals are calibrated on at least {LEAST_IMAGES}, better 100")
    middle, below, above = _widths(draws)
    rounding = 1.0 if scale_of(originals.dtype) > 1 else 0.0  # of the ends, outwards
    off = np.maximum(np.abs(originals - middle) - rounding, 0)
    needs = (off / np.where(originals < middle, below, above))[counted]
    weight = np.broadcast_to((1 / np.maximum(each, 1))[:, None, None, None], counted.shape)[counted] / n
    order = np.argsort(needs)
    inside = np.cumsum(weight[order])
    wanted = 1 - ((1 - level) * (n + 1) - 1) / n
    k = min(int(np.searchsorted(inside, wanted - 1e-12)), len(order) - 1)
    return float(np.nextafter(needs[order[k]] * (1 + 1e-9), np.inf))


def _widths(draws: Shaped[np.ndarray, "k *shape"]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The median, and the half widths of the interval below and above it."""
    values = draws.astype(np.float64)
    low, high = interval(values)
    middle, least = np.median(values, axis=0), NARROWEST * scale_of(draws.dtype)
    return middle, np.maximum(middle - low, least), np.maximum(high - middle, least)
