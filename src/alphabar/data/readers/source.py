"""What a reader returns for a source of images that it found, and what all readers share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.data.cache import Decoded, Entry, open_or_build

SPLITS = ("train", "test")
BLOCK = 1024  # images that are decoded between two writes, fewer if they are large
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Source:
    """One split of a set: where it is, the key of its content in the cache, and the function that decodes it."""

    place: str
    key: Callable[[], str]
    """Reads all bytes of the source."""
    build: Callable[[], Decoded]


def open_source(source: Source, cache: Any) -> Entry:
    """The decoded images, from the cache if it has them."""
    return open_or_build(source.key(), source.build, cache)


def rows_per_block(image_bytes: int) -> int:
    return max(1, min(BLOCK, _BLOCK_BYTES // max(image_bytes, 1)))


def check_labels(labels: NDArray[Any], n: int, classes: tuple[str, ...] | None, where: str) -> NDArray[np.int64]:
    """Labels as int64. Raises ValueError unless there is one whole number per image, each the number of a class."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (n,):
        raise ValueError(f"{where}: {labels.dtype} of shape {labels.shape}, wanted one whole number for each of {n} images")
    if n == 0:
        return labels.astype(np.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= len(classes)):
        top = "" if classes is None else f"..{len(classes) - 1}, one of {len(classes)} classes"
        raise ValueError(f"{where}: labels from {low} to {high}, wanted 0{top}")
    return labels.astype(np.int64)
