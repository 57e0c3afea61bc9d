"""`alphabar runs`, and `alphabar runs prune`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App

from alphabar.cli import show

STATES = ("finished", "stopped", "diverged", "open", "empty")
app = App(
    name="runs",
    help="List runs, and remove checkpoints without losing the record of what they were.\n\n"
    "```\nalphabar runs\nalphabar runs runs/ --where data.set=fashion_mnist train.lr=0.001 --state finished\n```",
    help_format="markdown",
)


def runs_folder() -> Path:
    """Where runs are looked for by default: runs/ where it exists, else this folder."""
    return Path("runs") if Path("runs").is_dir() else Path()


@app.default
def list_runs(
    *roots: Path, where: tuple[str, ...] = (), state: tuple[str, ...] = (), model: str | None = None, as_json: show.Json = False
) -> None:
    """List the runs below some folders: where their recipes differ, their state, best score, and cost in images, FLOPs and hours.

    ```
    alphabar runs
    alphabar runs runs/ experiments/ --where data.set=fashion_mnist train.lr=0.001 --state finished --json
    ```

    Args:
        roots: folders that hold runs; runs/ where there is one, else this folder.
        where: recipe keys and the values they must have, as train.lr=0.001.
        state: finished, stopped, diverged, open or empty: only runs in one of these states.
        model: a fingerprint, by which samples and scores name their model: print only which run and checkpoint it is or was.
    """
    from alphabar.results.run_list import find_runs, summaries

    paths = find_runs(roots or [runs_folder()])
    if model is not None:
        _origin(paths, model, as_json)
        return
    if bad := [w for w in where if "=" not in w]:
        raise ValueError(f"--where {bad[0]}: write KEY=VALUE, as train.lr=0.001")
    if bad := [s for s in state if s not in STATES]:
        raise ValueError(f"--state {bad[0]}: use {', '.join(STATES[:-1])} or {STATES[-1]}")
    rows = summaries(paths, dict(w.split("=", 1) for w in where), state)
    if as_json:
        show.as_json_line([r.to_json() for r in rows])
        return
    if not rows:
        print(f"no {'matching ' if paths else ''}runs below {', '.join(map(str, roots)) or 'this folder'}")
        return
    show.table(
        ("run", "state", "images", "hours", "TFLOP", "best FID", "what differs"),
        [
            (
                r.path, r.state, _images(r.images, r.budget), _number(r.hours, ".2f"), _number(r.tflop, ",.0f"),
                _number(r.fid, ".3g") + show.interval(r.fid_interval, " [{:.3g}, {:.3g}]"),
                ", ".join(f"{k} {v}" for k, v in r.differs.items()),
            )
            for r in rows
        ],
        f"{len(rows)} run{'s' if len(rows) > 1 else ''}",
    )  # fmt: skip


def _origin(paths: Sequence[Path], model: str, as_json: bool) -> None:
    """Prints which run and checkpoint a model's fingerprint belongs to."""
    from alphabar.results.lineage import origin

    found: list[dict[str, Any]] = origin(paths, model)
    if as_json:
        show.as_json_line(found)
        return
    for row in found:
        print(f"{row['run']}, checkpoint {row['checkpoint']}, {row['images']} images" + ("" if row["there"] else "; removed"))
    if not found:
        print(f"none of {len(paths)} runs has or had the model {model}")


def _images(images: int | None, budget: int | None) -> str:
    return "–" if images is None else f"{images:,}" + (f" of {budget:,}" if budget and budget != images else "")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


@app.command
def prune(*runs: Path, keep: tuple[str, ...] = ("last", "best"), yes: bool = False, as_json: show.Json = False) -> None:
    """Remove checkpoints, after asking. The number of images and the fingerprint of each stay in the run's lineage.jsonl, so that
    samples and scores can still be traced to it; recipe, record and samples stay.

    ```
    alphabar runs prune runs/garments --keep best
    alphabar runs prune runs/old runs/older --keep none --yes
    ```

    Args:
        runs: run folders.
        keep: the checkpoints that stay: last, best, last.old, snapshots; none: no checkpoint stays.
        yes: do not ask.
    """
    from alphabar.results.lineage import plan_removals, remove

    if not runs:
        raise ValueError("name a run folder, as in `alphabar runs prune runs/garments --keep best`")
    planned = plan_removals(runs, () if keep == ("none",) else keep)
    if not planned:
        print("there is nothing to remove", file=sys.stderr)
        return
    for r in planned:
        what = f"{r.run}: {r.name}, {r.size / 2**20:.1f} MiB" + (f", {r.images:,} images" if r.images is not None else "")
        print(what + (f"; {r.loses}" if r.loses else ""), file=sys.stderr)
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError("there is no terminal to ask in: read the list, and add --yes")
        if input("remove these? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed", file=sys.stderr)
            return
    freed = remove(planned)
    if as_json:
        show.as_json_line({"freed": freed, "removed": [[r.run, r.name, r.model] for r in planned]})
        return
    print(f"{freed / 2**20:.1f} MiB freed; their record is in lineage.jsonl of each run")
