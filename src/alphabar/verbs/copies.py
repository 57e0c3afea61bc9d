"""Search for copies of training images among generated ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alphabar.core.types import Pixels
from alphabar.data.image_set import load, parse_set
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.memorisation import Memorisation, memorisation, pixel_features
from alphabar.features.extract import extract
from alphabar.sampling.sample_set import SampleSet, check_value_range
from alphabar.verbs.training_images import training_images


@dataclass(frozen=True, eq=False)
class Copies:
    """The result of the search in the extractor's features and in pixels, and the training images that were compared."""

    features: Memorisation
    pixels: Memorisation
    train: Pixels

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the rows of single images."""
        return {"features": self.features.to_json(), "pixels": self.pixels.to_json()}


def find_copies(evaluator: ImageEval, samples: SampleSet, trained_on: str, *, reading: Mapping[str, Any] | None = None) -> Copies:
    """Tests whether `samples` lie nearer to training images than held-out images do (docs/memorisation.md).

    Features and pixels each find copies that the other misses, so both are searched.

    Args:
        evaluator: gives the extractor and its cache.
        samples: if they were drawn from a run that was trained on this set, the split is read from its recipe.
        trained_on: SET that the model was trained on.
        reading: options of `load` for that set, where no recipe gives them.

    Raises:
        ValueError: if the set has neither held-out images nor a test split, or the value ranges differ.
    """
    images, trained, heldout, flip = training_images(samples.run, trained_on, reading)
    check_value_range(samples.record, images)
    options = {**dict(reading or {}), "value_range": images.value_range}
    try:
        unseen = images.subset(heldout) if len(heldout) else load(parse_set(trained_on)[0], "test", **options)
    except FileNotFoundError as error:
        raise ValueError(
            f"no image of {trained_on} was held out, so there is nothing to compare the distances of the samples with"
        ) from error
    train = np.asarray(images.pixels[trained])
    if flip:
        train = np.concatenate([train, train[:, :, ::-1]])
    features = [
        extract(one, evaluator.extractor, cache=evaluator.cache, progress=evaluator.progress, what=what).all()
        for one, what in ((samples.images, "features"), (train, "features of the training images"), (unseen, "features held out"))
    ]
    pixels = [pixel_features(np.asarray(p)) for p in (samples.pixels, train, unseen.pixels)]
    found = [memorisation(generated=g, train=t, heldout=h) for g, t, h in (features, pixels)]
    return Copies(found[0], found[1], train)
