"""`alphabar experiment`."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.verbs.experiment_options import ExperimentOptions


def experiment(
    file: str,
    *,
    out: Path,
    options: Annotated[ExperimentOptions, Parameter(name="*")] = ExperimentOptions(),
    dry_run: bool = False,
    as_json: show.Json = False,
) -> None:
    """Decide a hypothesis by training: variants of a recipe, several seeds, one budget for all, and a verdict with intervals.

    ```
    alphabar experiment range --out experiments/range
    alphabar experiment mine.toml --out experiments/mine --dry-run
    ```

    FILE is TOML: hypothesis (words), better and than (names of variants), seeds, [budget] images or minutes,
    [variants.NAME] with recipe keys, and optionally recipe, metric and [scoring]. Those that ship: range, schedule,
    prediction, average. The same command resumes an experiment that was stopped or killed.

    Args:
        file: a TOML file, or the name of an experiment that ships.
        out: folder for the runs, their scores, and the page index.html.
        dry_run: print the resolved experiment and stop.
    """
    from alphabar.results.experiments import read_experiment

    definition = read_experiment(file)
    if dry_run:
        print(json.dumps(definition.to_json(), indent=None if as_json else 1))
        return
    from alphabar.report.tables import experiment_table
    from alphabar.verbs.experiment import experiment as run_experiment

    with show.stopped_by_ctrl_c("{}; the same command resumes the experiment"):
        outcome = run_experiment(definition, out, options=options, progress=not as_json)
    if as_json:
        show.as_json_line(outcome.to_json())
        return
    from rich.console import Console

    Console().print(experiment_table(outcome))
    print(f"{outcome.verdict}: {outcome.words}")
    print(outcome.page)
