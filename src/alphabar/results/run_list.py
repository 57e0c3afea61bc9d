"""The runs below some folders: their state, cost, best score, and where their recipes differ."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import Record
from alphabar.core.run import Run
from alphabar.core.suggest import did_you_mean
from alphabar.results.curves import protocol_words, score_rows
from alphabar.results.lineage import checkpoint_sizes
from alphabar.results.runs import RunData, differing, load_run, read_record, state
from alphabar.results.series import interval, number

DEPTH = 4  # levels of folders that are searched below a root


@dataclass(frozen=True)
class RunSummary(Record):
    """A run in one line. state: as in `State.kind`. images: seen, of `budget`. tflop: of all calls of training, each of which
    counts as three forward ones; None if not recorded. fid: the lowest. differs: recipe keys in which the listed runs differ.
    faults: what of its record cannot be read, in sentences."""

    path: str
    state: str
    images: int | None
    budget: int | None
    hours: float | None
    tflop: float | None
    fid: float | None
    fid_interval: tuple[float, float] | None
    fid_protocol: str | None
    checkpoints: list[str]
    differs: dict[str, Any]
    faults: list[str]


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """Run folders at or below the roots: those with a recipe.toml and a record or checkpoints, ordered by name."""
    found: dict[Path, None] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder: name one that holds runs, or a run")
        found |= dict.fromkeys(_below(root, DEPTH))
    return list(found)


def _below(folder: Path, depth: int) -> list[Path]:
    run = Run(folder)
    try:
        if run.recipe.is_file() and any(p.exists() for p in (run.events, folder / "checkpoints", folder / "machine.json")):
            return [folder]
        if depth == 0:
            return []
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and not p.is_symlink())
    except OSError as e:  # a folder of another user must not hide the other runs
        warnings.warn(f"{folder} cannot be read ({e.strerror}): runs below it are left out", stacklevel=4)
        return []
    return [run for p in inside for run in _below(p, depth - 1)]


def summaries(paths: Sequence[Path], where: Mapping[str, str] | None = None, states: Sequence[str] = ()) -> list[RunSummary]:
    """One line for each run whose recipe has the values of `where`, and that is in one of the states, if any are named.

    Raises ValueError for a key that no run's recipe has.
    """
    runs = [load_run(p) for p in paths]
    known = sorted({k for run in runs for k in run.recipe})
    for key in where or {}:
        if runs and key not in known:
            raise ValueError(f"no run has the recipe key {key}; {did_you_mean(key, known)}")
    kept = [run for run in runs if all(_equals(run.recipe.get(k), v) for k, v in (where or {}).items())]
    kept = [run for run in kept if not states or state(run).kind in states]
    differences = differing(kept)
    return [_summary(run, {k: values[i] for k, values in differences if values[i] is not None}) for i, run in enumerate(kept)]


def _equals(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == wanted.lower()
    if isinstance(value, int | float):
        try:
            return float(value) == float(wanted)
        except ValueError:
            return False
    return str(value) == wanted


def _summary(run: RunData, differs: dict[str, Any]) -> RunSummary:
    now = state(run)
    best = min((r for r in score_rows(run) if r["metric"] == "fid"), key=lambda r: float(r["value"]), default=None)
    gflop = number(read_record(run.path / "cost.json", []), "gflop_a_call")
    return RunSummary(
        str(run.path), now.kind, now.images, now.budget, None if now.seconds is None else now.seconds / 3600,
        None if gflop is None or now.images is None else 3 * gflop * now.images / 1000,
        None if best is None else number(best, "value"), None if best is None else interval(best),
        None if best is None else protocol_words(best), sorted(checkpoint_sizes(run.path)), differs,
        [words for words in run.missing if "cannot be read" in words],
    )  # fmt: skip
