"""Signs of memorisation in a run: the `loss` of held-out and of training images, and copies of training images in samples."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core import seeds
from alphabar.core.files import Record
from alphabar.core.machine import best_device
from alphabar.core.messages import as_path
from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.data.image_set import HELD_OUT, ImageSet, load, parse_set
from alphabar.data.latents import holds_latents
from alphabar.data.split import HOLDOUT, holdout
from alphabar.evaluation.heldout import DenoisingLoss, heldout_loss
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.memorisation import Memorisation, memorisation, pixel_features
from alphabar.features.extract import extract
from alphabar.sampling.given_images import part_of, split_part
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample_set import SampleSet, check_value_range, reading_for
from alphabar.training.checkpoint import load_model
from alphabar.training.config import resolve
from alphabar.verbs.extractor import run_of
from alphabar.verbs.train import images_of, limited


class TrainingImages(NamedTuple):
    """A set, the numbers of its images that `train` trains on and holds out, and whether training mirrors them at random."""

    images: ImageSet
    trained: NDArray[Any]
    heldout: NDArray[Any]
    flip: bool


def training_images(run: str | Path | None, trained_on: str, reading: Mapping[str, Any] | None) -> TrainingImages:
    """The images of the set `trained_on`, split by content as `train` splits them.

    Args:
        run: a run, or a checkpoint in it. If it was trained on these images, wherever they are now, its recipe gives the limit,
            the held-out share, the way of reading and the mirroring. None or other images: the defaults of a recipe, which
            is printed on stderr.
        trained_on: SET[:SPLIT].
        reading: options of `load`, where the recipe does not give them.
    """
    name, split = parse_set(trained_on)
    folder = None if run is None else run_of(run)
    if folder is not None:
        with contextlib.suppress(ValueError):  # other images may not be readable in the way of the run's
            if (found := _images_of_run(folder, name, split, reading)) is not None:
                return found
    images = load(name, split, **dict(reading or {}))
    if str(run) != "bundled":
        whose = (
            "the run behind the samples is not known" if run is None else f"{run} was trained on other images than {trained_on}"
        )
        print(f"{whose}: {HOLDOUT:.0%} of the images of {trained_on} are taken to be held out, the usual share", file=sys.stderr)
    return TrainingImages(images, *holdout(images.pixels, HOLDOUT, hashes=images.hashes), False)


def _images_of_run(
    folder: Path, name: str, split: str = "train", reading: Mapping[str, Any] | None = None
) -> TrainingImages | None:
    """The images of a set, read and split as the run did; None where it was trained on others."""
    recipe, known = resolve(Run(folder).recipe), images_of(folder)
    encoded = images_of(folder, "fingerprint_of_images")  # of a run on latents
    own = recipe.data.reading() if encoded is None and not holds_latents(name) else dict(reading or {})
    images = limited(load(name, split, **own), recipe.data.limit, known)
    if images.fingerprint_of_images == known:
        images = images.originals()  # a run of images, and the latents of those
    of_set = known is None and (name, split) == (recipe.data.set, "train")
    if images.fingerprint not in (known, encoded) and not of_set:
        return None
    return TrainingImages(images, *holdout(images.pixels, recipe.data.holdout, hashes=images.hashes), recipe.train.flip)


def reference(
    against: str | None, runs: Sequence[str | Path], reading: Mapping[str, Any] | None = None
) -> tuple[ImageSet, ImageSet | None]:
    """The real images of a score, SET[:SPLIT], and those of its floor, if they are decided by that: see `heldout_of`."""
    if against is not None and parse_set(against)[1] != HELD_OUT:
        return load(*parse_set(against), **dict(reading or {})).originals(), None
    return heldout_of(runs, against, reading)


def heldout_of(
    runs: Sequence[str | Path], against: str | None = None, reading: Mapping[str, Any] | None = None
) -> tuple[ImageSet, ImageSet]:
    """The images that runs held out, and those that they were trained on.

    Args:
        runs: paths of runs, or of samples in the folder of one; those that are known must have held out the same images.
        against: SET:heldout, where the images of the runs are now. None: where their recipes name them.

    Raises:
        ValueError: where no run is known, or where one held out too few images, or was trained on other images than SET.
    """
    folders = [*{path.resolve(): path for run in runs if (path := run_of(run)) is not None}.values()]
    if not folders:
        what = "no real images are named" if against is None else f"{against} stands for the images that a run held out"
        raise ValueError(
            f"{what}, and the samples lie in the folder of no run: give --against SET, or --run RUN, whose samples they are"
        )
    parts = []
    for folder in folders:
        name = resolve(Run(folder).recipe).data.set if against is None else parse_set(against)[0]
        if (found := _images_of_run(folder, name, reading=reading)) is None:
            raise ValueError(f"{folder} was trained on other images than {name}: name where its images are now, SET:heldout")
        if len(found.heldout) < 2:
            raise ValueError(f"{folder} held out {len(found.heldout)} images, too few to score against: give --against SET")
        images = found.images.originals()
        parts.append((replace(images.subset(found.heldout), split=HELD_OUT), images.subset(found.trained)))
    if len({real.fingerprint for real, _ in parts}) > 1:
        raise ValueError(
            f"{' and '.join(map(str, folders))} held out other images: give --against SET that neither was trained on"
        )
    return parts[0]


def with_heldout(run: Any, images: Any, reading: Mapping[str, Any] | None = None) -> Any:
    """The images of a run where they are SET:heldout, or SET:heldout[a:b]; anything else unchanged, for `given_images`."""
    text, part = split_part(images) if isinstance(images, str) else ("", None)
    if not text or parse_set(text)[1] != HELD_OUT:
        return images
    return part_of(heldout_of([str(run)], text, reading)[0], text, part)


def loss(run: str, trained_on: str, *, n: int = 1000, progress: bool = True) -> DenoisingLoss:
    """The denoising loss of a run; a gap between held-out and training images is an early sign of memorisation.

    Args:
        run: a run folder, a .safetensors file, "bundled", diffusers:PATH, lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        trained_on: SET that it was trained on. Its held-out images are found by content, with the share in the run's recipe.
        n: images of either kind.
        progress: show a progress bar.
    """
    model = load_model(run)
    reading = {} if model.latents else reading_for(model, {"value_range": model.value_range})
    images, trained, heldout, _ = training_images(as_path(run), trained_on, reading)
    if model.latents and not images.latents:
        raise ValueError(f"{run} was trained on latents, and {trained_on} holds images: name the folder of latents")
    chosen = [np.sort(seeds.generator(0, stream=seeds.SUBSET).permutation(rows)[:n]) for rows in (heldout, trained)]
    unseen, seen = (np.asarray(images.pixels[rows]) for rows in chosen)
    labels = None
    if every_class(model) and images.labels is not None:
        of_unseen, of_seen = (torch.from_numpy(np.asarray(images.labels[rows], np.int64)) for rows in chosen)
        labels = of_unseen, of_seen
    return heldout_loss(model.to(best_device()), unseen, seen, progress=progress, labels=labels)


@dataclass(frozen=True, eq=False)
class Copies(Record):
    """The result of the search in the extractor's features and in pixels, and the training images that were compared."""

    features: Memorisation
    pixels: Memorisation
    train: Pixels


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
    options = {} if images.latents else {**dict(reading or {}), "value_range": images.value_range}
    images = images.originals()
    check_value_range(samples.record, images)
    try:
        unseen = images.subset(heldout) if len(heldout) else load(parse_set(trained_on)[0], "test", **options).originals()
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
