"""`alphabar.train`: from images, or a recipe, to a run. The command line chooses its recipe here too."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alphabar.core import processes
from alphabar.core.messages import say
from alphabar.core.run import Run
from alphabar.data.image_set import ImageSet, load
from alphabar.denoiser.model import Model
from alphabar.training.auto import AutoRecipe, auto_recipe, data_keys
from alphabar.training.config import Recipe, check_keys, resolve
from alphabar.training.hooks import Hook
from alphabar.verbs.train import check_new_run, recipe_images
from alphabar.verbs.train import train as train_run

RecipeName = Recipe | AutoRecipe | str | os.PathLike[str] | None


def train(
    source: Any = None,
    out: str | Path | None = None,
    *,
    recipe: RecipeName = None,
    images: Any = None,
    labels: Any = None,
    minutes: float | None = None,
    resume: bool = False,
    new_length: bool = False,
    hooks: Sequence[Hook] = (),
    progress: bool = True,
    **keys: Any,
) -> Model:
    """Trains a model on images into a run folder.

    `train("photos/", out="runs/photos", minutes=30)` plans the recipe for the set and this machine, as `alphabar train` does,
    prints the plan, and trains. `train(recipe, out)` trains by a `Recipe`, or by the plan of `auto_recipe`.

    Args:
        source: the training images: the name or path of a set, an array, a tensor, a torch or Hugging Face Dataset, a list of
            PIL images or paths, or an `ImageSet`, all as `alphabar.load` takes them. Or the recipe. None, with `resume`: the
            images of the run.
        out: the run folder.
        recipe: a `Recipe`, the name of a shipped one, or a TOML file. None, or "auto": planned (`auto_recipe`), or with `resume`
            the run's.
        images: the length of the training in images seen, as 20_000; with `resume` the new length of the whole training. Or, if
            `source` is a recipe, the training images; None loads the recipe's set.
        labels: class number of each image in memory, in place of those that items hold.
        minutes: length of a planned training on this machine; with `resume` of the whole training.
        resume: continue from the run's last checkpoint, on the same images, which may have been moved or renamed. A run that
            was stopped before its first checkpoint starts again.
        new_length: with `resume`, the recipe's train.images is the new length of the whole training.
        hooks: called in addition to those that the recipe's `watch` asks for.
        progress: print the plan and show a progress bar.
        **keys: keys of the recipe by section, as `Recipe.with_` takes them: `train={"lr": 1e-3}, data={"size": "64"}`.

    Returns:
        The averaged model (EMA), ready for `alphabar.sample(model, 64)`; `load_model(out)` reads it again.

    Raises:
        FileExistsError: where `out` already holds a run and resume is False, or other files of the names that a run has.
        FileNotFoundError: where there is no such set, or no run to resume.
        ValueError: before anything is written, for an unknown key, where previews or scores are bound to fail, and where a run
            to resume has other images or another value of a key that decides its weights.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the run has a checkpoint and can be resumed.
        alphabar.training.stopping.Diverged: when the loss is NaN or explodes.

    >>> import tempfile, numpy as np, alphabar
    >>> folder = tempfile.TemporaryDirectory()
    >>> squares = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    >>> small = alphabar.Recipe.named("garments").with_(train={"batch": 32}, model={"channels": (8,), "groups": 8})
    >>> model = alphabar.train(squares, f"{folder.name}/run", recipe=small, images=64, progress=False)
    >>> alphabar.sample(model, 2, steps=3, progress=False).images.shape
    (2, 8, 8, 1)
    >>> folder.cleanup()
    """
    length = images if isinstance(images, int) else None
    if isinstance(source, (Recipe, AutoRecipe)):
        if recipe is not None:
            raise TypeError("two recipes came, the first argument and recipe=: pass one, and the images first")
        source, recipe = None if length is not None else images, source
    elif images is not None and length is None:
        raise TypeError(
            f"images is {type(images).__name__}: pass the images first, and here the length of the training, a number"
        )
    if out is None or (source is None and recipe in (None, "auto") and not resume):
        missing = "run folder" if out is None else "images"
        raise TypeError(f'train has no {missing}: write train("photos/", out="runs/photos"), or train(recipe, out="runs/photos")')
    check_keys(keys, Recipe, "alphabar.train")
    image_set = None
    if isinstance(source, (str, os.PathLike)) and labels is None:
        keys["data"] = {"set": os.fspath(source), **keys.get("data", {})}
    elif source is not None or labels is not None:
        image_set = load(source, labels=labels, **Recipe().with_(data=keys.get("data", {})).data.reading())
        keys["data"] = {**data_keys(image_set), **keys.get("data", {})}
    if length is not None:
        keys["train"] = {**keys.get("train", {}), "images": length}
    chosen = recipe_for(out, recipe, keys, minutes=minutes, resume=resume, images=image_set)
    if isinstance(chosen, AutoRecipe) and progress and processes.world()[0] == 0:
        say("\n".join(chosen.lines()))
    new_length = new_length or (resume and "images" in keys.get("train", {}))
    left = minutes if resume or not isinstance(chosen, AutoRecipe) else None  # a plan has taken them into account
    return train_run(
        chosen, out, resume=resume, new_length=new_length, minutes=left, images=image_set, hooks=hooks, progress=progress
    )


def recipe_for(
    out: str | Path, recipe: RecipeName, keys: Mapping[str, Any], *, minutes: float | None = None, resume: bool = False,
    images: ImageSet | None = None,
) -> Recipe | AutoRecipe:  # fmt: skip
    """The recipe that was given, named, or, where there is none, planned or that of the run to resume; with keys set by hand.

    Args:
        keys: as `Recipe.with_` takes them.
        images: the training images; None loads those of keys["data"].
    """
    if isinstance(recipe, AutoRecipe):
        return replace(recipe, recipe=recipe.recipe.with_(**keys))
    if resume and recipe in (None, "auto"):
        if not (recipe := Run(out).recipe).exists():
            raise FileNotFoundError(f"there is no run at {out} to resume: leave --resume (resume=True) out to start one")
    elif recipe in (None, "auto"):
        check_new_run(out, keys["data"]["set"] if images is None else None)
        return auto_recipe(recipe_images(Recipe().with_(**keys), images), keys=keys, minutes=minutes)
    return (recipe if isinstance(recipe, Recipe) else resolve(recipe)).with_(**keys)  # type: ignore[arg-type]
