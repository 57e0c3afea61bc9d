"""`alphabar ema`."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.reading import Reading
from alphabar.verbs.options import EmaOptions


def ema(
    run: str,
    *,
    against: str,
    options: Annotated[EmaOptions, Parameter(name="*")] = EmaOptions(),
    reading: Reading = Reading(),
    as_json: show.Json = False,
) -> None:
    """Choose the length of the weights' average after training, from the snapshots of a run.

    ```
    alphabar train fashion_mnist --out runs/garments --train.ema-snapshots 16
    alphabar ema runs/garments --against fashion_mnist:test --lengths 0.03 0.05 0.1 0.15
    ```

    `--checkpoint ema:0.1` then stands for that average wherever a run is read. Writes a table and a picture into the run.

    Args:
        run: a run folder.
        against: SET[:SPLIT] of real images.
    """
    from alphabar.verbs.ema import choose_length

    found = choose_length(run, against, options=options, reading=asdict(reading), progress=not as_json)
    if as_json:
        show.as_json_line(found.to_json())
        return
    rows = [(f"{length:g}", scores) for length, scores in found.scores.items()] + [("last", found.last)]
    show.table(
        ("length", *(s.metric for s in found.last)),
        [(length, *(f"{s.value:.4g}{show.interval(s.interval)}" for s in scores)) for length, scores in rows],
        f"{options.n:,} images each; last is the average that the run samples with",
    )
    for c in found.against_last:
        print(c.words)
    print(f"best by FID: --checkpoint ema:{found.best:g} (the best of several is biased low; score it again with another seed)")
    print(f"picture: {found.picture}")
