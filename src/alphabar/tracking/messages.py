"""The record of a run as messages for a tracker. A tracker is a copy of the record, continued from where it stopped."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.core.places import without_places
from alphabar.core.run import ENDS, Run, flat
from alphabar.core.stored_values import read_object


@dataclass(frozen=True)
class Message:
    """One event of a run."""

    kind: str
    images: int  # trained on so far; a tracker's step
    end: int  # position in the record, in bytes, after this event
    values: dict[str, float] = field(default_factory=dict)  # finite numbers by name
    picture: Path | None = None  # a sheet of samples as PNG
    folder: Path | None = None  # the best checkpoint so far
    notes: Mapping[str, Any] = field(default_factory=dict)  # the whole event


def read_messages(run: Run, offset: int = 0) -> Iterator[Message]:
    """The events after the first `offset` bytes of the record, without lines that a crash has truncated. A last line without its
    end is still being written and is left for later."""
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
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("event"), str) and isinstance(row.get("images"), int):
                yield _message(run, row, offset)


def _message(run: Run, row: Mapping[str, Any], end: int) -> Message:
    kind, images = str(row["event"]), int(row["images"])
    if kind == "preview" and isinstance(row.get("path"), str):
        return Message(kind, images, end, picture=run.path / row["path"], notes=row)
    if kind == "best":
        return Message(kind, images, end, folder=run.checkpoint("best"), notes=row)
    return Message(kind, images, end, _numbers(kind, row), notes=row)


def _numbers(kind: str, row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an event as Python floats, which every tracker accepts."""
    found: dict[str, Any] = {}
    if kind == "loss":
        found = {f"train/{key}": row.get(key) for key in ("loss", "lr", "images_per_second")}
    elif kind == "heldout":
        found = {f"heldout/{key}": row.get(key) for key in ("loss", "se")}
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
    """The resolved recipe, the data and the machine, flat, in the few types that every tracker accepts."""
    found = run.recipe_keys()
    for file, key in (("data.json", "data_seen"), ("machine.json", "machine")):
        if (path := run.path / file).exists():
            found |= flat({key: read_object(path)})
    found = without_places(found)
    return {k: v if isinstance(v, bool | int | float | str) else json.dumps(v) for k, v in found.items()}
