"""What a run costs: parameters, floating-point operations and memory."""

from typing import Any

import torch

from alphabar.data.image_set import ImageSet, load
from alphabar.denoiser.model import Model
from alphabar.denoiser.precondition import eval_mode
from alphabar.training.config import Recipe
from alphabar.training.initial_model import initial_model


def cost(recipe: Recipe, images: ImageSet | None = None) -> dict[str, Any]:
    """Parameters, operations of one network call and of the whole training, MiB of weights and moments.

    images: None loads the recipe's set.
    """
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
