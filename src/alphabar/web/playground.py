"""What the page of `alphabar app` does, without the page: it checks requests, samples step by step, and scores."""

import shlex
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.data.image_set import ImageSet
from alphabar.data.images import to_pixels
from alphabar.data.values import scale_of
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import Score
from alphabar.sampling.batches import SamplingStep
from alphabar.sampling.sample_set import SampleSet
from alphabar.sampling.samples import Samples
from alphabar.sampling.trajectory import cropped
from alphabar.training.config import resolve
from alphabar.verbs.score import make_evaluator, measure
from alphabar.web.job import Job, prepare
from alphabar.web.request import MOST_IMAGES, Setting, plural
from alphabar.web.runs_folder import RunsFolder
from alphabar.web.stream import Result, Tell, stream


@dataclass(frozen=True, eq=False)
class Frame:
    """Images during sampling, as pixels (n, h, w, c), with a caption; `samples` is given once they are done.

    Images that were not started are grey; those of the current batch are the x0_hat of the last step.
    """

    pixels: Pixels
    caption: str
    samples: Samples | None = None


@dataclass(frozen=True, eq=False)
class SettingScores:
    """Scores of one or two settings by the setting's name; two are compared, the first against the second.

    note: what was left out and why, or None. seconds: of sampling and scoring.
    """

    scores: Mapping[str, Sequence[Score]]
    comparisons: Sequence[Comparison]
    note: str | None
    seconds: float


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
        self._evaluators: dict[tuple[str, str], tuple[ImageEval, ImageSet]] = {}

    def prepare(self, setting: Setting, n: Any, seed: Any, *, most: int = MOST_IMAGES) -> Job:
        """The job that a request asks for; see `alphabar.web.job.prepare`."""
        return prepare(self.runs, setting, n, seed, most=most)

    def watch(self, job: Job, every: float = 0.1) -> Generator[Frame, None, None]:
        """Samples a job and yields the images as they form, at most one frame in `every` seconds, and at last the samples.

        Closing the iterator stops the sampling at its next step.
        """
        pixels = np.dtype(getattr(job.model, "pixels", "uint8"))
        crop = int(getattr(job.model, "crop", 0))
        c, h, w = job.model.image_shape
        images = np.full((job.n, h - 2 * crop, w - 2 * crop, c), scale_of(pixels) / 2, pixels)

        def frame(now: SamplingStep) -> Frame:
            batch = to_pixels(cropped(now.x0_hat, crop), pixels)
            images[now.first : now.first + len(batch)] = batch
            return Frame(images.copy(), progress_words(now, job.n))

        with closing(stream(lambda tell: job.sample(lambda now: tell(lambda: frame(now))), every)) as items:
            for item in items:
                done = isinstance(item, Result)
                yield Frame(item.value.images, done_words(item.value.record), item.value) if done else item

    def score(self, jobs: Mapping[str, Job], every: float = 0.5) -> Generator[str | SettingScores, None, None]:
        """Samples every job and scores it against real images; yields progress in words, and at last the scores.

        Two jobs are compared image by image, since both have the same noise. FID is left out, and the note says why, where there
        are too few images for it. Raises ValueError where no real images were named, or where they do not fit the model.
        """
        with closing(stream(lambda tell: self._score(jobs, tell), every)) as items:
            for item in items:
                yield item.value if isinstance(item, Result) else item

    def _score(self, jobs: Mapping[str, Job], tell: Tell) -> SettingScores:
        start = time.perf_counter()
        key = against, extractor = self._protocol(next(iter(jobs.values())))
        tell(lambda: f"reading {against}")
        with self._scoring:
            if key not in self._evaluators:
                self._evaluators[key] = make_evaluator(against, extractor, progress=False)
            evaluator, real = self._evaluators[key]
            metrics, note = _metrics(evaluator, jobs)
        samples = {name: job.sample(partial(_report, tell, name, job.n)) for name, job in jobs.items()}
        with self._scoring:
            measured = {}
            for name, made in samples.items():
                images = plural(len(made.images), "image")
                tell(partial("{}: features of {}, of {} and of the floor".format, name, images, against))
                measured[name] = measure(evaluator, real, SampleSet(name, made.images, made.record), metrics)
        comparisons = []
        if len(measured) == 2:
            first, second = measured
            comparisons = compare_measured(measured[first], measured[second], names=(first, second))
        scores = {name: tuple(m.scores.values()) for name, m in measured.items()}
        return SettingScores(scores, comparisons, note, time.perf_counter() - start)

    def _protocol(self, job: Job) -> tuple[str, str]:
        """(SET:SPLIT, extractor) that a job is scored by."""
        against = self.against or ("fashion_mnist:test" if job.bundled else None)
        if against is None:
            again = shlex.join(["alphabar", "app", str(self.runs.typed), "--against", "SET:SPLIT"])
            raise ValueError(f"no real images were named to score {job.run} against: start the page again with {again}")
        extractor = self.extractor
        if extractor is None and not job.bundled and (recipe := Run(job.run).recipe).exists():
            named = resolve(recipe, []).watch.extractor
            extractor = None if named in ("auto", "none") else named
        return against, extractor or "bundled"


def _report(tell: Tell, name: str, n: int, now: SamplingStep) -> None:
    tell(lambda: f"{name}: {progress_words(now, n)}")


def _metrics(evaluator: ImageEval, jobs: Mapping[str, Job]) -> tuple[tuple[str, ...], str | None]:
    """The metrics that so many images allow, and why others are left out. Raises ValueError where none is possible."""
    for metrics in (("fid", "kid"), ("kid",)):
        try:
            for job in jobs.values():
                evaluator.check_model(job.model, job.n, metrics)
        except ValueError as error:
            if metrics == ("kid",):
                raise
            note = f"no FID: {error}"
        else:
            return metrics, None if len(metrics) == 2 else note
    raise AssertionError("one of the two was returned or raised")


def progress_words(now: SamplingStep, n: int) -> str:
    """How far the sampling of n images is."""
    rows = len(now.x0_hat)
    where = f"step {now.step + 1} of {now.steps}, {plural(now.calls, 'call')}, {now.seconds:.1f} s"
    return where if rows == n else f"images {now.first + 1} to {now.first + rows} of {n}: {where}"


def done_words(record: Mapping[str, Any]) -> str:
    """The calls, as they were counted, and the seconds of finished samples."""
    n, seconds = record["n"], record["seconds"]
    spread = record.get("calls")
    calls = f"{plural(record['nfe'], 'call')} an image" + ("" if spread is None else f" ({spread['min']:g} to {spread['max']:g})")
    return f"{plural(n, 'image')}, {calls}, {seconds:.1f} s ({1000 * seconds / n:.0f} ms an image)"
