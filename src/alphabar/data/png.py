"""PNG files with 16 bits per channel (ISO/IEC 15948), which Pillow reads in colour only with a detour and never writes."""

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # grey, grey and alpha, RGB, RGBA


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Writes an image without loss.

    Args:
        path: the file.
        image: uint8 or uint16 of shape (h, w, 1) for grey or (h, w, 3) for RGB.

    Raises:
        ValueError: for any other type or shape.
    """
    if image.dtype.name not in ("uint8", "uint16") or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"{image.dtype} image of shape {image.shape}: PNG holds uint8 or uint16 of (h, w, 1 or 3)")
    if image.dtype == np.uint8:
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)
    else:
        path.write_bytes(png_16(image))


def png_16(image: NDArray[np.uint16]) -> bytes:
    """The file of a uint16 image (h, w, 1 to 4). Each row is stored as its difference from the row above (filter 2)."""
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


def read_16_bit_colour(im: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """(h, w, c) of a PNG or TIFF with 16-bit colour, or grey with alpha, which Pillow would reduce to 8 bits.

    Pillow's decoder is run twice, once for the upper bytes and once for the lower ones. Its "raw mode" names the bytes of the
    file that make a pixel: RGB;16B takes the first byte of each pair, RGB;16L the second. Grey with alpha is read as RGBA:
    grey, its lower byte, alpha, its lower byte.

    Args:
        im: the image as Pillow opened it; its mode is RGB, RGBA or LA.
        data: the bytes of the file.
    """
    raw = raw_mode(im)
    if raw == "LA;16B":
        four = _read_as(data, raw, "RGBA").astype(np.uint16)
        return np.ascontiguousarray(four[..., 0::2] << 8 | four[..., 1::2], np.uint16)
    native = {"little": "L", "big": "B"}[sys.byteorder]
    upper = raw[:-1] + native if raw.endswith("N") else raw
    lower = upper[:-1] + ("L" if upper.endswith("B") else "B")
    return np.ascontiguousarray(_read_as(data, raw, upper).astype(np.uint16) << 8 | _read_as(data, raw, lower), np.uint16)


def _read_as(data: bytes, old: str, new: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as im:
        tiles: list[Any] = im.tile
        im.tile = [
            t._replace(args=new if isinstance(t.args, str) else tuple(new if a == old else a for a in t.args)) for t in tiles
        ]
        im.load()
        return np.asarray(im)


def raw_mode(im: Any) -> str:
    """Pillow's name for the layout of the bytes in the file."""
    args = im.tile[0].args
    return str(args if isinstance(args, str) else args[0])
