"""`compare`: whether one set of images is better than another, by every metric."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.core import processes
from alphabar.core.files import append_jsonl
from alphabar.core.outputs import check_output
from alphabar.core.places import without_places
from alphabar.data.image_set import ImageSet
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import METRICS, ProtocolError
from alphabar.report.figures import draw_comparison
from alphabar.sampling.sample_set import SampleSet, reading_for
from alphabar.verbs.options import CompareOptions
from alphabar.verbs.score import check_keep, kept_by, like_classes, make_evaluator, measure, named, open_scored, possible


def compare(
    a: SampleSet, b: SampleSet, evaluator: ImageEval, real: ImageSet, metrics: Sequence[str] = METRICS,
    names: tuple[str, str] = ("A", "B"), keep: Sequence[Path] = (),
) -> list[Comparison]:  # fmt: skip
    """The differences of a and b by every metric, with intervals and verdicts.

    They are added to comparisons.jsonl, which `report` reads, of the runs that a or b were drawn from and of those in `keep`.

    Args:
        a: as `open_samples` gives them.
        b: as many images.
        evaluator: of `real`, as `alphabar.verbs.score.make_evaluator` gives both.
        real: the real images.
        metrics: names of metrics.
        names: of a and b, in the sentences.
        keep: run folders that keep the comparison too.

    Raises:
        ProtocolError: if a and b hold unlike numbers of images.
        FileNotFoundError: if a folder in `keep` is not a run.
    """
    check_keep(keep, "comparison")
    if len(a.pixels) != len(b.pixels):  # before the features are computed, which takes long
        raise ProtocolError("n", len(a.pixels), len(b.pixels))
    found = compare_measured(measure(evaluator, real, a, metrics), measure(evaluator, real, b, metrics), names=names)
    row = {
        "time": round(time.time(), 3), "names": list(names), "sets": without_places([a.name, b.name]),
        "models": [(x.record or {}).get("model") for x in (a, b)], "comparisons": [c.to_json() for c in found],
    }  # fmt: skip
    for path in kept_by(a.run, b.run, *keep, what="comparisons") if processes.world()[0] == 0 else ():
        append_jsonl(path, row)
    return found


def compare_report(
    a: str, b: str, against: str | None, options: CompareOptions, reading: Mapping[str, Any] | None = None
) -> tuple[list[Comparison], tuple[str, str]]:
    """`compare` of samples by their paths, with a picture: the comparisons, and the names that their sentences give the sets.

    Under torchrun all processes share the work, and the first one draws.
    """
    if options.wandb_report:
        from alphabar.tracking.wandb_report import check_server

        check_server()  # before the features are computed
    check_output(options.picture, "picture", [a, b, *named(against)])
    own = reading_for(b, reading_for(a, reading))
    chosen = options.extractors or options.extractor
    evaluator, real = make_evaluator(against, chosen, samples=[*filter(None, [options.run]), a, b], reading=own)
    first, second = (open_scored(x, evaluator, options, reading) for x in (a, b))
    label_a, label_b = (Path(x.rstrip("/")).name.removesuffix(".npz") for x in (a, b))
    names = (label_a, label_b) if label_a != label_b else ("A", "B")
    if len(first.pixels) != len(second.pixels):
        raise ProtocolError("n", len(first.pixels), len(second.pixels))
    found = compare(first, second, evaluator, real, possible(evaluator, first, options.metrics), names, options.keep)
    if processes.world()[0] == 0:
        shown = like_classes(real, (first.record or {}).get("classes"), 20)
        draw_comparison(found, (first.pixels, second.pixels), names, options.picture, shown)
    return found, names
