"""How good restored images are, image by image: PSNR, SSIM, and whether draws of the posterior say how sure they are."""

import numpy as np
import torch
from jaxtyping import Bool, Float64, Shaped
from numpy.typing import NDArray
from torch.nn import functional

from alphabar.core.types import Pixels
from alphabar.data.values import scale_of

LEVEL = 0.9  # of the intervals of pixels
FEWEST = 15  # draws of an interval
MOST_DB = 120.0  # of identical images
_WINDOW, _WIDTH = 11, 1.5  # of SSIM: pixels, standard deviation of its Gaussian


def psnr(pixels: Pixels, originals: Pixels) -> Float64[np.ndarray, " n"]:
    """10 log10(scale^2 / mean squared error) of each image, in dB; 120 for identical images."""
    off = (pixels.astype(np.float64) - originals) / scale_of(originals.dtype)
    error = np.square(off).reshape(len(off), -1).mean(1)
    return np.asarray(np.minimum(MOST_DB, -10 * np.log10(np.maximum(error, 1e-12))))


def ssim(pixels: Pixels, originals: Pixels) -> Float64[np.ndarray, " n"]:
    """Structural similarity of each image, -1 to 1 (Wang et al. 2004, eq. 13): the mean over pixels and channels, with a Gaussian
    window of 11 x 11 pixels and standard deviation 1.5, where it fits into the image; smaller images have a smaller window."""
    x, y = (torch.from_numpy(p.astype(np.float64) / scale_of(p.dtype)).movedim(3, 1) for p in (pixels, originals))
    side = min(_WINDOW, *x.shape[2:])
    weights = torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / _WIDTH).double() ** 2)
    window = torch.outer(weights, weights).div_(weights.sum() ** 2).expand(x.shape[1], 1, -1, -1)

    def local(values: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(values, window, groups=x.shape[1])

    mean_x, mean_y = local(x), local(y)
    var_x, var_y, cov = local(x * x) - mean_x**2, local(y * y) - mean_y**2, local(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return np.asarray(similar.flatten(1).mean(1).numpy())


def interval(draws: NDArray[np.float64], level: float = LEVEL) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end, for each pixel, of an interval that holds one more draw with probability `level`, whatever the
    distribution: the order statistics number (K + 1) (1 - level) / 2 from either end, interpolated.

    Of 0.9, this needs 19 draws. 15 to 18 hold it to about a hundredth by extrapolating the two outermost ones.

    Args:
        draws: (K, ...), K >= `FEWEST`.
        level: 0 to 1.
    """
    ordered, k = np.sort(draws, axis=0), (len(draws) + 1) * (1 - level) / 2
    at = k - 1  # position from 0
    low = int(np.clip(np.floor(at), 0, len(draws) - 2))
    ends = [o[low] + (at - low) * (o[low + 1] - o[low]) for o in (ordered, ordered[::-1])]
    return ends[0], ends[1]


def inside(
    draws: Shaped[np.ndarray, "k n h w c"], originals: Shaped[np.ndarray, "n h w c"],
    where: Bool[np.ndarray, "n h w c"] | None = None, level: float = LEVEL,
) -> Float64[np.ndarray, " n"]:  # fmt: skip
    """The share of each image's pixels that lie in the central `level` of their draws. For draws of the exact posterior the
    expectation is `level`, for any number of draws: what counts is the rank of the original among the draws, which is then
    uniform. A rank that the interval cuts counts in part, and so do all ranks where draws are equal to the original.

    Args:
        draws: (K, n, h, w, c).
        originals: (n, h, w, c).
        where: the pixels that count, in the shape of originals; None: all. An image without any has NaN.
        level: 0 to 1.
    """
    below = (draws < originals).sum(0)
    equal = (draws == originals).sum(0)
    edges = np.arange(len(draws) + 2) / (len(draws) + 1)
    tail = (1 - level) / 2
    weights = (np.clip(edges[1:], tail, 1 - tail) - np.clip(edges[:-1], tail, 1 - tail)) * (len(draws) + 1)
    sums = np.concatenate([[0], np.cumsum(weights)])
    return mean_of((sums[below + equal + 1] - sums[below]) / (equal + 1), where)


def mean_of(values: Shaped[np.ndarray, "n h w c"], where: Bool[np.ndarray, "n h w c"] | None) -> Float64[np.ndarray, " n"]:
    """The mean over the pixels of each image that count, all without `where`; NaN for an image without any."""
    counted = np.broadcast_to(True if where is None else where, values.shape).reshape(len(values), -1)
    sums, n = (values.reshape(counted.shape) * counted).sum(1), counted.sum(1)
    return np.where(n > 0, sums / np.maximum(n, 1), np.nan)
