"""The real images behind the floor: the score that as many real images get, as a perfect model would.

They are never in the reference, because a score against themselves would be too good.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import DTypeLike, NDArray

from alphabar.core import seeds
from alphabar.core.types import Pixels
from alphabar.data.cache import fingerprint_of
from alphabar.data.image_set import ImageSet, load, parse_set
from alphabar.data.images import check_images
from alphabar.data.split import holdout, image_hashes
from alphabar.data.values import to_depth

HALF = "half of "  # before the name of a set, of which the other half is the pool


@dataclass(frozen=True, eq=False)
class Real:
    """Real images on both sides: the reference, and a pool for the floor that shares no image with it."""

    reference: Pixels
    reference_name: str
    reference_fingerprint: str  # of the content
    pool: Shaped[np.ndarray, "m h w c"]
    pool_source: str  # in words
    halved: bool = False  # whether reference and pool are the halves of what was given

    def floor_order(self, seed: int) -> NDArray[np.int64]:
        """The random order in which the pool's images are used: the first n of it are the floor at n."""
        return seeds.generator(seed, stream=seeds.SUBSET).permutation(len(self.pool))


def floor_sets(n: int, pool: int) -> int:
    """Number of disjoint sets of n images that the floor is averaged over: as many as the pool has, at most 8."""
    return max(1, min(8, pool // n))


def real_images(reference: ImageSet | Any | str, floor_images: ImageSet | Any | None = None) -> Real:
    """Chooses the reference and the pool of the floor.

    The pool is `floor_images` where given, without those that are also in the reference. For the test split of a set known by
    name it is the part of the train split that is held out by content (`HOLDOUT`). Otherwise the reference is halved by content,
    and one half remains the reference.

    Args:
        reference: An ImageSet, an array of images as `check_images` takes it, or a set's name ("fashion_mnist:test").
        floor_images: Real images for the pool, or None.

    Raises:
        ValueError: When no image is left for the pool, or shapes differ.
    """
    if isinstance(reference, str):
        reference = load(*parse_set(reference))
    reference, floor_images = (x.originals() if isinstance(x, ImageSet) else x for x in (reference, floor_images))
    name, pixels, hashes = _open(reference, "an array")
    if floor_images is not None:
        floor_name, pool, floor_hashes = _open(floor_images, "an array", pixels.dtype)
        if pool.shape[1:] != pixels.shape[1:]:
            raise ValueError(
                f"floor images of shape {pool.shape[1:]}, reference images of {pixels.shape[1:]} (h, w, c): give both in "
                "one shape"
            )
        return _disjoint(pixels, name, hashes, pool, floor_hashes, f"floor images given ({floor_name})")
    if isinstance(reference, ImageSet) and (train := reference.train_split()) is not None:
        _, heldout = holdout(train.pixels, hashes=train.hashes)
        source = f"{train.name}:train, the part held out by content"
        return _disjoint(pixels, name, hashes, train.pixels[heldout], train.hashes[heldout], source)
    middle = np.sort(hashes)[len(hashes) // 2]
    upper = hashes >= middle
    if upper.all():
        raise ValueError(
            f"the reference ({len(pixels)} images) cannot be halved for the floor, because it holds one image alone, "
            "or copies of one: pass floor_images, real images that are not in the reference"
        )
    half = pixels[upper]
    source = f"half of the reference ({name}), by content"
    return Real(half, f"{HALF}{name}", fingerprint_of(half.shape[1:], hashes[upper]), pixels[~upper], source, True)


def _open(images: ImageSet | Any, name: str, depth: DTypeLike | None = None) -> tuple[str, Pixels, NDArray[np.uint64]]:
    """Name, pixels and hashes of images, converted to a depth where one is given."""
    if isinstance(images, ImageSet) and depth in (None, images.pixels.dtype):
        return images.title, images.pixels, images.hashes
    pixels = images.pixels if isinstance(images, ImageSet) else check_images(images)
    pixels = pixels if depth is None else to_depth(pixels, depth)
    return (images.title if isinstance(images, ImageSet) else name), pixels, image_hashes(pixels)


def _disjoint(
    pixels: Pixels, name: str, hashes: NDArray[np.uint64], pool: Shaped[np.ndarray, "m h w c"],
    pool_hashes: NDArray[np.uint64], source: str,
) -> Real:  # fmt: skip
    new = ~np.isin(pool_hashes, hashes)
    if not new.any():
        raise ValueError(
            f"all {len(pool)} floor images are in the reference as well, so the floor would measure nothing: give real "
            "images that are not in the reference"
        )
    if not new.all():
        source += f", without {int((~new).sum())} that the reference also holds"
        pool = pool[new]
    return Real(pixels, name, fingerprint_of(pixels.shape[1:], hashes), pool, source)
