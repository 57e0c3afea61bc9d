"""Checkpoints of runs: their sizes, their removal, and the record by which samples can still be traced to a removed one."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import append_jsonl, read_jsonl
from alphabar.core.run import Run
from alphabar.results.runs import load_run, state
from alphabar.training.checkpoint import SNAPSHOTS, load_model, read_state

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
