"""`sample`: images from a model, by any sampler, with the record of how they were made and what they cost."""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from alphabar.core.files import write_atomically, write_npz
from alphabar.core.machine import versions
from alphabar.core.options import takes
from alphabar.core.progress import track
from alphabar.core.seeds import Ahead, SeededNoise, starting_noise
from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Denoiser, Grid, Images, Levels, Pixels
from alphabar.data.decode import decode, probe
from alphabar.data.images import to_pixels
from alphabar.data.png import write_png
from alphabar.denoiser.adaptive import AdaptiveCalls, apply_plan, call_statistics
from alphabar.denoiser.plan import Adaptive, parse_plan, timesteps
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.runtime.fast_model import FastModel, speed_up
from alphabar.denoiser.wrappers import ClipX0, CountCalls, Guided, Labelled, ThresholdX0
from alphabar.sampling.catalogue import SAMPLERS, Entry, find
from alphabar.sampling.fitted import Tuned, check_model, find_tuned, folders_of, load_tuned, run_tuned
from alphabar.sampling.options import SampleOptions
from alphabar.sampling.trajectory import KeepX0, chosen, cropped
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import check_grid, default_grid, make_grid

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class Model(Protocol):
    """A denoiser that says what it was trained on: `schedule`, in the one coordinate, and `image_shape` (c, h, w).

    Also read where there: `data_range` (1.0), `crop` (pixels to cut from each side afterwards, 0), `fingerprint`, `defaults`
    (how it is sampled unless told otherwise: `from_diffusers.Defaults`), and, of the images it was trained on, `pixels` (their
    type, "uint8", in which samples come too) and `value_range` (None).
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __call__(self, x: Images, sigma: Levels, /) -> Images: ...


@dataclass(frozen=True)
class Samples:
    """images: N x H x W x C, of the type (uint8, uint16, float32) of the images that the model was trained on. record: how
    they were made (plain data); its "value_range" is what `alphabar.data.values.to_values` takes to give back values of the
    range that was declared for those. x0: x0_hat at the steps that record["x0_steps"] names, each like `images`, or None."""

    images: Pixels
    record: dict[str, Any]
    x0: list[Pixels] | None = None

    def sheet(self, columns: int | None = None, scale: int = 1, pad: int = 1) -> "Image":
        """All images on one picture."""
        from alphabar.data.contact_sheet import contact_sheet

        return contact_sheet(self.images, columns=columns, scale=scale, pad=pad)

    def save(self, path: str | Path) -> Path:
        """Writes PATH.npz, or, when PATH ends in a slash, a folder of PNGs 000000.png ... with record.json.

        The .npz holds `images`, `record` (JSON text) and, where kept, `x0` (steps x N x H x W x C); a folder holds
        no x0. PNGs have 8 or 16 bits a channel, as the images have. Returns where it is. Raises ValueError for a folder
        with other files in it, and for floats and channels that PNG has not.
        """
        if not _is_folder(path):
            target = _npz_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            arrays = {"images": self.images, "record": np.array(json.dumps(self.record))}
            if self.x0 is not None:
                arrays["x0"] = np.stack(self.x0)
            write_npz(target, arrays)
            return target
        _check_target(path, self.images.shape[-1], self.images.dtype)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("[0-9]*.png"):
            stale.unlink()
        for k, image in enumerate(self.images):
            write_png(folder / f"{k:06d}.png", image)
        write_atomically(folder / "record.json", json.dumps(self.record, indent=1) + "\n")
        return folder

    @staticmethod
    def load(path: str | Path) -> "Samples":
        """What `save` wrote. Raises FileNotFoundError, or ValueError for files that it did not write."""
        folder = Path(path)
        if folder.is_dir():
            if not (folder / "record.json").exists():
                raise ValueError(f"{folder}/ has no record.json: it was not written by alphabar")
            files = sorted(folder.glob("[0-9]*.png"))
            blobs = [(f.read_bytes(), str(f)) for f in files]
            images = np.stack([decode(data, where, probe(data, where).c) for data, where in blobs])
            return Samples(images, json.loads((folder / "record.json").read_text()))
        target = _npz_path(path)
        if not target.exists():
            raise FileNotFoundError(f"no samples at {target}: make some with `alphabar sample RUN --out {path}`")
        with target.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not {"images", "record"} <= set(file.files):
                raise ValueError(f"{target} holds {', '.join(file.files)}: samples have `images` and `record`")
            x0 = list(file["x0"]) if "x0" in file.files else None
            return Samples(file["images"], json.loads(str(file["record"])), x0)


@dataclass(frozen=True, eq=False)
class SamplingStep:
    """The state of `sample` after one step, passed to its `on_step`.

    Attributes:
        first: position (0 to n - 1) of the first image of the current batch.
        step: number of the step, from 0.
        steps: number of steps.
        sigma: noise level at which the step began.
        x0_hat: estimate of the batch's clean images, float (b, c, h, w), nominally in [-1, 1], not cropped.
        calls: network calls per image of this batch so far.
        seconds: sampling time of this batch so far.
    """

    first: int
    step: int
    steps: int
    sigma: float
    x0_hat: Images
    calls: float
    seconds: float


@takes(SampleOptions)
def sample(
    model: Model,
    n: int,
    options: SampleOptions = SampleOptions(),
    *,
    out: str | Path | None = None,
    indices: Sequence[int] | None = None,
    keep_x0: bool | Sequence[int] = False,
    progress: bool = True,
    on_step: Callable[[SamplingStep], None] | None = None,
    device: torch.device | str | None = None,
    channels_last: bool = False,
) -> Samples:
    """Makes n images with a model. Image k of a seed is the same whatever n, the batch and the order of the images.

    Args:
        model: a denoiser with a `schedule` and an `image_shape`: what `load_model` returns, or any object that fits `Model`.
        n: number of images, 1 or more.
        options: everything that decides the images. Its fields may also be passed as keywords: `sample(model, 8, steps=5)`.
        out: PATH.npz, or a folder (ending in a slash) for PNGs: the samples are also saved there. Each finished batch is kept
            in OUT.part until all are complete, and the same call continues after an interruption. None: only returned.
        indices: which images of the seed to make, n of them. None: 0 to n - 1.
        keep_x0: steps whose x0_hat is kept in `Samples.x0`: True for all, or their numbers (-1 is the last).
        progress: whether to show a progress bar.
        on_step: called after each network step with a `SamplingStep`. Its time is not counted in the record's seconds, and an
            exception that it raises ends the sampling.
        device: moves the model there first. None: the model stays where it is.
        channels_last: run the network in that memory layout, which is faster for some networks and slower for others.

    Returns:
        The images with the record of how they were made and what they cost.

    Raises:
        ValueError: for n < 1, an unknown name, an option that the sampler does not have, levels outside those that the model
            was trained on, or an `out` that holds unfinished samples of other options.
    """
    sampler, steps, batch, seed = options.sampler, options.steps, options.batch, options.seed
    eta, grid, clip, threshold = options.eta, options.grid, options.clip, options.threshold
    precision, fast = options.precision, None if options.fast == "none" else options.fast
    if n < 1 or batch < 1:
        raise ValueError(f"{n} images in batches of {batch}: give 1 or more of each")
    own = getattr(model, "defaults", None)
    plan = parse_plan(options.plan) if isinstance(options.plan, str) else options.plan
    fit = _fitted(model, sampler, steps, options.tuned)
    if fit is None:
        entry = find(sampler)
        sigmas, grid_name = _grid(model.schedule, steps, own.grid if grid is None and own is not None else grid)
        settings = _options(entry, model, eta, options.variance, options.options)
    else:
        fixed = ("eta", "options", "grid", "plan", "clip", "threshold", "variance")
        given = {name: getattr(options, name) for name in fixed}
        if unwanted := [k for k, v in given.items() if v is not None]:
            raise ValueError(f"{unwanted[0]} = {given[unwanted[0]]!r}: a fitted sampler has its own of everything, leave it out")
        entry = Entry("tuned", run_tuned, 1, fit.stochastic, lambda n: n, "fitted to this model")
        sigmas, grid_name = _grid(model.schedule, steps, fit.grid)[0], "tuned"
        settings = {"fit": fit}
        clip, threshold, own = fit.clip, fit.threshold, None
    steps = len(sigmas) - 1
    largest = None if fit is None else fit.threshold_max
    if clip is None and threshold is None and own is not None:
        clip, threshold, largest = own.clip, own.threshold, own.threshold_max
    limit = float(clip or 0)  # 0: not held
    held(model, limit, threshold, largest)  # refuses now what it would refuse below
    told = _classes(model, options.classes, options.guidance, options.guidance_interval)
    indices = range(n) if indices is None else indices
    if len(indices) != n:
        raise ValueError(f"{len(indices)} indices for {n} images: give one an image, or none for 0 to {n - 1}")
    crop = int(getattr(model, "crop", 0))
    c, h, w = model.image_shape
    pixels = np.dtype(getattr(model, "pixels", "uint8"))
    value_range = getattr(model, "value_range", None)
    if out is not None:
        _check_target(out, c, pixels)
    device = _place(model, device, channels_last and fast is None)
    protocol: dict[str, Any] = {
        "sampler": entry.name, "eta": settings.get("eta"), "variance": settings.get("variance"), "steps": steps,
        "grid": sigmas.tolist(), "grid_name": grid_name, "plan": None if plan is None else plan.name,
        "clip": limit if limit not in (0, 1) else limit == 1, "threshold": threshold,
        "seed": seed, "first_index": int(indices[0]), "n": n, "batch": batch,
        "model": fingerprint(model), "image_shape": [c, h - 2 * crop, w - 2 * crop],
        "x0_steps": list(chosen(keep_x0, steps)), "versions": versions(),
        "pixels": pixels.name, "value_range": None if value_range is None else [float(v) for v in value_range],
    }  # fmt: skip
    if fit is not None:
        protocol["tuned"] = {"name": fit.name, "digest": fit.digest}
    elif more := {k: v for k, v in settings.items() if k not in ("eta", "variance", "data_range")}:
        protocol["options"] = more
    if told is not None:
        protocol |= {"classes": [*told.classes], "guidance": told.weight, "guidance_interval": told.interval_shown}
    if precision != "float32":
        protocol["precision"] = precision
    if largest is not None:
        protocol["threshold_max"] = largest
    if list(indices) != list(range(indices[0], indices[0] + n)):
        protocol["indices"] = [int(k) for k in indices]
    parts = None if out is None else _Parts(out, protocol)
    batches = {start: indices[start : start + batch] for start in range(0, n, batch)}
    made = {} if parts is None else {start: p for start in batches if (p := parts.load(start)) is not None}
    done = sum(len(p.images) for p in made.values())
    network: Denoiser = model
    if fast is not None or precision != "float32":
        network = speed_up(
            model, fast or "channels_last", batch=min(batch, n), precision=precision, work=(n - done) * entry.calls(steps)
        )

    bar = track(n, f"sampling, {entry.name} {steps}", unit="images", done=done, show=progress)
    with bar as advance, eval_mode(model), torch.inference_mode():
        for start, rows in batches.items():
            if start in made:
                continue
            begun = time.perf_counter()
            count = CountCalls(network)
            denoise: Denoiser = count if told is None else told.denoiser(count, rows, device)
            skipping = None
            if plan is not None:
                denoise = skipping = apply_plan(denoise, plan, sigmas, timesteps(model.schedule, sigmas))
            denoise = held(denoise, limit, threshold, largest)
            keep = KeepX0(protocol["x0_steps"], crop, pixels)
            x = starting_noise(seed, rows, model.image_shape).to(device).mul_(float(sigmas[0]))
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            report = _StepReport(keep, advance, on_step, count, start, len(rows), steps, begun)
            noise = SeededNoise(seed, rows) if device.type == "cpu" else Ahead(SeededNoise(seed, rows))
            x = entry.fn(denoise, x, sigmas, noise=noise, on_step=report, **settings)
            images = to_pixels(cropped(x, crop), pixels)  # also waits for the device
            each = skipping.calls.numpy() if isinstance(skipping, AdaptiveCalls) else None
            made[start] = _Part(images, keep.x0(), count.images, time.perf_counter() - begun - report.seconds_reporting, each)
            if parts is not None:
                parts.save(start, made[start])

    finished = [made[start] for start in batches]
    seconds = sum(p.seconds for p in finished)
    record = protocol | {
        "nfe": sum(p.calls for p in finished) / n, "seconds": seconds, "seconds_per_image": seconds / n,
        "device": str(device),
    }  # fmt: skip
    if isinstance(network, FastModel):
        record["fast"] = network.record()
    if isinstance(plan, Adaptive):
        record["calls"] = call_statistics(np.concatenate([p.each for p in finished if p.each is not None]))
    x0 = [np.concatenate(step) for step in zip(*(p.x0 for p in finished), strict=True)]
    samples = Samples(np.concatenate([p.images for p in finished]), record, x0 or None)
    if out is not None and parts is not None:
        samples.save(out)
        parts.clear()
    return samples


def every_class(model: object) -> range | None:
    """All classes of a conditional model, which images then take in turns; None for any other model."""
    known = int(getattr(model, "classes", 0))
    return range(known) if known else None


def class_numbers(classes: int | str | Sequence[int | str], model: object) -> list[int]:
    """Numbers of classes given by number or name, or of all classes for "all".

    Raises:
        ValueError: for a model without classes, and for a name that the model does not know, with the most similar one.
    """
    names = [str(name) for name in getattr(model, "class_names", ())]
    words = [classes] if isinstance(classes, int | str) else list(classes)
    if not (known := int(getattr(model, "classes", 0))):
        raise ValueError("this model was trained without classes: leave them out, or train one with --model.conditional")
    if words == ["all"]:
        return list(range(known))
    numbers = []
    for word in words:
        if isinstance(word, str) and word not in names and not (word.isdecimal() and int(word) < len(names)):
            raise ValueError(f"class {word!r} is unknown to this run; {did_you_mean(word, names, 0.3)}")
        numbers.append(names.index(word) if isinstance(word, str) and word in names else int(word))
    return numbers


def fingerprint(model: object) -> str | None:
    """What tells one model from another: its own `fingerprint`, else a hash of a module's weights, else None."""
    own = getattr(model, "fingerprint", None)
    if own is not None:
        return str(own() if callable(own) else own)
    if not isinstance(model, nn.Module):
        return None
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _fitted(model: Model, sampler: str, steps: int, tuned: Tuned | str | Path | None) -> Tuned | None:
    """The fitted sampler that was asked for, if one was. Raises ValueError where it is another model's, or not there."""
    if tuned is None and sampler.partition(":")[0] != "tuned":
        return None
    if tuned is None:
        return find_tuned(folders_of(model), str(fingerprint(model)), steps, sampler.partition(":")[2] or None)
    fit = tuned if isinstance(tuned, Tuned) else load_tuned(tuned)
    check_model(fit, fingerprint(model))
    if sampler not in ("ddim", "tuned", f"tuned:{fit.name}"):  # ddim is what `sample` takes where none is named
        raise ValueError(f"sampler = {sampler!r} beside the fitted sampler {fit.name!r} of {fit.calls} calls: name one of them")
    return fit


def _grid(schedule: Schedule, steps: int, grid: str | Grid | None) -> tuple[Grid, str]:
    if grid is None or isinstance(grid, str):
        name = grid or default_grid(schedule)
        return make_grid(schedule, steps, name), name
    check_grid(grid)
    high, low = float(grid[0]), float(grid[-2])
    if high > schedule.sigma_max * (1 + 1e-6) or low < schedule.sigma_min * (1 - 1e-6):
        raise ValueError(
            f"the grid's levels {high:.6g}..{low:.6g} (before its 0) leave {schedule.sigma_max:.6g}.."
            f"{schedule.sigma_min:.6g}, which this model was trained on: keep within them"
        )
    return grid.detach().cpu(), "by hand"


def _options(
    entry: Entry, model: Model, eta: float | None, variance: str | None, more: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Every keyword option of the sampler with its value; refused where it has no use for one that was asked for."""
    asked = {k: v for k, v in {**(more or {}), "eta": eta, "variance": variance}.items() if v is not None}
    defaults = entry.defaults
    for name, value in asked.items():
        if name not in defaults and not (name == "eta" and value == 0):  # eta 0 is what a sampler without eta does
            having = [e.name for e in SAMPLERS.values() if name in e.options]
            takes = ", ".join(k for k in entry.options if k != "data_range") or "none"
            other = f", or use {', '.join(having)}" if having else ""
            near = get_close_matches(name, entry.options, 1)
            meant = f"Did you mean {near[0]}?" if near else f"Leave it out{other}"
            raise ValueError(f"{name} = {value!r}, but the options of {entry.name} are: {takes}. {meant}")
    if eta is not None and not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: give 0 (deterministic) to 1 (DDPM's noise)")
    if "data_range" in defaults:
        defaults["data_range"] = float(getattr(model, "data_range", 1.0))
    if "variance" in defaults and (own := getattr(model, "defaults", None)) is not None:
        defaults["variance"] = own.variance
    return {name: asked.get(name, default) for name, default in defaults.items()}


def held(denoise: Denoiser, limit: float, threshold: float | None, largest: float | None) -> Denoiser:
    """A denoiser whose x0_hat is thresholded (None: not) and clipped to -limit..limit (0: not)."""
    if threshold is not None:
        denoise = ThresholdX0(denoise, threshold, largest)
    return ClipX0(denoise, -limit, limit) if limit else denoise


@dataclass(frozen=True)
class _Classes:
    """What a class-conditional model is asked for. none: the label that stands for no class."""

    classes: tuple[int, ...]
    none: int
    weight: float
    interval: tuple[float, float]

    @property
    def interval_shown(self) -> list[float] | None:
        """Plain data; None for all levels."""
        return None if self.interval == (0.0, math.inf) else list(self.interval)

    def denoiser(self, count: CountCalls, indices: Sequence[int], device: torch.device) -> Denoiser:
        """For a batch of these images."""
        labels = torch.tensor([self.classes[k % len(self.classes)] for k in indices], device=device)
        strong = Labelled(count, labels)
        if self.weight == 1:
            return strong
        return Guided(strong, Labelled(count, torch.full_like(labels, self.none)), self.weight, self.interval)


def _classes(
    model: Model, classes: int | str | Sequence[int | str] | None, guidance: float | None, interval: tuple[float, float] | None
) -> _Classes | None:
    """None where no class was asked for. Raises ValueError for what the model cannot do."""
    known = int(getattr(model, "classes", 0))
    if classes is None:
        if guidance is not None or interval is not None:
            raise ValueError("guidance leads towards a class: say which, classes=3, or classes=range(10) for all in turns")
        return None
    wanted = class_numbers(classes, model)
    if not wanted or min(wanted) < 0 or max(wanted) >= known:
        raise ValueError(f"classes = {wanted}: give numbers from 0 to {known - 1}, the classes of this model")
    weight, where = 1.0 if guidance is None else float(guidance), interval or (0.0, math.inf)
    Guided(model, model, weight, where)  # refuses now what it would refuse below
    return _Classes(tuple(wanted), known, weight, (float(where[0]), float(where[1])))


def _place(model: Model, device: torch.device | str | None, channels_last: bool) -> torch.device:
    """Where the images are made, having moved a module there if asked to."""
    if isinstance(model, nn.Module):
        if device is not None:
            model.to(device)
        if channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device is None and (first := next(model.parameters(), None)) is not None:
            return first.device
    return torch.device("cpu" if device is None else device)


@dataclass
class _StepReport:
    """What a sampler calls after each step of one batch: keeps x0_hat, advances the progress bar, and calls `on_step`.

    seconds_reporting: time spent in `on_step`, which is not sampling time.
    """

    keep: KeepX0
    advance: Callable[[float], None]
    on_step: Callable[[SamplingStep], None] | None
    count: CountCalls
    first: int
    rows: int
    steps: int
    begun: float
    seconds_reporting: float = 0.0

    def __call__(self, step: int, sigma: float, x: Tensor, x0_hat: Tensor) -> None:
        self.keep(step, sigma, x, x0_hat)
        self.advance(self.rows / self.steps)
        if self.on_step is not None:
            now = time.perf_counter()
            calls, seconds = self.count.images / self.rows, now - self.begun - self.seconds_reporting
            self.on_step(SamplingStep(self.first, step, self.steps, sigma, x0_hat, calls, seconds))
            self.seconds_reporting += time.perf_counter() - now


@dataclass(frozen=True)
class _Part:
    """One finished batch. calls: images that went through the network, summed over its calls; each: for every image, where
    that varies."""

    images: Pixels
    x0: list[Pixels]
    calls: int
    seconds: float
    each: NDArray[np.int64] | None = None


class _Parts:
    """Finished batches on disk, in OUT.part, until all are there. Taken up again only by the same protocol.

    Raises ValueError where the folder holds batches of another protocol, naming the fields that differ.
    """

    def __init__(self, out: str | Path, protocol: dict[str, Any]) -> None:
        base = Path(out) if _is_folder(out) else _npz_path(out).with_suffix("")
        self.folder = base.with_name(base.name + ".part")
        note = self.folder / "protocol.json"
        wanted = json.loads(json.dumps(protocol))
        if wanted["model"] is None and self.folder.exists():
            self.clear()  # a model that cannot be told from another: its batches cannot be trusted
        if any(self.folder.glob("*.npz")):
            there = json.loads(note.read_text())
            if differ := sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k)):
                was, now = (f"{p.get(differ[0])!r:.60}" for p in (there, wanted))
                raise ValueError(
                    f"{self.folder} holds unfinished samples that differ in {', '.join(differ)} ({differ[0]} was "
                    f"{was}, is {now}): finish those with their own arguments, choose another out, or remove it"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(note, json.dumps(wanted))

    def load(self, start: int) -> _Part | None:
        file = self.folder / f"{start:08d}.npz"
        if not file.exists():
            return None
        with np.load(file, allow_pickle=False) as data:
            each = data["each"] if "each" in data.files else None
            return _Part(data["images"], list(data["x0"]), int(data["calls"]), float(data["seconds"]), each)

    def save(self, start: int, part: _Part) -> None:
        x0 = np.stack(part.x0) if part.x0 else np.empty((0, *part.images.shape), dtype=part.images.dtype)
        arrays = {"images": part.images, "x0": x0, "calls": np.array(part.calls), "seconds": np.array(part.seconds)}
        if part.each is not None:
            arrays["each"] = part.each
        write_npz(self.folder / f"{start:08d}.npz", arrays)

    def clear(self) -> None:
        shutil.rmtree(self.folder)


def _is_folder(path: str | Path) -> bool:
    return str(path).endswith(("/", os.sep))


def _check_target(path: str | Path, channels: int, dtype: DTypeLike = np.uint8) -> None:
    """Whether samples can be saved there: told before they are drawn."""
    folder = Path(path)
    if not _is_folder(path):
        return
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels do not fit PNG, which takes 1 or 3: save to a .npz")
    if np.dtype(dtype).kind == "f":
        raise ValueError(f"{np.dtype(dtype)} images do not fit PNG, which holds 8 or 16 bits a channel: save to a .npz")
    if folder.exists() and not (folder / "record.json").exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}/ holds files that are not samples: choose an empty folder")


def _npz_path(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")
