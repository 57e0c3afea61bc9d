"""Known corruptions of images at known severities, for `check` (after Heusel et al. 2017, arXiv:1706.08500, fig. 3).

Corruptions change pixels [n, h, w, c] of any of the three types, whose levels are taken as 0..1: x / 255 for uint8, x / 65535
for uint16, x itself for float32. The type stays; integers are rounded to the nearest level. Severity 0 changes nothing. Random
numbers are functions of (seed, image) and scale with the severity: the same noise at a larger amplitude.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.seeds import SUBSET, Addressed, generator
from alphabar.core.types import Pixels
from alphabar.data.images import to_model
from alphabar.data.values import SCALE

Levels = NDArray[np.float32]  # images [n, h, w, c], 0..1
Numbers = Sequence[int] | NDArray[np.int64]  # one per image: the address of its random numbers
Apply = Callable[[Levels, float, int, Numbers], Levels]  # (levels, severity, seed, numbers)
_NOISE, _INVERTED, _SQUARE, _CLASSES, _IMAGES, _CLUSTERS = range(101, 107)  # draw numbers, apart from those of other uses


@dataclass(frozen=True)
class Corruption:
    """A corruption of images.

    >>> grey = np.full((1, 8, 8, 1), 200, np.uint8)
    >>> int(CORRUPTIONS["range"](grey, 0.5)[0, 0, 0, 0])  # levels 0..255 become 64..191
    164
    """

    name: str
    unit: str  # of severity
    severities: tuple[float, ...]  # rising, for images of any size
    change: Apply
    eight_bit: bool = False  # applies only to uint8 images of 1 or 3 channels

    def __call__(self, pixels: NDArray[Any], severity: float, *, seed: int = 0, numbers: Numbers | None = None) -> Pixels:
        """Corrupted images, of the type and shape of `pixels`.

        Args:
            pixels: Images [n, h, w, c].
            severity: >= 0, in `unit`; 0 returns a copy.
            seed: Of random numbers.
            numbers: Of the images, which address their random numbers; None: 0, 1, ...

        Raises:
            ValueError: For another type, a negative severity, or images that this corruption does not apply to.
        """
        if reason := self.refuses(pixels):
            raise ValueError(reason)
        if not severity >= 0:
            raise ValueError(f"{self.name} of severity {severity}: give one >= 0 ({self.unit})")
        if severity == 0:
            same: Pixels = pixels.copy()
            return same
        numbers = np.arange(len(pixels)) if numbers is None else numbers
        if len(numbers) != len(pixels):
            raise ValueError(f"{len(numbers)} numbers for {len(pixels)} images: give one per image")
        full = SCALE[pixels.dtype.name]
        levels = self.change(pixels.astype(np.float32) / np.float32(full), severity, seed, numbers)
        if pixels.dtype == np.float32:
            return levels
        out: Pixels = np.rint(levels * np.float32(full)).astype(pixels.dtype)
        return out

    def refuses(self, pixels: NDArray[Any]) -> str | None:
        """Why this corruption does not apply to such images, or None."""
        given = f"{pixels.dtype} images of shape {pixels.shape}"
        if pixels.dtype.name not in SCALE or pixels.ndim != 4:
            return f"{given}: wanted {', '.join(SCALE)} of shape (n, h, w, c)"
        if self.eight_bit and (pixels.dtype != np.uint8 or pixels.shape[3] not in (1, 3)):
            return f"{given}: {self.name} applies only to 8-bit images of 1 or 3 channels"
        return None


def _blur(x: Levels, sigma: float, seed: int, numbers: Numbers) -> Levels:
    """Gaussian of standard deviation sigma pixels, truncated at 4 sigma; edge pixels are repeated."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        size = x.shape[axis]
        padded = np.pad(x, [(radius, radius) if k == axis else (0, 0) for k in range(4)], mode="edge")
        x = sum(weight * padded.take(np.arange(k, k + size), axis) for k, weight in enumerate(weights))
    out: Levels = x.clip(0, 1)  # the weights sum to 1 up to rounding
    return out


def _noise(x: Levels, sd: float, seed: int, numbers: Numbers) -> Levels:
    """White Gaussian noise of standard deviation sd / 255, clipped to 0..1."""
    out, address = np.empty_like(x), Addressed()
    for row, image, number in zip(out, x, numbers, strict=True):
        address.at(seed, int(number), _NOISE, SUBSET).standard_normal(dtype=np.float32, out=row)
        row *= sd / 255
        row += image
    clipped: Levels = out.clip(0, 1)
    return clipped


def _contrast(x: Levels, lost: float, seed: int, numbers: Numbers) -> Levels:
    """Contrast reduced around the mean level of each image, which stays."""
    mean = x.mean((1, 2, 3), keepdims=True)
    out: Levels = (mean + (1 - lost) * (x - mean)).clip(0, 1).astype(np.float32)
    return out


def _range(x: Levels, lost: float, seed: int, numbers: Numbers) -> Levels:
    """Levels 0..1 become lost/2 .. 1 - lost/2; 0.5 is the error of writing a range of -0.5..0.5 as if it were -1..1."""
    return (0.5 + (1 - lost) * (x - 0.5)).astype(np.float32)


def _inverted(x: Levels, share: float, seed: int, numbers: Numbers) -> Levels:
    """Black and white exchanged in this share of the images."""
    chosen = _uniform(seed, numbers, _INVERTED)[:, 0] < share
    return np.where(chosen[:, None, None, None], 1 - x, x)


def _shift(x: Levels, pixels: float, seed: int, numbers: Numbers) -> Levels:
    """Every image moved right and down by whole pixels; edge pixels are repeated."""
    if pixels != int(pixels):
        raise ValueError(f"shift of severity {pixels}: give whole pixels")
    rows, columns = (np.clip(np.arange(size) - int(pixels), 0, size - 1) for size in x.shape[1:3])
    return x[:, rows][:, :, columns]


def _cutout(x: Levels, side: float, seed: int, numbers: Numbers) -> Levels:
    """A mid-grey square at a random place in every image; side: share of the shorter side of the image."""
    _, h, w, _ = x.shape
    pixels = min(max(1, round(side * min(h, w))), h, w)
    places = _uniform(seed, numbers, _SQUARE)
    out = x.copy()
    for image, (u, v) in zip(out, places, strict=True):
        top, left = int(u * (h - pixels + 1)), int(v * (w - pixels + 1))
        image[top : top + pixels, left : left + pixels] = 0.5
    return out


def _jpeg(x: Levels, lost: float, seed: int, numbers: Numbers) -> Levels:
    """Compressed and decompressed as JPEG of quality 100 - lost."""
    from PIL import Image

    quality = round(100 - lost)
    if not 1 <= quality <= 100:
        raise ValueError(f"jpeg of severity {lost}: give 0 to 99, which is 100 - quality")
    out = np.empty(x.shape, np.uint8)
    for row, image in zip(out, np.rint(x * 255).astype(np.uint8), strict=True):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
        row[:] = np.asarray(Image.open(file)).reshape(image.shape)
    return (out / np.float32(255)).astype(np.float32)


def _uniform(seed: int, numbers: Numbers, draw: int) -> NDArray[np.float64]:
    address = Addressed()
    return np.array([address.at(seed, int(number), draw, SUBSET).random(2) for number in numbers]).reshape(-1, 2)


# Each begins at the severity that a person notices next to the original image: a score may well miss weaker corruptions.
CORRUPTIONS = {
    c.name: c
    for c in (
        Corruption("blur", "standard deviation of the Gaussian, pixels", (0.7, 0.9, 1.2, 1.6, 2.2), _blur),
        Corruption("noise", "standard deviation, grey levels of 255", (8, 12, 18, 27, 40), _noise),
        Corruption("contrast", "share of contrast lost", (0.1, 0.2, 0.35, 0.5, 0.7), _contrast),
        Corruption("range", "share of the range lost, half at either end", (0.05, 0.1, 0.2, 0.35, 0.5), _range),
        Corruption("inverted", "share of images with black and white exchanged", (0.05, 0.15, 0.3, 0.6, 1.0), _inverted),
        Corruption("shift", "pixels to the right and down", (1, 2, 3, 4, 6), _shift),
        Corruption("cutout", "side of a grey square, share of the image's", (0.15, 0.25, 0.35, 0.5, 0.7), _cutout),
        Corruption("jpeg", "100 - quality", (70, 80, 87, 93, 97), _jpeg, eight_bit=True),
    )
}


# ---- corruptions of a set: which of a pool's images are taken as a sample of it


def without_classes(labels: NDArray[np.int64], missing: int, seed: int, draw: int = 0) -> NDArray[np.int64]:
    """Numbers of the images, in random order, whose class is not among the first `missing` of a random order of the classes.

    With the same (seed, draw), classes that are missing at one number are missing at every larger number.
    """
    classes = np.unique(labels)
    left_out = generator(seed, draw, _CLASSES).permutation(classes)[:missing]
    left = np.flatnonzero(~np.isin(labels, left_out))
    order = generator(seed, draw, _IMAGES).permutation(len(labels))
    kept: NDArray[np.int64] = order[np.isin(order, left)]
    return kept


def copies(pool: int, n: int, each: float, seed: int, draw: int = 0) -> NDArray[np.int64]:
    """n numbers below `pool` with only ceil(n / each) distinct ones, `each` times each (some of them one time less)."""
    distinct = math.ceil(n / each)
    if distinct > pool:
        raise ValueError(f"{distinct} distinct images of {pool}: ask for fewer images or for more copies")
    chosen = generator(seed, draw, _IMAGES).permutation(pool)[:distinct]
    return np.resize(chosen, n).astype(np.int64)


def clusters(pixels: Pixels, k: int = 10, seed: int = 0, rounds: int = 25) -> NDArray[np.int64]:
    """A substitute for classes, independent of any extractor: a cluster 0..k-1 per image.

    k-means (Lloyd 1982) of the images at 8 x 8 pixels, initialised by k-means++ (Arthur & Vassilvitskii 2007). Raises ValueError
    for fewer images than clusters.
    """
    if len(pixels) < k:
        raise ValueError(f"{len(pixels)} images cannot make {k} clusters: give at least {k}")
    small = [
        torch.nn.functional.adaptive_avg_pool2d(to_model(np.ascontiguousarray(pixels[i : i + 1024]), "cpu"), 8).flatten(1)
        for i in range(0, len(pixels), 1024)
    ]
    x = torch.cat(small)
    rng = generator(seed, draw=_CLUSTERS)
    centres = x[[int(rng.integers(len(x)))]]
    while len(centres) < k:
        near = torch.cdist(x, centres).min(1).values.double().square().numpy()
        weights = near / near.sum() if near.sum() > 0 else np.full(len(x), 1 / len(x))
        centres = torch.cat([centres, x[[int(rng.choice(len(x), p=weights))]]])
    nearest: Tensor = torch.cdist(x, centres).argmin(1)
    for _ in range(rounds):
        members = torch.nn.functional.one_hot(nearest, k).to(x.dtype)
        centres = torch.where(members.sum(0)[:, None] > 0, members.T @ x / members.sum(0)[:, None].clamp_min(1), centres)
        before, nearest = nearest, torch.cdist(x, centres).argmin(1)
        if bool((before == nearest).all()):
            break
    return nearest.numpy()
