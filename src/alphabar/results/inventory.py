"""The runs below some folders: what they are, how they stand, what they cost and scored; and checkpoints taken away without
losing what they were."""

import json
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import append_jsonl, read_jsonl
from alphabar.core.run import Run
from alphabar.results.runs import RunData, differing, load_run, state
from alphabar.results.series import interval, number, protocol_words, score_rows
from alphabar.training.checkpoint import SNAPSHOTS, load_model

LINEAGE = "lineage.jsonl"  # in a run: the checkpoints that were taken away, one a line
DEEP = 4  # levels of folders below the one that is named


@dataclass(frozen=True)
class Row:
    """A run in a line. state: finished, stopped, diverged, open or empty. images of budget seen, in hours. tflop: of all network
    calls of training, three times a forward one each; None where the run does not say. fid: the lowest one, with its interval and
    protocol. differs: recipe keys that are not the same in all rows."""

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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_runs(roots: Iterable[Path]) -> list[Path]:
    """Run folders at or below the roots, in the order of their names: those with a recipe.toml and a record or checkpoints.

    Raises FileNotFoundError for a root that is no folder.
    """
    found: dict[Path, None] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is no folder: name one that holds runs, or a run")
        found |= dict.fromkeys(_below(root, DEEP))
    return list(found)


def _below(folder: Path, deep: int) -> list[Path]:
    run = Run(folder)
    if run.recipe.is_file() and (
        run.events.is_file() or (folder / "checkpoints").is_dir() or (folder / "machine.json").is_file()
    ):
        return [folder]
    if deep == 0:
        return []
    try:
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and not p.is_symlink())
    except PermissionError as e:  # of another user: the runs beside it are listed all the same
        warnings.warn(f"{folder} cannot be looked into ({e.strerror}): runs below it are left out", stacklevel=4)
        return []
    return [run for p in inside for run in _below(p, deep - 1)]


def table(paths: Sequence[Path], where: Mapping[str, str] | None = None, states: Sequence[str] = ()) -> list[Row]:
    """Rows of the runs whose recipe says what `where` wants ("train.lr" -> "0.001", compared as numbers where both are) and
    that stand as one of `states` (none: any).

    Raises ValueError for a key that no run's recipe has.
    """
    runs = [load_run(p) for p in paths]
    for key in where or {}:
        known = sorted({k for run in runs for k in run.recipe})
        if runs and key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, known, 1, 0.4)
            raise ValueError(f"no run has the recipe key {key}" + (f"; did you mean {near[0]}?" if near else ""))
    kept = [run for run in runs if all(_is(run.recipe.get(k), v) for k, v in (where or {}).items())]
    kept = [run for run in kept if not states or state(run).kind in states]
    unlike = differing(kept)
    return [_row(run, {k: values[i] for k, values in unlike if values[i] is not None}) for i, run in enumerate(kept)]


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return str(value).lower() == wanted.lower()
    if isinstance(value, int | float):
        try:
            return float(value) == float(wanted)
        except ValueError:
            return False
    return str(value) == wanted


def _row(run: RunData, differs: dict[str, Any]) -> Row:
    now = state(run)
    best = min((r for r in score_rows(run) if r["metric"] == "fid"), key=lambda r: float(r["value"]), default=None)
    gflop = _gflop(run.path)
    return Row(
        str(run.path), now.kind, now.images, now.budget, None if now.seconds is None else now.seconds / 3600,
        None if gflop is None or now.images is None else 3 * gflop * now.images / 1000,
        None if best is None else number(best, "value"), None if best is None else interval(best),
        None if best is None else protocol_words(best), sorted(_sizes(run.path)), differs,
    )  # fmt: skip


def _gflop(path: Path) -> float | None:
    try:
        return number(json.loads((path / "cost.json").read_text(encoding="utf-8")), "gflop_a_call")
    except (OSError, ValueError, AttributeError):
        return None


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of each checkpoint of a run, by name; "snapshots" are those of its averages."""
    folders = [p for p in (path / "checkpoints").glob("*") if p.is_dir() and not p.name.startswith(".")]
    if (path / SNAPSHOTS).is_dir():
        folders.append(path / SNAPSHOTS)
    return {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in folders}


@dataclass(frozen=True)
class Removal:
    """A checkpoint that is to go. size: bytes. images: seen by it, and model: the fingerprint by which samples and scores name
    it, both None of what cannot be read. loses: what can no longer be done, in words."""

    run: str
    name: str
    size: int
    images: int | None
    model: str | None
    loses: str


def plan_removals(paths: Sequence[Path], keep: Sequence[str]) -> list[Removal]:
    """What `remove` would take away: all checkpoints but those of the names to keep (last, best, snapshots).

    Raises ValueError for a run without a checkpoint to keep, unless keep is empty, and for one that is being trained.
    """
    found = []
    for path in paths:
        sizes = _sizes(path)
        if keep and not set(sizes) & set(keep):
            raise ValueError(
                f"{path} has the checkpoints {', '.join(sizes) or 'none'}, and none of {', '.join(keep)}: name one of them"
            )
        if state(load_run(path)).kind == "open" and _fresh(path):
            raise ValueError(f"{path} is being trained, or was until a minute ago: wait for its end")
        for name, size in sizes.items():
            if name not in keep:
                images, model = _identity(path, name)
                loses = {"last": "training cannot go on", "snapshots": "no average of another length can be made"}.get(name, "")
                found.append(Removal(str(path), name, size, images, model, loses))
    return found


def _fresh(path: Path) -> bool:
    events = Run(path).events
    return events.exists() and time.time() - events.stat().st_mtime < 60


def _identity(path: Path, name: str) -> tuple[int | None, str | None]:
    folder = path / "checkpoints" / name
    try:
        images = json.loads((folder / "state.json").read_text(encoding="utf-8")).get("images")
        return images, load_model(path, name).fingerprint
    except (OSError, ValueError, KeyError, AttributeError):
        return None, None


def remove(removals: Sequence[Removal]) -> int:
    """Takes checkpoints away, each after a line in its run's lineage.jsonl that says what it was. Gives the bytes freed."""
    for r in removals:
        path = Path(r.run)
        append_jsonl(
            path / LINEAGE, {"removed": r.name, "images": r.images, "model": r.model, "size": r.size, "time": time.time()}
        )
        shutil.rmtree(path / SNAPSHOTS if r.name == "snapshots" else path / "checkpoints" / r.name)
    return sum(r.size for r in removals)


def origin(paths: Sequence[Path], model: str) -> list[dict[str, Any]]:
    """Where a model fingerprint, as samples and scores name it, comes from: run, checkpoint, images seen, and whether it is
    still there."""
    found = []
    for path in paths:
        for name in _sizes(path):
            if name != "snapshots" and _identity(path, name)[1] == model:
                found.append({"run": str(path), "checkpoint": name, "images": _identity(path, name)[0], "there": True})
        for row in read_jsonl(path / LINEAGE):
            if row.get("model") == model:
                found.append({"run": str(path), "checkpoint": row.get("removed"), "images": row.get("images"), "there": False})
    return found
