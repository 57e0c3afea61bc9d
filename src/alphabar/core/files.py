"""Files that are written whole or not at all, and JSON lines that survive a crash."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphabar.core.messages import say


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` that takes its place when the block ends without an error.

    The file is synchronised to disk before it is renamed, so that `path` is either the old file or the complete new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all. Text is encoded as UTF-8; file names that are not UTF-8 keep their bytes."""
    with replacing(path) as part:
        part.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays to an .npz file whole or not at all."""
    import numpy as np

    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Appends one line of JSON. A line that a crash has truncated is kept, and `read_jsonl` skips it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file. A truncated line, as a crash leaves it, is skipped with a message on stderr."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            say(f"{path}: line {number} is truncated and was skipped", sys.stderr)
