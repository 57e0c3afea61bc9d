"""One encoded image -> its values (h, w, c) as the file holds them: 8 or 16 bits, whole numbers or floats.

What cannot be read without loss raises RefusedError with the reason; a damaged file raises BrokenError.
"""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from alphabar.data import formats
from alphabar.data.formats import CHANNELS, BrokenError, RefusedError, Shape, short
from alphabar.data.values import DECLARE, Reading

# formats with 8 bits, or whose depth is checked
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_ENDS = (
    "png",
    "apng",
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "mpo",
    "webp",
    "bmp",
    "dib",
    "gif",
    "tif",
    "tiff",
    "ppm",
    "pgm",
    "pbm",
    "pnm",
)
SUFFIXES = frozenset(f".{end}" for end in (*_ENDS, "j2k", "jp2", "jpx", "avif"))
MOST_PIXELS = 1 << 26  # 8192 x 8192; a header of a few bytes may announce more than memory holds
_COLOURS = {"1": 1, "L": 1, "LA": 1, "RGB": 3, "RGBA": 3, "P": 3, "PA": 3}  # Pillow's modes with 8 bits or fewer
_DEFAULT = Reading()
_PROBE = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), -1).reshape(12, 18, 3))


def probe(data: bytes, where: str, reading: Reading = _DEFAULT) -> Shape:
    """What an encoded image, called `where` in messages, will decode to, from its header. Raises RefusedError if that shows that
    it cannot be read without loss, BrokenError if it is damaged or not an image."""
    if formats.needs_tifffile(data):
        return formats.read_tiff(data, where, reading, pixels=False)[0]
    with _opened(data, where) as im:
        shape = _shape(im, data, where, reading)
        swapped = _orientation(im, data) in (5, 6, 7, 8)
    return replace(shape, h=shape.w, w=shape.h) if swapped else shape


def decode(data: bytes, where: str, channels: int, reading: Reading = _DEFAULT, alpha: bool = False) -> NDArray[Any]:
    """The values of an encoded image (h, w, channels), with EXIF rotation applied and palettes as RGB. Raises as `probe` does.

    Args:
        data: the bytes of the file.
        where: its name for error messages.
        channels: channels of colour; with 3, a grey image gets R = G = B.
        reading: `reading.alpha` decides about images that are transparent somewhere. Alpha that is opaque everywhere is dropped.
        alpha: return alpha as one more channel, opaque if the image has none.
    """
    _check_whole(data, where)
    if formats.needs_tifffile(data):
        shape, array = formats.read_tiff(data, where, reading, pixels=True)
    else:
        with _opened(data, where) as im:
            shape = _shape(im, data, where, reading)
            array = _values(im, data, shape)
    colour = array[..., : shape.c]
    mask = array[..., shape.c] if array.shape[-1] > shape.c else None
    if mask is not None and mask.min() < np.iinfo(mask.dtype).max:
        colour = _on_background(colour, mask, where, reading)
    elif mask is not None and reading.alpha != "keep":
        mask = None
    if colour.shape[-1] == 1 and channels == 3:
        colour = colour.repeat(3, -1)
    if alpha:
        opaque = np.iinfo(colour.dtype).max if colour.dtype.kind in "iu" else 1
        last = np.full(colour.shape[:2], opaque, colour.dtype) if mask is None else mask
        colour = np.concatenate([colour, last[..., None]], -1)
    return np.ascontiguousarray(colour)


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """The image as Pillow opens it. Errors of opening and of reading it later become errors that name it."""
    if not data:
        raise BrokenError(f"{where} is empty")
    lenient = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # if the program has set it, missing parts would be filled with grey
        with Image.open(io.BytesIO(data), formats=FORMATS) as im:
            yield im
    except (RefusedError, BrokenError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenError(f"{where} is not an image that can be read, or is damaged: wanted {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow raises many types for damaged files
        raise BrokenError(f"{where} is damaged ({short(error)})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _check_whole(data: bytes, where: str) -> None:
    """Finds damage that Pillow ignores: a JPEG that ends early (not one damaged inside), and a PNG with wrong checksums."""
    if data[:2] == b"\xff\xd8":
        at = 2
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b""):
            marker = data[at + 1]
            alone = marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8  # fill bytes and markers without a length
            at += (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        # within the coded data FF is followed by 00 or D0..D7, so FF D9 is the end of the image, whatever follows it
        if data.find(b"\xff\xd9", at) < 0:
            raise BrokenError(f"{where} is damaged (a JPEG without its end: it is truncated)")
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        at, name = 8, b""
        while name != b"IEND":
            name, stop = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
            if len(data) < stop + 4:
                raise BrokenError(f"{where} is damaged (a PNG without its end: it is truncated)")
            decides = name[:1].isupper() or name in (b"tRNS", b"eXIf")
            if decides and zlib.crc32(data[at + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
                raise BrokenError(f"{where} is damaged (the checksum of its chunk {name!r} is wrong)")
            at = stop + 4


def _orientation(im: Image.Image, data: bytes) -> int:
    """EXIF's orientation, 1 to 8. Pillow decodes a whole PNG to find it after the pixels, so it is asked only if needed."""
    if im.format == "PNG" and not any(word in data for word in (b"eXIf", b"Raw profile type", b"adobe.xmp")):
        return 1
    value = im.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1


def _shape(im: Image.Image, data: bytes, where: str, reading: Reading) -> Shape:
    """Size before rotation, channels and type, from the file itself: Pillow silently reduces some 16-bit files to 8 bits."""
    frames = getattr(im, "n_frames", 1)
    if frames > 1 and im.format != "MPO":  # a photo of a phone: the first picture, and others made of it, such as a small one
        raise RefusedError(f"{where} holds {frames} frames: save the one that is meant, or each to its own file")
    w, h = im.size
    if w * h > MOST_PIXELS:
        raise RefusedError(f"{where} is {w}x{h}: images of at most {MOST_PIXELS} pixels are read")
    if im.format == "PNG" and w * h > 8 * 1040 * len(data):  # at least one bit each, and deflate compresses by at most 1032 : 1
        raise BrokenError(f"{where} is damaged (a PNG of {w}x{h} in {len(data)} bytes)")
    alpha = im.has_transparency_data or "A" in im.getbands()
    if im.format == "PPM" and data[:2] in CHANNELS:
        top = formats.pnm_header(data)[2]
        if top not in (255, 65535) and reading.value_range is None:
            raise RefusedError(f"{where} says that its largest value is {top}: declare the range, --range 0 {top} ({DECLARE})")
        return Shape(h, w, CHANNELS[data[:2]], "uint8" if top < 256 else "uint16")
    bits = 8
    if im.format == "PNG" and len(data) > 25:  # the header chunk comes first: byte 24 is the depth, byte 25 the colour type
        if data[24] == 16:
            return Shape(h, w, 3 if data[25] & 2 else 1, "uint16", bool(data[25] & 4) or alpha)
        bits = data[24] if data[25] == 0 else 8
    if im.format == "TIFF":
        tags, bits = getattr(im, "tag_v2", {}), formats.pillow_bits(im)
        w, h = int(tags[256]), int(tags[257])  # as stored: some versions of Pillow give the size after rotation
    if bits < 8 and reading.value_range is not None:
        raise RefusedError(f"{where} holds {bits} bits per pixel, which are scaled to 0..255: leave --range out for it")
    if im.format in ("JPEG2000", "AVIF") and (deep := formats.depth(data)) != 8:
        raise RefusedError(f"{where} holds {deep} bits per sample, which {im.format} does not give without loss: save it as PNG")
    if im.mode in ("I", "F") or im.mode.startswith("I;"):
        return Shape(h, w, 1, "float32" if im.mode == "F" else "int32")
    if im.mode not in _COLOURS:
        raise RefusedError(
            f"{where} is stored as {im.mode}: wanted grey or RGB. Its colours depend on the profile it was made for: convert it "
            "yourself, Image.open(path).convert('RGB').save(path)"
        )
    return Shape(h, w, _COLOURS[im.mode], "uint8", alpha)


def _values(im: Image.Image, data: bytes, shape: Shape) -> NDArray[Any]:
    """(h, w, c), with the alpha channel, if there is one, as the last."""
    if im.format == "PPM" and data[:2] in CHANNELS:
        return formats.read_pnm(data)
    if shape.dtype == "uint16" and im.mode in ("RGB", "RGBA"):
        values, key = formats.read_16_bit_colour(im, data), im.info.get("transparency")
        if values.shape[-1] == shape.c and isinstance(key, tuple):
            values = _with_key(values, key)
        return formats.turned(values, _orientation(im, data))
    if shape.dtype != "uint8":
        im.load()
        values = np.asarray(im)[..., None]
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if shape.alpha:  # 16-bit grey with one transparent level
            values = _with_key(values, (int(im.info["transparency"]),))
        return formats.turned(values, _orientation(im, data))
    im.load()
    image = ImageOps.exif_transpose(_in_srgb(im))
    if shape.alpha:
        rgba = np.asarray(image.convert("RGBA"))
        return rgba if shape.c == 3 else rgba[..., [0, 3]]
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if shape.c == 1 else "RGB")
    out = np.asarray(image, dtype=np.uint8)
    return out[..., None] if out.ndim == 2 else out


def _in_srgb(im: Image.Image) -> Image.Image:
    """An image in colour, whose profile is another than sRGB, with its colours converted to sRGB, as viewers show it.

    Grey values are those of the file, whatever its profile. A damaged profile raises OSError.
    """
    profile = im.info.get("icc_profile")
    if not profile or im.mode not in ("RGB", "RGBA", "P", "PA"):
        return im
    try:
        source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        if source.profile.xcolor_space.strip() != "RGB":
            return im
        probe, seen = (np.asarray(i, np.int16) for i in (_PROBE, ImageCms.profileToProfile(_PROBE, source, srgb)))
        if np.abs(seen - probe).max() <= 2:
            return im  # sRGB itself, but for rounding: the values of the file
        colour = im.convert("RGBA" if im.has_transparency_data else "RGB")
        return ImageCms.profileToProfile(colour, source, srgb) or colour
    except ImageCms.PyCMSError as error:
        raise OSError(f"its colour profile: {short(error)}") from error


def _with_key(a: NDArray[Any], key: tuple[int, ...]) -> NDArray[Any]:
    """Adds an alpha channel that is 0 where a pixel has the colour that the file declares transparent."""
    clear = (a == np.array(key, a.dtype)).all(-1, keepdims=True)
    return np.concatenate([a, np.where(clear, 0, np.iinfo(a.dtype).max).astype(a.dtype)], -1)


def _on_background(colour: NDArray[Any], mask: NDArray[Any], where: str, reading: Reading) -> NDArray[Any]:
    """Colours of an image that is transparent somewhere, as `reading.alpha` demands."""
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
    # top is odd, so no value lies halfway between two levels
    mixed = (colour.astype(np.int64) * a + ground[: colour.shape[-1]] * (top - a) + top // 2) // top
    return mixed.astype(colour.dtype)
