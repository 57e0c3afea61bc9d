"""The budget of an experiment in images for each variant; a budget in minutes is converted by each variant's measured speed."""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from alphabar.core.files import write_atomically
from alphabar.core.machine import machine
from alphabar.core.run import Run
from alphabar.data.image_set import ImageSet
from alphabar.data.split import holdout
from alphabar.results.experiments import Experiment
from alphabar.training.config import Recipe
from alphabar.training.hooks import Hook, Training
from alphabar.training.initial_model import initial_model
from alphabar.training.loop import train

WARM, TIMED = 3, 8  # training steps before the measurement and in it


def with_budget(folder: Path, experiment: Experiment, images: Mapping[str, ImageSet], progress: bool) -> dict[str, Recipe]:
    """The recipes of the variants with `train.images` set to the budget.

    Args:
        folder: that of the experiment. Its budget.json keeps the measured speeds, so that resuming does not change the budget.
        experiment: the definition.
        images: the training images of each variant, for the measurement.
        progress: say which variants are timed.
    """
    if experiment.budget.images:
        amounts = dict.fromkeys(experiment.variants, experiment.budget.images)
    else:
        path = folder / "budget.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if missing := {k: r for k, r in experiment.variants.items() if k not in known}:
            if progress:
                print(f"timing {', '.join(missing)}", flush=True)
            # in turns, so that a busy minute of the machine affects all variants
            rates = [{k: images_per_second(r, images[k]) for k, r in missing.items()} for _ in range(2)]
            for k, recipe in missing.items():
                speeds = [rate[k] for rate in rates]
                steps = max(1, round(median(speeds) * 60 * experiment.budget.minutes / recipe.train.batch))
                known[k] = {"images": steps * recipe.train.batch, "images_per_second": speeds, "machine": machine()["cpu"]}
            write_atomically(path, json.dumps(known, indent=1) + "\n")
        amounts = {k: known[k]["images"] for k in experiment.variants}
    return {k: replace(r, train=replace(r.train, images=amounts[k])) for k, r in experiment.variants.items()}


class _StepTimes(Hook):
    """Records when each training step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, training: Training) -> None:
        if training.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def images_per_second(recipe: Recipe, images: ImageSet, warm: int = WARM, timed: int = TIMED) -> float:
    """Training speed: images a second over `timed` steps of this very training, after `warm` steps. The result is discarded."""
    model = initial_model(recipe, images)
    kept, _ = holdout(images.pixels, recipe.data.holdout, hashes=images.hashes)
    brief = replace(
        recipe.train, images=(warm + timed) * recipe.train.batch, log_every=0, checkpoint_every=0, heldout_every=0,
        ema_snapshots=0,
    )  # fmt: skip
    clock = _StepTimes()
    with tempfile.TemporaryDirectory(prefix="alphabar-timing-") as scratch:
        train(model, images.pixels, kept, brief, Run(scratch), labels=images.labels, hooks=[clock], progress=False)
    return recipe.train.batch * (timed - 1) / (clock.times[-1] - clock.times[warm])
