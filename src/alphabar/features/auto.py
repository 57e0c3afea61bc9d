"""An extractor for a set of images with nothing chosen by hand: its kind by the labels, its size by the set and the time."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from alphabar.core.progress import duration
from alphabar.core.stored_values import read_object
from alphabar.data.image_set import ImageSet, class_names
from alphabar.data.split import holdout
from alphabar.features.extractor import Extractor
from alphabar.features.options import SimCLROptions, SupervisedOptions, features_for, of_set
from alphabar.features.simclr import train_self_supervised
from alphabar.features.train import Epoch, Indices, train_extractor

Options = SupervisedOptions | SimCLROptions
LONGEST = 600.0  # seconds
PASSES = 1150  # images seen = PASSES * sqrt(training images): 60,000 for 2,700, 230,000 for 41,000; twice as many with labels
MOST_EPOCHS = 200
PER_CLASS = 50  # training images, on average, from which labels are used
FEWEST = 8  # training images


@dataclass(frozen=True)
class ExtractorPlan:
    """How an extractor will be trained."""

    images: ImageSet
    options: Options
    trained_on: int
    seconds: float
    """Expected length of the training here."""

    def line(self) -> str:
        """What will be trained, on what, and how long it takes, in a sentence."""
        classes = f"the {len(class_names(self.images))} classes of " if isinstance(self.options, SupervisedOptions) else ""
        return (
            f"training an extractor of {self.options.dim} features on {classes}{self.trained_on:,} training images, "
            f"{'with' if classes else 'without'} labels, {self.options.epochs} passes: about {duration(self.seconds)}"
        )

    def train(self, progress: bool = True, part: Path | None = None) -> Extractor:
        """The trained extractor, whose record says which images it has seen. part: a folder for the state, as `train_extractor`
        takes it."""
        made = _train(self.images, self.options, progress, part=part)
        unseen = len(self.images) - self.trained_on
        made.training_record["seen"] = f"{self.trained_on} training images; {unseen} held-out images of the set were not seen"
        return made


def plan_extractor(images: ImageSet, share: float, reference: int, part: Path | None = None) -> ExtractorPlan:
    """Chooses an extractor, and measures a few steps of its training (some seconds).

    Args:
        images: the set of a run, of which the share that the run holds out is held out here too.
        share: that share, 0 <= share < 1.
        reference: number of real images on the smaller side of a score, which decides the number of features.
        part: where a training that was stopped has its state, whose options are then kept.

    Raises:
        ValueError: for fewer than 8 training images.
    """
    kept, _ = holdout(images.pixels, share, hashes=images.hashes)
    n, classes = len(kept), len(class_names(images))
    if n < FEWEST:
        raise ValueError(
            f"{n} training images are too few for an extractor: give one that exists, as --extractor inception:clean"
        )
    labelled = classes > 1 and n >= PER_CLASS * classes
    options: Options = SupervisedOptions() if labelled else SimCLROptions(temperature=0.2)
    batch = min(128, 2 ** int(math.log2(n)))
    options = replace(options, holdout=share, batch=batch, dim=features_for(reference))
    options = of_set(options, images.image_shape, len(images))
    if (stopped := _stopped(part, images)) is not None:
        return ExtractorPlan(images, stopped, n, stopped.epochs * n * _seconds_an_image(images, kept, stopped))
    speeds = {bf16: _seconds_an_image(images, kept, replace(options, bf16=bf16)) for bf16 in (False, True)}
    options = replace(options, bf16=speeds[True] < 0.9 * speeds[False])
    each = speeds[options.bf16]
    seen = min(PASSES * (1 + labelled) * math.sqrt(n), LONGEST / each)
    epochs = min(max(round(seen / n), 1), MOST_EPOCHS)
    return ExtractorPlan(images, replace(options, epochs=epochs), n, epochs * (n // batch) * batch * each)


def _train(
    images: ImageSet, options: Options, progress: bool, on_epoch: Callable[[Epoch], None] | None = None, part: Path | None = None
) -> Extractor:  # fmt: skip
    if isinstance(options, SimCLROptions):
        return train_self_supervised(images, options, progress=progress, on_epoch=on_epoch, part=part)
    return train_extractor(images, options, progress=progress, on_epoch=on_epoch, part=part)


def _stopped(part: Path | None, images: ImageSet) -> Options | None:
    """The options of a training on these images that was stopped and whose state is in `part`."""
    with suppress(OSError, ValueError, KeyError):
        stored = read_object(part / "protocol.json") if part else {}
        kind = SimCLROptions if "temperature" in stored else SupervisedOptions
        if stored["images_fingerprint"] == images.fingerprint:
            return kind(**{f.name: stored[f.name] for f in fields(kind)})
    return None


def _seconds_an_image(images: ImageSet, kept: Indices, options: Options) -> float:
    """Measured: the second of two steps."""
    ends: list[Epoch] = []
    _train(images.subset(kept[: options.batch]), replace(options, epochs=2, holdout=0.0), False, ends.append)
    return (ends[1].seconds - ends[0].seconds) / options.batch
