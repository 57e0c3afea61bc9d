"""One encoded image -> uint8 (h, w, c), what 8 bits cannot hold is refused, with the reason."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # formats whose depth is known to be 8 bit or checked
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"})
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


class RefusedError(ValueError):
    """A whole image that 8-bit grey or RGB cannot hold."""


@dataclass(frozen=True)
class Shape:
    """What an image will decode to: height and width after its EXIF rotation, channels 1 or 3."""

    h: int
    w: int
    c: int

    def __str__(self) -> str:
        return f"{self.w}x{self.h}"


def probe(data: bytes, where: str) -> Shape:
    """The shape of an encoded image from its header, with every refusal that a header allows.

    Raises ValueError naming `where`.
    """
    with _opened(data, where) as im:
        c = _channels(im, data, where)
        w, h = im.size
        turned = _may_turn(im, data) and im.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # these swap the sides
    return Shape(w, h, c) if turned else Shape(h, w, c)


def decode(data: bytes, where: str, channels: int) -> NDArray[np.uint8]:
    """uint8 (h, w, channels). EXIF rotation is applied, palettes become RGB, grey becomes RGB where 3 are asked for.

    Raises ValueError naming `where` for a broken image, and with the reason for 16 bit, floats, transparency and
    several frames. An alpha channel that is opaque everywhere is dropped.
    """
    with _opened(data, where) as im:
        own = _channels(im, data, where)
        im.load()
        image = ImageOps.exif_transpose(im)
        if image.has_transparency_data or "A" in image.getbands():
            image = _opaque(image, own, where)
        if image.mode not in ("L", "RGB"):
            image = image.convert("L" if own == 1 else "RGB")
        if channels == 3 and image.mode == "L":
            image = image.convert("RGB")  # R = G = B, which loses nothing
        out = np.asarray(image, dtype=np.uint8)
    return out[..., None] if out.ndim == 2 else out


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """The image, with every error of reading it, then and later, turned into one that names it."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as im:
            yield im
    except RefusedError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{where} is no image that can be read, or is damaged: wanted {', '.join(FORMATS)}") from error
    except _BROKEN as error:
        raise ValueError(f"{where} is damaged ({_short(error)}): replace or remove it") from error


def _may_turn(im: Image.Image, data: bytes) -> bool:
    """Whether EXIF is worth asking for: Pillow decodes a whole PNG in order to look for it behind the pixels."""
    return im.format != "PNG" or any(word in data for word in (b"eXIf", b"Raw profile type", b"adobe.xmp"))


def _channels(im: Image.Image, data: bytes, where: str) -> int:
    """1 or 3, or the refusal. Pillow cuts some 16-bit files to 8 bit in silence, so the file's own word counts."""
    if im.mode in ("I", "F") or im.mode.startswith("I;"):
        kind = "floats" if im.mode == "F" else "16-bit or 32-bit whole numbers"
        raise RefusedError(
            f"{where} holds {kind} (mode {im.mode}), which 8 bits cannot hold: they would be clipped. "
            "Scale the images to 0..255 yourself, or to floats in [0, 1] in an .npy file"
        )
    depth = _depth(im, data)
    if depth > 8:
        raise RefusedError(
            f"{where} holds {depth} bits a channel, which 8 bits cannot hold: they would be cut. "
            "Scale the images to 0..255 yourself, or to floats in [0, 1] in an .npy file"
        )
    frames = getattr(im, "n_frames", 1)
    if frames > 1:
        raise RefusedError(f"{where} holds {frames} frames: save the one that is meant, or each to a file of its own")
    if im.mode in ("1", "L", "LA"):
        return 1
    if im.mode in ("RGB", "RGBA", "P", "PA"):
        return 3
    raise RefusedError(
        f"{where} is stored as {im.mode}: wanted grey or RGB. What its colours are depends on the profile it was made "
        f"for: convert it yourself, Image.open(path).convert('RGB').save(path)"
    )


def _depth(im: Image.Image, data: bytes) -> int:
    if im.format == "PNG":
        return data[24] if len(data) > 24 else 8  # the header chunk comes first and its depth is byte 24
    if im.format == "TIFF":
        bits = getattr(im, "tag_v2", {}).get(258, (8,))
        return int(max(bits)) if isinstance(bits, tuple) else int(bits)
    if im.format == "PPM":
        return _pnm_depth(data)
    return 8


def _pnm_depth(data: bytes) -> int:
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return 8
    lines = (line.split(b"#")[0] for line in data[2:1024].splitlines())
    tokens = b" ".join(lines).split()
    return int(tokens[2]).bit_length() if len(tokens) > 2 and tokens[2].isdigit() else 8


def _opaque(image: Image.Image, channels: int, where: str) -> Image.Image:
    grey = channels == 1
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if int(alpha.min()) < 255:
        share = float((alpha < 255).mean())
        raise RefusedError(
            f"{where} is transparent in {share:.1%} of its pixels, and its background is not in the file: "
            "paint it on a background first, Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im.convert('RGBA'))"
        )
    return image.convert("RGBA").convert("L" if grey else "RGB")


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}"
