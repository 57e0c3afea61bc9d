"""From the record of a run to messages for a tracker. The record is complete in itself; a tracker is a copy, made by reading on
from where it stopped."""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.core.run import ENDS, Run, flat
from alphabar.core.stored_names import RECIPE, renamed


@dataclass(frozen=True)
class Message:
    """One event of a run. kind: the event's. images: seen by then, which is a tracker's step. values: numbers by name. picture:
    a PNG. folder: the best checkpoint so far. notes: what else the event says. end: bytes of the record up to its end."""

    kind: str
    images: int
    end: int
    values: dict[str, float] = field(default_factory=dict)
    picture: Path | None = None
    folder: Path | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def messages(run: Run, offset: int = 0) -> Iterator[Message]:
    """The events that lie behind the first `offset` bytes of the record, in their order; lines that a crash tore are passed
    over, and one that is being written is left for later."""
    if not run.events.exists():
        return
    with run.events.open("rb") as f:
        f.seek(offset)
        for line in f:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("event"), str) and isinstance(row.get("images"), int):
                yield _message(run, row, offset)


def _message(run: Run, row: Mapping[str, Any], end: int) -> Message:
    kind, images = str(row["event"]), int(row["images"])
    if kind == "preview" and isinstance(row.get("path"), str):
        return Message(kind, images, end, picture=run.path / row["path"], notes=row)
    if kind == "best":
        return Message(kind, images, end, folder=run.checkpoint("best"), notes=row)
    return Message(kind, images, end, _values(kind, row), notes=row)


def _values(kind: str, row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an event as Python's own floats, which every tracker keeps; what is not finite stays out."""
    found: dict[str, Any] = {}
    if kind == "loss":
        found = {
            "train/loss": row.get("loss"),
            "train/lr": row.get("lr"),
            "train/images_per_second": row.get("images_per_second"),
        }
    elif kind == "heldout":
        found = {"heldout/loss": row.get("loss"), "heldout/se": row.get("se")}
        for band in row.get("bands") or []:
            low, high = band["sigma"]
            found[f"heldout/sigma_{low:.2g}_to_{high:.2g}"] = band.get("loss")
    elif kind == "score":
        for score in row.get("scores") or []:
            name = f"score/{score.get('metric')}"
            low, high = score.get("interval") or (None, None)
            found |= {name: score.get("value"), f"{name}_low": low, f"{name}_high": high, f"{name}_floor": score.get("floor")}
    elif kind in ENDS:
        found = {"seconds": row.get("seconds")}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)}


def configuration(run: Run) -> dict[str, bool | int | float | str]:
    """The resolved recipe, the data and the machine: flat, and of the few types that every tracker takes."""
    told = renamed(flat(tomllib.loads(run.recipe.read_text(encoding="utf-8"))), RECIPE)
    for name in ("data", "machine"):
        path = run.path / f"{name}.json"
        if path.exists():
            told |= flat({f"{name}_seen" if name == "data" else name: json.loads(path.read_text(encoding="utf-8"))})
    return {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in told.items()}
