"""Images decoded once into memory-mapped arrays, keyed by the content of the files that they come from.

An entry is a folder: pixels.npy (n, h, w, c), hashes.npy (one 64-bit hash an image), labels.npy where there are
labels, and meta.json, which also names the broken images that were left out. It is written beside its place and renamed
into it, so an entry is whole or absent: of two processes that build it at once, the second to finish throws its own away
and uses the first one's.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from alphabar.core.progress import track
from alphabar.core.types import Pixels
from alphabar.data.split import image_hashes
from alphabar.data.values import SCALE

VERSION = 2  # part of every key: raise it when decoding changes, and old entries are no longer found


@dataclass(frozen=True)
class Decoded:
    """What a source gives the cache: `blocks` are (k, h, w, c) arrays of `dtype` that add up to n images, less those
    that turn out to be broken while they are decoded: `skipped` maps their numbers to what is wrong with them."""

    n: int
    shape: tuple[int, int, int]  # h, w, c
    blocks: Iterable[Pixels]
    labels: NDArray[np.int64] | None = None  # of all n
    classes: tuple[str, ...] | None = None
    dtype: DTypeLike = np.uint8
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Entry:
    """A decoded set, its pixels mapped into memory read-only."""

    pixels: Pixels
    hashes: NDArray[np.uint64]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    skipped: tuple[str, ...] = ()


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """`cache` if given, else the variable ALPHABAR_CACHE, else ~/.cache/alphabar."""
    return Path(cache or os.environ.get("ALPHABAR_CACHE") or Path.home() / ".cache" / "alphabar").expanduser()


def content_key(kind: str, files: Sequence[tuple[str, Path]], extra: Sequence[str] = ()) -> str:
    """Key of a source: its kind, the files' names within it, their bytes, and what else decides the result.

    Every byte is read at every load, about a second a gigabyte: names, sizes and dates can all stay the same
    while pixels change, and dates change in every copy while pixels do not.
    """
    key = blake2b(f"{VERSION} {kind}".encode(), digest_size=16)
    for text in extra:
        key.update(_framed(text.encode()))
    for name, path in files:
        key.update(_framed(name.encode()))
        with path.open("rb") as file:
            key.update(file_digest(file, lambda: blake2b(digest_size=32)).digest())
    return key.hexdigest()


def blob_key(kind: str, blobs: Iterable[bytes], extra: Sequence[str] = ()) -> str:
    """`content_key` of encoded images that are in memory."""
    key = blake2b(f"{VERSION} {kind}".encode(), digest_size=16)
    for text in extra:
        key.update(_framed(text.encode()))
    for blob in blobs:
        key.update(_framed(blob))
    return key.hexdigest()


def fingerprint_of(shape: tuple[int, ...], hashes: NDArray[np.uint64]) -> str:
    """16 hex digits of the images in their order, whatever file they came from. Labels are no part of it."""
    state = blake2b(np.asarray(shape, dtype="<i8").tobytes(), digest_size=8)
    state.update(hashes.astype("<u8").tobytes())
    return state.hexdigest()


def open_or_build(key: str, build: Callable[[], Decoded], folder: Path) -> Entry:
    """The entry of `key` under `folder`/sets, decoded by `build` when it is not there or damaged.

    Raises ValueError from `build`, and OSError with what to type where the cache cannot be written.
    """
    place = folder / "sets" / key
    found = open_entry(place)
    if found is not None:
        return found
    decoded = build()
    with _scratch(folder / "sets") as new:
        _write(new, decoded)
        try:
            os.rename(new, place)  # never onto a folder with files in it: that is another process's entry
        except OSError:
            winner = open_entry(place)
            if winner is not None:
                return winner
            # what stands there is damaged: out of the way with it, under a name that nobody looks for
            os.rename(place, new.with_name(new.name + "-damaged"))
            shutil.rmtree(new.with_name(new.name + "-damaged"), ignore_errors=True)
            os.rename(new, place)
    entry = open_entry(place)
    if entry is None:
        raise OSError(f"{place} cannot be read back: is the disk full? Set ALPHABAR_CACHE to a folder with room")
    return entry


def open_entry(place: Path) -> Entry | None:
    """The entry at `place`, or None when there is none or it is not whole."""
    try:
        meta = json.loads((place / "meta.json").read_text())
        pixels = np.load(place / "pixels.npy", mmap_mode="r", allow_pickle=False)
        hashes = np.load(place / "hashes.npy", allow_pickle=False)
        labels = np.load(place / "labels.npy", allow_pickle=False) if meta["labels"] else None
        classes = None if meta["classes"] is None else tuple(str(c) for c in meta["classes"])
        skipped = tuple(str(s) for s in meta["skipped"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    n = len(pixels) if pixels.ndim == 4 else -1
    if (
        pixels.dtype.name not in SCALE
        or not pixels.dtype.isnative
        or hashes.shape != (n,)
        or (labels is not None and labels.shape != (n,))
    ):
        return None
    return Entry(pixels, hashes, labels, classes, skipped)


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data  # so that "ab", "c" and "a", "bc" differ


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".building-", dir=parent))
    except OSError as error:
        raise OSError(f"the cache {parent} cannot be written ({error}): set ALPHABAR_CACHE to a folder of yours") from error
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write(folder: Path, decoded: Decoded) -> None:
    """Block by block, through the file and not through mapped memory, so that the memory in use does not grow with n."""
    dtype = np.dtype(decoded.dtype)
    hashes = np.empty(decoded.n, dtype=np.uint64)
    at = 0
    # a bar only where there is something to wait for
    with (
        (folder / "pixels.npy").open("wb") as file,
        track(float(decoded.n), "decoding", "images", show=decoded.n >= 20_000) as advance,
    ):
        room = _header(file, (decoded.n, *decoded.shape), dtype)
        for block in decoded.blocks:
            if block.dtype != dtype or block.shape[1:] != decoded.shape or at + len(block) > decoded.n:
                raise ValueError(
                    f"{block.dtype} images of shape {block.shape} were decoded where {decoded.n} {dtype} ones of {decoded.shape} "
                    "were announced: the source changed meanwhile; try again"
                )
            np.ascontiguousarray(block).tofile(file)
            hashes[at : at + len(block)] = image_hashes(block)
            at += len(block)
            advance(float(len(block)))
        n = decoded.n - len(decoded.skipped)
        if at != n:
            raise ValueError(f"{at} images were decoded where {n} were announced: the source changed meanwhile; try again")
        file.seek(0)
        if _header(file, (n, *decoded.shape), dtype) != room:
            raise RuntimeError("the header of an .npy file changed its length with the number of images")
    kept = np.ones(decoded.n, dtype=np.bool_)
    kept[list(decoded.skipped)] = False
    np.save(folder / "hashes.npy", hashes[:n], allow_pickle=False)
    if decoded.labels is not None:
        np.save(folder / "labels.npy", decoded.labels[kept].astype(np.int64), allow_pickle=False)
    skipped = [decoded.skipped[k] for k in sorted(decoded.skipped)]
    meta = {"labels": decoded.labels is not None, "classes": decoded.classes, "skipped": skipped}
    (folder / "meta.json").write_text(json.dumps(meta))


def _header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Writes the header of an .npy file, which keeps room for the first axis to grow; how long it is."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.tell()
