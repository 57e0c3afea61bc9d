"""`score`: every metric of a set of images, with intervals, next to the score of real images."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core import processes
from alphabar.core.files import append_jsonl, plain
from alphabar.core.machine import memory_for
from alphabar.core.messages import as_path, say
from alphabar.core.options import takes
from alphabar.core.outputs import check_output, save_picture
from alphabar.core.run import Run
from alphabar.data.image_set import ImageSet, parse_set
from alphabar.denoiser.from_hub import HUB
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.memorisation import pairs_sheet
from alphabar.evaluation.score import METRICS, TITLES, CurvePoint, Measured, Score
from alphabar.evaluation.several import SeveralEval
from alphabar.report.figures import draw_card, draw_curve
from alphabar.sampling.sample_set import SampleSet, check_value_range, open_samples, reading_for
from alphabar.training.checkpoint import home_of
from alphabar.verbs.extractor import extractor_for
from alphabar.verbs.memorisation import Copies, find_copies, reference
from alphabar.verbs.options import ScoreOptions, ScoreReportOptions


@takes(ScoreOptions)
def score(
    samples: str | Path, against: str | None = None, extractor: str | None = None, *, options: ScoreOptions = ScoreOptions(),
    reading: Mapping[str, Any] | None = None, progress: bool = True,
) -> tuple[Score, ...]:  # fmt: skip
    """Every metric of a set of images against real images.

    Args:
        samples: an .npz file, a folder of images made by any program, or a run, from which images are drawn first.
        against: SET[:SPLIT] of real images: a name, a path, or hf:owner/name; the split is train, test or heldout, the images
            that the run of the samples held out. None: those of its set.
        extractor: in place of that of the options.
        options: see `ScoreOptions`; its fields may also be passed as keywords.
        reading: options of `alphabar.load` (value_range, alpha, size, ...) for the real images, and for `samples` where
            another program made them. The size and the fit of a run hold where none are named.
        progress: show progress bars.

    Returns:
        A record for each metric: value, 95 % interval (None where there are too few images for one), floor, and protocol.

    Raises:
        FileNotFoundError: if there are no samples at the path.
        ValueError: for too few images, an unknown metric, or samples in another value range than the real images.
    """
    chosen = extractor or options.extractors or options.extractor
    runs: list[str | Path] = [*filter(None, [options.run]), samples]
    own = reading_for(samples, reading)
    evaluator, real = make_evaluator(against, chosen, samples=runs, reading=own, progress=progress)
    opened = open_scored(samples, evaluator, options, reading, progress)
    return tuple(measure(evaluator, real, opened, possible(evaluator, opened, options.metrics)).scores.values())


def make_evaluator(
    against: str | None, extractor: str | Sequence[str] = "bundled", *, samples: Sequence[str | Path] = (),
    reading: Mapping[str, Any] | None = None, progress: bool = True,
) -> tuple[ImageEval, ImageSet]:  # fmt: skip
    """An ImageEval against SET[:SPLIT], by one extractor or several, and those real images. samples: what will be scored, whose
    run has the extractor auto and the images SET:heldout."""
    real, floor = reference(against, samples, reading)
    names = [extractor] if isinstance(extractor, str) else extractor
    chosen = [extractor_for(name, real, samples, against or "", progress) for name in names]
    shown = progress and processes.world()[0] == 0
    if isinstance(extractor, str):
        return ImageEval(chosen[0], real, floor_images=floor, progress=shown), real
    return SeveralEval(chosen, real, floor_images=floor, progress=shown), real


def possible(evaluator: ImageEval, samples: SampleSet | int, wanted: Sequence[str] | None, show: bool = True) -> Sequence[str]:
    """The metrics, of those wanted (None: all), for which there are enough images; all of them where there are too few for any,
    which the evaluator then refuses. Why others are left out is printed on stderr."""
    metrics, left_out = evaluator.scorable(samples if isinstance(samples, int) else len(samples.pixels), wanted or METRICS)
    reasons: dict[str, list[str]] = {}
    for metric, why in left_out.items():
        reasons.setdefault(why.replace(f" for {TITLES[metric]}", "", 1), []).append(TITLES[metric])
    for why, titles in reasons.items() if show and metrics and processes.world()[0] == 0 else ():
        say(f"left out: {', '.join(titles)} ({why})", sys.stderr)
    return metrics or wanted or METRICS


def open_scored(
    samples: str | Path, evaluator: ImageEval, options: ScoreOptions, reading: Mapping[str, Any] | None, progress: bool = True
) -> SampleSet:
    """`open_samples`, which draws nothing from a run that the evaluator could not score."""
    return open_samples(
        samples, n=options.n, steps=options.steps, eta=options.eta, precision=options.precision, reading=reading,
        progress=progress,
        check=lambda model, n: evaluator.check_model(model, n, possible(evaluator, n, options.metrics, show=False)),
    )  # fmt: skip


@memory_for("the score", "give a smaller --n, or one metric at a time, as --metrics kid")
def measure(
    evaluator: ImageEval, real: ImageSet, samples: SampleSet, metrics: Sequence[str] = METRICS, keep: Sequence[Path] = ()
) -> Measured:
    """The scores of `samples` by an evaluator of `real`, appended to scores.jsonl of their run and of those in `keep`."""
    check_value_range(samples.record, real)
    _warn_of_jpeg(samples.images, real)
    measured = evaluator.measure(samples.images, samples.record, metrics)
    for path in kept_by(samples.run, *keep, what="scores") if processes.world()[0] == 0 else ():
        for row in (score for part in (measured, *measured.further) for score in part.scores.values()):
            append_jsonl(path, row.to_json())
    return measured


def kept_by(*runs: Path | None, what: str) -> list[Path]:
    """The files WHAT.jsonl of some runs, each once."""
    return [*dict.fromkeys((as_path(run) / f"{what}.jsonl").resolve() for run in runs if run is not None)]


def check_keep(keep: Sequence[Path], what: str) -> None:
    """Raises FileNotFoundError for a folder that is to keep results and is no run."""
    for run in keep:
        if not Run(run).recipe.exists():
            raise FileNotFoundError(f"the {what} cannot be kept with {run}: it has no recipe.toml, so it is not a run folder")


def _warn_of_jpeg(samples: ImageSet | Any, real: ImageSet) -> None:
    """Warns where one side was read from JPEG files and the other from files without loss."""
    sides = [x for x in (samples, real) if isinstance(x, ImageSet) and x.jpeg is not None]
    sides.sort(key=lambda x: -(x.jpeg or 0))
    if len(sides) == 2 and (sides[0].jpeg or 0) >= 0.5 > (sides[1].jpeg or 0):
        warnings.warn(
            f"the images of {sides[0].title} are stored as JPEG and those of {sides[1].title} are not: the artefacts of JPEG "
            "move FID and KID, however good the images are; compare images that were stored alike", stacklevel=4,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class ScoreReport:
    """Scores, the optional curve and search for copies, and the pictures that were written."""

    scores: Sequence[Score]
    curve: Sequence[CurvePoint] = ()
    copies: Copies | None = None
    further: Sequence[Score] = ()  # FID by further extractors
    pictures: dict[str, Path] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """A row for each score, and one each for the search for copies and for the curve."""
        copies = [] if self.copies is None else [{"metric": "memorisation", **self.copies.to_json()}]
        curve = [{"metric": "curve", "points": plain([*self.curve])}] if self.curve else []
        return [s.to_json() for s in (*self.scores, *self.further)] + copies + curve


def score_report(
    samples: str, against: str | None, options: ScoreReportOptions, reading: Mapping[str, Any] | None = None
) -> ScoreReport:
    """`score` with pictures, and with the curve and the search for copies where they are asked for.

    Under torchrun all processes share the work, and the first one writes the pictures.
    """
    check_keep(options.keep, "scores")
    picture = options.picture or picture_path(samples, "score.png")
    for path in (picture, *_further(picture).values()):
        check_output(path, "picture", [samples, *named(against), *filter(None, [options.trained_on])])
    own = reading_for(samples, reading)
    runs: list[str | Path] = [*filter(None, [options.run]), samples]
    evaluator, real = make_evaluator(against, options.extractors or options.extractor, samples=runs, reading=own)
    curved = [m for m in ("fid", "kid") if m in (options.metrics or METRICS)]
    if options.curve and not curved:
        raise ValueError(f"--curve is of fid and kid, and --metrics {' '.join(options.metrics or ())} holds neither: add one")
    opened = open_scored(samples, evaluator, options, reading)
    metrics = possible(evaluator, opened, options.metrics)
    curved = [m for m in curved if m in metrics]
    measured = measure(evaluator, real, opened, metrics, options.keep)
    report = ScoreReport(
        tuple(measured.scores.values()),
        evaluator.curve(opened.images, metrics=curved) if options.curve and curved else (),
        find_copies(evaluator, opened, options.trained_on, reading=own) if options.trained_on else None,
        tuple(score for part in measured.further for score in part.scores.values()),
    )
    if processes.world()[0] == 0:
        _draw(report, opened, picture, like_classes(real, (opened.record or {}).get("classes"), 12))
    return report


def _draw(report: ScoreReport, samples: SampleSet, path: Path, real: NDArray[Any]) -> None:
    report.pictures["picture"] = draw_card(report.scores, samples.pixels, path, real)
    if report.curve:
        limit = next((s for s in report.scores if s.metric == "fid_infinity"), None)
        report.pictures["curve"] = draw_curve(report.curve, _further(path)["curve"], limit)
    if report.copies is not None:
        for kind, found in (("features", report.copies.features), ("pixels", report.copies.pixels)):
            sheet = pairs_sheet(found, np.asarray(samples.pixels), report.copies.train)
            report.pictures[f"nearest pairs, {kind}"] = save_picture(sheet, _further(path)[f"pairs_{kind}"])


def _further(picture: Path) -> dict[str, Path]:
    """The pictures next to that of the scores, which some options ask for."""
    return {k: picture.with_name(f"{picture.stem}.{k}.png") for k in ("curve", "pairs_features", "pairs_pixels")}


def named(against: str | None) -> list[str]:
    """The set in SET[:SPLIT], if one is named."""
    return [] if against is None else [parse_set(against)[0]]


def picture_path(samples: str, ending: str) -> Path:
    """Where a picture of samples goes: samples.npz -> samples.score.png; of a run, into its folder."""
    path = Path(samples.split("[")[0].rstrip("/"))
    if samples.startswith(HUB):  # its folder is one of the cache
        return Path(f"{path.name.partition('@')[0]}.{ending}")
    home = None if str(path) == "bundled" else home_of(path)
    return path.with_name(f"{path.name.removesuffix('.npz')}.{ending}") if home is None else home / ending


def like_classes(images: ImageSet, classes: Sequence[int] | None, n: int) -> NDArray[Any]:
    """n images to show next to others: of the classes that those take in turns, where both are known, else the first n."""
    labels = images.labels
    found = [] if labels is None else [np.flatnonzero(np.asarray(labels) == c) for c in classes or ()]
    if not found or not all(map(len, found)):
        return np.asarray(images.pixels[:n])
    turns = ((found[k % len(found)], k // len(found)) for k in range(min(n, len(images))))
    return np.stack([np.asarray(images.pixels[rows[turn % len(rows)]]) for rows, turn in turns])
