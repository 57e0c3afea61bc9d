"""Arrays in .npy and .npz files, read block by block."""

import io
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alphabar.core.npz import read_npz as arrays_of
from alphabar.data.cache import SPLITS, Decoded, rows_per_block
from alphabar.data.formats import naming
from alphabar.data.images import as_pixels, channels_last, layout, stored_for
from alphabar.data.labels import NAMES, numbered
from alphabar.data.values import Reading, Survey

_MOST_HEADER, _MOST_BYTES = 10_000, 1 << 40
_Opener = Callable[[], AbstractContextManager[io.BufferedIOBase]]


class Array(NamedTuple):
    """An array in a file: its shape, its type, and a function that reads its rows in blocks."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterable[NDArray[Any]]]


def read_npy(files: list[Path], classes: tuple[str, ...] | None, reading: Reading) -> Decoded:
    """The images of a .npy file."""
    (path,) = files
    with naming(str(path), "wanted one array as np.save(path, images) writes it"):
        array = _array(lambda: path.open("rb"), lambda: np.load(path, mmap_mode="r"))
    return decoded_from_array(array, None, None, reading, str(path))


def read_npz(files: list[Path], classes: tuple[str, ...] | None, reading: Reading, split: str = "train") -> Decoded:
    """The images in an .npz file, with its labels and the names of its classes if it has them.

    The members are called images, x or arr_0 and labels, label, y, ... or arr_1; train_ or test_ may stand before, _train or
    _test behind, as in MedMNIST's and Keras' files. A single member holds images, whatever its name.
    """
    (path,) = files
    with naming(str(path), "wanted np.savez(path, images=array of shape (n, h, w, c), labels=optional whole numbers)"):
        with zipfile.ZipFile(path) as archive:
            members = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        image, label = _members(members, split)

        @contextmanager
        def opened(member: str) -> Iterator[Any]:
            with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
                yield file

        array = _array(partial(opened, image), lambda: arrays_of(path, {image})[image])
        small = arrays_of(path, {"classes", *([label] if label else [])})
    labels = small[label] if label else None
    found = tuple(str(c) for c in np.atleast_1d(small["classes"]).tolist()) if "classes" in small else classes
    n = array.shape[0] if array.shape else 0
    checked, found = (None, None) if labels is None else numbered(labels, n, found, f"{label} in {path}")
    return decoded_from_array(array, checked, found, reading, str(path))


def unread_in_npz(path: Path) -> tuple[str, ...]:
    """The members of an .npz file that are read for no split, such as val_images; none of a file that cannot be read."""
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        members = [n.removesuffix(".npy") for n in archive.namelist()]
        used = [_members(members, split) for split in SPLITS if split == "train" or _has(members, split)]
        return tuple(f"{n}.npy" for n in members if n not in {"classes", "record", "x0", *(m for pair in used for m in pair)})
    return ()


def names_in_npz(files: Sequence[Path]) -> set[str]:
    """The names of classes in the labels of all splits of an .npz file; none where they are numbers, or it holds `classes`."""
    with zipfile.ZipFile(files[0]) as archive:
        members = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
    names = (
        set()
        if "classes" in members
        else {_members(members, split)[1] for split in SPLITS if split == "train" or _has(members, split)}
    )
    arrays = arrays_of(files[0], {name for name in names if name})
    return {str(v) for array in arrays.values() if array.dtype.kind == "U" for v in array.ravel().tolist()}


def has_split(path: Path, split: str) -> bool:
    """Whether an .npz file names the images of that split, as test_images or x_test."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _has([n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")], split)
    except Exception:
        return False  # its reader says what is wrong


def _has(members: Sequence[str], split: str) -> bool:
    return bool({f"{split}_images", f"x_{split}", f"{split}_x", f"images_{split}"} & {m.lower() for m in members})


def _members(members: Sequence[str], split: str) -> tuple[str, str | None]:
    """The members of an .npz file that hold the images and the labels of a split; those without a split are of train."""
    plain = {k.lower(): k for k in members}
    forms = [f"{split}_{{}}", f"{{}}_{split}"] + (["{}"] if split == "train" else [])
    known = {form.format(name): form for form in forms for name in ("images", "image", "x", "imgs", "arr_0")}
    image = next((k for k in known if k in plain), None)
    if image is None:
        rest = [k for k in members if k.lower() not in (*NAMES, "classes", "record")]
        if split != "train" or len(rest) != 1:
            raise ValueError(f"it holds {', '.join(members) or 'nothing'}: name the images `images`")
        return rest[0], next((plain[k] for k in NAMES if k in plain), None)
    wanted = ["arr_1"] if image == "arr_0" else [known[image].format(name) for name in NAMES]
    return plain[image], next((plain[k] for k in wanted if k in plain), None)


def slices(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Blocks of an array that is in memory or mapped."""
    rows = rows_per_block(array.nbytes // max(len(array), 1))
    return (array[i : i + rows] for i in range(0, len(array), rows))


def decoded_from_array(
    array: Array, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None, reading: Reading, where: str
) -> Decoded:
    """The images of an array. Values whose type does not decide how they are stored are read twice."""

    def blocks() -> Iterator[NDArray[Any]]:
        try:
            for block in array.blocks():
                yield channels_last(block, kind)
        except Exception as error:
            raise ValueError(f"{where} cannot be read to its end ({error}): it is damaged; write or fetch it again") from error

    try:
        kind = layout(array.shape, axes=reading.axes)
        if 0 in array.shape:
            raise ValueError(f"no images: the shape is {array.shape}")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    survey = Survey(reading.value_range)
    if reading.value_range is not None or array.dtype.name not in ("uint8", "uint16"):
        for block in blocks():
            survey.see(block)
        if (fault := survey.fault()) is not None:
            raise ValueError(f"{where}: {fault}")
    n, *image = array.shape
    h, w, c = {"nhwc": tuple(image), "nchw": (*image[1:], image[0]), "nhw": (*image, 1)}[kind]
    h, w = reading.size or (h, w)
    pixels = (reading.fitted(as_pixels(block, survey)) for block in blocks())
    return Decoded(n, (h, w, c), pixels, labels, classes if labels is not None else None, stored_for(array.dtype, survey))


def _array(opened: _Opener, whole: Callable[[], NDArray[Any]]) -> Array:
    """An array of the .npy format, to be read in blocks. whole: reads it at once."""
    with opened() as file:
        shape, fortran, dtype = _header(file)
    if fortran and len(shape) > 1:  # the values of an image are scattered over the file
        return Array(shape, dtype, lambda: slices(whole()))

    def blocks() -> Iterator[NDArray[Any]]:
        with opened() as file:
            _header(file)
            image = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, shape[0], rows := rows_per_block(image)):
                wanted = min(rows, shape[0] - start) * image
                data = b"".join(_reads(file, wanted))
                if len(data) < wanted:
                    at = start + len(data) // max(image, 1)
                    raise ValueError(f"its data end within image {at} of {shape[0]}: it is truncated")
                yield np.frombuffer(data, dtype).reshape(-1, *shape[1:])
            file.read(1)  # an .npz compares its checksum at the very end

    return Array(shape, dtype, blocks)


def _reads(file: io.BufferedIOBase, wanted: int) -> Iterator[bytes]:
    """Reads of a file that add up to `wanted` bytes, or to fewer at its end."""
    while wanted > 0 and (part := file.read(wanted)):
        wanted -= len(part)
        yield part


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, type) of the .npy format. Python objects, which would have to be unpickled, are refused."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if (version := np.lib.format.read_magic(file)) not in readers:
        raise ValueError(f"it is of version {version} of the .npy format, which arrays of numbers do not need")
    length = file.read(2 if version == (1, 0) else 4)
    if (n := int.from_bytes(length, "little")) > _MOST_HEADER:
        raise ValueError(f"its header of {n} bytes is longer than that of any array")
    shape, fortran, dtype = readers[version](io.BytesIO(length + file.read(n)))
    if any(v < 0 for v in shape) or math.prod(shape) * dtype.itemsize > _MOST_BYTES:
        raise ValueError(f"its header says {shape} of {dtype}")
    if dtype.hasobject or dtype.names is not None:
        raise ValueError(f"it holds {dtype}, not numbers: Python objects are never unpickled")
    return shape, fortran, dtype
