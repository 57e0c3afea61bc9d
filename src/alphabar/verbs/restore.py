"""`restore`: images drawn from a model given an incomplete, blurred or noisy measurement, and how sure they are."""

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.core import processes
from alphabar.core.bounds import short
from alphabar.core.files import plain
from alphabar.core.machine import memory_for, versions
from alphabar.core.messages import say
from alphabar.core.options import takes
from alphabar.core.outputs import check_output
from alphabar.core.parts import Parts
from alphabar.core.progress import duration, track
from alphabar.core.seeds import DRAW, MEASURE, SeededNoise, starting_noise
from alphabar.core.types import Denoiser, Grid, Measured, Pixels
from alphabar.data.cache import fingerprint_of
from alphabar.data.images import check_images, to_model, to_pixels
from alphabar.data.split import image_hashes
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.wrappers import ClipX0, CountCalls
from alphabar.restoration.calibration import widening
from alphabar.restoration.catalogue import LOWEST, Method, default_method, find_method, plan
from alphabar.restoration.conditional import condition
from alphabar.restoration.operators import Mask, Operator, Padded, Spectral
from alphabar.restoration.result import Restoration
from alphabar.restoration.scores import FEWEST
from alphabar.restoration.tasks import TASKS, estimated_noise, measurement_shape, operator_of, rounding_noise
from alphabar.sampling.batches import Batch, finished_batches, of_all_processes
from alphabar.sampling.given_images import check_shape, open_images, reading_of_model
from alphabar.sampling.guidance import ClassGuidance
from alphabar.sampling.model import Model, check_denoises_pixels, fingerprint, image_shape, move_model, to_images
from alphabar.sampling.options import SampleOptions
from alphabar.sampling.samples import npz_path, unfinished
from alphabar.training.checkpoint import load_model
from alphabar.verbs.memorisation import with_heldout
from alphabar.verbs.options import RestoreOptions

MOST = 16  # images where their number is not given
OWN_TASK = "own operator"
SAME = (  # of the record, in a restoration that calibrates another
    "task", "mask", "share", "factor", "blur", "sigma_y", "method", "options", "steps", "draws", "model", "pixels", "clip",
    "classes", "guidance",
)  # fmt: skip


@takes(RestoreOptions)
def restore(
    run: Model | str | Path, images: Any, options: RestoreOptions = RestoreOptions(), *, out: str | Path | None = None,
    reading: Mapping[str, Any] | None = None, progress: bool = True, device: torch.device | str | None = None,
    home: str | Path | None = None, on_step: Callable[[int, int], None] | None = None,
) -> Restoration:  # fmt: skip
    """Draws images from the posterior of a model given measurements of them: inpainting, super-resolution, deblurring, ...

    >>> import alphabar
    >>> garments = alphabar.load("fashion_mnist", "test").pixels[:2]
    >>> found = alphabar.restore("bundled", garments, task="inpaint", degrade=True, draws=2, calls=5, progress=False)
    >>> found.draws.shape, found.mean.shape, found.record["nfe"]
    ((2, 2, 28, 28, 1), (2, 28, 28, 1), 5.0)

    Args:
        run: a model, or what `load_model` takes, as the path of a run.
        images: pixels (n, h, w, c), or a set or picture as `given_images` takes it: the measurements, or, with `degrade`, the
            originals.
        options: see `RestoreOptions`; its fields may also be passed as keywords.
        out: PATH.npz to write, as `Restoration.save` does. Each finished batch is kept in PATH.part until all are complete, and
            the same call continues after an interruption. The processes of torchrun divide the batches of a call with `out` among
            themselves, and the first one saves.
        reading: options of `alphabar.load`, where `images` is a set.
        progress: show a progress bar, and before it the time that all will take.
        device: moves the model there first. None: the model stays where it is.
        home: the run of a model that is passed, which SET:heldout needs.
        on_step: called after every step with the number of steps that are done, of all batches, and that of all.

    Returns:
        The draws, their mean and spread, and their scores where the originals are known.

    Raises:
        FileNotFoundError: where there are no such images or no such mask.
        ValueError: for a distilled model or one of latents, no class for a model that needs one, images that do not fit the model
            and the task, an operator that is not linear, an unknown method or option, a calibration by other settings, or an
            `out` that holds unfinished draws of others.
    """
    first = out is None or processes.world()[0] == 0  # without a place to meet, each process makes all draws
    progress = progress and first
    if out is not None:
        check_output(npz_path(out), "samples")
    model = load_model(run) if isinstance(run, str | Path) else run
    guidance = _checked(model, options)
    pixels = _images(model, run if home is None else home, images, options, reading, progress)
    problem = _problem(model, pixels, options)
    method = find_method(options.method or default_method(problem.operator))
    if method.spectral and not isinstance(problem.operator, Spectral):
        raise ValueError(f"{method.name} needs the singular values of the operator, which a pair of functions has not: use gibbs")
    sigmas, arguments = plan(
        method, model.schedule, problem.operator, problem.sigma_y, options.calls, dict(options.options or {})
    )
    record, originals = _record(model, options, problem, method, sigmas, arguments), pixels if options.degrade else None
    record |= {} if options.calibrate is None else _calibration(options.calibrate, record, originals)
    work = _Work(model, guidance, problem, method, sigmas, arguments, options, move_model(model, device, False))
    protocol = record | {"measured": _digest(model, options, problem, pixels)}
    with unfinished(out, protocol, "unfinished draws") as parts:
        draws, costs = work.draw(parts, progress, on_step)
        found = Restoration(draws, problem.shown, record | costs, originals, problem.unmeasured)
        if out is not None and first:
            found.save(out)
    return found


def _checked(model: Any, options: RestoreOptions) -> ClassGuidance | None:
    """Class and guidance. Raises ValueError for a model that cannot restore."""
    if not isinstance(model, Model):
        raise ValueError(f"the model is {type(model).__name__}, without schedule and image_shape: give what load_model returns")
    check_denoises_pixels(model, "restoration")
    return ClassGuidance.of(model, SampleOptions(classes=options.classes, guidance=options.guidance))


def _images(
    model: Model, run: Any, images: Any, options: RestoreOptions, reading: Mapping[str, Any] | None, progress: bool
) -> Pixels:
    """The images that are restored, in the type of the model's."""
    shape, needs = image_shape(model), "the model makes"
    if named := not options.degrade and isinstance(options.task, str) and options.task in TASKS:
        shape, needs = measurement_shape(str(options.task), shape, options.factor), f"{options.task} needs"
    if array := isinstance(images, np.ndarray | torch.Tensor):
        pixels, name = check_images(images), "the array"
    else:
        own = reading_of_model(model, reading)
        if shape[1:] != image_shape(model)[1:] and not (reading or {}).get("size"):
            own = {k: v for k, v in own.items() if k not in ("size", "fit")}  # measurements have another size
        found = open_images(model, with_heldout(run, images, own), own)
        pixels, name = found.pixels, found.name
    n = options.n or (len(pixels) if array else min(len(pixels), MOST))
    if n > len(pixels):
        raise ValueError(f"{name} holds {len(pixels)} images, {n} were asked for: give --n {len(pixels)} or less")
    if options.n is None and len(pixels) > n and progress:
        say(f"{n} of the {len(pixels):,} images of {name}; --n takes more", sys.stderr)
    pixels = np.asarray(found.limited(n).pixels if options.degrade and not array else pixels[:n])
    wanted = np.dtype(getattr(model, "pixels", "uint8"))
    if pixels.dtype != wanted:
        raise ValueError(f"{name} holds {pixels.dtype}, and the model was trained on {wanted}: convert them first")
    if named or options.degrade:  # the measurements of your own operator have any shape
        check_shape(name, (pixels.shape[3], *pixels.shape[1:3]), shape, needs)
    return pixels


@dataclass(frozen=True, eq=False)
class _Problem:
    """What was measured. y: on the CPU. shown: the measurements as images. unmeasured: pixels of which nothing is known."""

    operator: Operator
    y: Measured
    sigma_y: float
    shown: Pixels
    unmeasured: Any


def _problem(model: Model, pixels: Pixels, options: RestoreOptions) -> _Problem:
    shape, n, crop = image_shape(model), len(pixels), int(getattr(model, "crop", 0))
    least = rounding_noise(pixels.dtype)
    if isinstance(options.task, str):
        operator: Operator = operator_of(
            options.task, shape, mask=options.mask, share=options.share, factor=options.factor, blur=options.blur,
            seed=options.seed, indices=range(n),
        )  # fmt: skip
    elif isinstance(options.task, Operator):
        operator = options.task
    else:
        raise ValueError(f"task = {short(options.task)}: give one of {', '.join(TASKS)}, or an operator, as Pair(...)")
    x = to_model(pixels)
    keep = operator.keep.expand(n, *shape) if isinstance(operator, Mask) and not operator.keep.all() else None
    y = operator.forward(x) if options.degrade else x
    if options.degrade:
        if options.task == "denoise" and not options.sigma:
            raise ValueError("denoise with --degrade: name the noise that is added, as --sigma 0.2")
        y = y + (options.sigma or 0.0) * SeededNoise(options.seed, range(n), stream=MEASURE)(0, y)
    elif isinstance(operator, Mask):
        y = operator.analyse(y)
    sigma = options.sigma
    if options.task == "denoise" and not sigma:
        sigma = estimated_noise(y)
    shown = to_pixels(y, pixels.dtype)
    inner = Padded(operator, crop) if crop and isinstance(operator, Spectral) else operator
    if crop and not isinstance(operator, Spectral):
        raise ValueError(f"this model was trained with a border of {crop} pixels, with which operators of your own do not work")
    return _Problem(inner, y, max(sigma or 0.0, least), shown, None if keep is None else (keep == 0).movedim(1, 3).numpy())


@dataclass(frozen=True, eq=False)
class _Work:
    """All that the batches have in common."""

    model: Model
    guidance: ClassGuidance | None
    problem: _Problem
    method: Method
    sigmas: Grid
    arguments: dict[str, Any]
    options: RestoreOptions
    device: torch.device

    def draw(self, parts: Parts | None, progress: bool, on_step: Callable[[int, int], None] | None) -> tuple[Any, dict[str, Any]]:
        """All draws, (K, n, h, w, c), and what they cost. The batches in `parts` are not made again, and the others are divided
        among the processes."""
        n, draws, dtype = len(self.problem.y), self.options.draws, self.problem.shown.dtype
        rows = [(i, k) for i in range(n) for k in range(draws)]
        batches = {first: rows[first : first + self.options.batch] for first in range(0, len(rows), self.options.batch)}
        sizes = {first: len(some) for first, some in batches.items()}
        own = [*batches] if parts is None else processes.deal([*batches])
        found = finished_batches(parts, {first: sizes[first] for first in own}, dtype)
        missing, steps, done = [first for first in own if first not in found], len(self.sigmas) - 1, itertools.count(1)
        left, whole = (sum(sizes[first] for first in some) for some in (missing, own))
        memory = memory_for(f"a batch of {self.options.batch} images", "give a smaller --batch (batch=)")
        with memory, eval_mode(self.model):
            if progress and left:
                self._announce(left)
            title = f"restoring, {self.method.name}"
            with track(whole, title, "draws", done=whole - left, show=progress) as advance:
                for first in missing:
                    count, start = CountCalls(self.model), time.perf_counter()

                    def one_more(*_: Any, share: float = sizes[first] / steps) -> None:
                        advance(share)
                        if on_step is not None:
                            on_step(next(done), steps * len(missing))

                    pixels = self._batch(count, batches[first], one_more)
                    found[first] = Batch(pixels, [], count.images, time.perf_counter() - start)
                    if parts is not None:
                        found[first].save(parts, first)
        every = of_all_processes(found, parts, sizes, dtype)
        seconds, made = sum(batch.seconds for batch in every), np.concatenate([batch.images for batch in every])
        calls = sum(batch.calls for batch in every)
        costs = {"nfe": calls / len(rows), "seconds": seconds, "seconds_per_image": seconds / n, "device": str(self.device)}
        return made.reshape(n, draws, *made.shape[1:]).swapaxes(0, 1), costs

    def _batch(self, count: CountCalls, rows: Sequence[tuple[int, int]], on_step: Callable[..., None]) -> Pixels:
        of = torch.tensor([i for i, _ in rows])
        indices = [i + k * DRAW for i, k in rows]
        denoise: Denoiser = count if self.guidance is None else self.guidance.denoiser(count, of.tolist(), self.device)
        denoise = ClipX0(denoise) if self.options.clip else denoise
        x = starting_noise(self.options.seed, indices, self.model.image_shape).to(self.device).mul_(float(self.sigmas[0]))
        operator, sigma_y = self.problem.operator.rows(of), self.problem.sigma_y
        with torch.no_grad():
            x = self.method.fn(
                denoise, self.problem.y[of].to(self.device), operator, sigma_y, self.sigmas,
                SeededNoise(self.options.seed, indices), x, on_step=on_step, **self.arguments,
            )  # fmt: skip
            if sigma_y < LOWEST:  # all methods end at that level; what is measured is known better, and pixels exactly
                inner = operator.inner if isinstance(operator, Padded) else operator
                x = condition(x, LOWEST, self.problem.y[of].to(x), operator, 0.0 if isinstance(inner, Mask) else sigma_y)
        return to_images(self.model, x)

    def _announce(self, left: int) -> None:
        """Prints how long the draws that are left will take, by the time of a call of one batch."""
        size = min(self.options.batch, left)
        x, sigma = torch.zeros(size, *self.model.image_shape, device=self.device), torch.ones(size, device=self.device)
        labels = () if self.guidance is None else (torch.zeros(size, dtype=torch.int64, device=self.device),)
        with torch.no_grad():
            self.model(x, sigma, *labels)  # the first call includes what is done once
            start = time.perf_counter()
            self.model(x, sigma, *labels).flatten()[0].item()
        each = 1 + int(self.arguments.get("iterations", 2)) if self.method.gradient else 1  # a gradient takes a call or two
        calls = self.options.calls * (2 if self.options.guidance not in (None, 1) else 1) * each
        seconds = (time.perf_counter() - start) * calls * -(-left // size)
        say(f"{left:,} draws of {self.options.calls} calls: about {duration(seconds)}", sys.stderr)


def _record(
    model: Model, options: RestoreOptions, problem: _Problem, method: Method, sigmas: Grid, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """How the images were made, as plain data."""
    task = options.task if isinstance(options.task, str) else OWN_TASK
    own = {"inpaint": ("mask", "share"), "super-resolution": ("factor",), "deblur": ("blur",)}.get(task, ())
    value_range = getattr(model, "value_range", None)
    return {
        "task": task, **{k: getattr(options, k) for k in own if k != "share" or options.mask == "random"},
        "sigma_y": problem.sigma_y, "degraded": options.degrade, "method": method.name, "options": dict(arguments),
        "sampler": method.name, "steps": len(sigmas) - 1, "grid": sigmas.tolist(), "draws": options.draws, "n": len(problem.y),
        "seed": options.seed, "batch": options.batch, "first_index": 0, "clip": options.clip, "guidance": options.guidance,
        "model": fingerprint(model),
        "image_shape": [*image_shape(model)], "pixels": problem.shown.dtype.name, "value_range": value_range,
        "classes": None if options.classes is None else [*np.ravel(options.classes)], "versions": versions(),
    }  # fmt: skip


def _digest(model: Model, options: RestoreOptions, problem: _Problem, pixels: Pixels) -> str:
    """16 hex digits of the images, of the pixels that are not measured, and of an operator from outside, by what it makes of
    noise: with the record, all that decides the draws."""
    arrays = [pixels, *([] if problem.unmeasured is None else [problem.unmeasured.view(np.uint8)])]
    if isinstance(options.task, Operator):
        noise = starting_noise(0, range(len(pixels)), model.image_shape)
        made = problem.operator.forward(noise).half().float()  # rounded, since not all machines add in the same order
        arrays.append(made.reshape(len(made), -1, 1, 1).numpy())
    return fingerprint_of(pixels.shape, np.concatenate([image_hashes(array) for array in arrays]))


def _calibration(path: Path, record: Mapping[str, Any], originals: Pixels | None) -> dict[str, Any]:
    """The factor of the intervals and the number of images that it was learned on, for the record. Raises ValueError for a
    restoration that does not say how wide the intervals of this one must be."""
    known, make = Restoration.load(path), "make it with --degrade and these settings"
    if known.originals is None:
        raise ValueError(f"{path} was restored without originals: {make}")
    if record["draws"] < FEWEST:
        raise ValueError(f"{record['draws']} draws have no interval to calibrate: give --draws {FEWEST} or more")
    if record["task"] == OWN_TASK:
        raise ValueError("operators of your own cannot be compared with those of the calibration: use restoration.calibration")
    here, there = ({k: plain(r.get(k)) for k in SAME} for r in (record, known.record))
    if differ := [f"{k} {short(there[k])} (here {short(here[k])})" for k in SAME if here[k] != there[k]]:
        raise ValueError(f"{path} was restored with {', '.join(differ)}: {make}")
    pixels = known.originals.reshape(len(known.originals), -1)
    if originals is not None and any((pixels == image.ravel()).all(1).any() for image in originals):
        raise ValueError(f"{path} holds images that are to be restored here: calibrate on others, as SET:test[100:200]")
    factor = widening(known.draws, known.originals, known.unmeasured)
    return {"interval_factor": factor, "calibrated_on": len(pixels)}
