"""`experiment`: variants of a recipe, trained from several seeds on one budget and scored, and a verdict on a hypothesis."""

import json
import multiprocessing
import shutil
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from alphabar.core.files import locked, room_for, write_json
from alphabar.core.machine import device_of, machine, versions
from alphabar.core.messages import as_path, say
from alphabar.core.options import takes
from alphabar.core.outputs import check_folder
from alphabar.core.places import without_places
from alphabar.core.processes import import_ray, joined
from alphabar.core.progress import track
from alphabar.core.run import Run
from alphabar.core.stored_values import read_object
from alphabar.data.image_set import ImageSet, load
from alphabar.data.split import holdout
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import load_measured, save_measured
from alphabar.report.experiment_page import write_page
from alphabar.results.experiments import Experiment, Scoring
from alphabar.results.outcomes import Outcome, Trial, conclude
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import SampleSet
from alphabar.sampling.samples import Samples
from alphabar.training import loop
from alphabar.training.checkpoint import load_model, read_state
from alphabar.training.config import Recipe, parse
from alphabar.training.hooks import Hook, Training
from alphabar.training.initial_model import initial_model
from alphabar.verbs import score
from alphabar.verbs.options import ExperimentOptions
from alphabar.verbs.train import images_of, known_as, limited, of_set, recipe_images, train

METRICS = ("fid", "kid")  # scored in addition to the metric that decides


@takes(ExperimentOptions)
def experiment(
    definition: Experiment, out: str | Path, *, options: ExperimentOptions = ExperimentOptions(), progress: bool = True
) -> Outcome:
    """Train every variant from every seed, sample and score them, and decide the hypothesis.

    Everything is kept in `out`: VARIANT-seedK, a run like any other; rows/, the scores of each finished trial; experiment.json;
    outcome.json; index.html. The same call resumes an experiment that was stopped or killed, also in the middle of a training;
    seeds and variants may be added. All variants of a seed are finished before the next seed starts, so that a stopped experiment
    has pairs to compare.

    Args:
        definition: the experiment, from `read_experiment`.
        out: folder of the experiment.
        options: how the trainings are carried out; each field is also a keyword.
        progress: show what is being trained.

    Returns:
        The trials, the differences between variants over seeds, and the verdict.

    Raises:
        ValueError: where images could not be scored, and where `out` holds another experiment, naming what differs.
        FileNotFoundError: where `reuse` names a folder without an experiment.
        KeyboardInterrupt: at Ctrl-C, after the page of the finished trials was written.
    """
    folder = as_path(out)
    for other in options.reuse:
        if not (as_path(other) / "experiment.json").is_file():
            raise FileNotFoundError(f"{other} is not the folder of an experiment: --reuse takes folders of `alphabar experiment`")
    if options.ray is None:
        device_of(options.device)  # not hours later, when the images are drawn
    check_folder(folder, "experiment", [r.data.set for r in definition.variants.values()])
    with locked(folder):
        _claim(folder, definition)
        jobs, real = _plan(folder, definition, options, progress)
        shown = real.pixels[: options.shown], options.shown
        try:
            _run_all(jobs, options, progress)
        except KeyboardInterrupt:
            trials = [job.trial() for job in jobs if job.row.exists()]
            if trials:
                write_page(conclude(definition, folder, trials, finished=False), *shown)
            raise KeyboardInterrupt(f"{len(trials)} of {len(jobs)} trainings are finished and kept in {folder}") from None
        outcome = conclude(definition, folder, [job.trial() for job in jobs])
        write_page(outcome, *shown)
        return outcome


def _claim(folder: Path, definition: Experiment) -> None:
    """Creates the folder, or checks that what decides the trainings and scores in it is the same; the hypothesis may be reworded.

    Seeds and variants may be added. The variants are compared as recipes, so that old names of recipe keys are understood.
    """
    path = folder / "experiment.json"
    now = json.loads(json.dumps(without_places({**definition.to_json(), "versions": versions()})))
    if path.exists():
        there = read_object(path)
        differ = [k for k in ("budget", "metric") if without_places(there.get(k)) != now[k]]
        was = without_places(there.get("scoring")) | {"against": now["scoring"]["against"]}  # sets are known by their images
        differ += ["scoring"] if was != now["scoring"] else []
        stored = {k: parse(tomllib.loads(text), (), f"{path}, variant {k}") for k, text in there["variants"].items()}
        same = {k: of_set(stored.get(k, r), r.data.set).toml(False) == r.toml(False) for k, r in definition.variants.items()}
        differ += [f"variants.{k}" for k, equal in same.items() if not equal]
        if differ:
            what = "give another folder, or the file that started this experiment"
            raise ValueError(f"{folder} holds an experiment that differs in {', '.join(differ)}: {what}")
        now["variants"] = there["variants"] | now["variants"]
    elif folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no experiment: choose an empty folder")
    write_json(path, now)


def _plan(folder: Path, definition: Experiment, options: ExperimentOptions, progress: bool) -> "tuple[list[TrialJob], ImageSet]":
    """All trials, seed by seed, and the real images of the scores. Raises ValueError where images could not be scored."""
    images = {name: load(r.data.set, "train", **r.data.reading()) for name, r in definition.variants.items()}
    reading = next(iter(definition.variants.values())).data.reading()
    evaluator, real = load_evaluator(definition.scoring, tuple(reading.items()))
    metrics = tuple(dict.fromkeys((definition.metric, *METRICS)))
    for each in (found.originals() for found in images.values()):  # samples of latents are decoded
        evaluator.check_shape(each.image_shape, each.pixels.dtype, definition.scoring.n, metrics)
    _check_images(folder, definition, images, evaluator.real.reference_fingerprint)
    recipes = with_budget(folder, definition, images, progress)
    show = progress and options.ray is None and options.at_once == 1
    jobs = [
        TrialJob(
            folder.resolve(), name, replace(recipe, train=replace(recipe.train, seed=seed)), definition.scoring, metrics,
            options.device, show, tuple(as_path(r).resolve() for r in options.reuse),
        )
        for seed in definition.seeds
        for name, recipe in recipes.items()
    ]  # fmt: skip
    return jobs, real


def _check_images(folder: Path, definition: Experiment, images: Mapping[str, ImageSet], reference: str) -> None:
    """Raises ValueError where the sets hold other images than the trainings and scores in the folder are of, by whatever name."""
    what = "the same trainings and scores need the same images: name where they are now, or give another folder"
    for name, recipe in definition.variants.items():
        for run in folder.glob(f"{name}-seed*"):
            known = images_of(run)
            if known not in (None, limited(images[name], recipe.data.limit, known).fingerprint):
                raise ValueError(f"{recipe.data.set} holds other images than those that {run} was trained on: {what}")
        for row in folder.glob(f"rows/{name}-seed*.json"):
            if any(score.get("reference") not in (None, reference) for score in read_object(row).get("scores", [])):
                raise ValueError(f"{definition.scoring.against} holds other images than those that {row} was scored with: {what}")


def _run_all(jobs: "Sequence[TrialJob]", options: ExperimentOptions, progress: bool) -> None:
    """Finishes the trials: over Ray, side by side, or one after another."""
    todo = [job for job in jobs if not job.row.exists()]
    if options.ray is not None and todo:
        ray = import_ray("an experiment")
        with joined(ray, options.ray):  # each task has one processor and, where the cluster has any, one GPU
            task = ray.remote(num_cpus=1, num_gpus=1 if ray.cluster_resources().get("GPU") else 0)(finish)
            ray.get([task.remote(job) for job in todo])
    elif options.at_once > 1:
        _side_by_side(options.at_once, todo, progress)
    else:
        for k, job in enumerate(todo, len(jobs) - len(todo) + 1):
            if progress:
                say(f"{job.variant}, seed {job.seed}: {k} of {len(jobs)}")
            finish(job)


def _side_by_side(at_once: int, todo: "Sequence[TrialJob]", progress: bool) -> None:
    """Where a trial fails, those that run are finished and no more start; Ctrl-C reaches all, and each keeps a checkpoint."""
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(finish, job) for job in todo]
        try:
            with track(len(todo), "trainings", show=progress) as advance:
                for done in as_completed(running):
                    done.result()
                    advance(1)
        except BaseException as e:
            if isinstance(e, KeyboardInterrupt):
                for child in multiprocessing.active_children():
                    child.terminate()  # a training saves a checkpoint; SIGTERM reached only this process
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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
    write_json(job.row, row)  # last: its existence means "finished"


@lru_cache(maxsize=1)
def load_evaluator(scoring: Scoring, reading: tuple[tuple[str, Any], ...]) -> tuple[ImageEval, ImageSet]:
    """The evaluator and its real images, once for all trials of a process: it caches the floor and the reference's features."""
    return score.make_evaluator(scoring.against, scoring.extractor, reading=dict(reading), progress=False)


def _copy_training(run: Run, job: TrialJob) -> None:
    """Copies a finished training of the same recipe, seed, budget and images; its samples are not copied."""
    images = recipe_images(job.recipe).fingerprint
    for state in sorted(s for other in job.reuse for s in other.glob("*-seed*/checkpoints/last/state.json")):
        source = Run(state.parents[2])
        wanted = known_as(source, job.recipe, images).fingerprint(images)
        if _state(source).get("fingerprint") == wanted and _trained(source, job.recipe):
            part = run.path.with_name(f".{run.path.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            with room_for(run.path):
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
        write_json(path, known)
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
