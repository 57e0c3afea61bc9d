"""Features of a set of images, worked out once, by all processes, and kept in a file under the fingerprints of both.

An entry of the cache is a folder `features/<images>-<extractor>`: features.npy (float32, n x dim), meta.json with what
they belong to and a checksum for every chunk, and stats.npz once their statistics were asked for. It is made beside its
place, in `.part-<key>`, and renamed into it, so that it is whole or absent; a stopped extraction goes on from the last
chunk whose checksum holds. Whoever uses a file holds a lock on it, and what is locked is never evicted.
"""

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import time
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes, seeds
from alphabar.core.files import write_atomically
from alphabar.core.machine import versions
from alphabar.core.progress import track
from alphabar.core.types import Features, Pixels
from alphabar.data.cache import cache_folder
from alphabar.data.image_set import ImageSet
from alphabar.data.split import image_hashes
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.stats import FeatureStats, check_finite, pieces, reduce_stats

try:
    import fcntl
except ImportError:  # Windows: without file locks there is no telling which entry is in use, so nothing is kept
    fcntl = None  # type: ignore[assignment]

LAYOUT = 1  # of an entry; another one is not read, but made again
GB = 10.0  # largest size of all entries, in units of 10^9 bytes, unless ALPHABAR_FEATURES_GB says otherwise
_BLOCK = 4096  # rows read at once. Statistics are sums over blocks of this size, whatever the chunks were
_WAIT = 60.0  # seconds until a file that process 0 has written must be seen by the others (network disks lag)


class FeatureStore:
    """Features of n images by one extractor, in memory or in a file that is read piece by piece.

    extractor, images: fingerprints; images is None where they were not worked out. n, dim: rows and features a row.
    """

    def __init__(self, extractor: str, images: str | None, source: "Tensor | _File") -> None:
        self.extractor, self.images = extractor, images
        self._source = source
        self._stats: FeatureStats | None = None
        self.n, self.dim = (source.n, source.dim) if isinstance(source, _File) else tuple(source.shape)

    def __len__(self) -> int:
        return self.n

    @property
    def path(self) -> Path | None:
        """The folder of the entry, or None for features in memory."""
        return self._source.folder if isinstance(self._source, _File) else None

    def rows(self, which: slice | Sequence[int] | NDArray[np.generic]) -> Features:
        """The rows of these images, in this order, read into memory; an index may repeat. Negative ones count from the end.

        Raises IndexError for an image that there is not, ValueError for anything but whole numbers.
        """
        if isinstance(which, slice):
            index = np.arange(self.n)[which]
        else:
            index = np.asarray(which)
            if index.size == 0:
                index = index.astype(np.int64)
        if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(
                f"rows of type {index.dtype} and shape {index.shape}: wanted whole numbers, one an image; "
                "np.flatnonzero(mask) makes them of a mask"
            )
        if index.size and not -self.n <= index.min() <= index.max() < self.n:
            raise IndexError(f"rows {index.min()} to {index.max()} of {self.n}: give numbers from 0 to {self.n - 1}")
        index = index.astype(np.int64) % max(self.n, 1)
        if isinstance(self._source, Tensor):
            return self._source[torch.from_numpy(index)]
        return self._source.pick(index)

    def chunks(self, size: int = _BLOCK) -> Iterator[Features]:
        """All rows in order, `size` at a time, in memory of one chunk."""
        for start in range(0, self.n, size):
            yield self._read(start, min(start + size, self.n))

    def all(self) -> Features:
        """All rows [n, dim]. Those of a file are mapped, not read: what is written into them never reaches the file."""
        return self._source if isinstance(self._source, Tensor) else self._source.mapped()

    def stats(self) -> FeatureStats:
        """Count, mean and scatter of all rows, in memory of one block; kept beside the features.

        Under torchrun the blocks are dealt to the processes, so all of them must call it. They add up in the order of the
        images: every number of processes gives the same bits (at the same number of threads a process).
        """
        if self._stats is None:
            found = self._source.stats(self.extractor) if isinstance(self._source, _File) else None
            if not processes.everyone(found is not None):
                blocks = range(0, self.n, _BLOCK)
                own = (
                    FeatureStats.of(self._read(start, min(start + _BLOCK, self.n)), self.extractor)
                    for start in processes.deal(blocks)
                )
                found = reduce_stats(own, len(blocks), self.dim, self.extractor)
                if isinstance(self._source, _File) and processes.world()[0] == 0:
                    self._source.keep_stats(found)
            self._stats = found
        if self._stats is None:
            raise RuntimeError("the processes disagree about the statistics: call stats() in all of them")
        return self._stats

    def _read(self, start: int, stop: int) -> Features:
        return self._source[start:stop] if isinstance(self._source, Tensor) else self._source.read(start, stop)


def extract(
    images: ImageSet | Pixels,
    extractor: FeatureExtractor,
    *,
    fingerprint: str | None = None,
    cache: str | os.PathLike[str] | bool | None = None,
    chunk: int = 1024,
    progress: bool = False,
    what: str = "features",
) -> FeatureStore:
    """Features of images [n, h, w, c], n >= 1; where the cache holds them, they are read and the extractor is not called.

    images: a set, an array, or a memory map, which is read chunk by chunk. fingerprint: of these very images
    (`alphabar.data.cache.fingerprint_of`); None: the set's own, or worked out. cache: None is the usual folder, a path
    another one, False keeps the features in memory alone (as on Windows, where the locks are missing that protect an
    entry). chunk: images a call of the extractor. progress, what: the bar and its words.

    Under torchrun every process calls this with the same images, and chunks are dealt to them in turn: no image is
    counted twice, and every process has the same complete features. The cache must be one folder that all of them see.
    A process that works by itself says so with `processes.alone()`.

    Raises ValueError for features that are NaN or infinite (with the image's number), of another shape than promised,
    for no images, for a fingerprint of other images, and where processes were given different images; OSError where the
    cache cannot be written.
    """
    if isinstance(images, ImageSet):
        fingerprint = fingerprint or images.fingerprint
        images = images.pixels
    if len(images) == 0:
        raise ValueError("no images came: give at least one, (n, h, w, c)")
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: give the number of images of one call, at least 1")
    keep = cache is not False and fcntl is not None
    if fingerprint is None and keep:
        fingerprint = _fingerprint(images)
    about = {
        "layout": LAYOUT,
        "n": len(images),
        "dim": int(extractor.dim),
        "images": fingerprint,
        "extractor": extractor.fingerprint,
    }
    if not processes.alike(json.dumps([about, chunk, keep])):
        raise ValueError(
            "the processes were given different images, extractors or chunks: give all of them the same whole set (images "
            "that each process made for itself must be gathered first)"
        )
    if not keep:
        features, at = torch.empty((len(images), extractor.dim)), 0
        for rows in _extracted(images, extractor, chunk, 0, progress, what):
            features[at : at + len(rows)] = rows
            at += len(rows)
        return FeatureStore(extractor.fingerprint, fingerprint, features)

    main = processes.world()[0] == 0
    parent = cache_folder(None if isinstance(cache, bool) else cache) / "features"
    place = parent / _key(about)
    file = _open(place, about, verify=main)
    if not processes.everyone(file is not None):
        file = None  # lets go of it
        part = _Part(parent, place.name, about, chunk) if main else None
        with part or contextlib.nullcontext():
            done = processes.from_first(part.done if part is not None else 0)
            for rows in _extracted(images, extractor, chunk, done, progress, what):
                if part is not None:
                    part.append(rows)
            if part is not None:
                file = part.finish(place, extractor)
        processes.everyone(True)  # written by now
        if not main:
            file = _open_soon(place, about)
        if not processes.everyone(file is not None):
            raise OSError(
                f"not every process finds {place}, which process 0 has written: set ALPHABAR_CACHE to a folder that all "
                "machines share, or pass cache=False"
            )
        if main:
            evict_features(cache=parent.parent)
    if file is None:
        raise OSError(f"{place} cannot be read back: is the disk full? Set ALPHABAR_CACHE to a folder with room")
    return FeatureStore(extractor.fingerprint, fingerprint, file)


def sample_rows(n: int, limit: int, seed: int = 0) -> NDArray[np.int64]:
    """At most `limit` of the numbers 0 .. n - 1, each set of them as likely as any other, in rising order.

    All of them where n <= limit. The same for every process and at every call; used where a standard error needs no
    more than a sample of many images.
    """
    if n < 0 or limit < 1:
        raise ValueError(f"n = {n}, limit = {limit}: wanted n >= 0 images and a limit of at least 1")
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    # the draw is n: what is taken from one set says nothing of what is taken from another
    chosen = seeds.generator(seed, draw=n, stream=seeds.SUBSET).choice(n, limit, replace=False)
    return np.sort(chosen).astype(np.int64)


def feature_cache_size(cache: str | os.PathLike[str] | None = None) -> int:
    """Bytes that all entries take, unfinished ones as well."""
    return sum(entry.size for entry in _entries(cache_folder(cache) / "features"))


def evict_features(limit: int | None = None, cache: str | os.PathLike[str] | None = None) -> list[str]:
    """Deletes entries, the one unused for longest first, until all take at most `limit` bytes; gives back their names.

    limit: None is ALPHABAR_FEATURES_GB (10 unless it is set) times 10^9. Entries in use, by any process, stay.
    `extract` does this after every entry that it makes. Raises ValueError for a limit that is no number >= 0.
    """
    limit = _limit() if limit is None else limit
    folder = cache_folder(cache) / "features"
    entries = sorted(_entries(folder), key=lambda entry: entry.used)
    size = sum(entry.size for entry in entries)
    gone = []
    for entry in entries:
        if size <= limit:
            break
        if _remove(entry.folder):
            size -= entry.size
            gone.append(entry.folder.name)
    return gone


# ---- how it is worked out


def _fingerprint(images: Pixels) -> str:
    """`fingerprint_of` with the images' hashes, in memory of one block: a million hashes three times over are 24 MB."""
    state = blake2b(np.asarray(images.shape[1:], dtype="<i8").tobytes(), digest_size=8)
    for block in pieces(images, range(0, len(images), _BLOCK), _BLOCK):
        state.update(image_hashes(block).astype("<u8").tobytes())
    return state.hexdigest()


def _extracted(
    images: Pixels, extractor: FeatureExtractor, chunk: int, done: int, progress: bool, what: str
) -> Iterator[Features]:
    """The features of chunk number `done` and all after it, in order; in every process, each from the one it fell to."""
    rank, size = processes.world()
    count = -(-len(images) // chunk)
    mine = range(done + rank, count, size)
    blocks = pieces(images, (k * chunk for k in mine), chunk)
    at = done * chunk
    with track(len(images), what, "images", done=at, show=progress and rank == 0) as advance:
        for _ in range(done, count, size):
            block = next(blocks, None)
            features = torch.empty((0, extractor.dim)) if block is None else _checked(extractor, block)
            for rows in processes.gather_rows(features):
                if len(rows):
                    check_finite(rows, at)  # here, where all processes see it
                    at += len(rows)
                    advance(len(rows))
                    yield rows


def _checked(extractor: FeatureExtractor, block: Pixels) -> Features:
    features = extractor.features(block).detach()
    if tuple(features.shape) != (len(block), extractor.dim):
        raise ValueError(
            f"extractor {extractor.name!r} gave features of shape {tuple(features.shape)} for {len(block)} images; its dim "
            f"says ({len(block)}, {extractor.dim})"
        )
    return features.to("cpu", torch.float32).contiguous()


def _key(about: dict[str, Any]) -> str:
    """<images>-<extractor>; a fingerprint that is no plain file name is replaced by its hash."""

    def plain(text: str) -> str:
        fits = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", text)
        return text if fits else blake2b(text.encode(), digest_size=8).hexdigest()

    return f"{plain(about['images'])}-{plain(about['extractor'])}"


def _header(n: int, dim: int) -> bytes:
    """What a .npy file of float32 rows begins with."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (n, dim)})
    return out.getvalue()


def _sum(data: bytes | memoryview) -> str:
    return f"{zlib.crc32(data):08x}"


def _lock(fd: int, *, alone: bool) -> bool:
    """Locks an open file, for itself alone or beside other readers, until it is closed. False where others hold it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class _File:
    """The features of an entry, through a file that stays open and locked as long as this object lives.

    It is read, not mapped, since pages of a mapped file count as memory of the process.
    """

    def __init__(self, folder: Path, fd: int, n: int, dim: int) -> None:
        self.folder, self.n, self.dim = folder, n, dim
        self._fd, self._at = fd, len(_header(n, dim))
        self.close = weakref.finalize(self, os.close, fd)

    def read(self, start: int, stop: int) -> Features:
        out = np.empty((stop - start, self.dim), dtype="<f4")
        self._fill(out, start)
        return torch.from_numpy(out.astype(np.float32, copy=False))

    def _fill(self, out: NDArray[np.float32], start: int) -> None:
        view = out.data.cast("B") if out.size else memoryview(b"")
        at = self._at + start * self.dim * 4
        while view:
            got = os.pread(self._fd, min(len(view), 1 << 26), at)
            if not got:
                raise OSError(f"{self.folder / 'features.npy'} became shorter while it was read: extract the features again")
            view[: len(got)] = got
            view, at = view[len(got) :], at + len(got)

    def pick(self, index: NDArray[np.int64]) -> Features:
        """Rows in any order: neighbours in the file are read together."""
        order = np.argsort(index, kind="stable")
        wanted = index[order]
        out = np.empty((len(index), self.dim), dtype="<f4")
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        for first, last in zip([0, *breaks], [*breaks, len(wanted)], strict=True):
            if first < last:
                self._fill(out[first:last], int(wanted[first]))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        in_order = bool((order == np.arange(len(order))).all())
        return torch.from_numpy((out if in_order else out[back]).astype(np.float32, copy=False))

    def mapped(self) -> Features:
        with open(self._fd, "rb", closefd=False) as file:  # the open file, even where its folder was moved since
            rows = np.memmap(file, dtype="<f4", mode="c", offset=self._at, shape=(self.n, self.dim))
        return torch.from_numpy(rows.view(np.ndarray))

    def whole(self, sums: Sequence[str], chunk: int) -> bool:
        """Whether every chunk has its checksum."""
        if len(sums) != -(-self.n // chunk):
            return False
        try:
            return all(
                _sum(self.read(k * chunk, min((k + 1) * chunk, self.n)).numpy().data.cast("B")) == known
                for k, known in enumerate(sums)
            )
        except OSError:  # a disk that cannot be read there
            return False

    def stats(self, extractor: str) -> FeatureStats | None:
        try:
            with (self.folder / "stats.npz").open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                # a zip checks its content itself
                n, mean, scatter = int(file["n"]), file["mean"], file["scatter"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        d = self.dim
        if n != self.n or mean.shape != (d,) or scatter.shape != (d, d) or not mean.dtype == scatter.dtype == np.float64:
            return None
        return FeatureStats(extractor, n, torch.from_numpy(mean), torch.from_numpy(scatter))

    def keep_stats(self, stats: FeatureStats) -> None:
        part = self.folder / f".stats-{os.getpid()}.npz"
        try:
            np.savez(part, n=np.int64(stats.n), mean=stats.mean.numpy(), scatter=stats.scatter.numpy())
            os.replace(part, self.folder / "stats.npz")
        except OSError:  # a full disk, or a cache that may only be read: they are worked out again next time
            part.unlink(missing_ok=True)


def _open(place: Path, about: dict[str, Any], *, verify: bool) -> _File | None:
    """The entry at `place`, or None when there is none or it is not whole. verify: read it all and check the checksums."""
    try:
        meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        known = {key: meta[key] for key in about}
        sums, chunk = [str(s) for s in meta["sums"]], int(meta["chunk"])
        fd = os.open(place / "features.npy", os.O_RDONLY)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    file = _File(place, fd, about["n"], about["dim"])
    if {**known, "n": 0} == {**about, "n": 0} and known["n"] != about["n"]:
        raise ValueError(
            f"the fingerprint {about['images']} belongs to {known['n']} images in the cache, but {about['n']} came: pass the "
            "fingerprint of these very images, or None to have it worked out"
        )
    header = _header(about["n"], about["dim"])
    size = len(header) + 4 * about["n"] * about["dim"]
    if known != about or chunk < 1 or os.fstat(fd).st_size != size or os.pread(fd, len(header), 0) != header:
        return None
    if not _lock(fd, alone=False) or (verify and not file.whole(sums, chunk)):
        return None
    with contextlib.suppress(OSError):
        os.utime(place / "meta.json")  # used now: the last to be evicted
    return file


def _open_soon(place: Path, about: dict[str, Any]) -> _File | None:
    """`_open`, for an entry that another machine has just written to a shared disk."""
    end = time.monotonic() + _WAIT
    while (file := _open(place, about, verify=False)) is None and time.monotonic() < end:
        time.sleep(0.5)
    return file


class _Part:
    """An entry in the making. Rows are appended chunk by chunk, each with its checksum in sums.txt.

    The folder is `.part-<key>`, where a stopped extraction finds what it has; where another process works in that one,
    a folder of its own. done: chunks that are there.
    """

    def __init__(self, parent: Path, key: str, about: dict[str, Any], chunk: int) -> None:
        self.about, self.chunk = {**about, "chunk": chunk}, chunk
        self._head = _header(about["n"], about["dim"])
        self._row = 4 * int(about["dim"])
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.folder = parent / f".part-{key}"
            fd = self._claim()
            self._own = fd is None
            if fd is None:
                self.folder = Path(tempfile.mkdtemp(prefix=".part-", dir=parent))
                fd = self._claim()
        except OSError as error:
            raise OSError(
                f"the cache {parent} cannot be written ({error}): set ALPHABAR_CACHE to a folder of yours, or pass cache=False"
            ) from error
        if fd is None:
            raise OSError(
                f"files in {parent} cannot be locked: set ALPHABAR_CACHE to a folder on another disk, or pass cache=False"
            )
        self._file, self._finished = _File(self.folder, fd, about["n"], about["dim"]), False
        self._fd = fd
        self._sums = self._found()
        self.done = len(self._sums)
        os.ftruncate(fd, len(self._head) + self._row * min(self.done * chunk, about["n"]))
        os.pwrite(fd, self._head, 0)
        os.lseek(fd, 0, os.SEEK_END)
        write_atomically(self.folder / "sums.txt", "\n".join([self._title(), *self._sums]) + "\n")

    def append(self, rows: Features) -> None:
        """The next chunk."""
        data = np.ascontiguousarray(rows.numpy(), dtype="<f4").data.cast("B")
        check = _sum(data)
        while data:
            data = data[os.write(self._fd, data) :]
        self._sums.append(check)
        with (self.folder / "sums.txt").open("a", encoding="utf-8") as file:
            file.write(check + "\n")

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *error: object) -> None:
        """Lets go of what is not finished, at once: a traceback may keep this object alive for long."""
        if not self._finished:
            self._file.close()
            if self._own or not self._sums:  # nobody would look there for more
                shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self, place: Path, extractor: FeatureExtractor) -> _File:
        """Renames the folder to `place`; gives back the entry that stands there, another process's where that was first."""
        os.fsync(self._fd)
        meta = {
            **self.about,
            "extractor_name": extractor.name,
            "preprocessing": dict(extractor.preprocessing),
            "versions": versions(),
            "sums": self._sums,
        }
        write_atomically(self.folder / "meta.json", json.dumps(meta, indent=1))
        (self.folder / "sums.txt").unlink()
        about = {key: value for key, value in self.about.items() if key != "chunk"}
        _lock(self._fd, alone=False)  # from here on others may read
        try:
            os.rename(self.folder, place)  # never onto a folder with files in it
        except OSError:
            winner = _open(place, about, verify=True)
            if winner is not None:
                self._own = True  # and in nobody's way
                return winner
            # what stands there is damaged: out of the way with it
            aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=place.parent))
            os.rename(place, aside / "entry")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self.folder, place)
        self._file.folder, self._finished = place, True
        return self._file

    def _claim(self) -> int | None:
        """The open and locked features.npy of the folder, or None when another process has it."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / "features.npy"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder was renamed or evicted meanwhile
            return None
        try:
            if _lock(fd, alone=True) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)
        return None

    def _title(self) -> str:
        return json.dumps(self.about, sort_keys=True)

    def _found(self) -> list[str]:
        """The checksums of the chunks, from the first on, that are there and whole."""
        try:
            title, *lines = (self.folder / "sums.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []
        good: list[str] = []
        for known in lines if title == self._title() else []:
            start, stop = len(good) * self.chunk, min((len(good) + 1) * self.chunk, self.about["n"])
            try:
                rows = self._file.read(start, stop) if start < stop else None
            except OSError:
                break
            if rows is None or _sum(rows.numpy().data.cast("B")) != known:
                break
            good.append(known)
        return good


@dataclass(frozen=True)
class _Entry:
    folder: Path
    size: int  # bytes
    used: float  # when it was last opened or written to, in seconds


def _entries(folder: Path) -> list[_Entry]:
    found = []
    for entry in folder.iterdir() if folder.is_dir() else []:
        try:
            files = [f.stat() for f in entry.rglob("*") if f.is_file()]
            used = [entry.stat().st_mtime, *(f.st_mtime for f in files)]
        except OSError:  # it went away meanwhile
            continue
        found.append(_Entry(entry, sum(f.st_size for f in files), max(used)))
    return found


def _remove(entry: Path) -> bool:
    """Deletes an entry that nobody uses: False where somebody does."""
    if fcntl is None:
        return False
    try:
        fd = os.open(entry / "features.npy", os.O_RDONLY)
    except OSError:  # just begun, or left by a process that was killed while it tidied up
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > 3600:
                shutil.rmtree(entry)
                return True
        return False
    try:
        if not _lock(fd, alone=True):
            return False
        aside = Path(tempfile.mkdtemp(prefix=".evicted-", dir=entry.parent))
        os.rename(entry, aside / "entry")  # away at once: nobody opens half an entry
        shutil.rmtree(aside, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _limit() -> int:
    text = os.environ.get("ALPHABAR_FEATURES_GB") or str(GB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"ALPHABAR_FEATURES_GB = {text!r}: give the most that cached features may take, in GB, as in 10")
    return int(limit * 1e9)
