"""Hooks: what else happens while a model trains (the lesson's callbacks). Subclass Hook, override what you need."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core import seeds
from alphabar.core.run import Run
from alphabar.denoiser.model import Model
from alphabar.training.config import TrainRecipe
from alphabar.training.loss import image_losses


@dataclass
class Training:
    """What a hook sees. `ema` is the averaged model, ready to sample; only the main process calls hooks."""

    run: Run
    recipe: TrainRecipe
    model: Model
    ema: Model
    device: torch.device
    images: int = 0  # images seen so far
    step: int = 0  # optimiser steps so far
    loss: float = float("nan")  # mean over the steps since the last report
    heldout: NDArray[Any] | None = None  # held-out pixels (n, h, w, c), padded as in training
    heldout_labels: NDArray[np.int64] | None = None  # their classes, for a conditional model
    best: dict[str, float] = field(default_factory=dict)  # lowest value so far of every figure that a hook reports

    def report(self, kind: str, **values: Any) -> None:
        """Writes an event, with the images seen, into the run's record."""
        self.run.event(kind, images=self.images, step=self.step, **values)

    def improved(self, figure: str, value: float) -> bool:
        """Whether `value` is the lowest of its figure so far (and keeps it if so)."""
        if value < self.best.get(figure, float("inf")):
            self.best[figure] = value
            return True
        return False


class Hook:
    """Does nothing. `every` is in images; on_interval is called each time that many more were seen, and at the end."""

    every: int = 0

    def on_start(self, training: Training) -> None: ...

    def on_step(self, training: Training) -> None:
        """After every optimiser step. Must not read anything back from the device if it is to cost nothing."""

    def on_interval(self, training: Training) -> None: ...

    def on_end(self, training: Training) -> None: ...


class HeldOutLoss(Hook):
    """Loss of the averaged model on held-out images, on the same levels and noise every time, and in five bands of level."""

    def __init__(self, every: int, n: int = 512, batch: int = 128) -> None:
        self.every, self.n, self.batch = every, n, batch

    def on_interval(self, training: Training) -> None:
        if training.heldout is None or not len(training.heldout):
            return
        pixels = training.heldout[: self.n]
        n = len(pixels)
        density = training.recipe.density_value()
        # One level an image, spread evenly over the training density; a fixed order keeps level and image unrelated.
        u = (torch.from_numpy(seeds.permutation(training.recipe.seed, 0, n)).double() + 0.5) / n
        sigma = density.sigma(u, training.ema.schedule)
        labels = None if training.heldout_labels is None else torch.from_numpy(training.heldout_labels[:n])
        loss = image_losses(
            training.ema.loss, pixels, sigma, training.recipe.seed, batch=self.batch, device=training.device, labels=labels
        )
        order = sigma.argsort()
        bands = [{"sigma": [float(sigma[b[0]]), float(sigma[b[-1]])], "loss": float(loss[b].mean())} for b in order.chunk(5)]
        value = float(loss.mean())
        training.improved("heldout_loss", value)
        training.report("heldout", loss=value, se=float(loss.std() / n**0.5), n=n, bands=bands)
