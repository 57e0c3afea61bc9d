"""PNG files of 8 or 16 bits a channel (ISO/IEC 15948): Pillow writes none with 16 bits in colour."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # grey, grey and alpha, RGB, RGBA


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Writes uint8 or uint16 (h, w, c), c = 1 (grey) or 3 (RGB), without loss. Raises ValueError for anything else."""
    if image.dtype.name not in ("uint8", "uint16") or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"{image.dtype} image of shape {image.shape}: PNG holds uint8 or uint16 of (h, w, 1 or 3)")
    if image.dtype == np.uint8:
        from PIL import Image

        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)
        return
    path.write_bytes(png_16(image))


def png_16(image: NDArray[np.uint16]) -> bytes:
    """The file of a uint16 image (h, w, 1 to 4). Each row is stored as its difference from the one above (filter 2)."""
    h, w, c = image.shape
    rows = np.ascontiguousarray(image, dtype=">u2").view(np.uint8).reshape(h, -1)
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    filtered = np.concatenate([np.full((h, 1), 2, np.uint8), rows - above], 1)
    head = struct.pack(">IIBBBBB", w, h, 16, _COLOUR_TYPE[c], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
