"""What a training takes here: speed and memory of a few steps of the very network, in each way that may be the fastest."""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.core import processes
from alphabar.core.machine import best_device, peak_memory
from alphabar.core.progress import track
from alphabar.data.image_set import ImageSet
from alphabar.data.images import to_model
from alphabar.denoiser.model import Model
from alphabar.training.config import Precision, Recipe, TrainRecipe
from alphabar.training.consistency import DrawnLoss
from alphabar.training.initial_model import untrained_model
from alphabar.training.loop import make_accelerator
from alphabar.training.step import Trainer
from alphabar.training.stream import Batch, Indices, Stream, prefetched
from alphabar.training.targets import StableTargets

STEPS = 4  # that are measured, after one that is not
FIRST = 8  # images of the very first steps, by which a size is chosen of which there is time for two more
SHARE = 0.03  # of the training that is measured, after which no further step is taken; but
LEAST, MOST = 1.0, 15.0  # seconds
AGREEMENT = 0.98  # least cosine between the gradients in bfloat16 and in float32
OTHER_LAYOUT_FROM = 5 * 60  # seconds of a training from which the other memory layout of convolutions is measured too, on a CPU
COMPILED_FROM = 30 * 60  # and from which torch.compile is, which takes a minute or two before the first step
NAMES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Speed:
    """What a few training steps and a network call took."""

    precision: Precision
    images_a_second: float
    call_seconds: float
    """Of a network call, per image."""
    mib: float
    """Largest memory of this process (on a CPU) or of the device until now."""
    channels_last: bool = True
    compile: bool = False
    prepare_seconds: float = 0.0
    """Until the network is compiled."""

    @property
    def keys(self) -> dict[str, Any]:
        """Those of [train] that it is the speed of."""
        return {"precision": self.precision, "channels_last": self.channels_last, "compile": self.compile}

    @property
    def words(self) -> str:
        return NAMES[self.precision] + (", compiled" if self.compile else "" if self.channels_last else ", channels first")

    def seconds(self, images: float) -> float:
        """Of the training steps of so many images."""
        return images / self.images_a_second + self.prepare_seconds


def speeds_of(
    recipe: Recipe, images: ImageSet, indices: Indices, seconds: float = math.inf, drawn_loss: DrawnLoss | None = None
) -> list[Speed]:  # fmt: skip
    """The speeds of a recipe in the precisions that this machine computes rightly, the fastest first; arguments of `measure`."""
    speed, model = measure(recipe.with_(train={"precision": "no"}), images, indices, seconds, drawn_loss)
    batch = Stream(images.pixels, indices, recipe.train, model, images.labels).batch(0, 8)
    if best_device() == "mps" or not bf16_agrees(model, batch):
        return [speed]
    coarse, _ = measure(recipe.with_(train={"precision": "bf16"}), images, indices, seconds, drawn_loss)
    return sorted([speed, coarse], key=lambda s: -s.images_a_second)


def with_faster(
    speeds: list[Speed], recipe: Recipe, images: ImageSet, indices: Indices, seconds: float = math.inf,
    drawn_loss: DrawnLoss | None = None,
) -> list[Speed]:  # fmt: skip
    """The speeds of `speeds_of` and, where the training is long enough to find out, those in the other memory layout and
    compiled, in the fastest precision; the one that takes the least time first."""
    train, device = recipe.train, best_device()
    total = min(train.images, seconds * speeds[0].images_a_second)
    left = speeds[0].seconds(total)
    ways: list[dict[str, Any]] = []
    if device == "cpu" and left > OTHER_LAYOUT_FROM:
        ways.append({"channels_last": not train.channels_last})
    if device != "mps" and left > COMPILED_FROM and not train.recompute and train.parallel != "fsdp":
        ways.append({"channels_last": device != "cpu", "compile": True})
    found = list(speeds)
    if train.compile or not ways:
        return found
    with track(len(ways), "measuring other layouts and compiled code", "ways") as advance:  # code is compiled for minutes
        for way in ways:
            with warnings.catch_warnings(action="ignore"):  # where there is no compiler, it is no faster, and not chosen
                each = recipe.with_(train={"precision": speeds[0].precision, **way})
                found.append(measure(each, images, indices, seconds, drawn_loss)[0])
            advance(1)
    return sorted(found, key=lambda s: s.seconds(total))


def measure(
    recipe: Recipe, images: ImageSet, indices: Indices, seconds: float = math.inf, drawn_loss: DrawnLoss | None = None
) -> tuple[Speed, Model]:
    """Trains a new model of the recipe for a few steps. Several processes measure together and get the same numbers.

    seconds: length of the training, if it is shorter than that of train.images; the steps take a small share of it.
    """
    model, train = untrained_model(recipe, images), recipe.train
    accelerator = make_accelerator(train)
    targets = StableTargets.of(train, model, images.pixels, indices, images.labels, accelerator.device)
    trainer, world, size = Trainer(model, train, accelerator, None, drawn_loss, targets), accelerator.num_processes, train.batch
    while size % (2 * world) == 0 and size > FIRST * world and not train.compile:  # code is compiled for one size
        size //= 2

    def steps(n: int, limit: float) -> list[float]:
        """Seconds of up to n steps of `size` images, with the wait for their batches."""
        trainer.recipe = replace(train, batch=size, accumulate=_parts(train, size))
        stream, ends = Stream(images.pixels, indices, trainer.recipe, model, images.labels), [time.perf_counter()]
        with prefetched(stream, range(n), accelerator.process_index, world) as batches:
            for step, part in enumerate(batches):
                float(trainer.step(part, step))  # waits for the device
                ends.append(time.perf_counter())
                if len(ends) > 2 and ends[-1] - ends[0] > limit and world == 1:  # all processes take as many steps
                    break
        return np.diff(ends).tolist()

    start, first = time.perf_counter(), steps(2, 0)
    prepare = time.perf_counter() - start - 2 * min(first) if train.compile else 0.0
    each = processes.gather(min(first))[0] / size  # seconds
    limit = min(max(SHARE * min(seconds, recipe.train.images * each), LEAST), MOST)
    while size < train.batch and 6 * size * each < limit:
        size *= 2
    taken = statistics.median(steps(STEPS + 1, limit)[1:])
    more = train.batch // train.accumulate - size // _parts(train, size)  # images in a backward pass than were measured
    x = torch.zeros(min(size, 32), *model.image_shape, device=trainer.device)
    with torch.inference_mode():
        call = min(_timed(lambda: trainer.ema(x, torch.ones(len(x), device=x.device)).sum()) for _ in range(2)) / len(x)
    memory = float(peak_memory())
    if more:  # counted on a whole model, on the CPU: this one was moved, and its weights may be in parts
        memory += more * activation_bytes(untrained_model(recipe, images), train.recompute) / world
    taken, call, mib, prepare = processes.gather((taken, call, memory / 2**20, prepare))[0]
    return Speed(train.precision, size / taken, call, mib, train.channels_last, train.compile, prepare), model


def _parts(train: TrainRecipe, size: int) -> int:
    """The micro-batches of a step of `size` images, as large as those of a whole one where that is possible."""
    return max(train.accumulate * size // train.batch, 1)


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
