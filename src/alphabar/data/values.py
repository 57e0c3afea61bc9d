"""Values as a file holds them -> pixels as they are stored, without loss or not at all, and back.

A declared range (low, high) says which values are the bottom and the top of the scale: (0, 4095) for 12 bits in a
16-bit file, (-1000, 3000) for floats of a scanner. Nothing is clipped: a value outside is refused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from alphabar.core.types import Pixels

SCALE = {"uint8": 255, "uint16": 65535, "float32": 1}  # the top of the scale of each type that images are stored in
MAX_CHANNELS = 64
DECLARE = "value_range=(LOW, HIGH) in Python, --range LOW HIGH on the command line"
Range = tuple[float, float]
Axes = Literal["nhwc", "nchw"]


def scale_of(dtype: DTypeLike) -> int:
    """255, 65535 or 1: the top of the scale of uint8, uint16 and float32. Raises ValueError for another type."""
    name = np.dtype(dtype).name
    if name not in SCALE:
        raise ValueError(f"images of type {name}: they are stored as {', '.join(SCALE)}; check_images(images) says what to do")
    return SCALE[name]


@dataclass(frozen=True)
class Reading:
    """How images are read: what `load` was asked for, checked.

    value_range: the values at the bottom and the top of the scale; None is the type's own scale (floats: 0 and 1).
    alpha: "refuse" an image that is transparent anywhere, "keep" transparency as one more channel, or a background
    (r, g, b), 0..255, that it is painted on. axes: of arrays in files, where their shape leaves it open.
    """

    value_range: Range | None = None
    alpha: Literal["refuse", "keep"] | tuple[int, int, int] = "refuse"
    skip_broken: bool = False
    axes: Axes | None = None

    def key(self) -> list[str]:
        """What differs from the usual, for the key of the cache."""
        usual = Reading()
        return [f"{k}={v!r}" for k, v in vars(self).items() if v != getattr(usual, k)]


def reading_of(
    value_range: Sequence[float] | None = None,
    alpha: str | Sequence[int] = "refuse",
    skip_broken: bool = False,
    axes: str | None = None,
) -> Reading:
    """A `Reading` from what a user typed. Raises ValueError for what makes no sense, with what does."""
    declared = check_range(value_range)
    if axes not in (None, "nhwc", "nchw"):
        raise ValueError(f"axes = {axes!r}: give nhwc (channels last) or nchw (channels first), or leave it out")
    what = _alpha(alpha)
    if declared is not None and what != "refuse":
        raise ValueError(
            "a declared range and alpha: neither transparency nor a background has a value in that range; leave one of the "
            "two out, or paint the images on a background yourself"
        )
    return Reading(declared, what, skip_broken, axes)  # type: ignore[arg-type]


def check_range(value_range: Sequence[float] | None) -> Range | None:
    """(low, high) as floats, low < high. Empty is None."""
    if value_range is None or len(value_range) == 0:
        return None
    pair = tuple(float(v) for v in value_range)
    if len(pair) != 2 or not all(math.isfinite(v) for v in pair) or not pair[0] < pair[1]:
        raise ValueError(
            f"the range {' '.join(f'{v:.6g}' for v in pair)}: give two numbers, the lower first, as in --range 0 4095"
        )
    return pair


def _alpha(alpha: str | Sequence[int]) -> Any:
    names = {"white": (255, 255, 255), "black": (0, 0, 0)}
    if isinstance(alpha, str):
        if alpha in ("refuse", "keep"):
            return alpha
        if alpha in names:
            return names[alpha]
        parts: Sequence[Any] = [int(p) if p.strip().isdigit() else -1 for p in alpha.split(",")]
    else:
        parts = alpha
    if len(parts) != 3 or not all(isinstance(p, int) and 0 <= p <= 255 for p in parts):
        raise ValueError(f"alpha = {alpha!r}: give refuse, keep, white, black, or a background as R,G,B from 0 to 255")
    return tuple(parts)


# --- values -> pixels and back --------------------------------------------------------------------------------


def stored_dtype(dtype: DTypeLike, value_range: Range | None) -> np.dtype[Any]:
    """The type that values of `dtype` are stored in, which depends on nothing but their type and the declared range.

    uint8 and uint16 without a range stay as they are. Integers with a range go to uint8 where 255 is a multiple of its
    span, else to uint16 where the span is at most 65535: each value gets a level of its own. All else is float32.
    Raises ValueError for other integers without a range, and for what are no numbers.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.dtype(np.float32)
    if kind.kind not in "iu":
        raise ValueError(f"values of type {kind}: wanted whole numbers or floats")
    if value_range is None:
        if kind.name not in ("uint8", "uint16"):
            raise ValueError(f"values of type {kind} have no scale of their own: declare the range they live in, {DECLARE}")
        return np.dtype(kind.name)
    low, high = value_range
    span = high - low
    if low != int(low) or high != int(high) or span > 65535:
        return np.dtype(np.float32)
    return np.dtype(np.uint8 if 255 % int(span) == 0 else np.uint16)


def to_stored(values: NDArray[Any], value_range: Range | None) -> NDArray[Any]:
    """Values within the range -> pixels of `stored_dtype`, of the same shape. Integers: the nearest level, which no two
    of them share; floats: to float32's precision, 6e-8 of the span."""
    dtype = stored_dtype(values.dtype, value_range)
    if value_range is None:
        return np.ascontiguousarray(values, dtype=dtype)  # also puts the bytes into this machine's order
    low, high = value_range
    if dtype == np.float32:
        return np.ascontiguousarray((values.astype(np.float64) - low) / (high - low), dtype=np.float32)
    span, scale = int(high - low), scale_of(dtype)
    whole = values.astype(np.int64) - int(low)
    return np.ascontiguousarray((2 * whole * scale + span) // (2 * span), dtype=dtype)  # rounded, exactly


def to_values(pixels: NDArray[Any], value_range: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Pixels -> the values that they stand for, float64: the inverse of the declared range.

    value_range: of `ImageSet.value_range` or a sampling record's "value_range"; None is the type's own scale, so that
    values are levels. Where the source held whole numbers (a span up to 65535), np.rint gives back exactly those.
    """
    scale = scale_of(pixels.dtype)
    declared = check_range(value_range)
    if declared is None:
        return pixels.astype(np.float64)
    low, high = declared
    return low + pixels.astype(np.float64) / scale * (high - low)


def to_depth(pixels: Pixels, dtype: DTypeLike) -> Pixels:
    """The same images in another type of pixels, for a comparison that must not be one of depths.

    Floats are rounded to the nearest level, as samples are; uint8 becomes uint16 exactly (p * 257), and integers become
    floats (p / 255, p / 65535). Raises ValueError for uint16 -> uint8 where a level would be lost.
    """
    have, want = scale_of(pixels.dtype), scale_of(dtype)
    if have == want:
        return pixels
    if have == 1:
        return np.rint(pixels.astype(np.float64) * want).astype(dtype)
    if want == 1:
        return (pixels.astype(np.float64) / have).astype(np.float32)
    if want > have:
        return pixels.astype(np.uint16) * np.uint16(257)
    if np.any(pixels % 257):
        raise ValueError(
            "images of 16 bit where 8 bit are wanted, and they use the depth: compare them with 16-bit images, or cut them "
            "yourself, np.rint(images / 257).astype(np.uint8)"
        )
    return (pixels // np.uint16(257)).astype(np.uint8)


# --- looking at values before they are believed ---------------------------------------------------------------


@dataclass
class Survey:
    """What blocks of values hold; `fault` says why they cannot be stored, over all of them and not for the first only."""

    value_range: Range | None = None
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    infinite: int = 0  # NaN or infinite
    outside: int = 0  # of the declared range, or of 0..1 for floats
    eight_bit: bool = True  # floats that are all k / 255, as near as their type allows
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))

    def see(self, values: NDArray[Any]) -> bool:
        """Takes a block in; whether all its values can be stored."""
        self.dtype = values.dtype
        self.count += values.size
        if values.dtype.kind not in "biuf":
            return False  # no numbers, which `fault` says
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            self.infinite += values.size - int(np.count_nonzero(finite))
            values = values if finite.all() else values[finite]
        if values.size == 0:
            return False
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        bounds = self.value_range or ((0.0, 1.0) if values.dtype.kind == "f" else None)
        if bounds is not None and (low < bounds[0] or high > bounds[1]):
            self.outside += int(np.count_nonzero((values < bounds[0]) | (values > bounds[1])))
        if self.eight_bit and values.dtype.kind == "f" and not self.outside:
            levels = np.rint(values.astype(np.float64) * 255)
            self.eight_bit = bool(np.array_equal((levels / 255).astype(values.dtype), values))
        return not (self.outside or self.infinite)

    def fault(self) -> str | None:
        """Why the values that were seen cannot be stored, with what to type, or None."""
        seen = f"{self.dtype.name} images from {self.low:.6g} to {self.high:.6g}"
        if self.infinite:
            return f"{self.dtype.name} images with NaN or infinity in {self.infinite} of {self.count} values: replace them first"
        if self.value_range is not None:
            if not self.outside:
                return None
            low, high = self.value_range
            return (
                f"{seen}: {self.outside} of {self.count} values lie outside the declared range {low:.6g} to {high:.6g}, and "
                f"nothing is clipped: declare --range {self.low:.6g} {self.high:.6g} (value_range=({self.low:.6g}, "
                f"{self.high:.6g})) or wider, or clip them yourself"
            )
        wanted = "wanted uint8 in 0..255, uint16 in 0..65535, floats in [0, 1], or a declared range"
        declare = f"or declare what they are: {DECLARE}"
        if self.dtype.kind == "b":
            return f"{seen}: {wanted}; pass images.astype(np.uint8) * 255"
        if self.dtype.kind in "iu":
            if self.dtype.name in ("uint8", "uint16"):
                return None
            if self.low >= 0 and self.high <= 255:
                return f"{seen}: {wanted}; pass images.astype(np.uint8), {declare}"
            if self.low >= 0 and self.high <= 65535:
                return f"{seen}: {wanted}; pass images.astype(np.uint16) if 65535 is the top, {declare}"
            return f"{seen}: {wanted}; {declare[3:]}"
        if self.dtype.kind != "f":
            return f"images of type {self.dtype}: {wanted}"
        if not self.outside:
            return None
        if self.low >= -1 and self.high <= 1:
            how = "if they are in [-1, 1], pass (images + 1) / 2"
        elif self.low >= -1.5 and self.high <= 1.5:
            how = "if they overshoot, pass ((images + 1) / 2).clip(0, 1) for [-1, 1], images.clip(0, 1) for [0, 1]"
        elif self.low >= 0 and self.high <= 255:
            how = "if they are in [0, 255], pass images.round().astype(np.uint8)"
        else:
            how = "scale them to [0, 1] first"
        return f"{seen}: {wanted}; {how}, {declare}"
