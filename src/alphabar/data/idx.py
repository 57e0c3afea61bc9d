"""IDX, the format of MNIST's files: two zero bytes, a type, the number of axes, their lengths, and the bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UBYTE = 0x08
_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_DEFLATE_LIMIT = 1040  # gzip shrinks nothing by more than 1032 : 1
_CHUNK = 1 << 22


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """A uint8 array with `axes` axes from an IDX file, gzipped or not (its first bytes tell, not its name).

    Nothing in the file is believed before it is checked: the magic number, the type, and the lengths of the axes
    against the length of the data. Raises ValueError naming the file and the fault, OSError where it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0":
                raise ValueError(f"{path} is no IDX file: it starts with {head.hex(' ')}, wanted 00 00 08 {axes:02x}")
            if head[2] != _UBYTE:
                raise ValueError(f"{path} holds {_TYPES.get(head[2], f'type {head[2]:#04x}')}: only uint8 (0x08) is read")
            if head[3] != axes:
                raise ValueError(f"{path} has {head[3]} axes, wanted {axes}: images have 3 (n, h, w), labels 1 (n)")
            lengths = file.read(4 * axes)
            if len(lengths) < 4 * axes:
                raise ValueError(f"{path} ends within its header, after {4 + len(lengths)} bytes: it is cut short")
            shape: tuple[int, ...] = struct.unpack(f">{axes}I", lengths)
            wanted = math.prod(shape)
            if 0 in shape:
                raise ValueError(f"{path} says its shape is {shape}: it holds nothing")
            # an honest file cannot hold more than this, so a lying header never makes us ask for memory
            if wanted > (size * _DEFLATE_LIMIT if zipped else size):
                raise ValueError(f"{path} says its shape is {shape}, {wanted} bytes, but the file has {size}: it is cut short")
            data = bytearray()
            while len(data) <= wanted and (chunk := file.read(min(_CHUNK, wanted + 1 - len(data)))):
                data += chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be unzipped ({error}): it is damaged or cut short; fetch it again") from error
    if len(data) != wanted:
        how = "more" if len(data) > wanted else f"only {len(data)}"
        raise ValueError(f"{path} says its shape is {shape}, {wanted} bytes, but holds {how}: it is damaged; fetch it again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
