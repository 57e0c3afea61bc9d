"""Held-out images, chosen by their content: duplicates stay on one side, whatever the order of the set."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from alphabar.core.types import Pixels

HOLDOUT = 0.17  # the usual share; of Fashion-MNIST's 60,000 a few more than 10,000, as many as its test set


def image_hashes(pixels: Pixels) -> NDArray[np.uint64]:
    """One 64-bit hash an image, of its shape and bytes (BLAKE2b). About 2 us for a 28x28 image."""
    shape = np.asarray(pixels.shape[1:], dtype="<i8").tobytes()
    start = blake2b(shape, digest_size=8)
    out = np.empty(len(pixels), dtype="<u8")
    for i, image in enumerate(pixels):
        h = start.copy()
        h.update(np.ascontiguousarray(image).data)
        out[i] = int.from_bytes(h.digest(), "little")
    return out


def holdout(
    pixels: Pixels, fraction: float = HOLDOUT, *, hashes: NDArray[np.uint64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (kept, held) of a split by content: an image is held out when hash / 2^64 < fraction.

    fraction: expected share that is held out, 0 <= fraction < 1; the share found varies as a coin's would.
    hashes: those of `image_hashes`, when they are at hand (`ImageSet.hashes`); None works them out.
    Of a small or very repetitive set one side may be empty.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction = {fraction}: give the share to hold out, 0 <= fraction < 1, as in 0.17")
    h = image_hashes(pixels) if hashes is None else hashes
    if len(h) != len(pixels):
        raise ValueError(f"{len(h)} hashes for {len(pixels)} images: pass one an image, image_hashes(pixels)")
    # the upper 53 bits are what float64 holds exactly
    held = (h >> np.uint64(11)).astype(np.float64) / 2.0**53 < fraction
    return np.flatnonzero(~held), np.flatnonzero(held)
