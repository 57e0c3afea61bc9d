"""`train`: a model trained by a recipe into a run folder, with previews, scores and tracking on the way."""

import json
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core import processes
from alphabar.core.files import locked, write_atomically
from alphabar.core.machine import memory_for
from alphabar.core.outputs import check_run_folder
from alphabar.core.places import without_places, write_private
from alphabar.core.run import Run, flat
from alphabar.data.card import unused_depth
from alphabar.data.image_set import ImageSet, load
from alphabar.data.split import holdout
from alphabar.denoiser.model import Model
from alphabar.evaluation.hooks import ScoreSamples
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.load import load_extractor
from alphabar.sampling.preview import Preview
from alphabar.tracking.hook import Tracking
from alphabar.training.checkpoint import has_checkpoint
from alphabar.training.config import Recipe
from alphabar.training.hooks import HeldOutLoss, Hook, Training
from alphabar.training.initial_model import copy_weights, cost_of_model, untrained_model
from alphabar.training.loop import train as train_loop

MOST_HELDOUT = 4096  # held-out images that hooks get


@memory_for("the training", "give a smaller --train.batch, a larger --train.accumulate or fewer --model.channels")
def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    images: ImageSet | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool = True,
) -> Model:
    """Trains a model by a recipe into a run folder.

    Args:
        recipe: everything that decides the run; see `resolve`.
        out: the run folder.
        resume: continue from the run's last checkpoint. A run that was stopped before its first checkpoint starts again.
        images: the training images; None loads the recipe's set.
        hooks: called in addition to those that the recipe's `watch` asks for.
        progress: show a progress bar.

    Returns:
        The averaged model (EMA), ready to sample.

    Raises:
        FileExistsError: where `out` already holds a run and resume is False, or other files of the names that a run has.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the run has a checkpoint and can be resumed.
        alphabar.training.stopping.Diverged: when the loss is NaN or explodes.

    >>> import tempfile, numpy as np, alphabar
    >>> folder = tempfile.mkdtemp()
    >>> np.save(f"{folder}/squares.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8))
    >>> tokens = f"--data.set {folder}/squares.npy --train.images 64 --train.batch 32 --model.channels 8 --model.groups 8"
    >>> model = alphabar.train(alphabar.resolve("garments", tokens.split()), f"{folder}/run", progress=False)
    >>> model.image_shape
    (1, 8, 8)
    """
    run, first = Run(out), processes.world()[0] == 0  # of several processes, the first one writes
    if first and not run.recipe.exists():
        check_run_folder(run.path, [recipe.data.set] if images is None else [])
    with locked(run.path) if first else nullcontext():
        resume = _resuming(run, resume, first)
        tracking = Tracking(run, recipe.track) if first and recipe.track else None
        image_set = recipe_images(recipe, images)
        if (note := unused_depth(image_set)) is not None:
            warnings.warn(f"{image_set.name}: {note}", stacklevel=2)
        trained_on, heldout = holdout(image_set.pixels, recipe.data.holdout, hashes=image_set.hashes)
        model = untrained_model(recipe, image_set)
        source = copy_weights(model, recipe.train.init_from) if recipe.train.init_from and not resume else ""
        watching = _watching(recipe, image_set, heldout)
        if first and recipe.train.warmup_images < recipe.train.warmup:
            warnings.warn(
                f"train.warmup {recipe.train.warmup} is longer than half of train.images {recipe.train.images}: the learning "
                f"rate rises over {recipe.train.warmup_images} images instead", stacklevel=2,
            )  # fmt: skip
        about = _description(model, image_set, len(trained_on), len(heldout), source)
        folder = [_NewFolder(recipe, about)] if first and not resume else []
        try:
            return train_loop(
                model,
                image_set.pixels,
                trained_on,
                recipe.train,
                run,
                labels=image_set.labels,
                heldout=image_set.pixels[heldout[:MOST_HELDOUT]],
                heldout_labels=None if image_set.labels is None else image_set.labels[heldout[:MOST_HELDOUT]],
                hooks=[*watching, *folder, *hooks, *([tracking] if tracking else [])],
                resume=resume,
                fingerprint=recipe.fingerprint(image_set.fingerprint),
                progress=progress,
            )
        finally:
            if tracking:
                tracking.end()


def recipe_images(recipe: Recipe, images: ImageSet | None = None) -> ImageSet:
    """The images that a recipe trains on and holds out: its set (or `images`), or `data.limit` of it."""
    image_set = load(recipe.data.set, "train", **recipe.data.reading()) if images is None else images
    return image_set.limited(recipe.data.limit)


def _resuming(run: Run, resume: bool, first: bool) -> bool:
    """Whether the run continues from a checkpoint. Raises FileExistsError rather than to overwrite a run."""
    if not run.recipe.exists():
        return resume
    if resume and not has_checkpoint(run.checkpoint()):
        warnings.warn(f"{run.path} was stopped before its first checkpoint: it starts again", stacklevel=3)
        return False
    if first and not resume and (has_checkpoint(run.checkpoint()) or run.events.exists()):  # else it took no step
        raise FileExistsError(f"{run.path} already holds a run: add --resume to continue it, or name another folder")
    return resume


def _watching(recipe: Recipe, image_set: ImageSet, heldout: NDArray[np.int64]) -> list[Hook]:
    """The hooks that a recipe asks for: held-out loss, previews, scores."""
    watch = recipe.watch
    hooks: list[Hook] = [HeldOutLoss(recipe.train.heldout_every)]
    if watch.preview_every:
        hooks.append(Preview(watch.preview_every, watch.preview_n, watch.preview_steps, first=watch.preview_first))
    extractor = watch.extractor
    if extractor == "auto":
        extractor = "bundled" if recipe.data.set == "fashion_mnist" else "none"
    if watch.score_every and extractor != "none":
        try:
            reference = load(recipe.data.set, "test", **recipe.data.reading())
        except FileNotFoundError:  # a set without a test split is scored against its held-out images
            reference = image_set.subset(heldout)
        evaluator = ImageEval(load_extractor(extractor), reference)
        hooks.append(ScoreSamples(evaluator, watch.score_every, watch.score_n, watch.preview_steps))
    return hooks


def _description(model: Model, image_set: ImageSet, trained_on: int, heldout: int, source: str) -> dict[str, Any]:
    """Contents of cost.json and data.json. source: fingerprint of the model that the weights are from, or empty."""
    data = {
        "set": image_set.name, "split": image_set.split, "fingerprint": image_set.fingerprint, "images": trained_on,
        "held_out": heldout, "pixels": image_set.pixels.dtype.name, "value_range": image_set.value_range,
        "skipped": list(image_set.skipped), **({"begun_with": source} if source else {}),
    }  # fmt: skip
    return {"cost.json": cost_of_model(model), "data.json": without_places(data)}


class _NewFolder(Hook):
    """Makes the folder of a new run when all else is ready, so that a start that fails leaves nothing behind."""

    def __init__(self, recipe: Recipe, files: dict[str, Any]) -> None:
        self.recipe, self.files = recipe, files

    def on_start(self, training: Training) -> None:
        training.run.start(self.recipe.toml(places=False))
        write_private(training.run.path, flat(asdict(self.recipe)))
        for name, values in self.files.items():
            write_atomically(training.run.path / name, json.dumps(values, indent=1) + "\n")
