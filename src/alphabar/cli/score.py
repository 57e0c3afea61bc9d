"""`alphabar score`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.reading import Reading
from alphabar.verbs.options import ScoreReportOptions

if TYPE_CHECKING:
    from alphabar.evaluation.measured import CurvePoint
    from alphabar.evaluation.score import Score


def score(
    samples: str,
    *,
    against: str,
    options: Annotated[ScoreReportOptions, Parameter(name="*")] = ScoreReportOptions(),
    reading: Reading = Reading(),
    as_json: show.Json = False,
) -> None:
    """Score images against real ones: every metric with its interval, next to the score of as many real images (the floor).

    ```
    alphabar score samples.npz --against fashion_mnist:test
    alphabar score runs/garments --against fashion_mnist:test --n 2000 --trained-on fashion_mnist --json
    ```

    Writes a picture of the scores above a sheet of the images. Under torchrun all processes share the work.

    Args:
        samples: an .npz, a folder of images made by any program, or a run (N images are drawn from it by DDIM and kept);
            SAMPLES[a:b] are images a to b - 1.
        against: SET or SET:SPLIT, the real images.
    """
    from alphabar.core.processes import world
    from alphabar.verbs.score import score_report

    report = score_report(samples, against, options, asdict(reading))
    if world()[0] != 0:  # the first process prints for all
        return
    if as_json:
        show.as_json_line(report.to_json())
        return
    _scores(report.scores)
    if report.curve:
        _curve(report.curve)
    if report.copies is not None:
        print(f"copies of {options.trained_on}, by features: {report.copies.features}")
        print(f"copies of {options.trained_on}, by pixels: {report.copies.pixels}")
    for what, path in report.pictures.items():
        print(f"{what}: {path}")


def _scores(scores: "Sequence[Score]") -> None:
    """The table of the scores, and below it what the intervals, the extractor's check and the floor are."""
    from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES

    def names(chosen: "list[Score]") -> str:
        return ", ".join(TITLES[s.metric] for s in chosen)

    rows = []
    for s in scores:
        floor = "" if s.floor is None else f"{s.floor:.4g}" + ("" if s.floor_n == s.n else f" at {s.floor_n}")
        best = "higher" if s.metric in HIGHER else "lower"
        rows.append((TITLES[s.metric], f"{s.value:.4g}", show.interval(s.interval, "{:.4g} to {:.4g}"), floor, best))
    first = scores[0]
    calls = "" if first.nfe is None else f", {first.nfe:.4g} calls an image"
    title = f"{first.n:,} images against {first.n_reference:,} real ones{calls}; floor: the score of as many real images"
    show.table(("metric", "value", "95 % interval", "floor", "better"), rows, title)
    for note in dict.fromkeys(s.note for s in scores if s.note and s.interval is None):
        print(note)
    for what in dict.fromkeys(INTERVALS[s.metric] for s in scores if s.interval is not None):
        print(f"interval of {names([s for s in scores if INTERVALS[s.metric] == what])}: for {what}")
    found = dict.fromkeys(s.check_result for s in scores if s.check_result)
    checked = "; ".join(f"{names([s for s in scores if s.check_result == w])}: {w}" for w in found)
    if checked:
        print(f"result of the extractor's check (alphabar extractor check): {checked}")
    print(f"extractor {first.extractor}, reference {first.reference_name} {first.reference}, floor: {first.floor_source}")


def _curve(points: "Sequence[CurvePoint]") -> None:
    show.table(
        ("metric", "images", "mean of parts", "parts", "interval of one", "floor"),
        [
            (p.metric, f"{p.n:,}", f"{p.value:.4g}", str(p.sets), str(p.one), "" if p.floor is None else str(p.floor))
            for p in points
        ],
        "score against the number of images",
    )
