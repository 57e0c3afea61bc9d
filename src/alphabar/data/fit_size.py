"""Images of several sizes brought to one: cropped, padded or stretched, with antialiasing, in the depth that they have."""

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alphabar.core.suggest import did_you_mean

Fit = Literal["crop", "pad", "stretch"]
MOST_SIDE = 4096  # pixels


def parse_size(size: str | int | Sequence[int]) -> tuple[int, int]:
    """64, "64", "48x64" (height x width) or (48, 64) as (height, width). Raises ValueError for anything else.

    >>> parse_size("64"), parse_size("48x64"), parse_size((48, 64))
    ((64, 64), (48, 64), (48, 64))
    """
    text = str(size) if isinstance(size, (str, int)) else "x".join(map(str, size))
    found = re.fullmatch(r"(\d{1,5})(?:[x*](\d{1,5}))?", text.strip())
    height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE):
        raise ValueError(f"size {text!r}: give a side or HEIGHTxWIDTH from 1 to {MOST_SIDE}, as in --size 64 or --size 48x64")
    return height, width


def check_fit(fit: str) -> Fit:
    """Raises ValueError for a way to fit that does not exist."""
    if fit not in get_args(Fit):
        raise ValueError(f"fit {fit!r}: {did_you_mean(fit, get_args(Fit))}")
    return fit  # type: ignore[return-value]


def fitted(
    image: NDArray[Any], size: tuple[int, int], fit: Fit, background: Sequence[float] = (0,), alpha: bool = False
) -> NDArray[Any]:
    """An image (h, w, c) at another size, in the same type.

    Lanczos with antialiasing, channel by channel. Its overshoot is clipped to the lowest and the highest value of the image.

    Args:
        image: pixels of any type that is a number.
        size: (height, width) of the result.
        fit: "crop" resizes until the short side fits, and keeps the middle of the long one. "pad" resizes until the long side
            fits, and fills the rest with the background. "stretch" resizes both sides, whatever their ratio.
        background: levels of the padding: one, or one for each channel.
        alpha: whether the last channel is opacity, by which colours are weighted.

    >>> fitted(np.full((4, 8, 1), 7, np.uint8), (2, 2), "pad")[..., 0].tolist()
    [[7, 7], [0, 0]]
    """
    h, w, c = image.shape
    if (h, w) == size:
        return image
    if alpha:
        return _with_alpha(image, size, fit)
    ratios = size[0] / h, size[1] / w
    if fit == "stretch":
        return _resized(image, size, (0, 0, w, h))
    if fit == "crop":
        scale = max(ratios)
        # whole pixels of the result are cut away, so that an image that is not resized is not moved by half a pixel
        top, left = (round((side * scale - wanted) / 2) / scale for side, wanted in zip((h, w), size, strict=True))
        return _resized(image, size, (left, top, min(left + size[1] / scale, w), min(top + size[0] / scale, h)))
    near = max(round(h * min(ratios)), 1), max(round(w * min(ratios)), 1)
    top, left = ((wanted - have) // 2 for wanted, have in zip(size, near, strict=True))
    out = np.empty((*size, c), image.dtype)
    out[:] = np.asarray(background, image.dtype)
    out[top : top + near[0], left : left + near[1]] = _resized(image, near, (0, 0, w, h))
    return out


def _with_alpha(image: NDArray[Any], size: tuple[int, int], fit: Fit) -> NDArray[Any]:
    """Colours are weighted with their opacity: the hidden colours of transparent pixels do not bleed into the others."""
    opacity = image[..., -1:].astype(np.float32)
    seen = fitted(image[..., :-1] * opacity, size, fit)
    mask = fitted(opacity, size, fit)
    colour = np.divide(seen, mask, out=np.zeros_like(seen), where=mask > 0)
    out = np.concatenate([colour.clip(image[..., :-1].min(), image[..., :-1].max()) * (mask > 0), mask], -1)
    return (out if image.dtype.kind == "f" else np.rint(out)).astype(image.dtype)


def _resized(image: NDArray[Any], size: tuple[int, int], box: tuple[float, float, float, float]) -> NDArray[Any]:
    """The part (left, top, right, bottom) of an image, resized."""
    from PIL import Image

    whole = image.dtype == np.uint8 and image.shape[2] in (1, 3)  # which Pillow resizes at once, and four times faster
    planes = [image.squeeze(-1) if image.shape[2] == 1 else image] if whole else np.moveaxis(image, -1, 0).astype(np.float32, "C")
    resized = [np.asarray(Image.fromarray(p).resize(size[::-1], Image.Resampling.LANCZOS, box)) for p in planes]
    out = np.stack(resized, -1).reshape(*size, -1).clip(image.min(), image.max())
    return (out if image.dtype.kind == "f" else np.rint(out)).astype(image.dtype)
