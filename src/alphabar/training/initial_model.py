"""The model at the start of a training (new weights, or those of another run, `train.init_from`) and what it costs."""

import json
from collections.abc import Sequence
from typing import Any

import torch

from alphabar.data.augment import AUGMENT_DIM
from alphabar.data.image_set import ImageSet, class_names, load
from alphabar.data.latents import Latents
from alphabar.denoiser.model import Model, build
from alphabar.denoiser.precondition import eval_mode
from alphabar.schedule.base import Schedule
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe

MUST_AGREE = ("network", "prediction", "data_range", "classes", "latents")  # keys of the specifications of both models
MAY_DIFFER = ("dropout", "sample_size")  # arguments of the network that no weight depends on


def new_model(
    recipe: Recipe, image_shape: tuple[int, int, int], pixels: str = "uint8", value_range: tuple[float, float] | None = None,
    classes: Sequence[str] = (), fit: str | None = None, latents: Latents | None = None,
) -> Model:  # fmt: skip
    """The model of a recipe with random weights.

    Args:
        image_shape: (c, h, w) of the images, without the padding of `data.pad`.
        pixels: type in which samples are stored: uint8, uint16 or float32.
        value_range: the values that were declared as bottom and top of the scale; None where none were.
        fit: how the images were brought to their size.
        latents: what a set of latents holds. Raises ValueError for a recipe that transforms or pads them as if they were images.
    """
    transforms = {"data.pad": recipe.data.pad, "train.augment": recipe.train.augment, "train.flip": recipe.train.flip}
    if latents and (bad := [key for key, value in transforms.items() if value]):
        raise ValueError(
            f"{bad[0]} is for images, and a latent that is transformed is not that of a transformed image: leave it out"
        )
    c, h, w = image_shape
    pad = recipe.data.pad
    return build(
        recipe.model, recipe.schedule.spec(), (c, h + 2 * pad, w + 2 * pad), recipe.train.seed, crop=pad, pixels=pixels,
        value_range=value_range, classes=classes, augment=AUGMENT_DIM if recipe.train.augment else 0, fit=fit,
        consistency=bool(recipe.train.consistency), latents=latents,
    )  # fmt: skip


def untrained_model(recipe: Recipe, images: ImageSet) -> Model:
    """The model of a recipe for the images of a set, with random weights."""
    about, shape, depth = images.reading, images.image_shape, images.pixels.dtype.name
    if (of := images.latents) is not None:
        return new_model(recipe, shape, of.pixels, of.value_range, class_names(images), of.fit, of)
    return new_model(recipe, shape, depth, about.value_range, class_names(images), about.fit)


def initial_model(recipe: Recipe, images: ImageSet) -> Model:
    """The model that a training starts with. Raises ValueError where `train.init_from` is a model of another network."""
    model = untrained_model(recipe, images)
    if recipe.train.init_from:
        copy_weights(model, recipe.train.init_from)
    return model


def copy_weights(model: Model, source: str) -> str:
    """Copies the averaged weights of a run, file, diffusers:PATH or bundled into `model`. Returns the source's fingerprint.

    Size and type of the images may differ. Raises ValueError, with every difference, where network, prediction, input range,
    classes or schedule differ.
    """
    other = load_model(source)
    theirs, ours = _description(other), _description(model)
    differing = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
    differences = [f"{k} is {theirs.get(k)} there, {ours.get(k)} here" for k in differing]
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
    if (a.steps, a.t_min, a.t_max) != (b.steps, b.t_min, b.t_max):
        return False
    times = torch.linspace(a.t_min, a.t_max, 101, dtype=torch.float64)
    return torch.allclose(a.sigma(times), b.sigma(times), rtol=1e-3, atol=0)  # a table of betas may be in float32


def cost(recipe: Recipe, images: ImageSet | None = None) -> dict[str, Any]:
    """Parameters, operations of one network call and of the whole training, MiB of weights and moments."""
    image_set = load(recipe.data.set, "train", **recipe.data.reading()) if images is None else images
    of_model = cost_of_model(initial_model(recipe, image_set))
    parameters, flop = of_model["parameters"], of_model["gflop_a_call"] * 1e9
    return {
        **of_model,
        "tflop_of_training": 3 * flop * recipe.train.images / 1e12,  # a backward pass costs two forward passes
        "mib_of_weights_moments_average": 4 * 5 * parameters / 2**20,  # float32: weights, gradients, two moments, average
        "images_a_second_at_100_gflops": 100e9 / (3 * flop),
    }


def cost_of_model(model: Model) -> dict[str, Any]:
    """Parameters, and billions of floating-point operations of one network call on one image."""
    from torch.utils.flop_counter import FlopCounterMode

    with eval_mode(model), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *model.image_shape), torch.ones(1))
    return {"parameters": sum(p.numel() for p in model.parameters()), "gflop_a_call": counter.get_total_flops() / 1e9}
