"""Augmentation of pixels, drawn from a generator that the caller addresses. Horizontal flip and shift, nothing else."""

import numpy as np

from alphabar.data.values import scale_of
from alphabar.types import Pixels


def flip(pixels: Pixels, rng: np.random.Generator, probability: float = 0.5) -> Pixels:
    """Each image mirrored left to right with the probability given; a copy, of the same shape."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability = {probability}: give one from 0 to 1")
    mirrored = rng.random(len(pixels)) < probability
    return np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)


def shift(pixels: Pixels, rng: np.random.Generator, most: int = 2, fill: float = 0) -> Pixels:
    """Each image moved by -most..most whole pixels along both axes; what moves in has the level `fill`, 0 to 255, 65535 or 1.

    Nothing wraps round or is reflected. Raises ValueError when `most` could move an image out of its frame.
    """
    n, h, w, _ = pixels.shape
    if not 0 <= most < min(h, w):
        raise ValueError(f"most = {most}: images of {w}x{h} can be moved by 0 to {min(h, w) - 1} pixels")
    if not 0 <= fill <= (scale := scale_of(pixels.dtype)):
        raise ValueError(f"fill = {fill}: give a level from 0 to {scale}")
    padded = np.pad(pixels, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=fill)
    moves = rng.integers(0, 2 * most + 1, size=(n, 2))
    out = np.empty_like(pixels)
    for row, image, (dy, dx) in zip(out, padded, moves, strict=True):
        row[:] = image[dy : dy + h, dx : dx + w]
    return out
