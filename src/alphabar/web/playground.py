"""What the page of `alphabar app` does, without the page: it checks requests, samples step by step, and scores."""

import math
import shlex
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np

from alphabar.core.messages import plural
from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.data.image_set import ImageSet
from alphabar.data.values import scale_of
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import Score
from alphabar.sampling.batches import SamplingStep
from alphabar.sampling.model import image_shape, to_images
from alphabar.sampling.sample_set import SampleSet, reading_for
from alphabar.sampling.samples import Samples
from alphabar.training.config import resolve
from alphabar.verbs.score import make_evaluator, measure
from alphabar.web.job import Job, prepare
from alphabar.web.request import MOST_IMAGES, Setting
from alphabar.web.runs_folder import BUNDLED_RUN, RunsFolder

T = TypeVar("T")
Report = Callable[[Callable[[], Any]], None]


@dataclass(frozen=True, eq=False)
class Result(Generic[T]):
    """The last item of a stream: what the work returned."""

    value: T


class _Stopped(Exception):
    """Raised in the thread of the work once nobody reads the stream any more."""


def stream(work: Callable[[Report], T], every: float) -> Generator[Any, None, None]:
    """What `work(report)` reports from its thread, and then a `Result` with what it returns; its exceptions are raised here.

    `report(make)` calls `make` for the next item at most once in `every` seconds, and only after the last item was read.
    Closing the iterator ends the work at its next report.
    """
    items: SimpleQueue[Any] = SimpleQueue()
    stop = threading.Event()
    last = -math.inf

    def report(make: Callable[[], Any]) -> None:
        nonlocal last
        if stop.is_set():
            raise _Stopped
        if items.empty() and time.monotonic() - last >= every:
            items.put(make())
            last = time.monotonic()

    def run() -> None:
        try:
            items.put(Result(work(report)))
        except _Stopped:
            pass
        except BaseException as error:
            items.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            item = items.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Result):
                return
    finally:
        stop.set()


@dataclass(frozen=True, eq=False)
class Frame:
    """Pixels (n, h, w, c) during sampling: grey, the last x0_hat, or done. `samples` is given once all images are done."""

    pixels: Pixels
    caption: str
    samples: Samples | None = None


@dataclass(frozen=True, eq=False)
class SettingScores:
    """Scores of one or two settings by the setting's name; two are compared, the first against the second."""

    scores: Mapping[str, Sequence[Score]]
    comparisons: Sequence[Comparison]
    note: str | None  # what was left out and why
    seconds: float  # of sampling and scoring


class Playground:
    """Samples from the runs below a folder and scores the images. All visitors share it, so it keeps nothing of a request.

    Args:
        root: the folder.
        against: SET[:SPLIT] of the real images of a score; None is fashion_mnist:test for the bundled run and none for others.
        extractor: bundled, a path, or inception:...; None is the one that a run's recipe names.

    Raises:
        NotADirectoryError: if there is no such folder.
    """

    def __init__(self, root: str | Path, against: str | None = None, extractor: str | None = None) -> None:
        self.runs = RunsFolder(root)
        self.against, self.extractor = against, extractor
        self._scoring = threading.Lock()  # an ImageEval caches what it has computed, so one score at a time
        self._evaluators: dict[tuple[str, ...], tuple[ImageEval, ImageSet]] = {}

    def prepare(self, setting: Setting, n: Any, seed: Any, *, most: int = MOST_IMAGES) -> Job:
        return prepare(self.runs, setting, n, seed, most=most)

    def watch(self, job: Job, every: float = 0.1) -> Generator[Frame, None, None]:
        """Yields the images as they form, at most one frame in `every` seconds, and at last the samples; closing stops it."""
        pixels = np.dtype(getattr(job.model, "pixels", "uint8"))
        c, h, w = image_shape(job.model)
        images = np.full((job.n, h, w, c), scale_of(pixels) / 2, pixels)

        def frame(now: SamplingStep) -> Frame:
            batch = to_images(job.model, now.x0_hat)
            images[now.first : now.first + len(batch)] = batch
            return Frame(images.copy(), progress_words(now, job.n))

        with closing(stream(lambda report: job.sample(lambda now: report(lambda: frame(now))), every)) as items:
            for item in items:
                done = isinstance(item, Result)
                yield Frame(item.value.images, done_words(item.value.record), item.value) if done else item

    def score(self, jobs: Mapping[str, Job], every: float = 0.5) -> Generator[str | SettingScores, None, None]:
        """Samples every job and scores it against real images; yields progress in words, and at last the scores.

        Two jobs have the same noise, so they are compared image by image. FID is left out where there are too few images for it.
        Raises ValueError where no real images were named, or where they do not fit the model.
        """
        with closing(stream(lambda report: self._score(jobs, report), every)) as items:
            for item in items:
                yield item.value if isinstance(item, Result) else item

    def _score(self, jobs: Mapping[str, Job], report: Report) -> SettingScores:
        start = time.perf_counter()
        first = next(iter(jobs.values()))
        against, extractor = self._protocol(first)
        reading = reading_for(first.model)
        key = against, extractor, *map(str, reading.values())
        report(lambda: f"reading {against}")
        with self._scoring:
            if key not in self._evaluators:
                self._evaluators[key] = make_evaluator(against, extractor, reading=reading, progress=False)
            evaluator, real = self._evaluators[key]
            metrics, note = _metrics(evaluator, jobs)

        def sampled(name: str, job: Job) -> Samples:
            return job.sample(lambda now: report(lambda: f"{name}: {progress_words(now, job.n)}"))

        samples = {name: sampled(name, job) for name, job in jobs.items()}
        with self._scoring:
            measured = {}
            for name, made in samples.items():
                images = plural(len(made.images), "image")
                report(partial(str, f"{name}: features of {images}, of {against} and of the floor"))
                measured[name] = measure(evaluator, real, SampleSet(name, made.images, made.record), metrics)
        comparisons = []
        if len(measured) == 2:
            a, b = measured
            comparisons = compare_measured(measured[a], measured[b], names=(a, b))
        scores = {name: tuple(m.scores.values()) for name, m in measured.items()}
        return SettingScores(scores, comparisons, note, time.perf_counter() - start)

    def real_images(self, run: Any) -> str | None:
        """SET:SPLIT of the real images for a run, where they are known."""
        return self.against or ("fashion_mnist:test" if run == BUNDLED_RUN else None)

    def _protocol(self, job: Job) -> tuple[str, str]:
        """(SET:SPLIT, extractor) that a job is scored by."""
        if (against := self.real_images(BUNDLED_RUN if job.bundled else None)) is None:
            again = shlex.join(["alphabar", "app", str(self.runs.typed), "--against", "SET:SPLIT"])
            raise ValueError(f"no real images were named to score {job.run} against: start the page again with {again}")
        extractor = self.extractor
        if extractor is None and not job.bundled and (recipe := Run(job.run).recipe).exists():
            named = resolve(recipe, []).watch.extractor
            extractor = None if named in ("auto", "none") else named
        return against, extractor or "bundled"


def _metrics(evaluator: ImageEval, jobs: Mapping[str, Job]) -> tuple[tuple[str, ...], str | None]:
    """FID and KID, or KID alone and why FID is left out. Raises ValueError where neither is possible."""
    for job in jobs.values():
        evaluator.check_model(job.model, job.n, ("kid",))
    try:
        for job in jobs.values():
            evaluator.check_model(job.model, job.n, ("fid",))
    except ValueError as error:
        return ("kid",), f"no FID: {error}"
    return ("fid", "kid"), None


def progress_words(now: SamplingStep, n: int) -> str:
    """How far the sampling of n images is."""
    first, last = now.first + 1, now.first + len(now.x0_hat)
    where = f"step {now.step + 1} of {now.steps}, {plural(now.calls, 'call')}, {now.seconds:.1f} s"
    return where if (first, last) == (1, n) else f"images {first} to {last} of {n}: {where}"


def done_words(record: Mapping[str, Any]) -> str:
    """The calls, as they were counted, and the seconds of finished samples."""
    n, seconds = record["n"], record["seconds"]
    spread = record.get("calls")
    calls = f"{plural(record['nfe'], 'call')} an image" + ("" if spread is None else f" ({spread['min']:g} to {spread['max']:g})")
    return f"{plural(n, 'image')}, {calls}, {seconds:.1f} s ({1000 * seconds / n:.0f} ms an image)"
