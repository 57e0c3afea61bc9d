"""The verbs of the Python interface that join several layers: train, and what the command line stands on."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alphabar.core import processes
from alphabar.core.files import write_atomically
from alphabar.core.run import Run
from alphabar.data.augment import AUGMENT_DIM
from alphabar.data.card import unused_depth
from alphabar.data.image_set import ImageSet, class_names, load
from alphabar.data.split import holdout
from alphabar.denoiser.model import Model, build
from alphabar.denoiser.precondition import eval_mode
from alphabar.evaluation.hooks import ScoreSamples
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.load import load_extractor
from alphabar.sampling.preview import Preview
from alphabar.schedule.base import Schedule
from alphabar.tracking.outbox import Tracking
from alphabar.training.checkpoint import has_checkpoint, load_model
from alphabar.training.config import Recipe
from alphabar.training.hooks import HeldOutLoss, Hook
from alphabar.training.loop import train as _train


def new_model(
    recipe: Recipe,
    image_shape: tuple[int, int, int],
    pixels: str = "uint8",
    value_range: tuple[float, float] | None = None,
    classes: Sequence[str] = (),
) -> Model:
    """The untrained model of a recipe for images of (c, h, w), which `data.pad` enlarges.

    pixels, value_range: the type that they are stored in and the range that was declared for them. classes: names of theirs, of
    which a conditional model is told.
    """
    c, h, w = image_shape
    pad = recipe.data.pad
    shape = (c, h + 2 * pad, w + 2 * pad)
    spec = recipe.schedule.spec()
    return build(
        recipe.model, spec, shape, recipe.train.seed, crop=pad, pixels=pixels, value_range=value_range, classes=classes,
        augment=AUGMENT_DIM if recipe.train.augment else 0,
    )  # fmt: skip


def model_for(recipe: Recipe, images: ImageSet) -> Model:
    """The model for the images of a set as its training begins: new, or with the weights of `train.init_from`.

    Raises ValueError where those belong to another network.
    """
    model = _untrained(recipe, images)
    if recipe.train.init_from:
        _take_weights(model, load_model(recipe.train.init_from), recipe.train.init_from)
    return model


def _untrained(recipe: Recipe, images: ImageSet) -> Model:
    return new_model(recipe, images.image_shape, images.pixels.dtype.name, images.value_range, class_names(images))


MUST_AGREE = ("network", "prediction", "data_range", "classes")
FREE = ("dropout", "sample_size")  # arguments that no weight depends on


def _take_weights(model: Model, there: Model, source: str) -> None:
    """Into `model`, from `there`. Size and type of the images may differ, the network and how it is read not."""

    def read(model: Model) -> dict[str, Any]:
        network: Any = model.network
        arguments = network.unet.config if model.spec["network"] == "unet2d" else model.spec["arguments"]
        told = {k: v for k, v in arguments.items() if k not in FREE and not k.startswith("_")}
        plain: dict[str, Any] = json.loads(json.dumps({k: model.spec.get(k, []) for k in MUST_AGREE} | told))
        return plain

    before, now = read(there), read(model)
    differ = [
        f"{k} is {before.get(k)} there, {now.get(k)} here" for k in dict.fromkeys([*before, *now]) if before.get(k) != now.get(k)
    ]
    if not _same_schedule(there.own_schedule, model.own_schedule):
        differ.append(f"schedule is {there.own_schedule.spec()} there, {model.own_schedule.spec()} here")
    if differ:
        raise ValueError(
            f"train.init_from {source} holds the weights of another network ({'; '.join(differ)}): set this recipe's [model] and "
            "[schedule] to its own, or leave train.init_from out"
        )
    model.load_state_dict(there.state_dict())


def _same_schedule(a: Schedule, b: Schedule) -> bool:
    """Whether a network is told the same time at the same noise by both, whatever they are called and made of."""
    if (a.steps, a.t_min, a.t_max) != (b.steps, b.t_min, b.t_max):
        return False
    times = torch.linspace(a.t_min, a.t_max, 101, dtype=torch.float64)
    return torch.allclose(a.sigma(times), b.sigma(times), rtol=1e-3, atol=0)  # tables of betas may be of float32


def limited(recipe: Recipe, images: ImageSet) -> ImageSet:
    """The images of a set that a recipe trains on: the first `data.limit` of them, or all."""
    limit = recipe.data.limit
    return images.subset(range(min(limit, len(images)))) if limit else images


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    images: ImageSet | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool = True,
) -> Model:
    """Trains a model by a recipe into the run folder `out`; gives back the averaged model.

    resume: go on from the last checkpoint; a run that was stopped before its first one begins anew. images: the training
    images; None loads the recipe's set. hooks: beside those that the recipe's `watch` asks for.
    Raises FileExistsError where `out` already holds a run and resume is False.
    """
    run = Run(out)
    first = processes.world()[0] == 0  # of several processes one writes
    if resume and run.recipe.exists() and not has_checkpoint(run.checkpoint()):
        warnings.warn(f"{run.path} was stopped before its first checkpoint: it begins anew", stacklevel=2)
        resume = False
    elif first and run.recipe.exists() and not resume:
        raise FileExistsError(f"{run.path} already holds a run: add --resume to go on with it, or name another folder")
    tracking = Tracking(run, recipe.track) if first and recipe.track else None
    image_set = load(recipe.data.set, "train", **recipe.data.reading()) if images is None else images
    if (note := unused_depth(image_set)) is not None:
        warnings.warn(f"{image_set.name}: {note}", stacklevel=2)
    image_set = limited(recipe, image_set)
    kept, held = holdout(image_set.pixels, recipe.data.holdout, hashes=image_set.hashes)
    model = _untrained(recipe, image_set)
    begin = (
        load_model(recipe.train.init_from) if recipe.train.init_from and not resume else None
    )  # one that goes on has its own weights
    if begin is not None:
        _take_weights(model, begin, recipe.train.init_from)
    watching: list[Hook] = [HeldOutLoss(recipe.train.heldout_every)]
    if recipe.watch.preview_every:
        watching.append(Preview(recipe.watch.preview_every, recipe.watch.preview_n, recipe.watch.preview_steps))
    if recipe.watch.score_every and (scorer := _scorer(recipe, image_set)) is not None:
        watching.append(scorer)
    if first and not resume:
        run.start(recipe.toml())
        write_atomically(run.path / "cost.json", json.dumps(cost_of_model(model), indent=1) + "\n")
        (run.path / "data.json").write_text(
            json.dumps(
                {
                    "set": image_set.name,
                    "split": image_set.split,
                    "fingerprint": image_set.fingerprint,
                    "images": len(kept),
                    "held_out": len(held),
                    "pixels": image_set.pixels.dtype.name,
                    "value_range": image_set.value_range,
                    "skipped": list(image_set.skipped),
                    **({} if begin is None else {"begun_with": begin.fingerprint}),
                },
                indent=1,
            )
        )
    try:
        return _train(
            model,
            image_set.pixels,
            kept,
            recipe.train,
            run,
            labels=image_set.labels,
            heldout=image_set.pixels[held[:4096]],
            heldout_labels=None if image_set.labels is None else image_set.labels[held[:4096]],
            hooks=[*watching, *hooks, *([tracking] if tracking else [])],
            resume=resume,
            fingerprint=recipe.fingerprint(image_set.fingerprint),
            progress=progress,
        )
    finally:
        if tracking:
            tracking.end()


def _scorer(recipe: Recipe, image_set: ImageSet) -> Hook | None:
    name = recipe.watch.extractor
    if name == "auto":
        name = "bundled" if recipe.data.set == "fashion_mnist" else "none"
    if name == "none":
        return None
    try:
        reference = load(recipe.data.set, "test", **recipe.data.reading())
    except FileNotFoundError:  # a set without a test split is scored against its held-out images
        _, held = holdout(image_set.pixels, recipe.data.holdout, hashes=image_set.hashes)
        reference = image_set.subset(held)
    watch, eye = recipe.watch, load_extractor(name)
    return ScoreSamples(ImageEval(eye, reference), watch.score_every, watch.score_n, watch.preview_steps)


def with_budget(recipe: Recipe, images: int | None, seed: int | None) -> Recipe:
    """The recipe with another budget or seed, where one is given."""
    now = recipe.train
    wanted = replace(now, images=now.images if images is None else images, seed=now.seed if seed is None else seed)
    return replace(recipe, train=wanted)


def cost(recipe: Recipe, images: ImageSet | None = None) -> dict[str, Any]:
    """What a run will cost: parameters, FLOPs of a call and of the whole training, megabytes of weights and moments."""
    image_set = load(recipe.data.set, "train", **recipe.data.reading()) if images is None else images
    model = model_for(recipe, image_set)
    own = cost_of_model(model)
    parameters, flops = own["parameters"], own["gflop_a_call"] * 1e9
    return {
        **own,
        "tflop_of_training": 3 * flops * recipe.train.images / 1e12,  # a backward pass costs two forward ones
        "mib_of_weights_moments_average": 4 * 5 * parameters / 2**20,  # weights, gradients, two moments, average; float32
        "images_a_second_at_100_gflops": 100e9 / (3 * flops),
    }


def cost_of_model(model: Model) -> dict[str, Any]:
    """Parameters, and billions of floating-point operations of one network call on one image."""
    from torch.utils.flop_counter import FlopCounterMode

    with eval_mode(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *model.image_shape), torch.ones(1))
    return {"parameters": sum(p.numel() for p in model.parameters()), "gflop_a_call": counter.get_total_flops() / 1e9}
