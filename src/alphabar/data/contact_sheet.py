"""Contact sheets: many images on one picture, the same bytes for the same images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from alphabar.core.types import Pixels
from alphabar.data.values import scale_of

_MARGIN = 4  # pixels around a caption
_SIDE_BY_SIDE = 4  # channels shown of images that are neither grey nor RGB
_PERCENTILES = (0.1, 99.9)  # of low-contrast images, shown as black and white
_FULL = 0.5  # share of the scale: uint16 and float32 images that fill less of it have low contrast

Levels = tuple[float, float]  # the shares of the scale that are shown as black and white; (0, 1): unchanged contrast


def contact_sheet(
    pixels: Pixels, columns: int | None = None, scale: int = 1, pad: int = 1, captions: Sequence[str] | None = None,
    levels: Levels | None = None, note: str | None = None,
) -> Image.Image:  # fmt: skip
    """Images row by row on white, as a picture of mode L or RGB.

    Args:
        pixels: uint8, uint16 or float32 (n, h, w, c), converted by `shown`; a line under the sheet says what that changed.
        columns: images in a row; None makes the sheet about square, or with captions gives each caption one row.
        scale: each pixel becomes scale x scale pixels.
        pad: white pixels around every image.
        captions: one per row, written to its left; rows lower than 12 pixels are too narrow for text.
        levels: shares of the scale that are shown as black and white. None: `levels_of` these images.
        note: a line under the sheet, in place of what `shown` changes.

    >>> contact_sheet(np.zeros((6, 8, 8, 1), np.uint8), columns=3).size
    (28, 19)
    """
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape}: wanted images (n, h, w, c), n > 0")
    scale_of(pixels.dtype)  # refuses other types
    levels = levels or levels_of(pixels)
    note = note or shown_note(pixels, levels)
    pixels = shown(pixels, levels)
    n, h, w, c = pixels.shape
    if columns is None:
        columns = math.ceil(n / len(captions)) if captions else math.ceil(math.sqrt(n))
    if columns < 1 or scale < 1 or pad < 0:
        raise ValueError(f"columns = {columns}, scale = {scale}, pad = {pad}: give columns >= 1, scale >= 1, pad >= 0")
    rows = math.ceil(n / columns)
    if captions is not None and len(captions) != rows:
        raise ValueError(f"{len(captions)} captions for {rows} rows of {columns} images: give one per row")

    high, wide = h * scale + pad, w * scale + pad
    sheet_pixels = np.full((rows * high + pad, columns * wide + pad, c), 255, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = pad + i // columns * high, pad + i % columns * wide
        sheet_pixels[top : top + h * scale, left : left + w * scale] = image.repeat(scale, 0).repeat(scale, 1)
    sheet = Image.fromarray(sheet_pixels[..., 0] if c == 1 else sheet_pixels)
    sheet = sheet if captions is None else _captioned(sheet, captions, high, pad)
    return sheet if note is None else _footed(sheet, note)


def levels_of(*sets: NDArray[Any]) -> Levels:
    """The shares of the scale that are shown as black and white, the same for all these images: 0 and 1, or the percentiles
    0.1 and 99.9 of uint16 and float32 images that lie in less than half of the scale."""
    values = [np.ravel(pixels) / np.float64(scale) for pixels in sets if (scale := scale_of(pixels.dtype)) != 255]
    if not sum(map(len, values)):
        return 0.0, 1.0
    low, high = map(float, np.percentile(np.concatenate(values), _PERCENTILES))
    return (low, high) if 0 < high - low < _FULL else (0.0, 1.0)


def screen_scale(pixels: Pixels) -> int:
    """The edge length of a pixel on a sheet: 2 for images lower than 64 pixels, else 1."""
    return 2 if pixels.shape[1] < 64 else 1


def shown(pixels: Pixels, levels: Levels | None = None) -> UInt8[np.ndarray, "n h v k"]:
    """Pixels as a screen can show them, uint8 with 1 or 3 channels. Only for viewing: scores use the pixels themselves.

    The share of the scale between `levels` (None: `levels_of` these images) becomes 0..255, and what lies outside black or
    white. Of images with 2, 4 or more channels the first four are placed side by side in grey, (n, h, 4 w, 1).
    """
    low, high = levels or levels_of(pixels)
    scale = scale_of(pixels.dtype)
    some = pixels if pixels.shape[3] in (1, 3) else pixels[..., :_SIDE_BY_SIDE]
    if (scale, low, high) != (255, 0, 1):
        values = (some.astype(np.float64) * (255 / scale) - 255 * low) / (high - low)
        some = np.rint(values.clip(0, 255)).astype(np.uint8)
    if some.shape[3] not in (1, 3):
        n, h, w, c = some.shape
        some = some.transpose(0, 1, 3, 2).reshape(n, h, c * w, 1)
    return np.ascontiguousarray(some)


def shown_note(pixels: Pixels, levels: Levels | None = None) -> str | None:
    """What `shown` changes, in words, or None if nothing."""
    (low, high), scale = levels or levels_of(pixels), scale_of(pixels.dtype)
    changes = []
    if (low, high) != (0, 1):
        changes.append(f"{pixels.dtype}, contrast stretched: {low * scale:.4g}..{high * scale:.4g} of 0..{scale} shown as 0..255")
    elif scale != 255:
        changes.append(f"{pixels.dtype}, 0..{scale} shown as 0..255")
    if (c := pixels.shape[3]) not in (1, 3):
        changes.append(f"{c} channels, {'all' if c <= _SIDE_BY_SIDE else f'the first {_SIDE_BY_SIDE}'} side by side")
    return "; ".join(changes) or None


def _captioned(sheet: Image.Image, captions: Sequence[str], row: int, pad: int) -> Image.Image:
    font = ImageFont.load_default()
    boxes = [font.getbbox(text) for text in captions]
    gutter = math.ceil(max(right for _, _, right, _ in boxes)) + 2 * _MARGIN
    tallest = math.ceil(max(bottom for *_, bottom in boxes))
    out = Image.new(sheet.mode, (gutter + sheet.width, max(sheet.height, tallest)), "white")
    out.paste(sheet, (gutter, 0))
    draw = ImageDraw.Draw(out)
    for k, (text, (_, upper, _, lower)) in enumerate(zip(captions, boxes, strict=True)):
        middle = pad + k * row + (row - pad) / 2
        draw.text((_MARGIN, max(0.0, middle - (upper + lower) / 2)), text, fill=0, font=font)
    return out


def _footed(sheet: Image.Image, note: str) -> Image.Image:
    font = ImageFont.load_default()
    _, _, right, bottom = font.getbbox(note)
    height = sheet.height + math.ceil(bottom) + 2 * _MARGIN
    out = Image.new(sheet.mode, (max(sheet.width, math.ceil(right) + 2 * _MARGIN), height), "white")
    out.paste(sheet, (0, 0))
    ImageDraw.Draw(out).text((_MARGIN, sheet.height + _MARGIN), note, fill=0, font=font)
    return out
