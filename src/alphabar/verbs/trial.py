"""One trial of an experiment: one variant trained from one seed, sampled and scored, from wherever it stopped to its row."""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alphabar.core.files import write_atomically
from alphabar.core.machine import device_of, machine
from alphabar.core.messages import say
from alphabar.core.run import Run
from alphabar.core.stored_values import read_object
from alphabar.data.image_set import ImageSet
from alphabar.data.split import holdout
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import load_measured, save_measured
from alphabar.results.experiments import Experiment, Scoring
from alphabar.results.outcomes import Trial
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import SampleSet
from alphabar.sampling.samples import Samples
from alphabar.training import loop
from alphabar.training.checkpoint import load_model, read_state
from alphabar.training.config import Recipe
from alphabar.training.hooks import Hook, Training
from alphabar.training.initial_model import initial_model
from alphabar.verbs import score
from alphabar.verbs.train import recipe_images, train


@dataclass(frozen=True)
class TrialJob:
    """What a process needs to carry out a trial. recipe: with seed and budget. reuse: folders of other experiments."""

    folder: Path
    variant: str
    recipe: Recipe
    scoring: Scoring
    metrics: tuple[str, ...]
    device: str | None
    progress: bool
    reuse: tuple[Path, ...] = ()

    @property
    def seed(self) -> int:
        return self.recipe.train.seed

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"

    @property
    def row(self) -> Path:
        """The file that exists once the trial is finished."""
        return self.folder / "rows" / f"{self.name}.json"

    def trial(self) -> Trial:
        """The finished trial."""
        row, measured = read_object(self.row), load_measured(self.row.with_suffix(".npz"))
        return Trial(
            row["variant"], int(row["seed"]), self.folder / row["run"], int(row["images"]), float(row["seconds"]),
            self.folder / row["samples"], row["machine"], measured,
        )  # fmt: skip


def finish(job: TrialJob) -> None:
    """Trains, samples and scores; resumes what was interrupted, and copies a training that another experiment has finished."""
    run, scoring = Run(job.folder / job.name), job.scoring
    if job.reuse and not run.recipe.exists():
        _copy_training(run, job)
    if not _trained(run, job.recipe):
        train(job.recipe, run.path, resume=run.recipe.exists(), progress=job.progress)
    model = load_model(run.path).to(device_of(job.device))
    path = run.samples / f"experiment-{scoring.n}.npz"
    samples = Samples.load(path) if path.exists() else sample(
        model, scoring.n, sampler=scoring.sampler, steps=scoring.steps, eta=scoring.eta, batch=scoring.batch,
        seed=scoring.seed + 1000 * job.seed,  # other noise for each training seed, the same noise for all variants
        classes=every_class(model), out=path, channels_last=True, progress=job.progress,
    )  # fmt: skip
    evaluator, real = load_evaluator(scoring, tuple(job.recipe.data.reading().items()))
    measured = score.measure(evaluator, real, SampleSet(str(path), samples.images, samples.record, run.path), job.metrics)
    save_measured(job.row.with_suffix(".npz"), measured)
    row = {
        "variant": job.variant, "seed": job.seed, "run": job.name, "images": job.recipe.train.images,
        "seconds": read_state(run.checkpoint())["seconds"],
        "samples": str(path.relative_to(job.folder)), "record": samples.record, "machine": machine(),
        "scores": [s.to_json() for s in measured.scores.values()],
    }  # fmt: skip
    write_atomically(job.row, json.dumps(row))  # last: its existence means "finished"


@lru_cache(maxsize=1)
def load_evaluator(scoring: Scoring, reading: tuple[tuple[str, Any], ...]) -> tuple[ImageEval, ImageSet]:
    """The evaluator and its real images, once for all trials of a process: it caches the floor and the reference's features."""
    return score.make_evaluator(scoring.against, scoring.extractor, reading=dict(reading), progress=False)


def _copy_training(run: Run, job: TrialJob) -> None:
    """Copies a finished training of the same recipe, seed, budget and images; its samples are not copied."""
    wanted = job.recipe.fingerprint(recipe_images(job.recipe).fingerprint)
    for state in sorted(s for other in job.reuse for s in other.glob("*-seed*/checkpoints/last/state.json")):
        source = Run(state.parents[2])
        if _state(source).get("fingerprint") == wanted and _trained(source, job.recipe):
            part = run.path.with_name(f".{run.path.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source.path, part, ignore=shutil.ignore_patterns("samples", "tracking", "last.old"))
            part.rename(run.path)  # the whole folder or nothing
            return


def _trained(run: Run, recipe: Recipe) -> bool:
    """Whether the last checkpoint has seen all images of the budget."""
    return bool(_state(run).get("images", -1) >= recipe.train.images)


def _state(run: Run) -> dict[str, Any]:
    """What the last checkpoint says of itself; {} where there is none or it is damaged."""
    try:
        return read_state(run.checkpoint())
    except (OSError, ValueError):
        return {}


WARM, TIMED = 3, 8  # training steps before the measurement and in it


def with_budget(folder: Path, experiment: Experiment, images: Mapping[str, ImageSet], progress: bool) -> dict[str, Recipe]:
    """The recipes of the variants with `train.images` set to the budget.

    budget.json in the folder keeps the measured speeds, so that resuming does not change the budget.
    """
    variants, budget, path = experiment.variants, experiment.budget, folder / "budget.json"
    if budget.images:
        return {k: replace(r, train=replace(r.train, images=budget.images)) for k, r in variants.items()}
    known = read_object(path) if path.exists() else {}
    if missing := {k: r for k, r in variants.items() if k not in known}:
        if progress:
            say(f"timing {', '.join(missing)}")
        # in turns, so that a busy minute of the machine affects all variants
        rates = [{k: images_per_second(r, images[k]) for k, r in missing.items()} for _ in range(2)]
        for k, recipe in missing.items():
            speeds = [rate[k] for rate in rates]
            steps = max(1, round(median(speeds) * 60 * budget.minutes / recipe.train.batch))
            known[k] = {"images": steps * recipe.train.batch, "images_per_second": speeds, "machine": machine()["cpu"]}
        write_atomically(path, json.dumps(known, indent=1) + "\n")
    return {k: replace(r, train=replace(r.train, images=known[k]["images"])) for k, r in variants.items()}


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
        loop.train(model, images.pixels, kept, brief, Run(scratch), labels=images.labels, hooks=[clock], progress=False)
    return recipe.train.batch * (timed - 1) / (clock.times[-1] - clock.times[warm])
