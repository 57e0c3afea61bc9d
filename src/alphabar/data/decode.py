"""One encoded image -> its values (h, w, c) as the file holds them, 8 or 16 bit, whole numbers or floats; what cannot be
read without loss is refused with the reason, and what is damaged is told from that (`BrokenError`)."""

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from alphabar.data.values import DECLARE, MAX_CHANNELS, Reading

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # formats whose depth is known to be 8 bit or checked
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"})
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BROKEN = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
_AS_USUAL = Reading()


class RefusedError(ValueError):
    """A whole image that cannot be read without loss or without a guess."""


class BrokenError(ValueError):
    """An image that is damaged, cut short, or no image."""


@dataclass(frozen=True)
class Shape:
    """What an image will decode to: height and width after its EXIF rotation, channels of colour (1 grey, 3 RGB, or as
    many as a TIFF has), the type of its values, and whether it may be transparent somewhere (one more channel)."""

    h: int
    w: int
    c: int
    dtype: str = "uint8"
    alpha: bool = False

    def __str__(self) -> str:
        return f"{self.w}x{self.h}"


def probe(data: bytes, where: str, reading: Reading = _AS_USUAL) -> Shape:
    """What an encoded image holds, from its header, with every refusal that a header allows.

    Raises BrokenError or RefusedError, both ValueErrors, naming `where`.
    """
    if _is_foreign_tiff(data, where):
        return _tiff(data, where, pixels=False)[0]
    with _opened(data, where) as im:
        kind = _kind(im, data, where, reading)
        turned = _orientation(im, data) in (5, 6, 7, 8)  # these swap the sides
    return replace(kind, h=kind.w, w=kind.h) if turned else kind


def decode(data: bytes, where: str, channels: int, reading: Reading = _AS_USUAL, alpha: bool = False) -> NDArray[Any]:
    """Values (h, w, channels), or (h, w, channels + 1) with alpha=True: opaque where the image has no transparency.

    EXIF rotation is applied, palettes become RGB, grey becomes RGB where 3 channels are asked for. An alpha channel that
    is opaque everywhere is dropped; of others `reading.alpha` says what becomes.
    Raises BrokenError naming `where` for a damaged image, RefusedError for one that cannot be read without loss.
    """
    _check_whole(data, where)
    if _is_foreign_tiff(data, where):
        kind, array = _tiff(data, where, pixels=True)
    else:
        with _opened(data, where) as im:
            kind = _kind(im, data, where, reading)
            array = _values(im, data, where, kind)
    colour = array[..., : kind.c]
    mask = array[..., kind.c] if array.shape[-1] > kind.c else None
    if mask is not None and mask.min() < np.iinfo(mask.dtype).max:
        colour = _transparent(colour, mask, where, reading)
    elif mask is not None and reading.alpha != "keep":
        mask = None
    if colour.shape[-1] == 1 and channels == 3:
        colour = colour.repeat(3, -1)  # R = G = B, which loses nothing
    if alpha:
        full = np.iinfo(colour.dtype).max if colour.dtype.kind in "iu" else 1
        last = np.full(colour.shape[:2], full, colour.dtype) if mask is None else mask
        colour = np.concatenate([colour, last[..., None]], -1)
    return np.ascontiguousarray(colour)


# --- opening --------------------------------------------------------------------------------------------------


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """The image, with every error of reading it, then and later, turned into one that names it."""
    if not data:
        raise BrokenError(f"{where} is empty")
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # where a program has set it, missing parts would come as grey
        with Image.open(io.BytesIO(data), formats=FORMATS) as im:
            yield im
    except (RefusedError, BrokenError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenError(f"{where} is no image that can be read, or is damaged: wanted {', '.join(FORMATS)}") from error
    except _BROKEN as error:
        raise BrokenError(f"{where} is damaged ({_short(error)})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _check_whole(data: bytes, where: str) -> None:
    """Faults that Pillow passes over: a JPEG that ends early, whose rest it may paint grey, and a PNG whose checksums
    do not fit. A JPEG that is damaged within, with all its markers in place, has nothing that would tell."""
    if data[:2] == b"\xff\xd8":
        at = 2
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b""):
            marker = data[at + 1]
            alone = marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8  # fill bytes and markers without a length
            at += (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        # within the coded data FF is followed by 00 or D0..D7: FF D9 is the end of the image, wherever a camera adds more
        if data.find(b"\xff\xd9", at) < 0:
            raise BrokenError(f"{where} is damaged (a JPEG without its end: it is cut short)")
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        at, name = 8, b""
        while name != b"IEND":
            length = int.from_bytes(data[at : at + 4], "big")
            name = data[at + 4 : at + 8]
            stop = at + 8 + length
            if len(data) < stop + 4:
                raise BrokenError(f"{where} is damaged (a PNG without its end: it is cut short)")
            decides = name[:1].isupper() or name in (b"tRNS", b"eXIf")
            if decides and zlib.crc32(data[at + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
                raise BrokenError(f"{where} is damaged (the checksum of its part {name!r} does not fit)")
            at = stop + 4


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}"


def _orientation(im: Image.Image, data: bytes) -> int:
    """EXIF's orientation, 1 to 8. Pillow decodes a whole PNG to look for it behind the pixels: asked only if it is there."""
    if im.format == "PNG" and not any(word in data for word in (b"eXIf", b"Raw profile type", b"adobe.xmp")):
        return 1
    value = im.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1


def _turned(a: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(h, w, c) as it should be seen (EXIF 2.3, tag 0x0112)."""
    if orientation >= 5:
        a = a.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    if orientation in (2, 3, 6, 7):
        a = a[:, ::-1]
    return a


# --- what an image is -----------------------------------------------------------------------------------------


def _kind(im: Image.Image, data: bytes, where: str, reading: Reading) -> Shape:
    """Size before rotation, channels and type of values, or the refusal. Pillow cuts some 16-bit files to 8 bit in
    silence, so the file's own word counts."""
    frames = getattr(im, "n_frames", 1)
    if frames > 1:
        raise RefusedError(f"{where} holds {frames} frames: save the one that is meant, or each to a file of its own")
    w, h = im.size
    transparent = im.has_transparency_data or "A" in im.getbands()
    if im.format == "PPM" and data[:2] in _PNM:
        c, top = _PNM[data[:2]], _pnm_header(data)[2]
        if top not in (255, 65535) and reading.value_range is None:
            raise RefusedError(f"{where} says that its brightest value is {top}: declare the range, --range 0 {top} ({DECLARE})")
        return Shape(h, w, c, "uint8" if top < 256 else "uint16")
    if im.format == "PNG":
        depth = data[24] if len(data) > 24 else 8  # the header chunk comes first and its depth is byte 24
        if depth == 16:
            return Shape(h, w, 3 if data[25] & 2 else 1, "uint16", bool(data[25] & 4) or transparent)
        if depth < 8 and data[25] == 0 and reading.value_range is not None:
            raise RefusedError(f"{where} holds {depth} bits a pixel, which PNG scales to 0..255 itself: leave --range out for it")
    if im.format == "TIFF":
        return _pillow_tiff(im, where, reading, transparent)
    if im.mode in ("I", "F") or im.mode.startswith("I;"):
        return Shape(h, w, 1, "float32" if im.mode == "F" else "int32")
    return Shape(h, w, _colours(im, where), "uint8", transparent)


def _colours(im: Image.Image, where: str) -> int:
    if im.mode in ("1", "L", "LA"):
        return 1
    if im.mode in ("RGB", "RGBA", "P", "PA"):
        return 3
    raise RefusedError(
        f"{where} is stored as {im.mode}: wanted grey or RGB. What its colours are depends on the profile it was made "
        f"for: convert it yourself, Image.open(path).convert('RGB').save(path)"
    )


def _values(im: Image.Image, data: bytes, where: str, kind: Shape) -> NDArray[Any]:
    """(h, w, c) with the alpha channel, where there is one, as the last."""
    orientation = _orientation(im, data)
    if im.format == "PPM" and data[:2] in _PNM:
        return _pnm(data, where)
    if kind.dtype == "uint16" and im.mode in ("RGB", "RGBA"):
        own, key = _high_and_low(im, data), im.info.get("transparency")
        if own.shape[-1] == kind.c and isinstance(key, tuple):
            own = _with_key(own, key)
        return _turned(own, 1 if im.format == "TIFF" else orientation)  # Pillow turns a TIFF itself
    if kind.dtype != "uint8":
        im.load()
        own = np.asarray(im)[..., None]
        own = own.astype(own.dtype.newbyteorder("="), copy=False)
        if kind.alpha:  # of grey 16 bit: one level that is meant to be transparent
            own = _with_key(own, (int(im.info["transparency"]),))
        return _turned(own, 1 if im.format == "TIFF" else orientation)
    im.load()
    image = ImageOps.exif_transpose(im)
    if kind.alpha:
        rgba = np.asarray(image.convert("RGBA"))
        return rgba if kind.c == 3 else rgba[..., [0, 3]]
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if kind.c == 1 else "RGB")
    out = np.asarray(image, dtype=np.uint8)
    return out[..., None] if out.ndim == 2 else out


def _with_key(a: NDArray[Any], key: tuple[int, ...]) -> NDArray[Any]:
    """An alpha channel that is 0 where a pixel has the one colour that is meant to be transparent."""
    clear = (a == np.array(key, a.dtype)).all(-1, keepdims=True)
    return np.concatenate([a, np.where(clear, 0, np.iinfo(a.dtype).max).astype(a.dtype)], -1)


def _transparent(colour: NDArray[Any], mask: NDArray[Any], where: str, reading: Reading) -> NDArray[Any]:
    if reading.alpha == "refuse":
        share = float((mask < np.iinfo(mask.dtype).max).mean())
        raise RefusedError(
            f"{where} is transparent in {share:.1%} of its pixels, and its background is not in the file: name one, "
            "--alpha white (alpha='white'; black, or R,G,B), or keep transparency as a channel, --alpha keep"
        )
    if reading.alpha == "keep":
        return colour
    top = int(np.iinfo(colour.dtype).max)
    ground = np.array(reading.alpha, dtype=np.int64) * (top // 255)
    if len(set(reading.alpha)) > 1 and colour.shape[-1] == 1:
        raise RefusedError(f"{where} is grey, and the background {reading.alpha} is not: name a grey one, as white or black")
    a = mask[..., None].astype(np.int64)
    # top is odd, so nothing lies half-way between two levels
    mixed = (colour.astype(np.int64) * a + ground[: colour.shape[-1]] * (top - a) + top // 2) // top
    return mixed.astype(colour.dtype)


def _high_and_low(im: Image.Image, data: bytes) -> NDArray[np.uint16]:
    """16-bit colour out of Pillow, which has no such images: read twice, for the upper bytes and for the lower.

    Its decoders are told by a name ("raw mode") which bytes of the data make a pixel. RGB;16B takes the first of each
    two, RGB;16L the second. Grey with alpha is read as RGBA: grey, its lower byte, alpha, its lower byte.
    """
    raw = _raw_mode(im)
    if raw == "LA;16B":
        four = _reread(data, raw, "RGBA").astype(np.uint16)
        return np.ascontiguousarray(four[..., 0::2] << 8 | four[..., 1::2], np.uint16)
    native = {"little": "L", "big": "B"}[sys.byteorder]
    upper = raw[:-1] + native if raw.endswith("N") else raw
    lower = upper[:-1] + ("L" if upper.endswith("B") else "B")
    return np.ascontiguousarray(_reread(data, raw, upper).astype(np.uint16) << 8 | _reread(data, raw, lower), np.uint16)


def _reread(data: bytes, old: str, new: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as im:
        tiles: list[Any] = im.tile
        im.tile = [
            t._replace(args=new if isinstance(t.args, str) else tuple(new if a == old else a for a in t.args)) for t in tiles
        ]
        im.load()
        return np.asarray(im)


def _raw_mode(im: Any) -> str:
    """Pillow's name for how bytes of the file make pixels."""
    args = im.tile[0].args
    return str(args if isinstance(args, str) else args[0])


# --- PNM: grey and colour maps, whose header says the brightest value -------------------------------------------

_PNM = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}


def _pnm_header(data: bytes) -> tuple[int, int, int, int]:
    """(width, height, brightest value, where the pixels begin). Raises ValueError for a header that is none."""
    numbers: list[int] = []
    at = 2
    while len(numbers) < 3:
        while data[at : at + 1].isspace():
            at += 1
        if data[at : at + 1] == b"#":
            at = data.index(b"\n", at)
            continue
        end = at
        while data[end : end + 1].isdigit():
            end += 1
        numbers.append(int(data[at:end]))  # of nothing: ValueError
        at = end
    if not data[at : at + 1].isspace() or not 0 < numbers[2] < 65536:
        raise ValueError(f"its header says {numbers}")
    return numbers[0], numbers[1], numbers[2], at + 1


def _pnm(data: bytes, where: str) -> NDArray[Any]:
    w, h, top, at = _pnm_header(data)
    c = _PNM[data[:2]]
    n = w * h * c
    if data[:2] in (b"P5", b"P6"):
        kind = np.dtype(np.uint8 if top < 256 else ">u2")
        if len(data) < at + n * kind.itemsize:
            raise ValueError(f"{len(data) - at} bytes of pixels where {n * kind.itemsize} are announced")
        out = np.frombuffer(data, kind, n, at)
    else:
        lines = (line.split(b"#")[0] for line in data[at:].splitlines())
        words = b" ".join(lines).split()
        if len(words) < n:
            raise ValueError(f"{len(words)} values where {n} are announced")
        out = np.array([int(word) for word in words[:n]], np.int64)
    if out.max() > top or out.min() < 0:
        raise ValueError(f"a value of {int(out.max())} where the header says that {top} is the brightest")
    return out.astype(np.uint8 if top < 256 else np.uint16).reshape(h, w, c)


# --- TIFF -----------------------------------------------------------------------------------------------------


def _pillow_tiff(im: Image.Image, where: str, reading: Reading, transparent: bool) -> Shape:
    """A TIFF that `_is_foreign_tiff` has found Pillow to read exactly."""
    tags = getattr(im, "tag_v2", {})
    w, h = int(tags[256]), int(tags[257])  # as stored: some versions of Pillow say the size after rotation
    bits, form = _tiff_bits(im)
    if bits <= 8:
        if reading.value_range is not None and bits < 8:
            raise RefusedError(f"{where} holds {bits} bits a pixel, which become 0..255: leave --range out for it")
        return Shape(h, w, _colours(im, where), "uint8", transparent)
    if im.mode in ("RGB", "RGBA"):
        return Shape(h, w, 3, "uint16", im.mode == "RGBA")
    if tags.get(262) == 0:
        raise RefusedError(f"{where} is a TIFF whose 0 is white: turn it round yourself, or save it with black as 0")
    if bits == 12 and reading.value_range is None:
        raise RefusedError(f"{where} holds 12 bits a pixel: declare the range, --range 0 4095 ({DECLARE})")
    if form == 3:
        return Shape(h, w, 1, "float32")
    return Shape(h, w, 1, "uint16" if form == 1 else "int32")


def _tiff_bits(im: Image.Image) -> tuple[int, int]:
    """(most bits of a sample, sample format: 1 unsigned, 2 signed, 3 float)."""
    tags = getattr(im, "tag_v2", {})

    def largest(tag: int, usual: int) -> int:
        value = tags.get(tag, usual)
        return int(max(value)) if isinstance(value, tuple) else int(value)

    return largest(258, 1), largest(339, 1)


def _is_foreign_tiff(data: bytes, where: str) -> bool:
    """Whether it is a TIFF that Pillow cannot open, or would not read exactly."""
    if data[:4] not in _TIFF_MAGIC:
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as im:
            bits, form = _tiff_bits(im)
            tags: Any = getattr(im, "tag_v2", {})
            if im.mode == "RGBX" or tags.get(277, 1) != len(im.getbands()):
                return True  # more channels than Pillow would read
            if bits <= 8:
                return False
            if im.mode in ("RGB", "RGBA"):  # the raw modes whose bytes can be read one by one; RGBa is multiplied by alpha
                known = {f"{m};16{order}" for m in ("RGB", "RGBA") for order in "LBN"}
                return _raw_mode(im) not in known or tags.get(284, 1) != 1
            exact = {("F", 32, 3), ("I", 16, 2), ("I", 32, 2), ("I;16", 16, 1), ("I;16B", 16, 1), ("I;16", 12, 1)}
            swapped = data[:2] == b"MM" and tags.get(259, 1) != 1 and im.mode in ("I", "F")  # twice, where it is compressed
            return (im.mode, bits, form) not in exact or swapped
    except _BROKEN:
        return True


def _tiff(data: bytes, where: str, *, pixels: bool) -> tuple[Shape, NDArray[Any]]:
    """A TIFF by tifffile: any number of channels, any type of values."""
    try:
        import tifffile
    except ImportError:
        raise RefusedError(
            f"{where} is a TIFF that Pillow cannot read without loss (several channels, 16-bit or float colour), or is "
            "damaged: pip install tifffile"
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if len(file.pages) > 1:
                raise RefusedError(
                    f"{where} holds {len(file.pages)} frames: save the one that is meant, or stack them as channels"
                )
            page: Any = file.pages.first
            alpha = any(int(e) in (1, 2) for e in page.extrasamples)
            _check_tiff(page, where, alpha)
            c = int(page.samplesperpixel) - int(alpha)
            h, w = int(page.imagelength), int(page.imagewidth)
            orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
            shape = Shape(w, h, c) if orientation in (5, 6, 7, 8) else Shape(h, w, c)
            shape = replace(shape, dtype=page.dtype.name, alpha=alpha)
            out = np.empty((0, 0, c), page.dtype)
            if pixels:
                out = page.asarray()
                out = out.reshape(-1, h, w).transpose(1, 2, 0) if page.axes.startswith("S") else out.reshape(h, w, -1)
                out = _turned(out.astype(out.dtype.newbyteorder("="), copy=False), orientation)
            return shape, out
    except RefusedError:
        raise
    except Exception as error:  # tifffile raises whatever a damaged header leads it to
        if "imagecodecs" in str(error):
            raise RefusedError(f"{where} is compressed in a way that needs one more package: pip install imagecodecs") from error
        raise BrokenError(f"{where} is damaged ({_short(error)})") from error


def _check_tiff(page: Any, where: str, alpha: bool) -> None:
    kind = int(page.photometric)
    if kind not in (1, 2) or page.dtype is None or page.dtype.kind not in "iuf":
        name = getattr(page.photometric, "name", kind)
        raise RefusedError(f"{where} is a TIFF of kind {name}, {page.dtype}: wanted grey (MINISBLACK) or RGB, numbers or floats")
    if any(int(e) == 1 for e in page.extrasamples) or (alpha and page.dtype.kind == "f"):
        raise RefusedError(f"{where} has colours multiplied by its alpha channel, or alpha in floats: paint it on a background")
    if int(page.samplesperpixel) - int(alpha) > MAX_CHANNELS:
        raise RefusedError(f"{where} has {page.samplesperpixel} channels: wanted 1 to {MAX_CHANNELS}")
    if page.dtype.name in ("uint8", "uint16", "uint32") and int(page.bitspersample) not in (8, 16, 32):
        raise RefusedError(f"{where} holds {page.bitspersample} bits a sample in colour or channels: save it with 16")
