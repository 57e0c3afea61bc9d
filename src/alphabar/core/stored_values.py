"""Values that were read from a file, checked key by key: a file may be damaged or hostile."""

import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_JSON, MAX_TOML, MAX_DEPTH = 2**24, 2**20, 64  # bytes, bytes, and lists within lists
MAX_SIDE = 65536  # of an image


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


def read_toml(path: Path, most: int = MAX_TOML) -> dict[str, Any]:
    """The table in a TOML file of at most `most` bytes. Raises OSError, or ValueError, naming the file."""
    with path.open("rb") as file:
        text = file.read(most + 1)
    if len(text) > most:
        raise ValueError(f"{path} has more than {most >> 20} MiB of TOML: it is no recipe or experiment")
    try:
        plain = text.decode(errors="surrogateescape")
        keys = (re.split("[=,]", line, maxsplit=1)[0] for line in plain.splitlines())
        if any(key.count(".") > MAX_DEPTH for key in keys):  # tomllib would take minutes
            raise ValueError(f"a key of more than {MAX_DEPTH} parts")
        return tomllib.loads(plain)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path} is not a TOML file: {e}") from e


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
class Kind:
    """A kind of value: a test of a value, and words for the message. With `most`, a list of `least` to `most` such values."""

    good: Callable[[Any], bool]
    wanted: str
    most: int | None = None
    least: int = 0


def number(low: float, high: float) -> Kind:
    return Kind(lambda v: type(v) in (int, float) and low <= v <= high, f"a number from {low:g} to {high:g}")  # False for NaN


def whole(low: int, high: int) -> Kind:
    return Kind(lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}")


def one_of(known: Collection[str], hint: str = "") -> Kind:
    return Kind(lambda v: isinstance(v, str) and v in known, f"one of {', '.join(known)}{hint}")


def listed(kind: Kind, most: int, least: int = 0) -> Kind:
    return replace(kind, most=most, least=least)


TEXT = Kind(lambda v: isinstance(v, str), "a text")
FLAG = Kind(lambda v: isinstance(v, bool), "true or false")
TABLE = Kind(lambda v: isinstance(v, dict), "an object of keys and values")
REAL = Kind(lambda v: type(v) in (int, float), "a number")  # or NaN or infinity
FINITE = Kind(number(-1e300, 1e300).good, "a number")
PAIR = Kind(lambda v: isinstance(v, (list, tuple)) and len(v) == 2 and all(map(REAL.good, v)), "two numbers")
_SIDE = whole(1, MAX_SIDE)
SHAPE = Kind(lambda v: isinstance(v, (list, tuple)) and len(v) == 3 and all(map(_SIDE.good, v)), "[channels, height, width]")


@dataclass(frozen=True)
class StoredValues:
    """Values by key. The methods raise ValueError, naming the file and the key, for a value of another kind."""

    values: Mapping[str, Any]
    where: str

    def get(self, key: str, kind: Kind) -> Any:
        """The value under a key, which must be there."""
        value = self.values.get(key, _GONE)
        short = [value] if kind.most is None else value
        if not isinstance(short, (list, tuple)) or not kind.least <= len(short) <= (kind.most or 1):
            lengths = f"at most {kind.most:,}" if not kind.least else f"{kind.least} to {kind.most:,}"
            raise ValueError(f"{self.where}: {key} is {_short(value)}; wanted a list of {lengths}")
        for k, item in enumerate(short):
            if not kind.good(item):
                place = key if kind.most is None else f"{key}[{k}]"
                raise ValueError(f"{self.where}: {place} is {_short(item)}; wanted {kind.wanted}")
        return value

    def check(self, kinds: Mapping[str, Kind], null: Collection[str] = ()) -> "StoredValues":
        """Checks the values under these keys, those of `null` unless they are null. Keys may be absent."""
        for key in self.values.keys() & kinds.keys():
            if key not in null or self.values[key] is not None:
                self.get(key, kinds[key])
        return self

    def table(self, key: str) -> "StoredValues":
        """The object under a key, to be checked in turn."""
        return StoredValues(self.get(key, TABLE), f"{self.where}: {key}")


_GONE = object()


def _short(value: Any) -> str:
    return "missing" if value is _GONE else f"{value!r:.60}"
