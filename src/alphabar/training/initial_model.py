"""The model at the start of a training: new weights, or those of another run (`train.init_from`)."""

import json
from collections.abc import Sequence
from typing import Any

import torch

from alphabar.data.augment import AUGMENT_DIM
from alphabar.data.image_set import ImageSet, class_names
from alphabar.denoiser.model import Model, build
from alphabar.schedule.base import Schedule
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe

MUST_AGREE = ("network", "prediction", "data_range", "classes")  # keys of the specifications of both models
MAY_DIFFER = ("dropout", "sample_size")  # arguments of the network that no weight depends on


def new_model(
    recipe: Recipe,
    image_shape: tuple[int, int, int],
    pixels: str = "uint8",
    value_range: tuple[float, float] | None = None,
    classes: Sequence[str] = (),
) -> Model:
    """The model of a recipe with random weights.

    Args:
        recipe: network, schedule, padding, and the seed of the weights.
        image_shape: (c, h, w) of the images, without the padding of `data.pad`.
        pixels: type in which samples are stored: uint8, uint16 or float32.
        value_range: the values that were declared as bottom and top of the scale; None where none were.
        classes: names of the classes, for a conditional model.
    """
    c, h, w = image_shape
    pad = recipe.data.pad
    return build(
        recipe.model, recipe.schedule.spec(), (c, h + 2 * pad, w + 2 * pad), recipe.train.seed, crop=pad, pixels=pixels,
        value_range=value_range, classes=classes, augment=AUGMENT_DIM if recipe.train.augment else 0,
    )  # fmt: skip


def untrained_model(recipe: Recipe, images: ImageSet) -> Model:
    """The model of a recipe for the images of a set, with random weights."""
    return new_model(recipe, images.image_shape, images.pixels.dtype.name, images.value_range, class_names(images))


def initial_model(recipe: Recipe, images: ImageSet) -> Model:
    """The model that a training starts with. Raises ValueError where `train.init_from` is a model of another network."""
    model = untrained_model(recipe, images)
    if recipe.train.init_from:
        copy_weights(model, recipe.train.init_from)
    return model


def copy_weights(model: Model, source: str) -> str:
    """Copies the averaged weights of a run, file, diffusers:PATH or bundled into `model`.

    Size and type of the images may differ; network, prediction, input range, classes and schedule must agree.

    Returns:
        The fingerprint of the source.

    Raises:
        ValueError: where they do not agree, with every difference.
    """
    other = load_model(source)
    theirs, ours = _description(other), _description(model)
    differences = [
        f"{k} is {theirs.get(k)} there, {ours.get(k)} here"
        for k in dict.fromkeys([*theirs, *ours])
        if theirs.get(k) != ours.get(k)
    ]
    if not _same_schedule(other.own_schedule, model.own_schedule):
        differences.append(f"schedule is {other.own_schedule.spec()} there, {model.own_schedule.spec()} here")
    if differences:
        raise ValueError(
            f"train.init_from {source} holds the weights of another network ({'; '.join(differences)}): set this recipe's "
            "[model] and [schedule] to its own, or leave train.init_from out"
        )
    model.load_state_dict(other.state_dict())
    return other.fingerprint


def _description(model: Model) -> dict[str, Any]:
    """What must agree between two models, as plain data."""
    network: Any = model.network
    arguments = network.unet.config if model.spec["network"] == "unet2d" else model.spec["arguments"]
    decisive = {k: v for k, v in arguments.items() if k not in MAY_DIFFER and not k.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps({k: model.spec.get(k, []) for k in MUST_AGREE} | decisive))
    return plain


def _same_schedule(a: Schedule, b: Schedule) -> bool:
    """Whether both give a network the same time at the same noise level, whatever kind they are."""
    if (a.steps, a.t_min, a.t_max) != (b.steps, b.t_min, b.t_max):
        return False
    times = torch.linspace(a.t_min, a.t_max, 101, dtype=torch.float64)
    return torch.allclose(a.sigma(times), b.sigma(times), rtol=1e-3, atol=0)  # a table of betas may be in float32
