"""Where images come from: sets by name, folders, .npz, .npy, .parquet, and the Hugging Face hub.

Whatever the source, `load` returns an ImageSet, whose pixels are a memory-mapped array of the cache: uint8, uint16 or
float32. A source is read block by block, so the memory in use does not grow with the number of images.
"""

import io
import json
import math
import os
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core.types import Pixels
from alphabar.data.cache import (
    Decoded,
    Entry,
    blob_key,
    cache_folder,
    content_key,
    fingerprint_of,
    open_entry,
    open_or_build,
)
from alphabar.data.decode import SUFFIXES, BrokenError, Shape, decode, probe
from alphabar.data.idx import read_idx
from alphabar.data.images import as_pixels, channels_last, layout, stored_for
from alphabar.data.values import Range, Reading, Survey, reading_of, stored_dtype, to_stored

SPLITS = ("train", "test")
_OTHER_SPLITS = ("val", "valid", "validation", "dev")  # may lie beside train/ and test/; not read
_UNREAD = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".exr", ".dcm", ".svg"})  # images all the same
_BLOCK = 1024  # images decoded between two writes, fewer where they are large
_BLOCK_BYTES = 1 << 26
_LISTED = 20  # broken images that an error names


@dataclass(frozen=True)
class Named:
    """A set that is known by name: its folders under a data root, its repository on the hub, its classes."""

    folders: tuple[str, ...]
    repo: str
    classes: tuple[str, ...]
    system: tuple[str, ...] = ()  # folders of a system's packages
    package: str | None = None  # what to type for such a package


NAMED = {
    "fashion_mnist": Named(
        folders=("fashion-mnist", "fashion_mnist"),
        repo="zalando-datasets/fashion_mnist",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        system=("/usr/share/datasets/fashion-mnist",),
        package="apt-get install dataset-fashion-mnist",
    ),
    "cifar10": Named(
        folders=("cifar10", "cifar-10"),
        repo="uoft-cs/cifar10",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one split of a set, and what is known of them.

    pixels: uint8, uint16 or float32 (n, h, w, c), usually memory-mapped and read-only. labels: int64 (n,), indices into
    `classes`, or None. hashes: one 64-bit hash an image. fingerprint: 16 hex digits of the stored pixels in their order,
    the same whatever file they came from. source: what they were read from. value_range: the values that are the bottom
    and the top of the scale, where they were declared (`alphabar.data.values.to_values` maps pixels back to them).
    skipped: the broken images that were left out, each with what is wrong with it.
    """

    name: str
    split: str
    pixels: Pixels
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    fingerprint: str
    hashes: NDArray[np.uint64]
    source: str
    value_range: Range | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, h, w, c = self.pixels.shape
        return c, h, w

    def subset(self, indices: NDArray[np.int64] | Sequence[int]) -> "ImageSet":
        """The images at `indices`, in that order, as a set with a fingerprint of its own. Their pixels are copied."""
        chosen = np.asarray(indices, dtype=np.int64)
        hashes = self.hashes[chosen]
        return ImageSet(
            name=self.name,
            split=self.split,
            pixels=np.asarray(self.pixels[chosen]),
            labels=None if self.labels is None else self.labels[chosen],
            classes=self.classes,
            fingerprint=fingerprint_of(self.pixels.shape[1:], hashes),
            hashes=hashes,
            source=self.source,
            value_range=self.value_range,
            skipped=self.skipped,
        )


def class_names(images: ImageSet) -> tuple[str, ...]:
    """Names of the classes that the labels count: the set's own, their numbers where it names none, () without labels."""
    if images.labels is None or not len(images.labels):
        return ()
    return images.classes or tuple(str(k) for k in range(int(images.labels.max()) + 1))


def parse_set(text: str) -> tuple[str, str]:
    """ "SET" or "SET:SPLIT" -> (set, split); the split is train unless said. Colons elsewhere belong to the set."""
    name, colon, split = text.rpartition(":")
    if colon and split in SPLITS and name:
        return name, split
    if not text:
        raise ValueError("the set has no name: pass fashion_mnist, cifar10, a path, or hf:owner/name")
    return text, "train"


def load(
    name: str | os.PathLike[str],
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    value_range: Sequence[float] | None = None,
    alpha: str | Sequence[int] = "refuse",
    skip_broken: bool = False,
    axes: str | None = None,
) -> ImageSet:
    """A set by name (fashion_mnist, cifar10), by path (folder, .npz, .npy, .parquet), or hf:owner/name.

    split: train or test. A source that has no splits is all train. root: the data root, where sets are looked for
    first; None reads the variable ALPHABAR_DATA. cache: where decoded images are kept; None reads ALPHABAR_CACHE,
    else ~/.cache/alphabar.

    value_range: (low, high), the values that are the bottom and the top of the scale, as (0, 4095) for 12 bits in 16-bit
    files or (-1000, 3000) for floats; a value outside is refused, never clipped. None: 0..255, 0..65535, or 0..1 for
    floats. alpha: what becomes of images that are transparent somewhere: "refuse", "keep" (one more channel), or the
    background they are painted on ("white", "black", (r, g, b) or "R,G,B" of 0..255). skip_broken: leave out images that
    are damaged, and say so; otherwise they are refused, all of them in one error. axes: "nhwc" or "nchw", where an
    array's shape leaves open which axis holds the channels.

    Raises FileNotFoundError, with the ways to get it, for a set that is nowhere; ValueError, naming the file, for
    one that is damaged, of several sizes or types, or that cannot be read without loss.
    """
    name = os.fspath(name)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of {name} is unknown: use train or test, as in {name}:test")
    reading = reading_of(value_range, alpha, skip_broken, axes)
    data = root or os.environ.get("ALPHABAR_DATA")
    data_root = Path(data).expanduser() if data else None
    kept = cache_folder(cache)
    if name in NAMED:
        return _load_named(name, split, data_root, kept, reading)
    if name.startswith("hf:"):
        return _load_hub(name, name.removeprefix("hf:"), split, kept, None, reading)
    for path in (Path(name).expanduser(), *([data_root / name] if data_root else [])):
        if path.exists():
            found = _find(path, split, reading)
            if found is None:
                raise FileNotFoundError(_nothing_in(path, split))
            return _open(Path(name).stem if path.is_file() else path.name, split, found, kept, reading)
    raise FileNotFoundError(
        f"there is no set {name}: pass {', '.join(NAMED)}, the path of a folder of images or of an .npz, .npy or "
        f".parquet file, or hf:owner/name for the Hugging Face hub; a split is written SET:train or SET:test"
    )


# --- what a source is, and opening it -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A source that was found: where, its cache key (which reads its bytes) and its decoder."""

    place: str
    key: Callable[[], str]
    build: Callable[[], Decoded]


def _open(name: str, split: str, found: _Source, kept: Path, reading: Reading) -> ImageSet:
    return _set(name, split, found.place, open_or_build(found.key(), found.build, kept), reading)


def _set(name: str, split: str, place: str, entry: Entry, reading: Reading) -> ImageSet:
    if entry.skipped:  # at every load, whether decoded now or before
        n = len(entry.pixels) + len(entry.skipped)
        print(f"{len(entry.skipped)} of {n} images of {place} are broken and left out:{_listed(entry.skipped)}", file=sys.stderr)
    return ImageSet(
        name=name,
        split=split,
        pixels=entry.pixels,
        labels=entry.labels,
        classes=entry.classes,
        fingerprint=fingerprint_of(entry.pixels.shape[1:], entry.hashes),
        hashes=entry.hashes,
        source=place,
        value_range=reading.value_range,
        skipped=entry.skipped,
    )


def _listed(faults: Sequence[str]) -> str:
    more = f"\n  and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return "".join(f"\n  {fault}" for fault in faults[:_LISTED]) + more


def _find(path: Path, split: str, reading: Reading, classes: tuple[str, ...] | None = None) -> _Source | None:
    """The source of a split at a path, or None when it is not there."""
    if path.is_file():
        if split != "train":
            raise FileNotFoundError(
                f"{path} is one file and has no {split} split: ask for {path}:train, or put train{path.suffix} and "
                f"test{path.suffix} in a folder and name the folder"
            )
        return _find_file([path], classes, reading)
    idx = _find_idx(path, split, classes, reading)
    if idx is not None:
        return idx
    for suffix in (".parquet", ".npz", ".npy"):
        if (file := path / f"{split}{suffix}").is_file():
            return _find_file([file], classes, reading)
    # as the hub stores them: train-00000-of-00002.parquet, in a folder named after the configuration
    for pattern in (f"{split}-*.parquet", f"*/{split}-*.parquet"):
        if shards := sorted(path.glob(pattern)):
            if len({s.parent for s in shards}) > 1:
                where = ", ".join(sorted({s.parent.name for s in shards}))
                raise ValueError(f"{path} holds several sets, {where}: name one, as in {shards[0].parent}")
            return _find_file(shards, classes, reading)
    return _find_folder(path, split, reading)


def _find_file(files: list[Path], classes: tuple[str, ...] | None, reading: Reading) -> _Source:
    kinds: dict[str, Callable[[], Decoded]] = {
        ".npz": partial(_build_npz, files[0], reading),
        ".npy": partial(_build_npy, files[0], reading),
        ".parquet": partial(_build_parquet, files, classes, reading),
    }
    suffix = files[0].suffix.lower()
    if suffix not in kinds:
        raise ValueError(f"{files[0]} ends in {suffix!r}: wanted a folder of images, {', '.join(kinds)}")
    parts = [(str(i), f) for i, f in enumerate(files)]
    place = str(files[0]) if len(files) == 1 else str(files[0].parent)
    return _Source(place, partial(content_key, suffix, parts, [*(classes or ()), *reading.key()]), kinds[suffix])


def _nothing_in(path: Path, split: str) -> str:
    other = [s for s in SPLITS if s != split and (path / s).is_dir()]
    if other:
        return f"{path} has no {split} images, only {other[0]}: pass {path}:{other[0]}, or put some in {path / split}/"
    return (
        f"{path} holds no {split} images: put images ({', '.join(sorted(SUFFIXES))}) in it, in subfolders named after "
        "their classes where they have any, under train/ and test/ where there are splits"
    )


# --- sets by name ---------------------------------------------------------------------------------------------


def _load_named(name: str, split: str, root: Path | None, kept: Path, reading: Reading) -> ImageSet:
    known = NAMED[name]
    places = [base / folder for base in (root,) if base for folder in known.folders]
    places += [Path(folder) for folder in known.system]
    places += [kept / folder for folder in known.folders]
    for place in places:
        if place.is_dir() and (found := _find(place, split, reading, known.classes)) is not None:
            return _open(name, split, found, kept, reading)
    # what the hub gave before, decoded, needs neither network nor a second look at its bytes
    pointer = None if reading.key() else kept / "named" / f"{name}-{split}.json"
    entry = None if pointer is None else _follow(pointer, kept)
    if entry is not None:
        return _set(name, split, f"hf:{known.repo}", entry, reading)
    try:
        return _load_hub(name, known.repo, split, kept, known.classes, reading, pointer)
    except (FileNotFoundError, ImportError) as error:
        raise FileNotFoundError(_ways(name, split, known, places, error)) from error


def _ways(name: str, split: str, known: Named, places: list[Path], error: Exception) -> str:
    folder = known.folders[0]
    lines = [f"{name} ({split}) is not on this machine. Looked in: {', '.join(map(str, places))}."]
    lines.append(f"The Hugging Face hub did not give it either: {error}")
    lines.append("Ways to get it:")
    if known.package:
        lines.append(f"  {known.package}")
    lines.append(f"  hf download {known.repo} --repo-type dataset --local-dir DATA/{folder}; export ALPHABAR_DATA=DATA")
    lines.append(f"  export ALPHABAR_DATA=DATA, where DATA/{folder}/ holds the files that you already have")
    return "\n".join(lines)


def _follow(pointer: Path, kept: Path) -> Entry | None:
    try:
        key = json.loads(pointer.read_text())["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return open_entry(kept / "sets" / key) if isinstance(key, str) and key.isalnum() else None


# --- IDX ------------------------------------------------------------------------------------------------------


def _find_idx(folder: Path, split: str, classes: tuple[str, ...] | None, reading: Reading) -> _Source | None:
    prefix = "train" if split == "train" else "t10k"
    images, labels = (_idx_file(folder, prefix, kind) for kind in ("images-idx3", "labels-idx1"))
    if images is None:
        return None
    files = [("images", images), *([("labels", labels)] if labels else [])]
    return _Source(
        str(folder),
        partial(content_key, "idx", files, [*(classes or ()), *reading.key()]),
        partial(_build_idx, images, labels, classes, reading),
    )


def _idx_file(folder: Path, prefix: str, kind: str) -> Path | None:
    names = (f"{prefix}-{kind}-ubyte", f"{prefix}-{kind.replace('-', '.')}-ubyte")
    return next((f for n in names for end in (".gz", "") if (f := folder / (n + end)).is_file()), None)


def _build_idx(images: Path, labels: Path | None, classes: tuple[str, ...] | None, reading: Reading) -> Decoded:
    array = read_idx(images, 3)[..., None]
    found = None if labels is None else _check_labels(read_idx(labels, 1), len(array), classes, str(labels))
    values = _Values(array.shape, array.dtype, partial(_slices, array))
    return _of_values(values, found, classes, reading, str(images))


# --- arrays ---------------------------------------------------------------------------------------------------

_ARRAY_FAULTS = (ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError, zlib.error, zipfile.BadZipFile)
_Opener = Callable[[], AbstractContextManager[io.BufferedIOBase]]


@dataclass(frozen=True)
class _Values:
    """An array in a file: its shape, its type, and its rows in blocks, the same at each call."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterable[NDArray[Any]]]


def _build_npy(path: Path, reading: Reading) -> Decoded:
    try:
        values = _values(lambda: path.open("rb"), path)
    except _ARRAY_FAULTS as error:
        raise ValueError(f"{path} cannot be read ({error}): wanted one array as np.save(path, images) writes it") from error
    return _of_values(values, None, None, reading, str(path))


def _build_npz(path: Path, reading: Reading) -> Decoded:
    try:
        with zipfile.ZipFile(path) as archive:
            # only what is needed is unpacked: a record or features may lie beside the images
            members = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        others = [k for k in members if k not in ("labels", "classes", "record")]
        if "images" not in members and len(others) != 1:
            raise ValueError(f"it holds {', '.join(members) or 'nothing'}: name the images `images`")

        @contextmanager
        def opened(member: str) -> Iterator[Any]:
            with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
                yield file

        values = _values(partial(opened, "images" if "images" in members else others[0]), None)
        labels, names = (_whole(partial(opened, k)) if k in members else None for k in ("labels", "classes"))
    except _ARRAY_FAULTS as error:
        raise ValueError(
            f"{path} cannot be read ({error}): wanted np.savez(path, images=array of shape (n, h, w, c), "
            "labels=optional whole numbers)"
        ) from error
    classes = None if names is None else tuple(str(c) for c in np.atleast_1d(names).tolist())
    n = values.shape[0] if values.shape else 0
    found = None if labels is None else _check_labels(labels, n, classes, f"labels in {path}")
    return _of_values(values, found, classes if found is not None else None, reading, str(path))


def _whole(opened: _Opener) -> NDArray[Any]:
    with opened() as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _values(opened: _Opener, path: Path | None) -> _Values:
    """An array of the .npy format, to be read in blocks. path: of a file of its own, which can be mapped into memory.

    An array in Fortran's order has its images strewn over the file: it is mapped, or, in an .npz, read whole.
    """
    with opened() as file:
        shape, fortran, dtype = _header(file)
    if fortran and len(shape) > 1:
        if path is None:
            return _Values(shape, dtype, lambda: _slices(_whole(opened)))
        return _Values(shape, dtype, lambda: _slices(np.lib.format.open_memmap(path, mode="r")))

    def blocks() -> Iterator[NDArray[Any]]:
        with opened() as file:
            _header(file)
            image = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, shape[0], rows := _rows(image)):
                wanted = min(rows, shape[0] - start) * image
                data = b"".join(iter(_parts(file, wanted)))
                if len(data) < wanted:
                    raise ValueError(
                        f"its data end within image {start + len(data) // max(image, 1)} of {shape[0]}: it is cut short"
                    )
                yield np.frombuffer(data, dtype).reshape(-1, *shape[1:])
            file.read(1)  # an .npz compares its checksum at the very end

    return _Values(shape, dtype, blocks)


def _parts(file: io.BufferedIOBase, wanted: int) -> Iterator[bytes]:
    """Reads of a file that add up to `wanted` bytes, or to fewer at its end."""
    while wanted > 0 and (part := file.read(wanted)):
        wanted -= len(part)
        yield part


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran's order, type) of the .npy format. Python objects, which would be unpickled, are refused."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is of version {version} of the .npy format, which arrays of numbers do not need")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject or dtype.names is not None:
        raise ValueError(f"it holds {dtype}, not numbers: Python objects are never unpickled")
    return shape, fortran, dtype


def _rows(image_bytes: int) -> int:
    return max(1, min(_BLOCK, _BLOCK_BYTES // max(image_bytes, 1)))


def _slices(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = _rows(array.nbytes // max(len(array), 1))
    return (array[i : i + rows] for i in range(0, len(array), rows))


def _of_values(
    values: _Values, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None, reading: Reading, where: str
) -> Decoded:
    """One pass, or two where the values have to be looked at before it is known how to store them."""

    def blocks() -> Iterator[NDArray[Any]]:
        try:
            for block in values.blocks():
                yield channels_last(block, kind)
        except _ARRAY_FAULTS as error:
            raise ValueError(f"{where} cannot be read to its end ({error}): it is damaged; write or fetch it again") from error

    try:
        kind = layout(values.shape, axes=reading.axes)
        if 0 in values.shape:
            raise ValueError(f"no images: the shape is {values.shape}")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    survey = Survey(reading.value_range)
    if reading.value_range is not None or values.dtype.name not in ("uint8", "uint16"):
        for block in blocks():
            survey.see(block)
        if (fault := survey.fault()) is not None:
            raise ValueError(f"{where}: {fault}")
    n, *image = values.shape
    h, w, c = {"nhwc": tuple(image), "nchw": (*image[1:], image[0]), "nhw": (*image, 1)}[kind]
    return Decoded(
        n=n,
        shape=(h, w, c),
        blocks=(as_pixels(block, survey) for block in blocks()),
        labels=labels,
        classes=classes if labels is not None else None,
        dtype=stored_for(values.dtype, survey),
    )


def _check_labels(labels: NDArray[Any], n: int, classes: tuple[str, ...] | None, where: str) -> NDArray[np.int64]:
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (n,):
        raise ValueError(f"{where}: {labels.dtype} of shape {labels.shape}, wanted one whole number for each of {n} images")
    if n == 0:
        return labels.astype(np.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= len(classes)):
        top = "" if classes is None else f"..{len(classes) - 1}, one of {len(classes)} classes"
        raise ValueError(f"{where}: labels from {low} to {high}, wanted 0{top}")
    return labels.astype(np.int64)


# --- encoded images: folders, parquet, the hub ----------------------------------------------------------------

_Blobs = Callable[[], Iterable[tuple[str, bytes]]]  # (what to call it in an error, its bytes), the same at each call


def _of_blobs(
    blobs: _Blobs, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None, place: str, reading: Reading
) -> Decoded:
    """Two passes: the headers give size and channels and every refusal early; the second decodes block by block.

    Broken images are gathered over both, and told together at the end.
    """
    sizes, depths, channels = _Kinds(), _Kinds(), _Kinds()
    alpha, n, first = False, 0, None
    broken: dict[int, str] = {}
    for where, data in blobs():
        try:
            shape = probe(data, where, reading)
        except BrokenError as error:
            broken[n] = str(error)
        else:
            first = first or shape
            sizes.add(str(shape), where)
            depths.add(str(_stored(shape, where, reading)), where)
            channels.add(str(shape.c), where)
            alpha = alpha or shape.alpha
        n += 1
    if first is None:
        raise ValueError(_broken(list(broken.values()), n, place) if broken else f"{place} holds no images")
    if len(sizes) > 1:
        side = min(first.h, first.w)
        raise ValueError(
            f"{place} holds images of {len(sizes)} sizes, width x height: {sizes}. A set has one size, and squashing or "
            f"cropping is yours to choose. To crop the middle: ImageOps.fit(im, ({side}, {side})) of Pillow for each "
            f"image; in a shell, with ImageMagick, mogrify -path OUT -resize {side}x{side}^ -gravity center "
            f"-extent {side}x{side} IN/*.png"
        )
    if len(depths) > 1:
        raise ValueError(
            f"{place} holds images of {len(depths)} types: {depths}. A set has one scale: convert the files to one type, or, "
            "where all hold the same quantity in whole numbers, declare its range, --range LOW HIGH (value_range=(LOW, HIGH))"
        )
    if len(channels) > 1 and set(channels) != {"1", "3"}:
        raise ValueError(f"{place} holds images of {len(channels)} numbers of channels: {channels}. A set has one")
    c = max(map(int, channels))
    return _Blobbed(blobs, n, c, alpha and reading.alpha == "keep", first, reading, place, broken).decoded(labels, classes)


class _Kinds(Counter[str]):
    """How often each kind of image was seen, and an example of each."""

    def __init__(self) -> None:
        super().__init__()
        self.example: dict[str, str] = {}

    def add(self, kind: str, where: str) -> None:
        self[kind] += 1
        self.example.setdefault(kind, where)

    def __str__(self) -> str:
        return "; ".join(f"{count} of {kind} (as {self.example[kind]})" for kind, count in self.most_common(4))


def _stored(shape: Shape, where: str, reading: Reading) -> np.dtype[Any]:
    try:
        return stored_dtype(shape.dtype, reading.value_range)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


@dataclass(frozen=True)
class _Blobbed:
    """Encoded images whose headers fit together. broken: numbers and faults of those found so far."""

    blobs: _Blobs
    n: int
    channels: int  # of colour
    alpha: bool  # one more
    first: Shape
    reading: Reading
    place: str
    broken: dict[int, str]

    def decoded(self, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None) -> Decoded:
        return Decoded(
            n=self.n,
            shape=(self.first.h, self.first.w, self.channels + self.alpha),
            blocks=self.blocks(),
            labels=labels,
            classes=classes if labels is not None else None,
            dtype=stored_dtype(self.first.dtype, self.reading.value_range),
            skipped=self.broken,
        )

    def blocks(self) -> Iterator[Pixels]:
        survey = Survey(self.reading.value_range)
        block: list[NDArray[Any]] = []
        for k, (where, data) in enumerate(self.blobs()):
            if k in self.broken:
                continue
            try:
                values = decode(data, where, self.channels, self.reading, self.alpha)
            except BrokenError as error:
                self.broken[k] = str(error)
                continue
            if self.reading.value_range is None and values.dtype.kind != "f":
                block.append(values)
            elif survey.see(values):
                block.append(to_stored(values, self.reading.value_range))
            else:  # goes on only to count: what was written is thrown away with the error below
                continue
            if len(block) >= _rows(block[0].nbytes):
                yield np.stack(block)
                block = []
        if self.broken and (not self.reading.skip_broken or len(self.broken) == self.n):
            raise ValueError(_broken([self.broken[k] for k in sorted(self.broken)], self.n, self.place))
        if (fault := survey.fault()) is not None:
            raise ValueError(f"{self.place}: {fault}")
        if block:
            yield np.stack(block)


def _broken(faults: list[str], n: int, place: str) -> str:
    skip = "" if len(faults) == n else ", or leave them out: --skip-broken (skip_broken=True)"
    are = "images are" if len(faults) > 1 else "image is"
    return f"{len(faults)} of {n} {are} broken in {place}:{_listed(faults)}\nReplace or remove them{skip}"


def _find_folder(path: Path, split: str, reading: Reading) -> _Source | None:
    with_splits = any((path / s).is_dir() for s in SPLITS)
    if with_splits:
        _check_split_folders(path)
    here = path / split if with_splits else path
    if not here.is_dir() or (not with_splits and split != "train"):
        return None
    files = _images_in(here)
    if not files:
        return None
    loose = [f for f in files if f.parent == here]
    if loose and len(loose) < len(files):
        inner = next(f for f in files if f.parent != here)
        raise ValueError(
            f"{here} holds {len(loose)} images beside subfolders with images ({inner.parent}): put every image in a "
            "subfolder named after its class, or all of them in one folder"
        )
    if loose:
        classes, labels = None, None
    else:
        # classes of all splits together, so that a class which one split lacks does not shift the others' numbers
        splits = [path / s for s in SPLITS if (path / s).is_dir()] if with_splits else [here]
        classes = tuple(sorted({f.relative_to(s).parts[0] for s in splits for f in _images_in(s) if f.parent != s}))
        labels = np.array([classes.index(f.relative_to(here).parts[0]) for f in files], dtype=np.int64)
    named = [(f.relative_to(here).as_posix(), f) for f in files]

    def blobs() -> Iterator[tuple[str, bytes]]:
        return ((str(f), f.read_bytes()) for f in files)

    return _Source(
        str(here),
        partial(content_key, "folder", named, [*(classes or ()), *reading.key()]),
        partial(_of_blobs, blobs, labels, classes, str(here), reading),
    )


def _check_split_folders(path: Path) -> None:
    """Refuses train/ or test/ beside other classes: a picture of a train must not make the other classes vanish."""
    others = (d for d in sorted(path.iterdir()) if d.is_dir() and not d.name.startswith("."))
    for other in others:
        if other.name not in (*SPLITS, *_OTHER_SPLITS) and _images_in(other):
            raise ValueError(
                f"{path} holds {' and '.join(s for s in SPLITS if (path / s).is_dir())}/ beside {other.name}/: "
                "splits or classes? Put the classes under train/, or take the other folders elsewhere"
            )


def _images_in(folder: Path) -> list[Path]:
    """Image files in order of their paths; hidden ones, such as the ._x.png of some systems, are no images."""
    files = []
    for f in folder.rglob("*"):
        suffix = f.suffix.lower()
        if suffix not in SUFFIXES and suffix not in _UNREAD:
            continue
        if any(part.startswith(".") for part in f.relative_to(folder).parts) or not f.is_file():
            continue
        if suffix in _UNREAD:  # leaving it out in silence would change the set
            raise ValueError(f"{f} is not read: convert it to PNG, or take it elsewhere")
        files.append(f)
    return sorted(files, key=lambda f: f.relative_to(folder).parts)


def _build_parquet(files: list[Path], known: tuple[str, ...] | None, reading: Reading) -> Decoded:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(files[0])
        image, label, named = _columns(schema, str(files[0]))
        labels = None
        if label is not None:
            parts = [pq.read_table(f, columns=[label]).column(label) for f in files]
            labels = np.concatenate([p.to_numpy() for p in parts])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{files[0]} cannot be read as parquet ({error}): it is damaged; fetch it again") from error

    def blobs() -> Iterator[tuple[str, bytes]]:
        for file in files:
            row = 0
            try:
                with pq.ParquetFile(file) as table:
                    for batch in table.iter_batches(batch_size=_BLOCK, columns=[image]):
                        for cell in batch.column(0).to_pylist():
                            yield f"{file}, row {row}", _bytes_of(cell, f"{file}, row {row}")
                            row += 1
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file} is damaged after row {row} ({error}): fetch it again") from error

    classes = known or named
    if labels is not None:
        rows = sum(pq.read_metadata(f).num_rows for f in files)
        labels = _check_labels(labels, rows, classes, f"column {label} of {files[0]}")
    return _of_blobs(blobs, labels, classes, str(files[0]), reading)


def _columns(schema: Any, where: str) -> tuple[str, str | None, tuple[str, ...] | None]:
    """(image column, label column, class names) of a parquet file, from the features that Hugging Face writes in it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        features = {}
    if not isinstance(features, dict):
        features = {}
    plain = {k: v for k, v in features.items() if isinstance(v, dict) and k in schema.names}
    images = [k for k, v in plain.items() if v.get("_type") == "Image"]
    # without that word: a struct with a field `bytes` is how images are stored
    images = images or [f.name for f in schema if str(f.type).startswith("struct<") and "bytes: binary" in str(f.type)]
    image = _one(images, ("image", "img"), where, list(schema.names))
    labels = {k: v["names"] for k, v in plain.items() if v.get("_type") == "ClassLabel" and isinstance(v.get("names"), list)}
    label = "label" if "label" in labels else next(iter(labels), None)
    if label is not None:
        return image, label, tuple(str(c) for c in labels[label])
    return (
        image,
        "label" if "label" in schema.names and str(schema.field("label").type).startswith("int") else None,
        None,
    )


def _one(images: list[str], usual: tuple[str, ...], where: str, columns: list[str]) -> str:
    if not images:
        raise ValueError(
            f"{where} has no column of images, only {', '.join(columns)}: wanted Hugging Face's image column, a struct "
            "of bytes and path"
        )
    return next((k for k in usual if k in images), images[0])


def _bytes_of(cell: Any, where: str) -> bytes:
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if isinstance(data, bytes):
        return data
    path = cell.get("path") if isinstance(cell, dict) else None
    if path:
        raise ValueError(f"{where} holds no image, only its path {path}: write the bytes into the file too")
    return b""  # an empty cell: told with the broken images


def _load_hub(
    name: str,
    repo: str,
    split: str,
    kept: Path,
    known: tuple[str, ...] | None,
    reading: Reading,
    pointer: Path | None = None,
) -> ImageSet:
    from datasets import ClassLabel, Image, load_dataset

    try:
        rows = load_dataset(repo, split=split)
    except Exception as error:  # network, name, splits and configurations fail in a dozen types, and change
        raise FileNotFoundError(
            f"hf:{repo} ({split}) could not be fetched: {type(error).__name__}: {error}. "
            "Check the name, the split and the network"
        ) from error
    image = _one([k for k, v in rows.features.items() if isinstance(v, Image)], ("image", "img"), f"hf:{repo}", rows.column_names)
    all_labels = [k for k, v in rows.features.items() if isinstance(v, ClassLabel)]
    label = "label" if "label" in all_labels else next(iter(all_labels), None)
    classes = known or (tuple(rows.features[label].names) if label else None)
    labels = None if label is None else np.asarray(rows.with_format("numpy")[label][:], dtype=np.int64)
    encoded = rows.select_columns([image]).cast_column(image, Image(decode=False))

    def blobs() -> Iterator[tuple[str, bytes]]:
        for i, row in enumerate(encoded):
            cell = row[image]
            if cell["bytes"] is None and cell["path"] and Path(cell["path"]).is_file():
                cell = {"bytes": Path(cell["path"]).read_bytes()}
            yield f"hf:{repo}, row {i}", _bytes_of(cell, f"hf:{repo}, row {i}")

    extra = [*(classes or ()), "" if labels is None else labels.tobytes().hex(), *reading.key()]
    key = blob_key("hub", (data for _, data in blobs()), extra)

    def build() -> Decoded:
        checked = None if labels is None else _check_labels(labels, len(encoded), classes, f"labels of hf:{repo}")
        return _of_blobs(blobs, checked, classes, f"hf:{repo}", reading)

    entry = open_or_build(key, build, kept)
    if pointer is not None:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        new = pointer.with_name(f"{pointer.name}.{os.getpid()}")
        new.write_text(json.dumps({"key": key, "source": f"hf:{repo}"}))
        os.replace(new, pointer)
    return _set(name, split, f"hf:{repo}", entry, reading)
