"""Images decoded once into memory-mapped arrays, under a key of the content of their source.

An entry is a folder: pixels.npy (n, h, w, c), hashes.npy (one 64-bit hash per image), labels.npy if there are labels, and
meta.json. It is written to a temporary folder and renamed: of two processes that build it, the first one's is used.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from alphabar.core.files import json_text, remove_leftovers, room_for, temporary
from alphabar.core.messages import as_path
from alphabar.core.progress import track
from alphabar.core.stored_values import read_object
from alphabar.core.types import Pixels
from alphabar.data.split import image_hashes
from alphabar.data.values import SCALE

SPLITS = ("train", "test")
BLOCK = 1024  # images that are decoded between two writes, fewer if they are large
_BLOCK_BYTES = 1 << 26
VERSION = 4  # part of every key: raise it when decoding changes, so that old entries are not found


@dataclass(frozen=True)
class Decoded:
    """The images of a source, on their way into the cache."""

    n: int
    shape: tuple[int, int, int]  # h, w, c
    blocks: Iterable[Pixels]  # arrays (k, h, w, c) of `dtype` with all images in order, except those in `skipped`
    labels: NDArray[np.int64] | None = None  # of all n
    classes: tuple[str, ...] | None = None
    dtype: DTypeLike = np.uint8
    skipped: dict[int, str] = field(default_factory=dict)  # faults of broken images by number, complete once `blocks` are read
    jpeg: int = 0  # images that are stored as JPEG


@dataclass(frozen=True)
class Source:
    """One split of a set: where it is, the key of its content in the cache, and the function that decodes it."""

    place: str
    key: Callable[[], str]  # reads all bytes of the source
    build: Callable[[], Decoded]
    left_out: tuple[str, ...] = ()  # files of its folder that are not read
    hidden: int = 0  # hidden files and those of operating systems, which are passed over


@dataclass(frozen=True, eq=False)
class Entry:
    """A decoded set; its pixels are memory-mapped and read-only."""

    pixels: Pixels
    hashes: NDArray[np.uint64]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    skipped: tuple[str, ...] = ()
    jpeg: int | None = None  # images that were stored as JPEG; None: not known, of an entry of an earlier version


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """`cache` if given, else the environment variable ALPHABAR_CACHE, else ~/.cache/alphabar."""
    return as_path(cache or os.environ.get("ALPHABAR_CACHE") or "~/.cache/alphabar")


def content_key(kind: str, files: Sequence[tuple[str, Path]], extra: Sequence[str] = ()) -> str:
    """The key of a source: a hash of its kind, of the names and all bytes of its files (a second per gigabyte; sizes and dates
    may stay the same when pixels change), and of `extra`, all other that decides the result, such as options of reading."""
    key = _started(kind, extra)
    for name, path in files:
        key.update(_framed(name.encode(errors="surrogateescape")))
        with path.open("rb") as file:
            key.update(file_digest(file, lambda: blake2b(digest_size=32)).digest())
    return key.hexdigest()


def blob_key(kind: str, blobs: Iterable[bytes], extra: Sequence[str] = ()) -> str:
    """`content_key` of encoded images that are in memory."""
    key = _started(kind, extra)
    for blob in blobs:
        key.update(_framed(blob))
    return key.hexdigest()


def _started(kind: str, extra: Sequence[str]) -> blake2b:
    key = blake2b(f"{VERSION} {kind}".encode(), digest_size=16)
    for text in extra:
        key.update(_framed(text.encode(errors="surrogateescape")))
    return key


def fingerprint_of(shape: tuple[int, ...], hashes: NDArray[np.uint64]) -> str:
    """16 hex digits of the images in their order, the same for every file format. Labels are not part of it."""
    state = blake2b(np.asarray(shape, dtype="<i8").tobytes(), digest_size=8)
    state.update(hashes.astype("<u8").tobytes())
    return state.hexdigest()


def open_or_build(key: str, build: Callable[[], Decoded], folder: Path) -> Entry:
    """The entry of `key` in the cache `folder`, decoded by `build` if it is absent or damaged. Raises OSError if the cache cannot
    be written; ValueErrors of `build` are passed on."""
    place = folder / "sets" / key
    if (found := open_entry(place)) is not None:
        return found
    decoded = build()
    remove_leftovers(folder / "sets")
    with scratch_folder(folder / "sets") as scratch, room_for(place):
        new = Path(scratch)
        _write(new, decoded)
        try:
            os.rename(new, place)  # fails if another process has put its entry there
        except OSError:
            if (winner := open_entry(place)) is not None:
                return winner
            damaged = new.with_name(new.name + "-damaged")  # a name that nobody looks for
            os.rename(place, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
            os.rename(new, place)
    if (entry := open_entry(place)) is None:
        raise OSError(f"{place} cannot be read back: is the disk full? Set ALPHABAR_CACHE to a folder with room")
    return entry


def open_entry(place: Path) -> Entry | None:
    """The entry at `place`, or None if it is absent or damaged."""
    try:
        meta = read_object(place / "meta.json")
        pixels = np.load(place / "pixels.npy", mmap_mode="r", allow_pickle=False)
        hashes = np.load(place / "hashes.npy", allow_pickle=False)
        labels = np.load(place / "labels.npy", allow_pickle=False) if meta["labels"] else None
        classes = None if meta["classes"] is None else tuple(str(c) for c in meta["classes"])
        skipped = tuple(str(s) for s in meta["skipped"])
        jpeg = None if (found := meta.get("jpeg")) is None else int(found)
    except Exception:  # NumPy raises many types for damaged headers
        return None
    n = len(pixels) if pixels.ndim == 4 else -1
    whole = hashes.shape == (n,) and (labels is None or labels.shape == (n,))
    known = pixels.dtype.name in SCALE and pixels.dtype.isnative
    return Entry(pixels, hashes, labels, classes, skipped, jpeg) if whole and known else None


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data  # so that ("ab", "c") and ("a", "bc") differ


def scratch_folder(parent: Path) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder in `parent`, deleted at the end unless it was renamed."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".building-", suffix=temporary(""), dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise OSError(f"the cache {parent} cannot be written ({error}): set ALPHABAR_CACHE to a folder of yours") from error


def _write(folder: Path, decoded: Decoded) -> None:
    """Writes block by block to the file, not to mapped memory, so that the memory in use does not grow with n."""
    dtype = np.dtype(decoded.dtype)
    hashes, at = np.empty(decoded.n, dtype=np.uint64), 0
    progress = track(float(decoded.n), "decoding", "images", show=decoded.n >= 20_000)
    with (folder / "pixels.npy").open("wb") as file, progress as advance:
        room = _header(file, (decoded.n, *decoded.shape), dtype)
        for block in decoded.blocks:
            if block.dtype != dtype or block.shape[1:] != decoded.shape or at + len(block) > decoded.n:
                raise ValueError(
                    f"{block.dtype} images of shape {block.shape} were decoded where {decoded.n} {dtype} ones of {decoded.shape} "
                    "were announced: the source changed during reading; try again"
                )
            np.ascontiguousarray(block).tofile(file)
            hashes[at : at + len(block)] = image_hashes(block)
            at += len(block)
            advance(float(len(block)))
        n = decoded.n - len(decoded.skipped)
        if at != n:
            raise ValueError(f"{at} images were decoded where {n} were announced: the source changed during reading; try again")
        file.seek(0)
        if _header(file, (n, *decoded.shape), dtype) != room:
            raise RuntimeError("the length of the .npy header depends on the number of images")
    np.save(folder / "hashes.npy", hashes[:n], allow_pickle=False)
    if decoded.labels is not None:
        labels = np.delete(decoded.labels, list(decoded.skipped))
        np.save(folder / "labels.npy", labels.astype(np.int64), allow_pickle=False)
    skipped = [decoded.skipped[k] for k in sorted(decoded.skipped)]
    meta = {"labels": decoded.labels is not None, "classes": decoded.classes, "skipped": skipped, "jpeg": decoded.jpeg}
    (folder / "meta.json").write_text(json_text(meta))


def _header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Writes the header of an .npy file and returns its length, which does not depend on the length of the first axis."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.tell()


def rows_per_block(image_bytes: int) -> int:
    return max(1, min(BLOCK, _BLOCK_BYTES // max(image_bytes, 1)))
