"""Files that are written whole or not at all, JSON lines that survive a crash, and folders that one process writes at a time."""

import errno
import glob
import json
import math
import os
import platform
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from alphabar.core.messages import say

_TEMPORARY = re.compile(r"\..*\.(\d+)-([0-9a-f]{8})")
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = re.compile(
    r"(?:os error |Os \{ code: )(\d+)|\d+ requested and \d+ written|No space left"
)  # safetensors, NumPy, Pillow


def temporary(name: str) -> str:
    """The name of a temporary file or folder of this process, which `remove_leftovers` recognises."""
    return f".{name}.{os.getpid()}-{_HOST}"


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Deletes the temporary files and folders, or those of one name, that killed processes of this machine left in a folder."""
    from psutil import pid_exists

    with suppress(OSError):
        for path in folder.glob(f".{glob.escape(name)}.*" if name else ".*"):
            made = _TEMPORARY.fullmatch(path.name)
            if made and made[2] == _HOST and not pid_exists(int(made[1])):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` that takes its place when the block ends without an error.

    The file is synchronised to disk before it is renamed, so that `path` is either the old file or the complete new one.
    Raises OSError, naming the file, where the disk is full.
    """
    part = path.with_name(temporary(path.name))
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        try:
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Synchronises a file to disk, or the names in a folder where the system can (Windows cannot)."""
    if path.is_file():
        with path.open("rb+") as file:  # Windows synchronises no file that was opened for reading
            os.fsync(file.fileno())
    elif os.name != "nt":
        folder = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):  # some file systems synchronise no folder
                os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def room_for(path: Path, kept: str = "") -> Iterator[None]:
    """Makes the error of a full disk an OSError that names the file, the free space and what to do. kept: what is still there."""
    try:
        yield
    except Exception as e:  # safetensors raises its own type, NumPy an OSError without a number
        if (code := _full(e)) is None:
            raise
        folder = next(p for p in path.absolute().parents if p.exists())
        free = f"{os.strerror(code)}, {shutil.disk_usage(folder).free / 2**20:.0f} MiB free"
        advice = "Make room, then give the same command again (a training with --resume)"
        full = OSError(f"{path} was not written: the disk is full ({free}){kept and ', '}{kept}. {advice}")
        full.errno = code
        raise full from e


def _full(e: Exception) -> int | None:
    """The number of the error where a disk, a quota or a limit on files is full."""
    code = getattr(e, "errno", None)
    if code is None and (found := _FULL_WORDS.search(str(e))):
        code = int(found[1] or errno.ENOSPC)
    return code if code in _FULL and "the disk is full" not in str(e) else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time is in such a block for a folder, which is made where it does not exist.

    The operating system ends the lock with the process, also with a killed one, whose temporary files are then deleted.
    Raises OSError, naming the folder and where known the process, where another process is in the block.
    """
    from filelock import FileLock, Timeout

    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
    lock = FileLock(file)
    try:
        holder = file.read_text(encoding="utf-8", errors="replace")[:99].strip() if file.exists() else ""
        lock.acquire(timeout=0)
    except Timeout:
        who = f" ({holder})" if holder else ""
        raise OSError(f"{folder} is being written by another process{who}: wait until it ends, or name another place") from None
    own = file.stat()
    try:
        with suppress(OSError):  # Windows writes nothing into a locked file
            file.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        remove_leftovers(folder)
        yield
    finally:
        with suppress(OSError):  # gone with its folder; a new file may be another process's
            if os.path.samestat(own, file.stat()):
                file.unlink()
        lock.release()
        if made:
            with suppress(OSError):  # it holds files
                folder.rmdir()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all. Text is encoded as UTF-8; file names that are not UTF-8 keep their bytes."""
    with replacing(path) as part:
        part.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes plain data as JSON, whole or not at all, as `json_text` gives it."""
    write_atomically(path, json_text(value, indent=1) + "\n")


def json_text(value: Any, **options: Any) -> str:
    """Plain data as JSON, with options of json.dumps; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(finite(value), allow_nan=False, **options)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays to an .npz file whole or not at all."""
    import numpy as np

    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def finite(value: Any) -> Any:
    """Plain data in which NaN and infinity, which JSON does not have, are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


class Record:
    """Base of dataclasses that are written as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, for json.dumps: the fields without those that hold arrays and tensors."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {name: plain(value) for name, value in values.items() if not hasattr(value, "shape")}


def plain(value: Any) -> Any:
    """Plain data, for json.dumps: what has a `to_json` as that gives it, other dataclasses as their fields, paths as texts."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Appends one line of JSON, or nothing where the disk is full. `read_jsonl` skips a line that a crash has truncated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_for(path), path.open("ab+", buffering=0) as file:
        end, line = file.seek(0, os.SEEK_END), json_text(row).encode() + b"\n"
        if end:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            file.truncate(end)
            raise


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file. A truncated line, as a crash leaves it, is skipped with a message on stderr."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            say(f"{path}: line {number} is truncated and was skipped", sys.stderr)
