"""`alphabar compare`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.reading import Reading
from alphabar.verbs.options import CompareOptions


def compare(
    a: str,
    b: str,
    *,
    against: str,
    options: Annotated[CompareOptions, Parameter(name="*")] = CompareOptions(),
    reading: Reading = Reading(),
    as_json: show.Json = False,
) -> None:
    """Is A better than B? Each metric's difference with its interval, a verdict, and how many images would decide it.

    ```
    alphabar compare ddim10.npz ddim50.npz --against fashion_mnist:test
    alphabar compare "samples.npz[:5000]" "samples.npz[5000:]" --against fashion_mnist:test
    ```

    Sets that were made from the same noise (same seed, as `alphabar sample` records it) are compared image by image. Sets of
    unlike size are refused: --n takes the first N of both. Where A or B is a run, the verdicts are kept in its
    comparisons.jsonl, and `alphabar report` shows them; for other sets, --keep names the run.

    Args:
        a: an .npz, a folder of images, or a run; PATH[a:b] is a part.
        b: the same.
        against: SET or SET:SPLIT, the real images.
    """
    from alphabar.core.processes import world
    from alphabar.evaluation.score import TITLES
    from alphabar.verbs.compare import compare_report

    report = compare_report(a, b, against, options, asdict(reading))
    if world()[0] != 0:  # the first process prints for all
        return
    found = report.comparisons
    if options.wandb_report:
        from alphabar.tracking.wandb_report import comparison_report

        saved = comparison_report(found, report.names, [Path(x) for x in (a, b) if Path(x).is_dir()]).save()
        print(f"Weights & Biases: {saved.url}", file=sys.stderr)
    if as_json:
        show.as_json_line([c.to_json() for c in found])
        return
    show.table(
        ("metric", *report.names, "difference", "verdict"),
        [(TITLES[c.metric], f"{c.a.value:.4g}", f"{c.b.value:.4g}", str(c.difference), c.verdict) for c in found],
        f"{found[0].a.n:,} images each, " + ("the same noise" if found[0].paired else "unlike noise"),
    )
    for c in found:
        print(c.words)
    print(f"picture: {options.picture}")
