"""Which images of a set a run was trained on, and which were held out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from alphabar.core.run import Run
from alphabar.data.image_set import ImageSet, load, parse_set
from alphabar.data.split import HOLDOUT, holdout
from alphabar.training.config import resolve


class TrainingImages(NamedTuple):
    """A set, the numbers of its images that `train` trains on and holds out, and whether training mirrors them at random."""

    images: ImageSet
    trained: NDArray[Any]
    heldout: NDArray[Any]
    flip: bool


def training_images(run: Path | None, trained_on: str, reading: Mapping[str, Any] | None) -> TrainingImages:
    """The images of the set `trained_on`, split by content as `train` splits them.

    Args:
        run: a run folder. If it was trained on this set, its recipe gives the limit, the held-out share, the way of reading
            and the mirroring. None or another run: the defaults of a recipe.
        trained_on: SET[:SPLIT].
        reading: options of `load`, where the recipe does not give them.
    """
    options, limit, fraction, flip = dict(reading or {}), 0, HOLDOUT, False
    if run is not None and Run(run).recipe.exists():
        recipe = resolve(Run(run).recipe, [])
        if parse_set(trained_on) == (recipe.data.set, "train"):
            options, limit = recipe.data.reading(), recipe.data.limit
            fraction, flip = recipe.data.holdout, recipe.train.flip
    images = load(*parse_set(trained_on), **options)
    if limit:
        images = images.subset(range(min(limit, len(images))))
    return TrainingImages(images, *holdout(images.pixels, fraction, hashes=images.hashes), flip)
