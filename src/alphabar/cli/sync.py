"""`alphabar sync`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from alphabar.cli import show


def sync(*runs: Path, to: tuple[str, ...] = (), as_json: show.Json = False) -> None:
    """Send the record of a run to trackers: the events that a tracker has not received yet.

    ```
    alphabar sync runs/garments --to tensorboard
    alphabar sync runs/garments --to wandb mlflow
    ```

    Args:
        runs: run folders.
        to: wandb, tensorboard, mlflow, trackio, or module:Class for a tracker that you wrote; if left out, those in the run's
            recipe.
    """
    from alphabar.core.run import Run
    from alphabar.tracking.outbox import sync
    from alphabar.training.config import resolve

    if not runs:
        raise ValueError("name a run folder, as in `alphabar sync runs/garments --to tensorboard`")
    found = {}
    for path in runs:
        names = to or resolve(Run(path).recipe).track
        if not names:
            raise ValueError(f"{path} has no trackers in its recipe: name some, as in --to tensorboard")
        with redirect_stdout(sys.stderr):  # trackers print messages
            found[str(path)] = sync(path, names)
    if as_json:
        show.as_json_line(found)
        return
    for run, trackers in found.items():
        for name, result in trackers.items():
            print(f"{run}: {result['sent']} events to {name}. Look at it: {result['where']}")
