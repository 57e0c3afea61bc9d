"""Pictures for pages: data URIs, strips, images made small enough for a page to carry many of them."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from alphabar.data.contact_sheet import contact_sheet, shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from alphabar.core.types import Pixels

EDGE = 64  # pixels of an image's longer side on a page that carries hundreds of them
_MOST_BYTES = 20_000_000  # of a file that is opened at all


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


def strip(pixels: "Pixels", columns: int | None = None, pad: int = 1) -> "Image":
    """A contact sheet whose gaps are transparent, for light pages and dark ones. pixels: (n, h, w, c), as stored."""
    from PIL import ImageOps

    pixels = shown(pixels)
    columns = len(pixels) if columns is None else columns
    sheet = contact_sheet(pixels, columns=columns, pad=pad)
    covered = contact_sheet(np.zeros((*pixels.shape[:3], 1), np.uint8), columns=columns, pad=pad)  # paper is white
    out = sheet.convert("RGBA" if sheet.mode == "RGB" else "LA")
    out.putalpha(ImageOps.invert(covered))
    width, height = out.size
    return out.crop((pad, pad, width - pad, height - pad))  # flush with the text above it


def smaller(images: "Pixels", edge: int = EDGE) -> tuple[UInt8[np.ndarray, "n _ _ k"], str | None]:
    """Images whose longer side is at most `edge`, averaged over squares, and a word where they were made smaller."""
    from PIL import Image

    pixels = shown(images)
    _, h, w, c = pixels.shape
    k = -(-max(h, w) // edge)
    if k == 1:
        return pixels, None
    small = [np.asarray(Image.fromarray(one[..., 0] if c == 1 else one).reduce(k)) for one in pixels]
    note = f"images of {h} x {w} are shown at 1/{k} of their size; the samples hold them whole"
    return np.stack(small).reshape(len(small), *small[0].shape[:2], c), note


def read_png(path: Path) -> "Image":
    """A PNG, decoded. Raises ValueError, in words that name the file, where it is none, is damaged, or is far too large."""
    from PIL import Image, UnidentifiedImageError

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path.name} is too large to be put into a page")
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            return picture.copy()
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path.name} cannot be read ({e})") from e
    except ValueError as e:
        raise e if str(e).startswith(path.name) else ValueError(f"{path.name} cannot be read ({e})") from e


def fitted(picture: "Image", most: int) -> tuple[bytes, int]:
    """A picture as a PNG of at most `most` bytes, and the k by which its sides were divided for that, 1, 2, 4, ..."""
    k = 1
    while len(data := png(picture if k == 1 else picture.reduce(k))) > most and min(picture.size) > 2 * k:
        k *= 2
    return data, k
