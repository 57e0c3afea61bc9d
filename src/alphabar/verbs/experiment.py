"""`experiment`: variants of a recipe, trained from several seeds on one budget, scored, and a verdict on a hypothesis.

(The module is not called experiment, so that `alphabar.experiment` can be the function.)
"""

import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from alphabar.core.cluster import import_ray, joined
from alphabar.core.files import write_atomically
from alphabar.core.machine import best_device, machine, versions
from alphabar.core.progress import track
from alphabar.core.run import Run
from alphabar.data.image_set import ImageSet, load
from alphabar.data.split import holdout
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.measured import load_measured, save_measured
from alphabar.report.experiment_page import Outcome, Trial, conclude, write_page
from alphabar.results.experiments import Experiment
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import SampleSet
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe, parse
from alphabar.training.hooks import Hook, Training
from alphabar.training.initial_model import initial_model
from alphabar.training.loop import train as train_loop
from alphabar.verbs import score as judge
from alphabar.verbs.train import recipe_images
from alphabar.verbs.train import train as train_recipe

METRICS = ("fid", "kid")
WARM, TIMED = 3, 8  # steps of a training that is timed: before the clock starts, and on it


def experiment(
    told: Experiment,
    out: str | Path,
    *,
    reuse: Sequence[str | Path] = (),
    at_once: int = 1,
    ray: str | None = None,
    device: str | None = None,
    shown: int = 16,
    progress: bool = True,
) -> Outcome:
    """Trains every variant from every seed, draws and scores them, and says what that decides.

    Everything is kept in `out`: VARIANT-seedK, a run like any other; rows/, a row and the scores of each finished one;
    experiment.json; index.html. The same call goes on where one was stopped or killed, in the middle of a training too; seeds
    and variants may be added. Of one seed all variants are done before the next seed begins, so that a stopped experiment has
    pairs to show. reuse: folders of other experiments, from which finished trainings of the very same recipe, seed, budget and
    images are copied instead of being made again. at_once: how many trainings run side by side here, each in a process of its
    own: small networks leave a GPU idle most of the time. ray: "local", or the address of a Ray cluster whose machines all see
    `out` under that name.

    Ctrl-C writes the page from what there is and raises KeyboardInterrupt. Raises ValueError where images could not be scored,
    and where `out` holds another experiment, naming what differs; FileNotFoundError where `reuse` names none.
    """
    folder = Path(out)
    if at_once < 1 or (ray is not None and at_once > 1):
        raise ValueError(f"at_once = {at_once}: give 1 or more, and leave it out with ray, which has its own share of machines")
    for other in reuse:
        if not (Path(other) / "experiment.json").is_file():
            raise FileNotFoundError(f"{other} is no folder of an experiment: --reuse takes what `alphabar experiment --out` made")
    _claim(folder, told)
    images = {name: load(r.data.set, "train", **r.data.reading()) for name, r in told.variants.items()}
    reading = next(iter(told.variants.values())).data.reading()
    ruler, real = _ruler(told.scoring.against, told.scoring.extractor, tuple(reading.items()))
    metrics = tuple(dict.fromkeys((told.metric, *METRICS)))
    for each in images.values():
        ruler.check_shape(each.image_shape, each.pixels.dtype, told.scoring.n, metrics)
    recipes = _with_budget(folder, told, images, progress)
    jobs = [
        {
            "folder": str(folder.resolve()), "variant": name, "seed": seed, "metrics": list(metrics),
            "recipe": replace(recipe, train=replace(recipe.train, seed=seed)).toml(), "scoring": asdict(told.scoring),
            "device": device, "progress": progress and ray is None and at_once == 1,
            "reuse": [str(Path(r).resolve()) for r in reuse],
        }
        for seed in told.seeds
        for name, recipe in recipes.items()
    ]  # fmt: skip
    todo = [job for job in jobs if not _row(folder, job).exists()]
    try:
        if ray is None and at_once > 1:
            _side_by_side(at_once, todo, progress)
        elif ray is None:
            for k, job in enumerate(todo, len(jobs) - len(todo) + 1):
                if progress:
                    print(f"{job['variant']}, seed {job['seed']}: {k} of {len(jobs)}", flush=True)
                finish(job)
        elif todo:
            _over_ray(ray, todo)
    except KeyboardInterrupt:
        there = _trials(folder, jobs)
        if there:
            write_page(conclude(told, folder, there, finished=False), real.pixels[:shown], shown)
        raise KeyboardInterrupt(f"{len(there)} of {len(jobs)} trainings are finished and kept in {folder}") from None
    outcome = conclude(told, folder, _trials(folder, jobs))
    write_page(outcome, real.pixels[:shown], shown)
    return outcome


def finish(job: Mapping[str, Any]) -> None:
    """One variant from one seed, from wherever it stopped to its row."""
    folder, name = Path(job["folder"]), f"{job['variant']}-seed{job['seed']}"
    run, how = Run(folder / name), job["scoring"]
    recipe = parse(tomllib.loads(job["recipe"]), (), "experiment")
    if not run.recipe.exists():
        _take_over(run, recipe, [Path(r) for r in job["reuse"]])
    if not _trained(run, recipe):
        train_recipe(recipe, run.path, resume=run.recipe.exists(), progress=job["progress"])
    model = load_model(run.path).to(job["device"] or best_device())
    kept = run.samples / f"experiment-{how['n']}.npz"
    drawn = Samples.load(kept) if kept.exists() else sample(
        model, how["n"], sampler=how["sampler"], steps=how["steps"], eta=how["eta"], batch=how["batch"],
        seed=how["seed"] + 1000 * job["seed"],  # noise of its own for each seed, the same for all variants
        classes=every_class(model), out=kept, channels_last=True, progress=job["progress"],
    )  # fmt: skip
    ruler, real = _ruler(how["against"], how["extractor"], tuple(recipe.data.reading().items()))
    measured = judge.measure(ruler, real, SampleSet(str(kept), drawn.images, drawn.record, run.path), job["metrics"])
    target = _row(folder, job)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_measured(target.with_suffix(".npz"), measured)
    seconds = json.loads((run.checkpoint() / "state.json").read_text())["seconds"]
    row = {
        "variant": job["variant"], "seed": job["seed"], "run": name, "images": recipe.train.images, "seconds": seconds,
        "samples": str(kept.relative_to(folder)), "record": drawn.record, "machine": machine(),
        "scores": [s.to_json() for s in measured.scores.values()],
    }  # fmt: skip
    write_atomically(target, json.dumps(row))  # last: it says "finished"


def _take_over(run: Run, recipe: Recipe, others: Sequence[Path]) -> None:
    """Copies a finished training of another experiment that this one would repeat; its samples are drawn anew."""
    if not others:
        return
    images = recipe_images(recipe)
    wanted = recipe.fingerprint(images.fingerprint)
    for state in sorted(s for other in others for s in other.glob("*-seed*/checkpoints/last/state.json")):
        there = Run(state.parents[2])
        if json.loads(state.read_text()).get("fingerprint") == wanted and _trained(there, recipe):
            part = run.path.with_name(f".{run.path.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(there.path, part, ignore=shutil.ignore_patterns("samples", "tracking", "last.old"))
            part.rename(run.path)  # whole or not at all
            return


@lru_cache(maxsize=1)
def _ruler(against: str, extractor: str, reading: tuple[tuple[str, Any], ...]) -> tuple[ImageEval, ImageSet]:
    """One for all trainings of a process: it keeps the floor and the reference's features."""
    return judge.evaluator(against, extractor, reading=dict(reading), progress=False)


def _trained(run: Run, recipe: Recipe) -> bool:
    """Whether its last checkpoint is that of all its images."""
    state = run.checkpoint() / "state.json"
    return state.exists() and bool(json.loads(state.read_text())["images"] >= recipe.train.images)


def _row(folder: Path, job: Mapping[str, Any]) -> Path:
    return folder / "rows" / f"{job['variant']}-seed{job['seed']}.json"


def _trials(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> list[Trial]:
    found = []
    for job in jobs:
        path = _row(folder, job)
        if path.exists():
            found.append(Trial.from_json(json.loads(path.read_text()), load_measured(path.with_suffix(".npz")), folder))
    return found


def _claim(folder: Path, told: Experiment) -> None:
    """Takes the folder. Raises ValueError where it holds files of something else, or trainings that would not compare."""
    note = folder / "experiment.json"
    now = json.loads(json.dumps({**told.to_json(), "versions": versions()}))
    if note.exists():
        there = json.loads(note.read_text())
        differ = [k for k in ("budget", "scoring", "metric") if there.get(k) != now[k]]
        differ += [f"variants.{k}" for k in now["variants"] if there["variants"].get(k, now["variants"][k]) != now["variants"][k]]
        if differ:
            raise ValueError(
                f"{folder} holds an experiment that differs in {', '.join(differ)}: give another folder, or the file it was "
                "begun with"
            )
        now["variants"] = there["variants"] | now["variants"]
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files that are no experiment: choose an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(now, indent=1) + "\n")


# ---- the budget


def _with_budget(folder: Path, told: Experiment, images: Mapping[str, ImageSet], progress: bool) -> dict[str, Recipe]:
    """The variants with their images: as many for all, or what each sees in the minutes, by its speed, measured once."""
    if told.budget.images:
        amounts = dict.fromkeys(told.variants, told.budget.images)
    else:
        note = folder / "budget.json"
        known = json.loads(note.read_text()) if note.exists() else {}
        missing = {k: r for k, r in told.variants.items() if k not in known}
        if missing:
            if progress:
                print(f"timing {', '.join(missing)}", flush=True)
            rates: dict[str, list[float]] = {k: [] for k in missing}
            for _ in range(2):  # in turns, so that a busy minute tells on all
                for k, recipe in missing.items():
                    rates[k].append(images_per_second(recipe, images[k]))
            for k, found in rates.items():
                batch = told.variants[k].train.batch
                amount = max(1, round(statistics.median(found) * 60 * told.budget.minutes / batch)) * batch
                known[k] = {"images": amount, "images_per_second": found, "machine": machine()["cpu"]}
            write_atomically(note, json.dumps(known, indent=1) + "\n")
        amounts = {k: known[k]["images"] for k in told.variants}
    return {k: replace(r, train=replace(r.train, images=amounts[k])) for k, r in told.variants.items()}


class _Clock(Hook):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, training: Training) -> None:
        if training.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def images_per_second(recipe: Recipe, images: ImageSet, warm: int = WARM, timed: int = TIMED) -> float:
    """Of `timed` steps of the very training after `warm` of them; thrown away."""
    model = initial_model(recipe, images)
    kept, _ = holdout(images.pixels, recipe.data.holdout, hashes=images.hashes)
    steps = warm + timed
    brief = replace(
        recipe.train, images=steps * recipe.train.batch, log_every=0, checkpoint_every=0, heldout_every=0, ema_snapshots=0
    )
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="alphabar-timing-") as scratch:
        train_loop(model, images.pixels, kept, brief, Run(scratch), labels=images.labels, hooks=[clock], progress=False)
    return recipe.train.batch * (timed - 1) / (clock.times[-1] - clock.times[warm])


# ---- side by side, and over machines


def _side_by_side(at_once: int, todo: Sequence[Mapping[str, Any]], progress: bool) -> None:
    """Trainings in processes of their own, begun in their order. Where one fails the others that run are finished, and no more
    begun; Ctrl-C reaches them all, and each stops with a checkpoint."""
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(finish, job) for job in todo]
        try:
            with track(len(todo), "trainings", show=progress) as advance:
                for done in as_completed(running):
                    done.result()
                    advance(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _over_ray(address: str, todo: Sequence[Mapping[str, Any]]) -> None:
    """Trainings as tasks of Ray, each with one GPU where there are any, else with all processors of a machine's share."""
    ray = import_ray("an experiment")
    with joined(ray, address):
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus)(finish)
        ray.get([task.remote(job) for job in todo])
