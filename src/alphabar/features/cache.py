"""The cache of features: one folder per set of images and extractor, complete or absent; the longest unused is deleted first.

An entry is the folder `features/<images>-<extractor>` with features.npy (float32, n x dim), meta.json (what the features belong
to, and a checksum of every chunk) and, once they were asked for, the statistics in stats.npz. It is built in `.part-<key>`,
one file per chunk, where an interrupted extraction continues, and renamed when it is complete.

Whoever reads or builds an entry holds a lock on it (shared or exclusive `flock`), and a locked entry is never deleted.
filelock has no shared locks on files; without fcntl (on Windows) nothing is cached.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
import time
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.files import remove_leftovers, replacing, temporary, write_json, write_npz
from alphabar.core.parts import Parts
from alphabar.core.stored_values import read_object
from alphabar.core.types import Features
from alphabar.data.cache import cache_folder
from alphabar.features.stats import FeatureStats, read_rows

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

LAYOUT = 1  # version of the layout; entries of another version are built again
AVAILABLE = fcntl is not None
_LIMIT_GB = 10.0  # default of ALPHABAR_FEATURES_GB, in units of 10^9 bytes
_LOCK = ".lock"  # locked by the builder; readers lock features.npy
_ABANDONED = 3600.0  # seconds after which a folder without a file to lock counts as left over
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)  # what reading a damaged file raises


class Entry:
    """A complete entry, open and protected from eviction as long as this object lives."""

    def __init__(self, folder: Path, locked: int, shape: tuple[int, int]) -> None:
        """locked: descriptor of features.npy, which this object closes. shape: of the features, (n, dim)."""
        self.folder, self._locked, self._shape = folder, locked, shape
        weakref.finalize(self, os.close, locked)
        self.rows = self._map("r")

    def writable_rows(self) -> NDArray[np.float32]:
        """All rows, mapped copy-on-write: changes never reach the file."""
        return self._map("c").view(np.ndarray)

    def _map(self, mode: Literal["r", "c"]) -> NDArray[np.float32]:
        with open(self._locked, "rb", closefd=False) as file:  # the open file, even where its folder was renamed
            return np.memmap(file, dtype="<f4", mode=mode, offset=len(_npy_header(*self._shape)), shape=self._shape)

    def matches(self, sums: list[str], chunk: int) -> bool:
        """Whether every chunk has its checksum."""
        starts = range(0, len(self.rows), chunk)
        return len(sums) == len(starts) and all(
            _checksum(read_rows(self.rows, slice(start, start + chunk))) == known
            for start, known in zip(starts, sums, strict=True)
        )

    def read_stats(self, extractor: str) -> FeatureStats | None:
        """The stored statistics, or None where there are none or they are damaged."""
        try:
            # NumPy would leave a damaged file open; a zip file checks its content itself
            with (self.folder / "stats.npz").open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                n, mean, scatter = int(file["n"]), file["mean"], file["scatter"]
        except _DAMAGED:
            return None
        rows, d = self.rows.shape
        if n != rows or mean.shape != (d,) or scatter.shape != (d, d) or not mean.dtype == scatter.dtype == np.float64:
            return None
        return FeatureStats(extractor, n, torch.from_numpy(mean), torch.from_numpy(scatter))

    def write_stats(self, stats: FeatureStats) -> None:
        with contextlib.suppress(OSError):  # a full or read-only disk: they are computed again next time
            arrays = {"n": np.int64(stats.n), "mean": stats.mean.numpy(), "scatter": stats.scatter.numpy()}
            write_npz(self.folder / "stats.npz", arrays)


def entry_folder(cache: str | os.PathLike[str] | None, about: Mapping[str, Any]) -> Path:
    """Where the entry of these images and this extractor belongs."""

    def plain(text: str) -> str:  # a fingerprint that cannot be a file name is replaced by its hash
        fits = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", text)
        return text if fits else blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()

    return cache_folder(cache) / "features" / f"{plain(about['images'])}-{plain(about['extractor'])}"


def open_entry(folder: Path, about: Mapping[str, Any], *, verify: bool) -> Entry | None:
    """The complete entry in a folder (`entry_folder`) if it belongs to `about`, or None.

    verify: read all features and compare their checksums. Raises ValueError when the entry has the same fingerprints but
    another number of images.
    """
    try:
        meta = read_object(folder / "meta.json")
        known = {key: meta[key] for key in about}
        sums, chunk = [str(s) for s in meta["sums"]], int(meta["chunk"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if known["n"] != about["n"] and {**known, "n": 0} == {**about, "n": 0}:
        raise ValueError(
            f"the fingerprint {about['images']} belongs to {known['n']} images in the cache, but {about['n']} came: pass the "
            "fingerprint of exactly these images, or None to have it computed"
        )
    if known != about or chunk < 1 or (locked := _lock(folder / "features.npy", shared=True)) is None:
        return None
    n, dim = about["n"], about["dim"]
    header = _npy_header(n, dim)
    if os.fstat(locked).st_size != len(header) + 4 * n * dim or os.pread(locked, len(header), 0) != header:
        os.close(locked)
        return None
    entry = Entry(folder, locked, (n, dim))
    if verify and not entry.matches(sums, chunk):
        return None
    with contextlib.suppress(OSError):
        os.utime(folder / "meta.json")  # the time of last use, for eviction
    return entry


class Builder:
    """An entry under construction, for use in a `with` block; `done` chunks are complete.

    The folder is `.part-<key>`, where an earlier, interrupted extraction may have left chunks; while another process builds
    the same entry, it is a temporary folder.
    """

    def __init__(self, place: Path, about: Mapping[str, Any], chunk: int) -> None:
        self.place, self.about, self.chunk = place, dict(about), chunk
        parent = place.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(parent)
            folder = parent / f".part-{place.name}"
            lock = _claim(folder)
            self._temporary = lock is None
            if lock is None:
                folder = Path(tempfile.mkdtemp(prefix=".part-", suffix=temporary(""), dir=parent))
                lock = _claim(folder)
        except OSError as error:
            raise OSError(
                f"the cache {parent} cannot be written ({error}): set ALPHABAR_CACHE to a folder of yours, or pass cache=False"
            ) from error
        if lock is None:
            raise OSError(
                f"files in {parent} cannot be locked: set ALPHABAR_CACHE to a folder on another disk, or pass cache=False"
            )
        remove_leftovers(folder)
        self._unlock = weakref.finalize(self, os.close, lock)
        self.folder, self._parts = folder, Parts(folder / "chunks", "unfinished features")
        protocol = {**self.about, "chunk": chunk}
        try:
            self._parts.claim(protocol)
        except ValueError:  # they are chunks of another size
            self._parts.clear()
            self._parts.claim(protocol)
        self.done = 0
        while self._load(self.done) is not None:
            self.done += 1

    def append(self, rows: Features) -> None:
        """Store the features of the next chunk."""
        self._parts.save(f"{self.done:08d}.npz", {"features": np.ascontiguousarray(rows.numpy(), dtype="<f4")})
        self.done += 1

    def finish(self, details: Mapping[str, Any]) -> Entry:
        """Complete the entry and move it to its place, unless another process was first. details: more for meta.json."""
        sums = []
        with replacing(self.folder / "features.npy") as path, path.open("wb") as file:
            file.write(_npy_header(self.about["n"], self.about["dim"]))
            for k in range(self.done):
                if (rows := self._load(k)) is None:
                    raise OSError(f"chunk {k} in {self.folder} cannot be read back: extract the features again")
                file.write(rows.data)
                sums.append(_checksum(rows))
        meta = {**self.about, "chunk": self.chunk, **details, "sums": sums}
        write_json(self.folder / "meta.json", meta)
        if (entry := open_entry(self.folder, self.about, verify=False)) is None:
            raise OSError(f"{self.folder} cannot be read back: is the disk full? Set ALPHABAR_CACHE to a folder with room")
        self._parts.clear()
        try:
            os.rename(self.folder, self.place)  # fails when there is a folder with files
        except OSError:
            if (other := open_entry(self.place, self.about, verify=True)) is not None:
                self._temporary = True  # this one is not needed
                return other
            _delete(self.place)  # it is damaged
            os.rename(self.folder, self.place)
        (self.place / _LOCK).unlink()
        entry.folder = self.place
        return entry

    def __enter__(self) -> "Builder":
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock now: a traceback may keep this object alive. Delete what no later extraction could use."""
        if self._temporary or not self.done:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._unlock()

    def _load(self, number: int) -> NDArray[np.float32] | None:
        """The features of a chunk, or None when the chunk is absent or damaged."""
        with contextlib.suppress(*_DAMAGED):
            if (item := self._parts.load(f"{number:08d}.npz")) is not None:
                features: NDArray[np.float32] = item["features"]
                return features
        return None


def evict_features(limit: int | None = None, cache: str | os.PathLike[str] | None = None) -> list[str]:
    """Delete entries, the longest unused first, until all together have at most `limit` bytes; returns their names.

    Entries in use by any process stay. A limit of None means ALPHABAR_FEATURES_GB (10 unless it is set) times 10^9. `extract`
    calls this after every entry that it builds. Raises ValueError when ALPHABAR_FEATURES_GB is not a number >= 0.
    """
    limit = _limit() if limit is None else limit
    found = sorted(_folders(cache))
    total = sum(size for _, size, _ in found)
    deleted = []
    for _, size, folder in found:
        if total <= limit:
            break
        if _evict(folder):
            total -= size
            deleted.append(folder.name)
    return deleted


def _folders(cache: str | os.PathLike[str] | None) -> list[tuple[float, int, Path]]:
    """(time of last use in seconds, bytes, folder) of all entries, finished or not."""
    parent = cache_folder(cache) / "features"
    found = []
    for folder in parent.iterdir() if parent.is_dir() else []:
        with contextlib.suppress(OSError):  # another process has just deleted it
            files = [f.stat() for f in folder.rglob("*") if f.is_file()]
            used = max([folder.stat().st_mtime, *(f.st_mtime for f in files)])
            found.append((used, sum(f.st_size for f in files), folder))
    return found


def _evict(folder: Path) -> bool:
    """Delete an entry unless it is in use; returns whether it was deleted."""
    if not AVAILABLE:
        return False
    locks: list[int | None] = []
    try:
        files = [file for name in (_LOCK, "features.npy") if (file := folder / name).exists()]
        locks += [_lock(file, shared=False) for file in files]
        # without a file to lock it is about to be built, or was left by a process that was killed while it deleted it
        if None in locks or (not files and time.time() - folder.stat().st_mtime < _ABANDONED):
            return False
        _delete(folder)
        return True
    except OSError:
        return False
    finally:
        for lock in locks:
            if lock is not None:
                os.close(lock)


def _delete(folder: Path) -> None:
    """Delete a folder, which disappears at once, so that nobody opens half an entry."""
    aside = Path(tempfile.mkdtemp(prefix=".evicted-", suffix=temporary(""), dir=folder.parent))
    os.rename(folder, aside / "entry")
    shutil.rmtree(aside, ignore_errors=True)


def _lock(path: Path, *, shared: bool) -> int | None:
    """The descriptor of a file, locked until it is closed; None when another has locked, deleted or replaced the file."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _claim(folder: Path) -> int | None:
    """Make a folder and lock it for a builder; None when another builder has it."""
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # the folder was renamed or evicted in the meantime
        (folder / _LOCK).touch()
    return _lock(folder / _LOCK, shared=False)


def _npy_header(n: int, dim: int) -> bytes:
    """The start of a .npy file of float32 features."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (n, dim)})
    return out.getvalue()


def _checksum(rows: NDArray[np.float32]) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(rows).data.cast('B') if rows.size else b''):08x}"


def _limit() -> int:
    text = os.environ.get("ALPHABAR_FEATURES_GB") or str(_LIMIT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"ALPHABAR_FEATURES_GB = {text!r}: give the most that cached features may take, in GB, as in 10")
    return int(limit * 1e9)
