"""The runs below some folders: their state, cost, best score, and where their recipes differ; their checkpoints: sizes, removal,
and the record by which samples can still be traced to a removed one."""

import shutil
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import Record, append_jsonl, read_jsonl
from alphabar.core.run import Run
from alphabar.core.suggest import did_you_mean
from alphabar.results.curves import protocol_words, score_rows
from alphabar.results.runs import RunData, differing, load_run, read_record, state
from alphabar.results.series import interval, number
from alphabar.training.checkpoint import SNAPSHOTS, load_model, read_state

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


LINEAGE = "lineage.jsonl"  # in a run: the removed checkpoints, one a line
LOSES = {"last": "training cannot be resumed", "snapshots": "no average of another length can be made"}


def checkpoint_sizes(path: Path) -> dict[str, int]:
    """Bytes of each checkpoint of a run, by name; "snapshots" are those of its averages."""
    folders = [p for p in (path / "checkpoints").glob("*") if p.is_dir() and not p.name.startswith(".")]
    if (path / SNAPSHOTS).is_dir():
        folders.append(path / SNAPSHOTS)
    return {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in folders}


@dataclass(frozen=True)
class Removal:
    """A checkpoint to be removed. size: bytes. images: seen by it. model: the fingerprint by which samples and scores name it;
    both None where it cannot be read. loses: what will no longer be possible, in words."""

    run: str
    name: str
    size: int
    images: int | None
    model: str | None
    loses: str


def plan_removals(paths: Sequence[Path], keep: Sequence[str]) -> list[Removal]:
    """All checkpoints of the runs except those named in `keep`.

    Raises ValueError for a run that has none of the checkpoints to keep, and for one that is being trained.
    """
    found = []
    for path in paths:
        sizes = checkpoint_sizes(path)
        if keep and not set(sizes) & set(keep):
            there = ", ".join(sizes) or "none"
            raise ValueError(f"{path} has the checkpoints {there}, and none of {', '.join(keep)}: name one of them")
        if state(load_run(path)).kind == "open" and time.time() - Run(path).events.stat().st_mtime < 60:
            raise ValueError(f"{path} is being trained, or was until a minute ago: wait until it ends")
        removed = {name: size for name, size in sizes.items() if name not in keep}
        found += [Removal(str(path), name, size, *_identity(path, name), LOSES.get(name, "")) for name, size in removed.items()]
    return found


def _identity(path: Path, name: str) -> tuple[int | None, str | None]:
    """(images seen, fingerprint of the model) of a checkpoint."""
    try:
        images = read_state(path / "checkpoints" / name)["images"]
        return images, load_model(path, name).fingerprint
    except (OSError, ValueError, KeyError, AttributeError):
        return None, None


def remove(removals: Sequence[Removal]) -> int:
    """Removes checkpoints, each after a line in its run's lineage.jsonl that records what it was. Returns the bytes freed."""
    for r in removals:
        path = Path(r.run)
        row = {"removed": r.name, "images": r.images, "model": r.model, "size": r.size, "time": time.time()}
        append_jsonl(path / LINEAGE, row)
        shutil.rmtree(path / SNAPSHOTS if r.name == "snapshots" else path / "checkpoints" / r.name)
    return sum(r.size for r in removals)


def origin(paths: Sequence[Path], model: str) -> list[dict[str, Any]]:
    """Which checkpoints have or had a model fingerprint: run, checkpoint, images seen, and whether it still exists ("there")."""
    found = []
    for path in paths:
        for name in checkpoint_sizes(path):
            images, fingerprint = _identity(path, name)
            if name != "snapshots" and fingerprint == model:
                found.append({"run": str(path), "checkpoint": name, "images": images, "there": True})
        for row in read_jsonl(path / LINEAGE):
            if row.get("model") == model:
                found.append({"run": str(path), "checkpoint": row.get("removed"), "images": row.get("images"), "there": False})
    return found
