"""IDX, the format of MNIST's files: two zero bytes, a type, the number of axes, their lengths, and the data."""

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphabar.data.cache import Decoded, Source, content_key
from alphabar.data.labels import numbered
from alphabar.data.readers.arrays import Array, decoded_from_array, slices
from alphabar.data.values import Reading

_UBYTE = 0x08
_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_DEFLATE_LIMIT = 1040  # gzip compresses by at most 1032 : 1
_CHUNK = 1 << 22


def find_idx(folder: Path, split: str, classes: tuple[str, ...] | None, reading: Reading) -> Source | None:
    """The source of a split in a folder with MNIST's file names, or None if it has no such files."""
    prefix = "train" if split == "train" else "t10k"
    images, labels = (_idx_file(folder, prefix, kind) for kind in ("images-idx3", "labels-idx1"))
    if images is None:
        return None
    files = [("images", images), *([("labels", labels)] if labels else [])]
    key = partial(content_key, "idx", files, [*(classes or ()), *reading.key()])
    return Source(str(folder), key, partial(_build, images, labels, classes, reading))


def _idx_file(folder: Path, prefix: str, kind: str) -> Path | None:
    names = (f"{prefix}-{kind}-ubyte", f"{prefix}-{kind.replace('-', '.')}-ubyte")
    return next((f for n in names for end in (".gz", "") if (f := folder / (n + end)).is_file()), None)


def _build(images: Path, labels: Path | None, classes: tuple[str, ...] | None, reading: Reading) -> Decoded:
    pixels = read_idx(images, 3)[..., None]
    found = None if labels is None else numbered(read_idx(labels, 1), len(pixels), classes, str(labels))[0]
    return decoded_from_array(Array(pixels.shape, pixels.dtype, partial(slices, pixels)), found, classes, reading, str(images))


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """A uint8 array with `axes` axes from an IDX file, gzipped or not (its first bytes decide, not its name). The magic number,
    the type, and the lengths of the axes are checked against the length of the data before memory is used."""
    size = path.stat().st_size
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0":
                raise ValueError(f"{path} is not an IDX file: it starts with {head.hex(' ')}, wanted 00 00 08 {axes:02x}")
            if head[2] != _UBYTE:
                raise ValueError(f"{path} holds {_TYPES.get(head[2], f'type {head[2]:#04x}')}: only uint8 (0x08) is read")
            if head[3] != axes:
                raise ValueError(f"{path} has {head[3]} axes, wanted {axes}: images have 3 (n, h, w), labels 1 (n)")
            lengths = file.read(4 * axes)
            if len(lengths) < 4 * axes:
                raise ValueError(f"{path} ends within its header, after {4 + len(lengths)} bytes: it is truncated")
            shape: tuple[int, ...] = struct.unpack(f">{axes}I", lengths)
            wanted = math.prod(shape)
            if 0 in shape:
                raise ValueError(f"{path} says its shape is {shape}: it holds nothing")
            # a valid file cannot hold more than this, so a false header does not allocate memory
            if wanted > (size * _DEFLATE_LIMIT if zipped else size):
                raise ValueError(f"{path} says its shape is {shape}, {wanted} bytes, but the file has {size}: it is truncated")
            data = bytearray()
            while len(data) <= wanted and (chunk := file.read(min(_CHUNK, wanted + 1 - len(data)))):
                data += chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be decompressed ({error}): it is damaged or truncated; fetch it again") from error
    if len(data) != wanted:
        how = "more" if len(data) > wanted else f"only {len(data)}"
        raise ValueError(f"{path} says its shape is {shape}, {wanted} bytes, but holds {how}: it is damaged; fetch it again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
