"""Images for pages: data URIs, strips, and images made small enough for a page that carries many of them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from alphabar.data.contact_sheet import Levels, contact_sheet, shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from alphabar.core.types import Pixels

EDGE = 64  # pixels of an image's longer side on a page with hundreds of images
EDGES = (96, 64, 48, 32, 24, 16)  # the sizes that are tried, largest first, where a page has a budget of bytes
_LARGEST_FILE = 20_000_000  # bytes


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, with its size in pixels."""

    uri: str
    width: int
    height: int


def picture(data: bytes) -> Picture:
    """A PNG file as a data URI with its size, which stands in its header."""
    return Picture(uri(data), int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))


def uri(data: bytes) -> str:
    """A PNG file as a data URI, so that the page carries it."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def png_uri(image: "Image") -> str:
    """A picture as a data URI."""
    return uri(png(image))


def png(image: "Image") -> bytes:
    """A picture as a PNG file, as small as Pillow makes it."""
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return out.getvalue()


def strip(pixels: "Pixels", columns: int | None = None, pad: int = 1, levels: Levels | None = None) -> "Image":
    """A contact sheet with transparent gaps of `pad` pixels, for light and dark pages. columns: None for all in one row."""
    from PIL import ImageOps

    pixels = shown(pixels, levels)
    columns = len(pixels) if columns is None else columns
    sheet = contact_sheet(pixels, columns=columns, pad=pad)
    covered = contact_sheet(np.zeros((*pixels.shape[:3], 1), np.uint8), columns=columns, pad=pad)  # the gaps are white
    out = sheet.convert("RGBA" if sheet.mode == "RGB" else "LA")
    out.putalpha(ImageOps.invert(covered))
    width, height = out.size
    return out.crop((pad, pad, width - pad, height - pad))  # flush with the text above it


def smaller(images: "Pixels", edge: int = EDGE, levels: Levels | None = None) -> tuple[UInt8[np.ndarray, "n _ _ k"], str | None]:
    """Images whose longer side is at most `edge` pixels, by averaging squares; and a note where they were reduced."""
    from PIL import Image

    pixels = shown(images, levels)
    _, h, w, c = pixels.shape
    k = -(-max(h, w) // edge)
    if k == 1:
        return pixels, None
    small = [np.asarray(Image.fromarray(one[..., 0] if c == 1 else one).reduce(k)) for one in pixels]
    note = f"images of {h} x {w} are shown at 1/{k} of their size; the samples have full size"
    return np.stack(small).reshape(len(small), *small[0].shape[:2], c), note


def read_png(path: Path) -> "Image":
    """A decoded PNG. Raises ValueError with the name of the file where it is no PNG, is damaged, or is far too large."""
    from PIL import Image, UnidentifiedImageError

    if path.exists() and path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path.name} is too large to be put into a page")
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            opened.load()
            return opened.copy()
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError, ValueError) as e:
        raise ValueError(f"{path.name} cannot be read ({e})") from e


def fitted(image: "Image", most: int) -> tuple[bytes, int]:
    """A picture as a PNG of at most `most` bytes, and the power of 2 by which its sides were divided for that."""
    k = 1
    while len(data := png(image if k == 1 else image.reduce(k))) > most and min(image.size) > 2 * k:
        k *= 2
    return data, k
