"""`train`: a model trained by a recipe into a run folder, with previews, scores and tracking on the way."""

import contextlib
import errno
import math
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core import processes, seeds
from alphabar.core.files import locked, write_atomically, write_json
from alphabar.core.machine import memory_for
from alphabar.core.messages import plural, say
from alphabar.core.outputs import check_run_folder
from alphabar.core.places import PRIVATE, without_places, write_private
from alphabar.core.run import Run, flat
from alphabar.core.seeds import permutation
from alphabar.core.stored_values import read_object, read_toml
from alphabar.data.card import unused_depth
from alphabar.data.contact_sheet import levels_of
from alphabar.data.image_set import ImageSet, load
from alphabar.data.latents import AUTOENCODER
from alphabar.data.split import holdout
from alphabar.denoiser.autoencoder import read_autoencoder
from alphabar.denoiser.model import Model
from alphabar.evaluation.hooks import CopiesTest, ScoreSamples
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.load import load_extractor
from alphabar.fitting.drawn_loss import DrawnLikeReal
from alphabar.sampling.preview import Preview
from alphabar.tracking.hook import Tracking
from alphabar.training.auto import AutoRecipe
from alphabar.training.checkpoint import has_checkpoint, read_state
from alphabar.training.config import Recipe, resolve
from alphabar.training.ema import LENGTHS
from alphabar.training.hooks import HeldOutLoss, Hook, Training, failed
from alphabar.training.initial_model import copy_weights, cost_of_model, untrained_model
from alphabar.training.lengthen import PLAN, last_state, length_in_images, with_length
from alphabar.training.loop import train as train_loop
from alphabar.training.stopping import FEWEST_HELDOUT

MOST_HELDOUT = 4096  # held-out images that hooks get


@memory_for("the training", "give a smaller --train.batch, a larger --train.accumulate or fewer --model.channels")
def train(
    recipe: Recipe | AutoRecipe,
    out: str | Path,
    *,
    resume: bool = False,
    new_length: bool = False,
    minutes: float | None = None,
    images: ImageSet | None = None,
    hooks: Sequence[Hook] = (),
    progress: bool = True,
) -> Model:
    """Trains a model by a recipe into a run folder; `alphabar.train` (verbs.train_images) documents arguments and errors.

    images: the training images; None takes those of a plan, else loads the recipe's set. A plan is kept in the run's plan.json.
    """
    run, first = Run(out), processes.world()[0] == 0  # of several processes, the first one writes
    if minutes is not None and not resume:
        raise ValueError(
            f"minutes = {minutes:g} is the new length of a resumed run: for a new one, pass auto_recipe(images, minutes=...)"
        )
    plan, recipe = (recipe, recipe.recipe) if isinstance(recipe, AutoRecipe) else (None, recipe)
    if first and not run.recipe.exists():
        check_run_folder(run.path, [recipe.data.set] if images is None else [])
    images = plan.images if plan is not None and images is None else images
    with locked(run.path) if first else nullcontext():
        resume = _resuming(run, resume, first)
        tracking = Tracking(run, recipe.track) if first and recipe.track else None
        image_set = recipe_images(recipe, images, images_of(run.path) if resume else None)
        own = recipe  # with the run's name of the set, which counts in the fingerprint
        if resume and run.recipe.exists():
            if minutes is not None:
                length = length_in_images(run, resolve(run.recipe), image_set, minutes)
                recipe, new_length = recipe.with_(train={"images": length}), True
            own = _of_run(run, recipe, new_length)
            if first and last_state(run)["images"] >= own.train.images:
                say(f"{run.path} is finished; --images N or --minutes M, the length of the whole training, goes on", sys.stderr)
            recipe = of_set(own, recipe.data.set)
            _check_images(run, recipe, image_set)
            own = known_as(run, own, image_set.fingerprint)
        if first:
            _warn(recipe, image_set)
        trained_on, heldout = holdout(image_set.pixels, recipe.data.holdout, hashes=image_set.hashes)
        watched = _watched(heldout, run if resume else None)
        model = untrained_model(recipe, image_set)
        if image_set.latents is not None:
            model.autoencoder = read_autoencoder(Path(image_set.source) / AUTOENCODER)
        source = copy_weights(model, recipe.train.init_from) if recipe.train.init_from and not resume else ""
        files = {} if resume else _description(model, image_set, len(trained_on), len(heldout), source)
        files |= {} if plan is None or resume else {PLAN: plan.record()}
        looking, lines = watching(recipe, own, image_set, run, resume)
        if first and lines:
            say("\n".join(lines), sys.stderr)
        try:
            trained = train_loop(
                model,
                image_set.pixels,
                trained_on,
                recipe.train,
                run,
                labels=image_set.labels,
                heldout=image_set.pixels[watched],
                heldout_labels=None if image_set.labels is None else image_set.labels[watched],
                hooks=[_Start(recipe, own, files, minutes), *looking, *hooks, *([tracking] if tracking else [])],
                resume=resume,
                fingerprint=own.fingerprint(image_set.fingerprint),
                decided_by=without_places(own.decisive()),
                earlier=[r.fingerprint(image_set.fingerprint) for r in own.earlier_recipes()],
                drawn_loss=DrawnLikeReal.of(recipe.train.drawn_like, image_set, trained_on, model, progress and first),
                progress=progress,
            )
        finally:
            if tracking:
                tracking.end()
        trained.home = run.path
        return trained


def _warn(recipe: Recipe, images: ImageSet) -> None:
    """Warns, where `train` is called, of a part of the scale that the images do not use and of numbers that are not kept."""
    settings, notes = recipe.train, []
    if (note := unused_depth(images)) is not None:
        notes.append(f"{images.name}: {note}")
    if settings.images < settings.batch:
        notes.append(
            f"train.images {settings.images} is less than a batch: one step of {settings.batch} images is made; give "
            f"--train.batch {settings.images} for fewer"
        )
    if settings.warmup_images < settings.warmup:
        notes.append(
            f"train.warmup {settings.warmup} is longer than half of train.images {settings.images}: the learning rate rises "
            f"over {settings.warmup_images} images instead"
        )
    for note in notes:
        warnings.warn(note, stacklevel=4)


def recipe_images(recipe: Recipe, images: ImageSet | None = None, known: str | None = None) -> ImageSet:
    """The images that a recipe trains on and holds out: its set (or `images`), or `data.limit` of it.

    Those are drawn at random from the set, in which the images of a class may stand next to each other.
    """
    image_set = load(recipe.data.set, "train", **recipe.data.reading()) if images is None else images
    return limited(image_set, recipe.data.limit, known)


def limited(images: ImageSet, n: int, known: str | None = None) -> ImageSet:
    """`ImageSet.limited`, or the first n, as earlier versions took them, where `known`, a run's fingerprint, is theirs."""
    spread = images.limited(n)
    if (
        known not in (None, spread.fingerprint)
        and n > 0
        and (first := images.subset(range(min(n, len(images))))).fingerprint == known
    ):
        return first
    return spread


def check_new_run(out: str | Path, image_set: str | None) -> None:
    """Raises FileExistsError, before anything is planned or loaded, where `out` cannot hold a new run."""
    run = Run(out)
    if not run.recipe.exists():
        check_run_folder(run.path, [image_set] if image_set else [])
    _resuming(run, False, True)


def _resuming(run: Run, resume: bool, first: bool) -> bool:
    """Whether the run continues from a checkpoint. Raises FileExistsError rather than to overwrite a run."""
    if not run.recipe.exists():
        return resume
    if resume and not has_checkpoint(run.checkpoint()):
        warnings.warn(f"{run.path} was stopped before its first checkpoint: it starts again", stacklevel=4)
        return False
    if first and not resume and (has_checkpoint(run.checkpoint()) or run.events.exists()):  # else it took no step
        raise FileExistsError(f"{run.path} already holds a run: add --resume to continue it, or name another folder")
    return resume


def of_set(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another name of its set, which may be the same images elsewhere."""
    return replace(recipe, data=replace(recipe.data, set=name))


def _of_run(run: Run, recipe: Recipe, new_length: bool) -> Recipe:
    """The recipe with the run's name of the set, and the lengths that the run had until now.

    Raises ValueError where another key that decides the weights differs.
    """
    stored = resolve(run.recipe)
    if new_length:
        stored = with_length(run, stored, recipe.train.images)
    own = of_set(recipe, stored.data.set).with_(train={"earlier_lengths": stored.train.earlier_lengths})
    now, then = own.decisive(), stored.decisive()
    if differ := [k for k in then if now[k] != then[k]]:
        values = "; ".join(f"{key} {then[key]!r}, not {now[key]!r}" for key in differ)
        out = ", ".join(differ) if len(differ) < 4 else "--recipe"
        longer = ", type --images N for another length" if "train.images" in differ else ""
        raise ValueError(
            f"{run.path} was started with {values}: leave {out} out to continue it{longer}, or name another --out for a new run"
        )
    return own


def known_as(run: Run, recipe: Recipe, images: str) -> Recipe:
    """The recipe with the name of its set by which the checkpoint of a run has its fingerprint, where that is the same training.

    A set is known by its images, but its name counts in the fingerprint: the run's names of it stand for the recipe's.
    """
    names = []
    for file, read in ((run.recipe, read_toml), (run.path / PRIVATE, read_object), (run.path / "data.json", read_object)):
        with contextlib.suppress(OSError, ValueError):
            found = flat(read(file))
            names += [name for key in ("data.set", "set") if isinstance(name := found.get(key), str)]
    with contextlib.suppress(OSError, ValueError):
        stored = read_state(run.checkpoint()).get("fingerprint")
        for named in (recipe, *(of_set(recipe, name) for name in names)):
            if stored in [r.fingerprint(images) for r in (named, *named.earlier_recipes())]:
                return named
    return recipe


def images_of(run: Path, key: str = "fingerprint") -> str | None:
    """The fingerprint of the images that a run was trained on and that it held out; None where it has no record of them. With
    "fingerprint_of_images", that of the images of which it was trained on the latents."""
    found = _data_of(run).get(key)
    return found if isinstance(found, str) else None


def _data_of(run: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return read_object(run / "data.json")
    return {}


def _watched(heldout: NDArray[np.int64], resumed: Run | None) -> NDArray[np.int64]:
    """The held-out images that hooks get, drawn at random if there are more than they use: images of a class may stand next to
    each other. Earlier versions took the first ones, and so does a resumed run of theirs."""
    if resumed is not None and "watched" not in _data_of(resumed.path):
        return heldout[:MOST_HELDOUT]
    return heldout[np.sort(permutation(0, 0, len(heldout))[:MOST_HELDOUT])]


def _check_images(run: Run, recipe: Recipe, image_set: ImageSet) -> None:
    """Raises ValueError where these are not the images of the run, wherever they are and whatever they are called."""
    if (known := images_of(run.path)) not in (None, image_set.fingerprint):
        was = resolve(run.recipe).data.set
        raise ValueError(
            f"{recipe.data.set} holds other images ({len(image_set)}, fingerprint {image_set.fingerprint}) than those that "
            f"{run.path} was trained on (from {was}, fingerprint {known}): name where these are now, or start a new run with "
            "another --out"
        )


class _Start(Hook):
    """Makes the folder of a new run, once everything that can be checked before the first step is checked; in a resumed run,
    records where the images are now, and a new length."""

    def __init__(self, recipe: Recipe, own: Recipe, files: Mapping[str, Any], minutes: float | None) -> None:
        self.recipe, self.own, self.files, self.minutes = recipe, own, files, minutes

    def check(self, training: Training) -> None:
        """Raises OSError where the disk has no room for the checkpoints."""
        nearest = next(p for p in (training.run.path.absolute(), *training.run.path.absolute().parents) if p.exists())
        weights = 4 * sum(p.numel() for p in training.ema.parameters())
        one = weights * (4 + (len(LENGTHS) if training.recipe.ema_snapshots else 0))  # weights, their average, two moments
        kept = 1 if training.step else 4  # last, the one before it, best, and one that is being written
        needed = kept * one + training.recipe.ema_snapshots * len(LENGTHS) * weights // 2
        if needed > (free := shutil.disk_usage(nearest).free):
            raise OSError(
                errno.ENOSPC,
                f"{training.run.path} needs about {needed / 2**20:.0f} MiB for checkpoints, and {free / 2**20:.0f} MiB are free: "
                "make room, or name another --out",
            )

    def on_start(self, training: Training) -> None:
        if self.files:
            training.run.start(self.recipe.toml(places=False))
            if training.model.autoencoder is not None:
                training.model.autoencoder.save(training.run.path / AUTOENCODER)
            write_private(training.run.path, flat(asdict(self.recipe)))
            for name, values in self.files.items():
                write_json(training.run.path / name, values)
            return
        if self.recipe.data.set != self.own.data.set:
            training.report("moved", set=Path(self.recipe.data.set).name)
        length, stored = self.own.train, resolve(training.run.recipe)
        if length.images != stored.train.images:
            training.report("length", earlier=stored.train.images, now=length.images)
            longer = stored.with_(train={"images": length.images, "earlier_lengths": length.earlier_lengths})
            write_atomically(training.run.recipe, longer.toml(places=False))
            if self.minutes is not None:
                known = read_object(plan) if (plan := training.run.path / PLAN).exists() else {}
                write_json(plan, {**known, "minutes": self.minutes})


def watching(
    recipe: Recipe, own: Recipe, image_set: ImageSet, run: Run, resumed: bool = False
) -> tuple[list[Hook], list[str]]:  # fmt: skip
    """The hooks that a recipe asks for, and in sentences what they measure, what they cannot, and why.

    Raises OSError or ValueError for an extractor that cannot be read; a resumed run goes on without scores.
    """
    watch, train = recipe.watch, recipe.train
    trained_on, heldout = holdout(image_set.pixels, recipe.data.holdout, hashes=image_set.hashes)
    hooks: list[Hook] = [HeldOutLoss(train.heldout_every, watch.heldout_n)]
    enough, lines = len(heldout) >= FEWEST_HELDOUT, list[str]()
    if recipe.data.holdout and not len(heldout):
        lines += [
            f"none of the {plural(len(image_set), 'image')} fell into the held-out share {recipe.data.holdout}: there will be no "
            "held-out loss; give a larger --data.holdout, or more images"
        ]
    if watch.preview_every:
        levels = levels_of(np.asarray(image_set.limited(watch.preview_n).pixels))
        hooks.append(Preview(watch.preview_every, watch.preview_n, watch.preview_steps, 0, watch.preview_first, levels))
    if watch.score_every:
        evaluator = None
        try:
            evaluator = _evaluator(recipe, own, image_set, trained_on, heldout, run)
        except Unscored as why:
            lines.append(f"No FID or KID: {why}.")
        except Exception as e:
            if not resumed:
                raise
            failed(run, ScoreSamples.watches, e, f"{run.path} continues")
        copies = None
        if watch.copies and enough:
            try:
                pixels = image_set.originals().pixels
                copies = CopiesTest(pixels[trained_on], pixels[heldout])
            except FileNotFoundError as e:  # the images that latents were made from
                lines.append(f"No test for copies: {': '.join(str(e).split(': ')[:2])}.")
        scores = ScoreSamples(evaluator, watch.score_every, watch.score_n, watch.preview_steps, copies=copies)
        hooks += [scores] if scores.metrics or copies else []
        lines += scores.lines()
    share = math.ceil(130 * FEWEST_HELDOUT / len(image_set)) / 100
    advice = f"--data.holdout {share:g} holds out enough" if share <= 0.5 else "add images"
    few = f"{plural(len(heldout), 'held-out image')} {'is' if len(heldout) == 1 else 'are'} too few ({FEWEST_HELDOUT} are needed)"
    few += f": {advice}"
    if watch.copies and not (enough and watch.score_every):
        lines.append(f"No test for copies: {'watch.score_every is 0' if enough else few}.")
    if train.early_stop:
        when = "Stops early when the held-out loss has turned or samples are copies; --no-early-stop goes on."
        lines.append(when if enough else f"No early stopping: {few}.")
    return hooks, lines


class Unscored(Exception):
    """Why a training goes without scores."""


def _evaluator(
    recipe: Recipe, own: Recipe, image_set: ImageSet, trained_on: NDArray[np.int64], heldout: NDArray[np.int64], run: Run
) -> ImageEval:
    """Scores against the test split; a set without one is scored against its held-out images, and those that it is trained on
    give the floor. Raises Unscored where there is no extractor or nothing to score against."""
    extractor, beside = recipe.watch.extractor, run.path / "extractor" / "auto.safetensors"
    if extractor == "auto":
        extractor = "bundled" if own.data.set == "fashion_mnist" else str(beside) if beside.exists() else "none"
    if extractor == "none":
        raise Unscored(
            "they need an extractor of features of such images, which `alphabar extractor train SET --out PATH` makes and "
            "--watch.extractor PATH takes, also with --resume"
        )
    features = load_extractor(extractor)
    image_set = image_set.originals()
    try:
        return ImageEval(features, load(recipe.data.set, "test", **recipe.data.reading()).originals())
    except FileNotFoundError:
        if not len(heldout):
            raise Unscored(f"{image_set.name} has neither a test split nor held-out images to score against") from None
    most = seeds.permutation(0, 0, len(trained_on))[: 8 * recipe.watch.score_n]
    floor = image_set.subset(np.sort(trained_on[most]))
    return ImageEval(features, replace(image_set.subset(heldout), split="heldout"), floor_images=floor)


def _description(model: Model, image_set: ImageSet, trained_on: int, heldout: int, source: str) -> dict[str, Any]:
    """What cost.json and data.json hold. source: fingerprint of the model that the weights are from, or empty."""
    about = {
        "set": image_set.name, "split": image_set.split, "fingerprint": image_set.fingerprint, "images": trained_on,
        "held_out": heldout, "watched": min(heldout, MOST_HELDOUT), "pixels": image_set.pixels.dtype.name,
        "value_range": image_set.value_range, "fit": str(image_set.reading) or None, "skipped": list(image_set.skipped),
        **({"begun_with": source} if source else {}),
    }  # fmt: skip
    about |= {"fingerprint_of_images": image_set.fingerprint_of_images} if image_set.latents else {}
    return {"cost.json": cost_of_model(model), "data.json": without_places(about)}
