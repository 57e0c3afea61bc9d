"""What the page of `alphabar app` does, without the page: runs found under a folder, requests checked, images drawn step by
step, scores, and the commands that make the same images again. Nothing here knows gradio, and nothing is kept of a request."""

import json
import math
import shlex
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from alphabar.core.machine import best_device
from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.data.image_set import ImageSet
from alphabar.data.images import to_pixels
from alphabar.data.values import scale_of
from alphabar.denoiser.from_diffusers import PREFIX
from alphabar.denoiser.plan import Adaptive, parse_plan
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import Score
from alphabar.sampling.batches import SamplingStep
from alphabar.sampling.catalogue import find
from alphabar.sampling.guidance import class_numbers
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import SampleSet
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import TUNED, dry_run, settings
from alphabar.sampling.trajectory import cropped
from alphabar.training.checkpoint import BUNDLED, find_checkpoint, has_checkpoint, load_model
from alphabar.training.config import resolve
from alphabar.verbs import score as judge

BUNDLED_RUN = "bundled"
MOST_IMAGES = 256  # shown
MOST_SCORED = 10_000  # images a score
MOST_STEPS = 1000  # or calls, of one image
MOST_CALLS = 256_000  # images times calls of one setting: an hour or less where a call takes 10 ms
MOST_VALUES = 2**28  # numbers that the images of one setting hold: 1 GiB in float32
MOST_SEED = 2**53 - 1  # where the whole numbers of a browser end
MOST_TEXT = 200  # characters of a plan or of classes
BATCH = 64  # images at a time, as `alphabar sample` has it
_DEPTH = 3  # folders below the root that are looked through for runs
_MOST_RUNS = 500
_MODELS = 4  # kept in memory
_EVERY = 0.1  # seconds between two pictures, at least

_T = TypeVar("_T")


@dataclass(frozen=True)
class Way:
    """One way to draw, as the page asks for it; any of it may be nonsense, for anybody can send anything to the page.

    run: "bundled" or a name that `Playground.runs` gives. sampler: a name in the catalogue, "tuned", or "tuned:NAME". amount:
    how many calls or steps, as `counted` ("calls" or "steps") says; a sampler takes as many steps as the calls pay for. eta: 0
    to 1, as a number or its text, None or "" for the sampler's own. plan, grid: by name, "" for none and for the model's own.
    clip: "yes", "no", or "" for the model's own. classes: names or numbers between commas, or all; "" for none. guidance: a
    weight, as eta. checkpoint: last or best.
    """

    run: Any = BUNDLED_RUN
    sampler: Any = "ddim"
    amount: Any = 25
    counted: Any = "calls"
    eta: Any = None
    plan: Any = ""
    grid: Any = ""
    clip: Any = ""
    classes: Any = ""
    guidance: Any = None
    checkpoint: Any = "last"


@dataclass(frozen=True, eq=False)
class Job:
    """A request that was checked and can be drawn.

    run: as it is typed on the command line. arguments: for `sample`, besides n and seed. calls: network calls an image, counted
    in a dry run; under an adaptive plan, the most there can be.
    """

    model: Any
    run: str
    bundled: bool
    checkpoint: str
    n: int
    seed: int
    arguments: dict[str, Any]
    calls: float

    @property
    def steps(self) -> int:
        return int(self.arguments["steps"])

    @property
    def adaptive(self) -> bool:
        plan = self.arguments.get("plan")
        return plan is not None and isinstance(parse_plan(plan), Adaptive)

    @property
    def words(self) -> str:
        """What will be drawn and what it costs, in a sentence."""
        calls = f"up to {self.calls:g} calls, image by image" if self.adaptive else f"{_many(self.calls, 'call')} an image"
        who = "guidance" if "guidance" in self.arguments else self.arguments["sampler"]
        more = [f"{who} calls more than once a step"] if self.calls > self.steps else []
        return "; ".join(
            [f"{_many(self.steps, 'step')}, {calls}; {_many(self.n, 'image')}: {self.n * self.calls:,.0f} image-calls", *more]
        )

    def command(self, out: str) -> str:
        """The command line that draws the same images."""
        words = ["alphabar", "sample", self.run, "--n", str(self.n)]
        for key, value in {**self.arguments, "seed": self.seed}.items():
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{key}")
            elif isinstance(value, list):
                every = value == list(range(getattr(self.model, "classes", 0)))
                words += [f"--{key}", *(["all"] if every and len(value) > 1 else [str(v) for v in value])]
            else:
                words += [f"--{key}", _plain(value)]
        if self.checkpoint != "last":
            words += ["--checkpoint", self.checkpoint]
        return shlex.join([*words, "--fast", "none", "--out", out])

    def python(self, out: str) -> str:
        """The lines of Python that draw the same images."""
        device = best_device()
        given = {**self.arguments, "seed": self.seed, "channels_last": True} | ({} if device == "cpu" else {"device": device})
        arguments = "".join(f",\n    {key}={_literal(value)}" for key, value in given.items())
        checkpoint = "" if self.checkpoint == "last" else f", {_literal(self.checkpoint)}"
        return (
            f"import alphabar\n\nmodel = alphabar.load_model({_literal(self.run)}{checkpoint})\n"
            f"samples = alphabar.sample(\n    model,\n    {self.n}{arguments},\n)\nsamples.save({_literal(out)})\n"
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """Images as far as they are, as pixels (n, h, w, c), with what to say of them; samples: once they are done, else None.

    Images that are not begun are grey, those in the making are the x0_hat of the last step.
    """

    pixels: Pixels
    words: str
    samples: Samples | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of one or two settings. scores: by the setting's name; compared: the first against the second, where there are two.

    note: what was left out and why, or None. seconds: that it all took.
    """

    scores: Mapping[str, Sequence[Score]]
    compared: Sequence[Comparison]
    note: str | None
    seconds: float


class Playground:
    """Runs under the folder `root`, ready to be drawn from; shared by all who look at the page, so it holds no request.

    against: SET[:SPLIT] of the real images of a score; None is fashion_mnist:test for the bundled run and none for others.
    extractor: bundled, a path, or inception:...; None is the one that a run's recipe names.
    Raises NotADirectoryError where there is no such folder.
    """

    def __init__(self, root: str | Path, against: str | None = None, extractor: str | None = None) -> None:
        self.typed = Path(root)
        if not self.typed.is_dir():
            raise NotADirectoryError(
                f"there is no folder {self.typed}: give the one that your run folders lie in, as: alphabar app runs"
            )
        self.root = self.typed.resolve()
        self.against, self.extractor = against, extractor
        self.device = best_device()
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._judging = threading.Lock()  # an ImageEval keeps what it has worked out, so one score at a time
        self._judges: dict[tuple[str, str], tuple[ImageEval, ImageSet]] = {}

    # ---- runs

    def runs(self) -> list[str]:
        """ "bundled", and the names of the runs under the root: their paths from there."""
        found: list[str] = []
        self._look(self.root, _DEPTH, found)
        return [BUNDLED_RUN, *found]

    def _look(self, folder: Path, depth: int, found: list[str]) -> None:
        if has_checkpoint(folder / "checkpoints" / "last"):
            found.append(self._name(folder))
            return
        if depth == 0:
            return
        try:
            inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        except OSError:  # a folder that this user may not read
            return
        for path in inside:
            if len(found) >= _MOST_RUNS:
                return
            if not path.is_symlink() or (self._inside(path) and depth == _DEPTH):
                self._look(path, 0 if path.is_symlink() else depth - 1, found)

    def _name(self, folder: Path) -> str:
        name = folder.relative_to(self.root).as_posix()
        return f"./{name}" if name == BUNDLED_RUN else name

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root)

    def place(self, run: Any, checkpoint: str) -> tuple[Path, Path, str]:
        """The folder of a run, its file of weights, and what to type for it. `run` is a name that a browser has sent.

        Raises ValueError for anything but a run inside the root, wherever links lead.
        """
        if not isinstance(run, str) or not run or len(run) > 1000 or "\0" in run:
            raise ValueError(f"run {_short(run)}: choose one of the list")
        if run == BUNDLED_RUN:
            return BUNDLED, BUNDLED, BUNDLED_RUN
        outside = (
            f"run {_short(run)} lies outside {self.typed}, the folder that this page was started for: choose one of the list"
        )
        if PurePath(run).is_absolute() or ".." in PurePath(run).parts:
            raise ValueError(outside)
        folder = self.root / run
        if not self._inside(folder):
            raise ValueError(outside)
        try:
            weights = find_checkpoint(folder / "checkpoints" / checkpoint) / "ema.safetensors"
        except FileNotFoundError:
            there = ", ".join(self.runs()[:8])
            raise ValueError(
                f"there is no run {_short(run)} with a checkpoint {checkpoint!r} under {self.typed}; there is: {there}"
            ) from None
        if not self._inside(weights):
            raise ValueError(outside)
        typed = str(self.typed / run)
        return folder.resolve(), weights, f"./{typed}" if typed.startswith(PREFIX) or typed == BUNDLED_RUN else typed

    def load(self, run: Any, checkpoint: Any = "last") -> tuple[Any, str]:
        """The model of a run, from memory where its file has not changed, and what to type for the run."""
        if checkpoint not in ("last", "best"):
            raise ValueError(f"checkpoint {_short(checkpoint)}: choose last or best")
        folder, weights, typed = self.place(run, checkpoint)
        try:
            about = weights.stat()
        except FileNotFoundError:
            raise ValueError(f"run {typed} has no {weights.name} in its checkpoint: train it anew, or choose another") from None
        key = (folder, checkpoint, about.st_mtime_ns, about.st_size)
        with self._lock:
            if key not in self._models:
                # laid out here, once: two who draw from it at the same time would otherwise both move its weights
                model: Any = load_model(BUNDLED_RUN if typed == BUNDLED_RUN else folder, checkpoint)
                self._models[key] = model.to(self.device).to(memory_format=torch.channels_last)
            self._models.move_to_end(key)
            while len(self._models) > _MODELS:
                self._models.popitem(last=False)
            return self._models[key], typed

    # ---- requests

    def prepare(self, way: Way, n: Any, seed: Any, *, most: int = MOST_IMAGES) -> Job:
        """The job that a request asks for: n images (at most `most`) of a seed. Raises ValueError for what cannot be drawn, with
        the words of the library, and for what is more than this page draws at once."""
        n = whole("images", n, 1, most)
        seed = whole("seed", seed, 0, MOST_SEED)
        if way.counted not in ("calls", "steps"):
            raise ValueError(f"counted in {_short(way.counted)}: choose calls or steps")
        amount = whole(way.counted, way.amount, 1, MOST_STEPS)
        asked: dict[str, Any] = {"sampler": _text("sampler", way.sampler) or "ddim"}
        asked["steps"] = amount
        for name in ("eta", "guidance"):
            if (value := _number(name, getattr(way, name))) is not None:
                asked[name] = value
        for name in ("plan", "grid"):
            if text := _text(name, getattr(way, name)):
                asked[name] = text
        if way.clip not in ("", None):
            if way.clip not in ("yes", "no"):
                raise ValueError(f"clip {_short(way.clip)}: choose yes, no, or leave it to the model")
            asked["clip"] = way.clip == "yes"
        model, typed = self.load(way.run, way.checkpoint)
        if words := [w for part in _text("classes", way.classes).split(",") if (w := part.strip())]:
            asked["classes"] = class_numbers(words, model)
        if way.counted == "calls":
            asked["steps"] = _steps_for(model, asked, amount)
        c, h, w = model.image_shape
        if n * c * h * w > MOST_VALUES:
            raise ValueError(
                f"{n} images of {c} x {h} x {w} are more than this page holds: ask for {MOST_VALUES // (c * h * w)} at most"
            )
        record = dry_run(model, **asked)
        calls = float(record["nfe"])
        if "calls" in record:  # an adaptive plan: how often it calls is known only of the images themselves
            calls = float(find(asked["sampler"]).calls(asked["steps"]) * (1 if asked.get("guidance", 1.0) == 1 else 2))
        if n * calls > MOST_CALLS:
            raise ValueError(
                f"{_many(n, 'image')} of {_many(calls, 'call')} are {n * calls:,.0f} image-calls, and this page makes "
                f"{MOST_CALLS:,} at most for one setting: ask for fewer, or draw them with `alphabar sample`"
            )
        return Job(model, typed, way.run == BUNDLED_RUN, way.checkpoint, n, seed, asked, calls)

    # ---- images

    def watch(self, job: Job, every: float = _EVERY) -> Generator[Frame, None, None]:
        """Draws a job, giving the images as they form, a frame in `every` seconds at most, and at last the samples.

        Closing the iterator stops the drawing at its next step.
        """
        pixels = np.dtype(getattr(job.model, "pixels", "uint8"))
        crop = int(getattr(job.model, "crop", 0))
        c, h, w = job.model.image_shape
        blank = np.full((job.n, h - 2 * crop, w - 2 * crop, c), scale_of(pixels) / 2, pixels)

        def frame(now: SamplingStep) -> Frame:
            some = to_pixels(cropped(now.x0_hat, crop), pixels)
            blank[now.first : now.first + len(some)] = some
            return Frame(blank.copy(), _progress(now, job.n, len(some)))

        with closing(_streamed(lambda tell: _draw(job, lambda now: tell(lambda: frame(now))), every)) as stream:
            for news in stream:
                done = isinstance(news, _Done)
                yield Frame(news.value.images, done_words(news.value.record), news.value) if done else news

    # ---- scores

    def score(self, jobs: Mapping[str, Job], every: float = 0.5) -> Generator[str | Scored, None, None]:
        """Draws every job and scores it against real images: words on how far it is, and at last the scores.

        Two jobs are compared, image by image since both have the same noise. FID is left out, and the note says why, where there
        are too few images for it. Raises ValueError where no real images were named, or they do not fit.
        """
        with closing(_streamed(lambda tell: self._score(jobs, tell), every)) as stream:
            for news in stream:
                yield news.value if isinstance(news, _Done) else news

    def _score(self, jobs: Mapping[str, Job], tell: Callable[[Callable[[], str]], None]) -> Scored:
        begun = time.perf_counter()
        against, extractor = self._protocol(next(iter(jobs.values())))
        tell(lambda: f"reading {against}")
        with self._judging:
            if (against, extractor) not in self._judges:
                self._judges[against, extractor] = judge.evaluator(against, extractor, progress=False)
            evaluate, real = self._judges[against, extractor]
            metrics, note = _metrics(evaluate, jobs)
        drawn: dict[str, Samples] = {}
        n = next(iter(jobs.values())).n
        for name, job in jobs.items():

            def report(now: SamplingStep, name: str = name, job: Job = job) -> None:
                tell(lambda: f"{name}: {_progress(now, job.n, len(now.x0_hat))}")

            drawn[name] = _draw(job, report)
        with self._judging:
            measured = {}
            for name, samples in drawn.items():
                tell(partial("{}: features of {}, of {} and of the floor".format, name, _many(n, "image"), against))
                opened = SampleSet(name, samples.images, samples.record)
                measured[name] = judge.measure(evaluate, real, opened, metrics)
        compared = []
        if len(measured) == 2:
            first, second = measured
            compared = compare_measured(measured[first], measured[second], names=(first, second))
        scores = {name: tuple(m.scores.values()) for name, m in measured.items()}
        return Scored(scores, compared, note, time.perf_counter() - begun)

    def _protocol(self, job: Job) -> tuple[str, str]:
        """(SET:SPLIT, extractor) that a job is scored by."""
        against = self.against or ("fashion_mnist:test" if job.bundled else None)
        if against is None:
            again = shlex.join(["alphabar", "app", str(self.typed), "--against", "SET:SPLIT"])
            raise ValueError(f"no real images were named to score {job.run} against: start the page again with {again}")
        extractor = self.extractor
        if extractor is None and not job.bundled and (recipe := Run(job.run).recipe).exists():
            named = resolve(recipe, []).watch.extractor
            extractor = None if named in ("auto", "none") else named
        return against, extractor or "bundled"


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number from low to high, as a browser sends it. Raises ValueError, with what came, for anything else."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high or int(value) != value:  # NaN lies between no two numbers
        raise ValueError(f"{name} = {_short(value)}: give a whole number from {low:,} to {high:,}")
    return int(value)


def done_words(record: Mapping[str, Any]) -> str:
    """Of images that are done: calls as they were counted, and seconds."""
    n, seconds = record["n"], record["seconds"]
    spread = record.get("calls")
    calls = f"{_many(record['nfe'], 'call')} an image" + ("" if spread is None else f" ({spread['min']:g} to {spread['max']:g})")
    return f"{_many(n, 'image')}, {calls}, {seconds:.1f} s ({1000 * seconds / n:.0f} ms an image)"


def _progress(now: SamplingStep, n: int, rows: int) -> str:
    where = f"step {now.step + 1} of {now.steps}, {_many(now.calls, 'call')}, {now.seconds:.1f} s"
    return where if rows == n else f"images {now.first + 1} to {now.first + rows} of {n}: {where}"


def _draw(job: Job, on_step: Callable[[SamplingStep], None]) -> Samples:
    return sample(
        job.model, job.n, seed=job.seed, batch=BATCH, channels_last=True, progress=False, on_step=on_step, **job.arguments
    )  # fmt: skip


def _steps_for(model: Any, asked: Mapping[str, Any], calls: int) -> int:
    """As many steps as `calls` calls pay for, before guidance, which costs some of its own. Raises ValueError where none."""
    if str(asked["sampler"]).partition(":")[0] == TUNED:
        return calls
    found, left = settings(
        model, samplers=[str(asked["sampler"])], calls=[calls], etas=[asked.get("eta")], plans=[asked.get("plan")],
        grids=[asked.get("grid")], clip=asked.get("clip"),
    )  # fmt: skip
    if not found:
        raise ValueError(str(left[0]))
    return found[0][0].steps


def _metrics(evaluate: ImageEval, jobs: Mapping[str, Job]) -> tuple[tuple[str, ...], str | None]:
    """The metrics that can be taken of so many images, and what to say of those that cannot. Raises ValueError where none can."""
    for metrics in (("fid", "kid"), ("kid",)):
        try:
            for job in jobs.values():
                evaluate.check_model(job.model, job.n, metrics)
        except ValueError as error:
            if metrics == ("kid",):
                raise
            note = f"no FID: {error}"
        else:
            return metrics, None if len(metrics) == 2 else note
    raise AssertionError("one of the two was returned or raised")


@dataclass(frozen=True, eq=False)
class _Done(Generic[_T]):
    value: _T


class _Stopped(Exception):
    """Raised in the work's own thread where nobody waits for it any more."""


def _streamed(work: Callable[[Callable[[Callable[[], Any]], None]], _T], every: float) -> Generator[Any, None, None]:
    """What `work(tell)` tells as it goes, and `_Done` with what it returns; worked on in a thread of its own.

    tell(make): `make` is called for the news at most once in `every` seconds, and only when the last was taken. Closing the
    iterator ends the work at its next `tell`. What the work raises is raised here.
    """
    news: SimpleQueue[Any] = SimpleQueue()
    stop = threading.Event()
    last = -math.inf

    def tell(make: Callable[[], Any]) -> None:
        nonlocal last
        if stop.is_set():
            raise _Stopped
        if news.empty() and time.monotonic() - last >= every:
            news.put(make())
            last = time.monotonic()

    def run() -> None:
        try:
            news.put(_Done(work(tell)))
        except _Stopped:
            pass
        except BaseException as error:
            news.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            got = news.get()
            if isinstance(got, BaseException):
                raise got
            yield got
            if isinstance(got, _Done):
                return
    finally:
        stop.set()


def _number(name: str, value: Any) -> float | None:
    """A number that was typed, None where nothing was."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > MOST_TEXT:
            raise ValueError
        number = float(value)
        if not abs(number) <= 1e6:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{name} = {_short(value)}: give a number, as 0.5, or leave it empty") from None
    return number


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise ValueError(f"{name} {_short(value)}: give at most {MOST_TEXT} characters of text")
    return value.strip()


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, int | float) and abs(value) < 1e30 else repr(value)[:200]
    return text if len(text) <= 60 else f"{text[:60]}..."


def _many(n: float, what: str) -> str:
    number = f"{int(n):,}" if n == int(n) else f"{n:,.1f}"
    return f"{number} {what}{'' if n == 1 else 's'}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _literal(value: Any) -> str:
    """As Python reads it, texts in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)
