"""TIFF files with any number of channels and any type of values, through tifffile."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alphabar.data.header import DAMAGE, BrokenError, RefusedError, Shape, short
from alphabar.data.png import raw_mode, read_16_bit_colour
from alphabar.data.values import DECLARE, MAX_CHANNELS, Reading

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
    except DAMAGE:
        return True


def pillow_bits(im: Image.Image) -> int:
    """Most bits per sample of a TIFF that Pillow opened."""
    value = getattr(im, "tag_v2", {}).get(258, 1)
    return int(max(value)) if isinstance(value, tuple) else int(value)


def read_tiff(data: bytes, where: str, reading: Reading, *, pixels: bool) -> tuple[Shape, NDArray[Any]]:
    """The shape of a TIFF, and its values (h, w, c) if `pixels`. An alpha channel is the last one.

    Args:
        data: the bytes of the file.
        where: its name for error messages.
        reading: how images are read; 12-bit images need a declared range.
        pixels: whether to decode; otherwise the array is empty.

    Raises:
        RefusedError: for several frames, premultiplied alpha, and other contents that cannot be read without a guess.
        BrokenError: for a damaged file.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if len(file.pages) > 1:
                raise RefusedError(
                    f"{where} holds {len(file.pages)} frames: save the one that is meant, or stack them as channels"
                )
            page: Any = file.pages.first
            alpha = any(int(e) in (1, 2) for e in page.extrasamples)
            _check(page, where, alpha, reading)
            h, w, c = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel) - int(alpha)
            orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
            shape = Shape(w, h, c) if orientation in (5, 6, 7, 8) else Shape(h, w, c)
            shape = replace(shape, dtype=page.dtype.name, alpha=alpha)
            return shape, _pixels(page, data, where, orientation) if pixels else np.empty((0, 0, c), page.dtype)
    except (RefusedError, BrokenError):
        raise
    except Exception as error:  # tifffile raises many types for damaged headers
        raise BrokenError(f"{where} is damaged ({short(error)})") from error


def turned(a: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(h, w, c) rotated and mirrored as EXIF's orientation 1 to 8 demands (EXIF 2.3, tag 0x0112)."""
    if orientation >= 5:
        a = a.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    if orientation in (2, 3, 6, 7):
        a = a[:, ::-1]
    return a


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
