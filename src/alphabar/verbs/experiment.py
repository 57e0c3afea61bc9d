"""`experiment`: variants of a recipe, trained from several seeds on one budget and scored, and a verdict on a hypothesis."""

import json
import multiprocessing
import tomllib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from alphabar.core.files import locked, write_atomically
from alphabar.core.machine import device_of, versions
from alphabar.core.messages import as_path, say
from alphabar.core.options import takes
from alphabar.core.outputs import check_folder
from alphabar.core.places import without_places
from alphabar.core.processes import import_ray, joined
from alphabar.core.progress import track
from alphabar.core.stored_values import read_object
from alphabar.data.image_set import ImageSet, load
from alphabar.report.experiment_page import write_page
from alphabar.results.experiments import Experiment
from alphabar.results.outcomes import Outcome, conclude
from alphabar.training.config import parse
from alphabar.verbs.options import ExperimentOptions
from alphabar.verbs.trial import TrialJob, finish, load_evaluator, with_budget

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
        differ = [k for k in ("budget", "scoring", "metric") if without_places(there.get(k)) != now[k]]
        stored = {k: parse(tomllib.loads(text), (), f"{path}, variant {k}") for k, text in there["variants"].items()}
        same = {k: stored.get(k, r).toml(False) == r.toml(False) for k, r in definition.variants.items()}
        differ += [f"variants.{k}" for k, equal in same.items() if not equal]
        if differ:
            what = "give another folder, or the file that started this experiment"
            raise ValueError(f"{folder} holds an experiment that differs in {', '.join(differ)}: {what}")
        now["variants"] = there["variants"] | now["variants"]
    elif folder.exists() and any(p.name != ".lock" for p in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no experiment: choose an empty folder")
    write_atomically(path, json.dumps(now, indent=1) + "\n")


def _plan(folder: Path, definition: Experiment, options: ExperimentOptions, progress: bool) -> tuple[list[TrialJob], ImageSet]:
    """All trials, seed by seed, and the real images of the scores. Raises ValueError where images could not be scored."""
    images = {name: load(r.data.set, "train", **r.data.reading()) for name, r in definition.variants.items()}
    reading = next(iter(definition.variants.values())).data.reading()
    evaluator, real = load_evaluator(definition.scoring, tuple(reading.items()))
    metrics = tuple(dict.fromkeys((definition.metric, *METRICS)))
    for each in images.values():
        evaluator.check_shape(each.image_shape, each.pixels.dtype, definition.scoring.n, metrics)
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


def _run_all(jobs: Sequence[TrialJob], options: ExperimentOptions, progress: bool) -> None:
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


def _side_by_side(at_once: int, todo: Sequence[TrialJob], progress: bool) -> None:
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
