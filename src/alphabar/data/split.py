"""Held-out images, chosen by content: duplicates stay on one side, whatever the order of the set."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from alphabar.core.types import Pixels

HOLDOUT = 0.17  # default share; slightly more than 10,000 of Fashion-MNIST's 60,000, the size of its test set


def image_hashes(pixels: Pixels) -> NDArray[np.uint64]:
    """One 64-bit hash of the shape and the bytes of each image (BLAKE2b). About 2 us for a 28x28 image."""
    start = blake2b(np.asarray(pixels.shape[1:], dtype="<i8").tobytes(), digest_size=8)
    out = np.empty(len(pixels), dtype="<u8")
    for i, image in enumerate(pixels):
        h = start.copy()
        h.update(np.ascontiguousarray(image).data)
        out[i] = int.from_bytes(h.digest(), "little")
    return out


def holdout(
    pixels: Pixels, fraction: float = HOLDOUT, *, hashes: NDArray[np.uint64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits a set by content: an image is held out if hash / 2^64 < fraction.

    Args:
        pixels: images (n, h, w, c).
        fraction: expected share of held-out images, 0 <= fraction < 1. The actual share is binomial, and one side of a small
            or very repetitive set may be empty.
        hashes: `image_hashes(pixels)` if known (`ImageSet.hashes`); None computes them.

    Returns:
        Indices of the images for training, and indices of the held-out images.

    >>> pixels = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    >>> train, heldout = holdout(pixels, 0.3)
    >>> sorted([*train.tolist(), *heldout.tolist()]) == list(range(10))
    True
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction = {fraction}: give the share to hold out, 0 <= fraction < 1, as in 0.17")
    h = image_hashes(pixels) if hashes is None else hashes
    if len(h) != len(pixels):
        raise ValueError(f"{len(h)} hashes for {len(pixels)} images: pass one per image, image_hashes(pixels)")
    # the upper 53 bits are exact in float64
    heldout = (h >> np.uint64(11)).astype(np.float64) / 2.0**53 < fraction
    return np.flatnonzero(~heldout), np.flatnonzero(heldout)
