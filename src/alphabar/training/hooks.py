"""Hooks: what else happens during training (previews, scores, tracking). Subclass Hook and override what you need."""

import contextlib
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import seeds
from alphabar.core.files import read_jsonl
from alphabar.core.messages import first_line
from alphabar.core.run import Run
from alphabar.denoiser.model import Model
from alphabar.training.checkpoint import load_model
from alphabar.training.config import TrainRecipe
from alphabar.training.loss import image_losses
from alphabar.training.stopping import FEWEST_HELDOUT, rise, turned

HELDOUT = 512  # images of a held-out loss
AT_ONCE = 64


@dataclass
class Training:
    """The state of a training, as hooks get it. Only the main process calls hooks."""

    run: Run
    recipe: TrainRecipe
    model: Model
    ema: Model  # the averaged model, ready to sample
    device: torch.device
    images: int = 0  # images seen so far
    step: int = 0  # optimiser steps so far
    loss: float = float("nan")  # mean training loss of the last record in the log; NaN before the first
    heldout: NDArray[Any] | None = None  # held-out images (n, h, w, c), padded as in training
    heldout_labels: NDArray[np.int64] | None = None  # their classes, for a conditional model
    best: dict[str, float] = field(default_factory=dict)  # lowest value so far of every figure that a hook reports
    ending: str = ""  # why the training ends early
    at_once: int = AT_ONCE  # images that hooks give a network at once: at most a micro-batch, for which there is memory

    def report(self, kind: str, **values: Any) -> None:
        """Appends an event, with images and steps so far, to the run's events.jsonl."""
        self.run.event(kind, images=self.images, step=self.step, **values)

    def end_early(self, reason: str) -> None:
        """Ends the training after this step, at its best checkpoint, where `train.early_stop` allows it."""
        if self.recipe.early_stop:
            self.ending = self.ending or reason

    def improved(self, figure: str, value: float) -> bool:
        """Whether `value` is the lowest of its figure so far; if so, it is stored in `best`.

        The checkpoint of the lowest "fid", or without one of the lowest "heldout_loss", is saved as checkpoints/best.
        """
        better = value < self.best.get(figure, float("inf"))
        if better:
            self.best[figure] = value
        return better


def failed(run: Run, what: str, error: Exception, then: str, images: int = 0) -> None:
    """Warns that something which training can do without has failed, and keeps it as the event `failed`."""
    why = first_line(error)
    warnings.warn(f"no {what} after {images} images: {why}. {then}", stacklevel=3)
    with contextlib.suppress(OSError):  # of a full disk, which may be why it failed
        run.event("failed", images=images, what=what, why=why)


class Hook:
    """Does nothing. `on_interval` is called after every `every` images and at the end; with 0 only there. With `first`, it is
    called after so many images too, and after 2, 4, 8, ... times as many while that is less than `every`.

    watches: what training can do without ("preview"): where `on_interval` fails, training warns, keeps the event `failed`, and
    goes on. Empty: its error ends the training.
    """

    every: int = 0
    first: int = 0
    watches: str = ""

    def check(self, training: Training) -> None:
        """Called before the first step and before anything is written: raises what `on_interval` is bound to raise. In a resumed
        run, an error of a hook that watches leaves that hook out."""

    def on_start(self, training: Training) -> None: ...

    def on_step(self, training: Training) -> None:
        """Called after every optimiser step. Reading a tensor from the device here slows training down."""

    def on_interval(self, training: Training) -> None: ...

    def on_end(self, training: Training) -> None: ...


class HeldOutLoss(Hook):
    """The held-out loss (validation loss): loss of the averaged model on images that are never trained on, in all and in five
    bands of noise level. Levels and noise are the same every time, so that values of one run can be compared.

    With `train.early_stop` the training ends once the loss has turned (`alphabar.training.stopping.turned`)."""

    watches = "held-out loss"

    def __init__(self, every: int, n: int = HELDOUT) -> None:
        self.every, self.n = every, n
        self.lowest: Tensor | None = None  # losses of the images where their mean was lowest
        self.lowest_at = 0  # images seen by then
        self.rises: list[tuple[float, float, float]] = []  # since then

    def on_start(self, training: Training) -> None:
        """In a resumed run, finds again what the session before knew of the lowest loss."""
        if not (training.step and training.recipe.early_stop and training.best.get("heldout_loss")) or training.heldout is None:
            return
        with contextlib.suppress(OSError, ValueError):  # without it, the next loss takes the place of the lowest one
            known = [row for row in read_jsonl(training.run.events) if row.get("event") == "heldout"]
            at = [row["images"] for row in known if row.get("loss") == training.best["heldout_loss"]]
            best = load_model(training.run.path, "best").to(training.device)
            losses, _ = self._losses(training, training.heldout, best)
            if at and float(losses.mean()) == training.best["heldout_loss"]:
                self.lowest, self.lowest_at = losses, at[-1]
                since = {r["images"]: r["rise"] for r in known if at[-1] < r["images"] <= training.images and r.get("rise")}
                self.rises = list(since.values())

    def on_interval(self, training: Training) -> None:
        if training.heldout is None or not len(training.heldout):
            return
        loss, sigma = self._losses(training, training.heldout, training.ema)
        n = len(loss)
        bands = [
            {"sigma": [float(sigma[rows[0]]), float(sigma[rows[-1]])], "loss": float(loss[rows].mean())}
            for rows in sigma.argsort().chunk(5)
        ]
        se = float(loss.std() / n**0.5) if n > 1 else None
        risen: tuple[float, float, float] | None = None
        if training.improved("heldout_loss", value := float(loss.mean())) or self.lowest is None:
            self.lowest, self.lowest_at, self.rises = loss, training.images, []
        elif n >= FEWEST_HELDOUT and training.images > self.lowest_at:
            self.rises.append(risen := rise(self.lowest, loss))
        training.report("heldout", loss=value, se=se, n=n, bands=bands, **({"rise": risen} if risen else {}))
        if risen and turned(self.rises):
            by, low = (f"{100 * v:.2g}" for v in risen[:2])
            training.end_early(
                f"the held-out loss has risen by {by} % since image {self.lowest_at:,} (three standard errors less: {low} %)"
            )

    def _losses(self, training: Training, heldout: NDArray[Any], model: Model) -> tuple[Tensor, Tensor]:
        """The loss of each held-out image, and its noise level."""
        pixels, seed = heldout[: self.n], training.recipe.seed
        n = len(pixels)
        # One noise level per image, spread evenly over the training distribution, in an order that depends on the seed alone
        u = (torch.from_numpy(seeds.permutation(seed, 0, n)).double() + 0.5) / n
        sigma = training.recipe.density_value().sigma(u, training.ema.schedule)
        labels = None if training.heldout_labels is None else torch.from_numpy(training.heldout_labels[:n])
        loss = image_losses(model.loss, pixels, sigma, seed, batch=training.at_once, device=training.device, labels=labels)
        return loss, sigma
