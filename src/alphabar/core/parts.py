"""Work that can be interrupted: finished items in a folder that belongs to one protocol."""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import json_text, locked, write_json, write_npz
from alphabar.core.stored_values import read_object


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The names of the fields whose values differ; a missing field counts as None."""
    return [key for key in {**a, **b} if a.get(key) != b.get(key)]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The fields of a protocol, those of a dictionary in it as "versions.numpy"."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key in value for k, v in _flat(value[key], f"{name}.{key}".lstrip(".")).items()}


@dataclass(frozen=True)
class Parts:
    """A folder with finished items (.npz with arrays, .json with plain data) and protocol.json, which decides what they are.

    The same work, started again, finds the items that are done; work under another protocol is refused.

    >>> import tempfile
    >>> scratch = tempfile.TemporaryDirectory()
    >>> parts = Parts(Path(scratch.name) / "out.part", "unfinished samples")
    >>> parts.claim({"seed": 0, "steps": 50})
    >>> parts.save("00000000.json", {"nfe": 50})
    >>> parts.done(), parts.load("00000000.json"), parts.load("00000064.json")
    (['00000000.json'], {'nfe': 50}, None)
    >>> scratch.cleanup()
    """

    folder: Path
    what: str
    """What the folder holds, in the plural, for error messages: "unfinished samples"."""
    subfolder: str = ""
    """Where in the folder the items stand; "" is the folder itself."""

    def claim(self, protocol: Mapping[str, Any], names: Collection[str] = ()) -> None:
        """Makes the folder, or opens it again for the same protocol, which is plain data (tuples become lists).

        names: fields that may differ, as they name what another field identifies.

        Raises ValueError if the folder holds files of another protocol, naming the fields that differ, or other files.
        """
        wanted = json.loads(json_text(protocol))
        if self._used():
            if not self._note.exists():
                raise ValueError(f"{self.folder} holds files that are no {self.what}: choose an empty folder")
            stored, asked = _flat(self.protocol()), _flat(wanted)
            if fields := [key for key in differing(stored, asked) if key not in names]:
                was, now = (f"{p.get(fields[0])!r:.60}" for p in (stored, asked))
                raise ValueError(
                    f"{self.folder} holds {self.what} that differ in {', '.join(fields)} ({fields[0]} was {was}, is now {now}): "
                    "continue with the earlier arguments, choose another place, or delete the folder"
                )
        self.path("").mkdir(parents=True, exist_ok=True)
        if not self._note.exists() or self.protocol() != wanted:
            write_json(self._note, wanted)

    def protocol(self) -> dict[str, Any]:
        """What the folder was claimed for."""
        return read_object(self._note)

    def path(self, name: str) -> Path:
        """Where an item stands once it is done."""
        return self.folder / self.subfolder / name

    def done(self, suffix: str = "") -> list[str]:
        """The names of the finished items, sorted; `suffix` ".npz" or ".json" selects one kind."""
        return sorted(p.name for p in self.path("").glob(f"[!.]*{suffix}") if p.is_file() and p != self._note)

    def save(self, name: str, item: Mapping[str, Any]) -> None:
        """Writes one item whole or not at all; the suffix of its name, .npz or .json, decides the format."""
        if name.endswith(".npz"):
            write_npz(self.path(name), item)
        else:
            write_json(self.path(name), item)

    def load(self, name: str) -> dict[str, Any] | None:
        """One item as it was saved, or None if it is not done."""
        path = self.path(name)
        if not path.exists():
            return None
        if name.endswith(".npz"):
            from alphabar.core.npz import read_npz

            return read_npz(path)
        return read_object(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out, as `files.locked`; the folder disappears afterwards if it is empty."""
        with locked(self.folder):
            yield
        with suppress(OSError):
            self.folder.rmdir()

    def clear(self) -> None:
        """Deletes all items, then the protocol, by which a killed process's rest is known, and a folder that is not `locked`."""
        for path in sorted(self.folder.glob("*"), key=lambda path: path == self._note):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def _note(self) -> Path:
        return self.folder / "protocol.json"

    def _used(self) -> bool:
        """Whether the folder holds more than a protocol. Names that begin with a dot are temporary files."""
        return any(p.is_file() and p != self._note and not p.name.startswith(".") for p in self.folder.rglob("*"))
