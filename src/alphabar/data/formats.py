"""What Pillow reads with loss or not at all: PNG with 16 bits per channel, PNM with any largest value, and TIFF (by tifffile).

Also the two errors of reading an image.
"""

import io
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alphabar.core.files import room_for
from alphabar.data.values import DECLARE, MAX_CHANNELS, Reading


class RefusedError(ValueError):
    """An intact image that cannot be read without loss or without a guess."""


class BrokenError(ValueError):
    """A file that is damaged, truncated, or not an image."""


@dataclass(frozen=True)
class Shape:
    """Height and width after the EXIF rotation, number of colour channels, and type of the values."""

    h: int
    w: int
    c: int  # 1 for grey, 3 for RGB, or as many as a TIFF has; without alpha
    dtype: str = "uint8"
    alpha: bool = False  # whether the image may be transparent somewhere: one more channel

    def __str__(self) -> str:
        return f"{self.w}x{self.h}"


def short(error: BaseException) -> str:
    """The type and the first line of an error of a library."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}"


@contextmanager
def naming(where: str, wanted: str) -> Iterator[None]:
    """Turns whatever the readers of damaged files raise (dozens of types, which change with versions) into ValueError with the
    name of the file. Errors that name it pass."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and where in str(error):
            raise
        plain = type(error) in (ValueError, BrokenError, RefusedError)
        raise ValueError(f"{where} cannot be read ({error if plain else short(error)}): {wanted}") from error


# PNG (ISO/IEC 15948), which Pillow never writes with 16 bits and reads in colour only with a detour
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # grey, grey and alpha, RGB, RGBA


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Writes a uint8 or uint16 image of shape (h, w, 1) for grey or (h, w, 3) for RGB, without loss. Refuses others."""
    if image.dtype.name not in ("uint8", "uint16") or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"{image.dtype} image of shape {image.shape}: PNG holds uint8 or uint16 of (h, w, 1 or 3)")
    try:
        with room_for(path):
            if image.dtype == np.uint8:
                Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path, "PNG")
            else:
                path.write_bytes(png_16(image))
    except OSError:
        path.unlink(missing_ok=True)  # rather than half of it
        raise


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
        for i, t in enumerate(tiles):
            args = new if isinstance(t.args, str) else tuple(new if a == old else a for a in t.args)
            tiles[i] = t._replace(args=args)
        im.load()
        return np.asarray(im)


def raw_mode(im: Any) -> str:
    """Pillow's name for the layout of the bytes in the file."""
    args = im.tile[0].args
    return str(args if isinstance(args, str) else args[0])


def depth(data: bytes) -> int:
    """Most bits per sample of a JPEG 2000 or AVIF file, which Pillow reduces to 8 without a word."""
    if (at := data.find(b"\xff\x4f\xff\x51")) >= 0:  # SIZ (ISO/IEC 15444-1): the depth of each component, less one
        components = data[at + 42 :: 3][: int.from_bytes(data[at + 40 : at + 42], "big")]
        return max(((c & 0x7F) + 1 for c in components), default=0)
    at = data.find(b"av1C")
    flags = data[at + 6 : at + 7] if at >= 0 else b""
    return 0 if not flags else 8 if not flags[0] & 0x40 else 12 if flags[0] & 0x20 else 10


# PNM: grey and RGB images (P2, P3, P5, P6) whose header states the largest value; Pillow would rescale them
CHANNELS = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}
_SPACE = rb"(?:\s|#[^\n]*\n)*"  # comments run to the end of the line
_HEADER = re.compile(rb"P[2356]" + 3 * (_SPACE + rb"(\d{1,10})") + rb"\s")


def pnm_header(data: bytes) -> tuple[int, int, int, int]:
    """(width, height, largest value, offset of the pixels). Raises ValueError for an invalid header."""
    header = _HEADER.match(data)
    if header is None or not 0 < int(header[3]) < 65536:
        raise ValueError(f"its header is {data[:20]!r}")
    return int(header[1]), int(header[2]), int(header[3]), header.end()


def read_pnm(data: bytes) -> NDArray[Any]:
    """Values (h, w, c) as in the file: uint8 if the largest is below 256, else uint16. Raises ValueError for damaged files."""
    w, h, top, start = pnm_header(data)
    c = CHANNELS[data[:2]]
    n = w * h * c
    if data[:2] in (b"P5", b"P6"):
        kind = np.dtype(np.uint8 if top < 256 else ">u2")
        if len(data) < start + n * kind.itemsize:
            raise ValueError(f"{len(data) - start} bytes of pixels where the header announces {n * kind.itemsize}")
        out = np.frombuffer(data, kind, n, start)
    else:
        words = b" ".join(line.split(b"#")[0] for line in data[start:].splitlines()).split()
        if len(words) < n:
            raise ValueError(f"{len(words)} values where the header announces {n}")
        out = np.array([int(word) for word in words[:n]], np.int64)
    if out.max() > top or out.min() < 0:
        raise ValueError(f"a value of {int(out.max())} where the header says that {top} is the largest")
    return out.astype(np.uint8 if top < 256 else np.uint16).reshape(h, w, c)


_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_16_BIT_COLOUR = {f"{mode};16{order}" for mode in ("RGB", "RGBA") for order in "LBN"}
_EXACT = {("F", 32, 3), ("I", 16, 2), ("I", 32, 2), ("I;16", 16, 1), ("I;16B", 16, 1), ("I;16", 12, 1)}  # mode, bits, format


def needs_tifffile(data: bytes) -> bool:
    """Whether it is a TIFF with more than 8 bits per sample, or with channels that Pillow would drop."""
    if data[:4] not in _MAGIC:
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as im:
            samples = getattr(im, "tag_v2", {}).get(277, 1)
            return im.mode == "RGBX" or samples != len(im.getbands()) or pillow_bits(im) > 8
    except Exception:  # Pillow raises many types for damaged headers
        return True


def pillow_bits(im: Image.Image) -> int:
    """Most bits per sample of a TIFF that Pillow opened."""
    value = getattr(im, "tag_v2", {}).get(258, 1)
    return int(max(value)) if isinstance(value, tuple) else int(value)


def read_tiff(data: bytes, where: str, reading: Reading, *, pixels: bool) -> tuple[Shape, NDArray[Any]]:
    """The shape of a TIFF, and its values (h, w, c) if `pixels`, else an empty array. An alpha channel is the last one.

    Raises RefusedError for several frames and other contents that cannot be read without a guess, BrokenError for damage.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if (n := len(file.pages)) > 1:
                raise RefusedError(f"{where} holds {n} frames: save the one that is meant, or stack them as channels")
            page: Any = file.pages.first
            alpha = any(int(e) in (1, 2) for e in page.extrasamples)
            _check(page, where, alpha, reading)
            h, w, c = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel) - int(alpha)
            orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
            h, w = (w, h) if orientation in (5, 6, 7, 8) else (h, w)
            shape = Shape(h, w, c, page.dtype.name, alpha)
            return shape, _pixels(page, data, where, orientation) if pixels else np.empty((0, 0, c), page.dtype)
    except (RefusedError, BrokenError):
        raise
    except Exception as error:  # tifffile raises many types for damaged headers
        raise BrokenError(f"{where} is damaged ({short(error)})") from error


def turned(a: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(h, w, c) rotated and mirrored as EXIF's orientation 1 to 8 demands (EXIF 2.3, tag 0x0112)."""
    a = a.swapaxes(0, 1) if orientation >= 5 else a
    a = a[::-1] if orientation in (3, 4, 7, 8) else a
    return a[:, ::-1] if orientation in (2, 3, 6, 7) else a


def _check(page: Any, where: str, alpha: bool, reading: Reading) -> None:
    kind, samples = int(page.photometric), int(page.samplesperpixel)
    if kind == 0:
        raise RefusedError(f"{where} is a TIFF in which 0 is white: invert it, or save it with black as 0")
    if kind not in (1, 2) or page.dtype is None or page.dtype.kind not in "iuf":
        name = getattr(page.photometric, "name", kind)
        raise RefusedError(f"{where} is a TIFF of kind {name}, {page.dtype}: wanted grey (MINISBLACK) or RGB, numbers or floats")
    if any(int(e) == 1 for e in page.extrasamples) or (alpha and page.dtype.kind == "f"):
        raise RefusedError(f"{where} has colours multiplied by its alpha channel, or alpha in floats: paint it on a background")
    if samples - int(alpha) > MAX_CHANNELS:
        raise RefusedError(f"{where} has {samples} channels: wanted 1 to {MAX_CHANNELS}")
    bits = int(page.bitspersample)
    if bits == 12 and samples == 1 and reading.value_range is None:
        raise RefusedError(f"{where} holds 12 bits per pixel: declare the range, --range 0 4095 ({DECLARE})")
    if page.dtype.kind == "u" and bits not in (8, 16, 32, 64) and not (bits == 12 and samples == 1):
        raise RefusedError(f"{where} holds {bits} bits per sample in colour or channels: save it with 16")


def _pixels(page: Any, data: bytes, where: str, orientation: int) -> NDArray[Any]:
    if any(start + n > len(data) for start, n in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise BrokenError(f"{where} is damaged (a TIFF without its end: it is truncated)")
    h, w = int(page.imagelength), int(page.imagewidth)
    try:
        out = page.asarray()
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" not in str(error):
            raise
        exact = _through_pillow(page, data)
        if exact is None:
            raise RefusedError(f"{where} has a compression that needs one more package: pip install imagecodecs") from error
        return exact
    out = out.reshape(-1, h, w).transpose(1, 2, 0) if page.axes.startswith("S") else out.reshape(h, w, -1)
    return turned(out.astype(out.dtype.newbyteorder("="), copy=False), orientation)


def _through_pillow(page: Any, data: bytes) -> NDArray[Any] | None:
    """Values (h, w, c), already turned, or None if Pillow would change them. For LZW, JPEG and 12 bits without imagecodecs."""
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as im:
        if im.mode in ("RGB", "RGBA"):
            return read_16_bit_colour(im, data) if raw_mode(im) in _16_BIT_COLOUR and int(page.planarconfig) == 1 else None
        swapped_twice = data[:2] == b"MM" and int(page.compression) != 1 and im.mode in ("I", "F")
        if (im.mode, int(page.bitspersample), int(page.sampleformat)) not in _EXACT or swapped_twice:
            return None
        im.load()
        out = np.asarray(im)[..., None]
        return out.astype(out.dtype.newbyteorder("="), copy=False)
