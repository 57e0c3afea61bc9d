"""Values that were read from a file, checked key by key: a file may be damaged or hostile."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_JSON, MAX_DEPTH = 2**24, 64  # bytes, and lists within lists
MAX_SIDE = 65536  # of an image
MAX_NUMBER = 1e300


def parse_object(text: str | bytes, where: str, most: int = MAX_JSON) -> dict[str, Any]:
    """The object in a JSON text. Raises ValueError, beginning with `where`, where it is too long, too deep or no object."""
    if len(text) > most:
        raise ValueError(f"{where} has more than {most >> 20} MiB of JSON: it is no description or record")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{where} is not valid JSON ({e})") from e
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds {type(found).__name__}, wanted an object of keys and values")
    level: list[Any] = [found]
    for _ in range(MAX_DEPTH):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for values in inner for v in values if isinstance(v, (dict, list))]
    if level:
        raise ValueError(f"{where} nests more than {MAX_DEPTH} lists: it is no description or record")
    return found


def read_object(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """The object in a JSON file of at most `most` bytes. Raises OSError, or ValueError, naming the file, as `parse_object`."""
    with path.open("rb") as file:
        return parse_object(file.read(most + 1), str(path), most)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Makes every error of what is built from a file's values, but a package that is missing, a ValueError after `where`."""
    try:
        yield
    except ImportError:
        raise
    except Exception as e:  # libraries raise many types for values that they do not expect
        raise ValueError(f"{where}: {e if str(e) and not isinstance(e, KeyError) else repr(e)}") from e


@dataclass(frozen=True)
class StoredValues:
    """Values by key, with one method per kind of value. Each raises ValueError, naming the file and the key."""

    values: Mapping[str, Any]
    where: str

    def one_of(self, key: str, known: Collection[str], hint: str = "") -> str:
        return str(self.value(key, lambda v: isinstance(v, str) and v in known, f"known are {', '.join(known)}{hint}"))

    def flag(self, key: str) -> bool:
        return bool(self.value(key, lambda v: isinstance(v, bool), "wanted true or false"))

    def text(self, key: str) -> str:
        return str(self.value(key, lambda v: isinstance(v, str), "wanted a text"))

    def number(self, key: str, low: float, high: float) -> float:
        return float(self.value(key, lambda v: is_number(v, low, high), f"wanted a number from {low:g} to {high:g}"))

    def whole(self, key: str, low: int, high: int) -> int:
        return int(self.value(key, lambda v: is_whole(v, low, high), f"wanted a whole number from {low} to {high}"))

    def wholes(self, key: str, low: int, high: int, most: int) -> list[int]:
        """A list of 1 to `most` whole numbers."""
        found = self.items(key, most, lambda v: is_whole(v, low, high), f"wanted a whole number from {low} to {high}")
        if not found:
            raise ValueError(f"{self.where}: {key} is empty; wanted 1 to {most} whole numbers")
        return found

    def numbers(self, key: str, most: int) -> tuple[float, ...]:
        """A list of at most `most` finite numbers."""
        return tuple(map(float, self.items(key, most, lambda v: is_number(v, -MAX_NUMBER, MAX_NUMBER), "wanted a number")))

    def texts(self, key: str, most: int) -> list[str]:
        """A list of at most `most` texts."""
        return self.items(key, most, lambda v: isinstance(v, str), "wanted a text")

    def items(self, key: str, most: int, good: Callable[[Any], bool], wanted: str) -> list[Any]:
        """A list of at most `most` values, all good."""
        values = self.value(key, lambda v: isinstance(v, (list, tuple)) and len(v) <= most, f"wanted a list of at most {most:,}")
        for k, value in enumerate(values):
            if not good(value):
                raise ValueError(f"{self.where}: {key}[{k}] is {value!r:.60}; {wanted}")
        return list(values)

    def table(self, key: str) -> "StoredValues":
        """The object under a key, to be checked in turn."""
        found = self.value(key, lambda v: isinstance(v, dict), "wanted an object of keys and values")
        return StoredValues(found, f"{self.where}: {key}")

    def value(self, key: str, good: Callable[[Any], bool], wanted: str) -> Any:
        """The value under a key, where it is good."""
        if key not in self.values:
            raise ValueError(f"{self.where}: {key} is missing; {wanted}")
        if not good(value := self.values[key]):
            raise ValueError(f"{self.where}: {key} is {value!r:.60}; {wanted}")
        return value


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether it is a number, but no bool and not NaN, from low to high."""
    return type(value) in (int, float) and low <= value <= high


def is_real(value: Any) -> bool:
    """Whether it is a number, but no bool; NaN and infinity are numbers."""
    return type(value) in (int, float)


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether it is a whole number, but no bool and no float, from low to high."""
    return type(value) is int and low <= value <= high


def is_image_shape(value: Any) -> bool:
    """Whether it is a list [channels, height, width]."""
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(is_whole(k, 1, MAX_SIDE) for k in value)
