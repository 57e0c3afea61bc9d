"""What a training takes here: speed and memory of a few steps of the very network, in each precision that agrees with float32."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from alphabar.core import processes
from alphabar.core.machine import best_device, peak_memory
from alphabar.data.image_set import ImageSet
from alphabar.data.images import to_model
from alphabar.denoiser.model import Model
from alphabar.training.config import Precision, Recipe, TrainRecipe
from alphabar.training.consistency import DrawnLoss
from alphabar.training.initial_model import cost_of_model, untrained_model
from alphabar.training.loop import make_accelerator
from alphabar.training.step import Trainer
from alphabar.training.stream import Batch, Indices, Stream

STEPS = 4  # that are measured, after one that is not
MEASURING = 15.0  # seconds after which a slow machine takes no further step
STEP_GFLOP = 300.0  # smaller batches are measured where a step would take more
AGREEMENT = 0.98  # least cosine between the gradients in bfloat16 and in float32


@dataclass(frozen=True)
class Speed:
    """What a few training steps and a network call took."""

    precision: Precision
    images_a_second: float
    call_seconds: float
    """Of a network call, per image."""
    mib: float
    """Largest memory of this process (on a CPU) or of the device until now."""


def speeds_of(recipe: Recipe, images: ImageSet, indices: Indices, drawn_loss: DrawnLoss | None = None) -> list[Speed]:
    """The speeds of a recipe in the precisions that this machine computes rightly, the fastest first."""
    speed, model = measure(recipe, images, indices, "no", drawn_loss)
    batch = _batches(replace(recipe.train, batch=8), model, images, indices, 1)[0]
    if best_device() == "mps" or not bf16_agrees(model, batch):
        return [speed]
    return sorted([speed, measure(recipe, images, indices, "bf16", drawn_loss)[0]], key=lambda s: -s.images_a_second)


def measure(
    recipe: Recipe, images: ImageSet, indices: Indices, precision: Precision, drawn_loss: DrawnLoss | None = None
) -> tuple[Speed, Model]:
    """Trains a new model of the recipe for a few steps. Several processes measure together and get the same numbers."""
    model = untrained_model(recipe, images)
    gflop, batch, accumulate = cost_of_model(model)["gflop_a_call"], recipe.train.batch, recipe.train.accumulate
    while 3 * gflop * batch > STEP_GFLOP and batch > 8 * processes.world()[1]:
        batch, accumulate = batch // 2, max(accumulate // 2, 1)
    train = replace(recipe.train, precision=precision, batch=batch, accumulate=accumulate)
    images_more = recipe.train.batch // recipe.train.accumulate - batch // accumulate  # in a backward pass than are measured
    more = images_more * activation_bytes(model, train.recompute) if images_more else 0  # counted before weights are sharded
    accelerator = make_accelerator(train)
    trainer = Trainer(model, train, accelerator, None, drawn_loss)
    batches = _batches(train, model, images, indices, STEPS + 1, accelerator.process_index, accelerator.num_processes)
    taken: list[float] = []
    for step, part in enumerate(batches):
        taken.append(_timed(partial(trainer.step, part, step)))
        if len(taken) > 1 and sum(taken) > MEASURING and accelerator.num_processes == 1:  # all processes take as many steps
            break
    x = torch.zeros(min(train.batch, 32), *model.image_shape, device=trainer.device)
    with torch.inference_mode():
        call = min(_timed(lambda: trainer.ema(x, torch.ones(len(x), device=x.device)).sum()) for _ in range(2)) / len(x)
    mib = (peak_memory() + more / accelerator.num_processes) / 2**20
    seconds, call, mib = processes.gather((statistics.median(taken[1:]), call, mib))[0]
    return Speed(precision, train.batch / seconds, call, mib), model


def bf16_agrees(model: Model, batch: Batch) -> bool:
    """Whether loss and gradients of a batch in bfloat16 are those in float32, but for rounding."""
    device = next(model.parameters()).device
    x0, sigma, noise = to_model(batch.pixels, device), batch.sigma.to(device), batch.noise.to(device)
    losses, gradients = [], []
    for enabled in (False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            loss = model.loss(x0, sigma, noise, batch.labels, batch.augment).mean()
        parts = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
        losses.append(loss.item())
        gradients.append(torch.cat([g.flatten() for g in parts if g is not None]).double())
    cosine = float(torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0))
    return cosine > AGREEMENT and abs(losses[1] - losses[0]) < 0.02 * losses[0]


def activation_bytes(model: Model, recompute: bool) -> int:
    """Bytes that the backward pass of one image keeps, counted on this model."""
    network, kept = model.network, 0
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}  # views of weights are kept too, and cost nothing

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept += storage.nbytes()
        return tensor

    network.recompute = recompute  # type: ignore[assignment]
    x = torch.zeros(1, *model.image_shape)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model.loss(x, torch.ones(1), x)
    network.recompute = False  # type: ignore[assignment]
    return kept


def _timed(work: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    float(work())  # waits for the device
    return time.perf_counter() - start


def _batches(
    recipe: TrainRecipe, model: Model, images: ImageSet, indices: Indices, n: int, rank: int = 0, world: int = 1
) -> list[Batch]:
    stream, size = Stream(images.pixels, indices, recipe, model, images.labels), recipe.batch // world
    return [stream.batch(k * recipe.batch + rank * size, size) for k in range(n)]
