"""JSON configurations of diffusers, whose values are checked as they are read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_JSON = 2**24  # bytes


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError where it is too large or something else."""
    if file.stat().st_size > MAX_JSON:
        raise ValueError(f"{file} is larger than {MAX_JSON >> 20} MiB: it is no configuration")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{file} is not valid JSON ({e})") from e
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds {type(found).__name__}, wanted an object of keys and values")
    return found


@dataclass(frozen=True)
class CheckedConfig:
    """A configuration with one method per kind of value. Each raises ValueError, naming the file and the key."""

    values: Mapping[str, Any]
    file: str | Path

    def one_of(self, key: str, known: Iterable[str], hint: str = "") -> str:
        value = self.values[key]
        if not isinstance(value, str) or value not in known:
            raise self._error(key, f"known are {', '.join(known)}{hint}")
        return value

    def flag(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise self._error(key, "wanted true or false")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.values[key]
        if type(value) not in (int, float) or not low <= value <= high:
            raise self._error(key, f"wanted a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, key: str, low: int, high: int) -> int:
        value = self.values[key]
        if type(value) is not int or not low <= value <= high:
            raise self._error(key, f"wanted a whole number from {low} to {high}")
        return value

    def _error(self, key: str, wanted: str) -> ValueError:
        return ValueError(f"{self.file}: {key} is {self.values[key]!r:.60}; {wanted}")
