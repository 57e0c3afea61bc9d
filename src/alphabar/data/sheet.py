"""Contact sheets: many images on one, the same bytes for the same images."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alphabar.data.images import CHANNELS
from alphabar.types import Pixels

_PAPER = 255
_MARGIN = 4  # pixels between a caption and what surrounds it


def contact_sheet(
    pixels: Pixels,
    columns: int | None = None,
    scale: int = 1,
    pad: int = 1,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Images row by row on white paper, grey (mode L) or RGB.

    pixels: uint8 (n, h, w, c). columns: images in a row; None makes the sheet about square, or with captions gives
    one row a caption. scale: each pixel becomes scale x scale, unsmoothed. pad: white pixels round every image.
    captions: one a row, written to its left (rows lower than 12 pixels are too close for text: raise scale). The last
    row may be short.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in CHANNELS or len(pixels) == 0:
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape}: wanted uint8 images (n, h, w, 1 or 3), n > 0")
    n, h, w, c = pixels.shape
    if columns is None:
        columns = math.ceil(n / len(captions)) if captions else math.ceil(math.sqrt(n))
    if columns < 1 or scale < 1 or pad < 0:
        raise ValueError(f"columns = {columns}, scale = {scale}, pad = {pad}: give columns >= 1, scale >= 1, pad >= 0")
    rows = math.ceil(n / columns)
    if captions is not None and len(captions) != rows:
        raise ValueError(f"{len(captions)} captions for {rows} rows of {columns} images: give one a row")

    high, wide = h * scale + pad, w * scale + pad
    paper = np.full((rows * high + pad, columns * wide + pad, c), _PAPER, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = pad + i // columns * high, pad + i % columns * wide
        paper[top : top + h * scale, left : left + w * scale] = image.repeat(scale, 0).repeat(scale, 1)
    sheet = Image.fromarray(paper[..., 0] if c == 1 else paper)
    return sheet if captions is None else _captioned(sheet, captions, high, pad)


def _captioned(sheet: Image.Image, captions: Sequence[str], row: int, pad: int) -> Image.Image:
    font = ImageFont.load_default()
    boxes = [font.getbbox(text) for text in captions]
    gutter = math.ceil(max(right for _, _, right, _ in boxes)) + 2 * _MARGIN
    tallest = math.ceil(max(bottom for *_, bottom in boxes))
    out = Image.new(sheet.mode, (gutter + sheet.width, max(sheet.height, tallest)), _white(sheet.mode))
    out.paste(sheet, (gutter, 0))
    draw = ImageDraw.Draw(out)
    for k, (text, (_, upper, _, lower)) in enumerate(zip(captions, boxes, strict=True)):
        middle = pad + k * row + (row - pad) / 2
        draw.text((_MARGIN, max(0.0, middle - (upper + lower) / 2)), text, fill=0, font=font)
    return out


def _white(mode: str) -> int | tuple[int, int, int]:
    return _PAPER if mode == "L" else (_PAPER, _PAPER, _PAPER)
