"""Labels in a file next to the images: EDM's dataset.json, Hugging Face's metadata.csv and metadata.jsonl."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.data.formats import naming
from alphabar.data.labels import column_of_labels

MOST_CLASSES = 1 << 16
_MOST_BYTES = 1 << 28  # of a file with labels
_TABLES = ("metadata.csv", "metadata.jsonl")
_FILES = ("dataset.json", *_TABLES)


def labels_beside(folder: Path) -> tuple[Path, dict[str, Any] | None] | None:
    """(file, label by the path of the image) of EDM's dataset.json or Hugging Face's metadata.csv or metadata.jsonl in a folder,
    the label None where it has no column of labels. None without such a file."""
    file = next((f for name in _FILES if (f := folder / name).is_file()), None)
    if file is None:
        return None
    with naming(str(file), "wanted EDM's dataset.json, or a table with the columns file_name and label"):
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size} bytes, more than {_MOST_BYTES}")
        if file.name == "dataset.json":
            return file, _edm_labels(json.loads(file.read_text(encoding="utf-8")))
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [*csv.DictReader(lines)] if file.suffix == ".csv" else [json.loads(line) for line in lines if line.strip()]
        return file, _table_labels(rows)


def _edm_labels(found: Any) -> dict[str, Any] | None:
    rows = found.get("labels") if isinstance(found, dict) else [found]
    if rows is None:
        return None
    if not isinstance(rows, list) or not all(isinstance(r, list) and len(r) == 2 and isinstance(r[0], str) for r in rows):
        raise ValueError('it holds no {"labels": [[FILE, CLASS], ...]}')
    return _checked((name.replace("\\", "/"), label) for name, label in rows)


def _table_labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not all(isinstance(row, dict) and isinstance(row.get("file_name"), str) for row in rows):
        raise ValueError("a row has no file_name")
    column = column_of_labels(rows[0]) if rows else None
    return None if column is None else _checked((row["file_name"], row.get(column)) for row in rows)


def _checked(rows: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    for name, label in rows:
        if type(label) not in (int, str, bool) or (isinstance(label, int) and not 0 <= label < MOST_CLASSES):
            raise ValueError(f"the label of {name} is {label!r:.40}: wanted a name, or a number from 0 to {MOST_CLASSES - 1}")
        if labels.setdefault(name.removeprefix("./"), label) != label:
            raise ValueError(f"{name} has two labels, {labels[name.removeprefix('./')]!r} and {label!r}")
    return labels
