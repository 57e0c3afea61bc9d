"""`alphabar experiment`."""

import json
import sys
from pathlib import Path

from alphabar.cli import show


def experiment(
    file: str,
    *,
    out: Path,
    reuse: tuple[Path, ...] = (),
    at_once: int = 1,
    ray: str | None = None,
    device: str | None = None,
    shown: int = 16,
    dry_run: bool = False,
    as_json: show.Json = False,
) -> None:
    """Settle a question by training: variants of a recipe, several seeds, one budget for all, and a verdict with intervals.

    ```
    alphabar experiment range --out experiments/range
    alphabar experiment mine.toml --out experiments/mine --dry-run
    ```

    FILE is TOML: hypothesis (words), better and than (names of variants), seeds, [budget] images or minutes,
    [variants.NAME] with recipe keys, and, if you like, recipe, metric and [scoring]. Those that ship: range, schedule,
    prediction, average. A stopped or killed experiment goes on with the same command.

    Parameters
    ----------
    file
        a TOML file, or the name of an experiment that ships.
    out
        folder for the runs, the rows, and the page index.html.
    reuse
        folders of other experiments: trainings that they have and this one would repeat are copied.
    at_once
        trainings side by side, each in a process of its own: small networks leave a GPU idle most of the time.
    ray
        local, or the address of a Ray cluster whose machines all see the folder.
    device
        cpu, cuda, mps; the best there is if left out.
    shown
        images a variant on the page.
    dry_run
        print the resolved experiment and stop.
    """
    from alphabar.results.experiments import read_experiment

    told = read_experiment(file)
    if dry_run:
        print(json.dumps(told.to_json(), indent=None if as_json else 1))
        return
    from alphabar.report.experiment_page import table
    from alphabar.verbs import experiment as experimenting

    try:
        found = experimenting.experiment(
            told, out, reuse=reuse, at_once=at_once, ray=ray, device=device, shown=shown, progress=not as_json
        )
    except KeyboardInterrupt as stopped:
        print(f"{stopped}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    if as_json:
        print(json.dumps(found.to_json()))
        return
    from rich.console import Console

    Console().print(table(found))
    print(f"{found.verdict}: {found.words}")
    print(found.page)
