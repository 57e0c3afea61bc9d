"""Values of a file -> stored pixels, without loss or not at all, and back.

A declared range (low, high) states which values are the bottom and the top of the scale: (0, 4095) for 12 bits in a
16-bit file, (-1000, 3000) for floats of a scanner. Nothing is clipped: a value outside is refused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped
from numpy.typing import DTypeLike, NDArray

from alphabar.core.types import Pixels
from alphabar.data.fit_size import Fit, check_fit, fitted, parse_size

SCALE = {"uint8": 255, "uint16": 65535, "float32": 1}  # types of stored images, and the top of their scale
MAX_CHANNELS = 64
DECLARE = "value_range=(LOW, HIGH) in Python, --range LOW HIGH on the command line"
Range = tuple[float, float]
Axes = Literal["nhwc", "nchw"]


def scale_of(dtype: DTypeLike) -> int:
    """255, 65535 or 1: the top of the scale of uint8, uint16 and float32. Raises ValueError for another type."""
    name = np.dtype(dtype).name
    if name not in SCALE:
        raise ValueError(f"images of type {name}: wanted {', '.join(SCALE)}; check_images(images) converts others")
    return SCALE[name]


@dataclass(frozen=True)
class Reading:
    """The options of reading images, checked. `reading_of` makes it from what a user typed."""

    value_range: Range | None = None  # the bottom and the top of the scale; None is the scale of the type (floats: 0 and 1)
    alpha: Literal["refuse", "keep"] | tuple[int, int, int] = "refuse"  # or a background (r, g, b) for transparent images
    skip_broken: bool = False  # leave damaged images out instead of refusing the set
    axes: Axes | None = None  # the axes of arrays whose shape does not show which one holds the channels
    size: tuple[int, int] | None = None  # (height, width) to which all images are brought; None keeps theirs
    fit: Fit | None = None  # the way to that size; None without a size

    def key(self) -> list[str]:
        """The options that differ from their defaults, for the key of the cache."""
        usual = Reading()
        return [f"{k}={v!r}" for k, v in vars(self).items() if v != getattr(usual, k)]

    def words(self) -> list[str]:
        """The options that differ from their defaults, in the form of the command line."""
        ground = self.alpha if isinstance(self.alpha, str) else ",".join(map(str, self.alpha))
        found: dict[str, list[Any]] = {
            "--range": [f"{v:g}" for v in self.value_range or ()], "--alpha": [ground] * (ground != "refuse"),
            "--axes": [self.axes] * bool(self.axes), "--size": ["x".join(map(str, self.size or ()))] * bool(self.size),
            "--fit": [self.fit] * bool(self.fit),
        }  # fmt: skip
        words = [str(word) for name, values in found.items() if values for word in (name, *values)]
        return words + ["--skip-broken"] * self.skip_broken

    def fitted(self, pixels: Pixels, alpha: bool = False) -> Shaped[np.ndarray, "n v u c"]:
        """Pixels (n, h, w, c) at the size of the set. alpha: whether the last channel is opacity. Padding has the background
        that was named for transparent images, otherwise the bottom of the scale, or full transparency."""
        if self.size is None or self.fit is None or pixels.shape[1:3] == self.size:
            return pixels
        ground: Sequence[int] = (0,) if isinstance(self.alpha, str) else self.alpha
        if len(set(ground)) == 1:
            ground = ground[:1]
        elif pixels.shape[3] != 3:
            raise ValueError(f"the background {self.alpha} has a colour, and the images have none: name white, black or a grey")
        levels = [v * scale_of(pixels.dtype) / 255 for v in ground]
        return np.stack([fitted(image, self.size, self.fit, levels, alpha) for image in pixels])

    def __str__(self) -> str:
        """How the size was changed, as in "crop to 48x64" (height x width), or nothing."""
        return "" if self.size is None else f"{self.fit} to {self.size[0]}x{self.size[1]}"


def reading_of(
    value_range: Sequence[float] | None = None, alpha: str | Sequence[int] = "refuse", skip_broken: bool = False,
    axes: str | None = None, size: str | int | Sequence[int] | None = None, fit: str | None = None,
) -> Reading:  # fmt: skip
    """A `Reading` from the options of `alphabar.load`. Raises ValueError, with what to type, for invalid ones."""
    declared = check_range(value_range)
    if fit and size in (None, ""):
        raise ValueError(f"fit {fit!r} without a size: name it, as in --size 64 --fit {fit} (size=64, fit={fit!r})")
    if axes not in (None, "nhwc", "nchw"):
        raise ValueError(f"axes = {axes!r}: give nhwc (channels last) or nchw (channels first), or leave it out")
    what = _alpha(alpha)
    if declared is not None and what != "refuse":
        raise ValueError(
            "a declared range and alpha: neither transparency nor a background has a value in that range; leave one of the "
            "two out, or paint the images on a background yourself"
        )
    sized = (None, None) if size is None or size == "" else (parse_size(size), check_fit(fit or "crop"))
    return Reading(declared, what, skip_broken, axes, *sized)  # type: ignore[arg-type]


def check_range(value_range: Sequence[float] | None) -> Range | None:
    """(low, high) as floats, low < high. Empty is None."""
    if value_range is None or len(value_range) == 0:
        return None
    pair = tuple(float(v) for v in value_range)
    if len(pair) != 2 or not all(map(math.isfinite, pair)) or not pair[0] < pair[1]:
        typed = " ".join(f"{v:.6g}" for v in pair)
        raise ValueError(f"the range {typed}: give two numbers, the lower first, as in --range 0 4095")
    return pair


def _alpha(alpha: str | Sequence[int]) -> Any:
    names = {"refuse": "refuse", "keep": "keep", "white": (255, 255, 255), "black": (0, 0, 0)}
    if isinstance(alpha, str) and alpha in names:
        return names[alpha]
    parts = [int(p) if p.strip().isdigit() else -1 for p in alpha.split(",")] if isinstance(alpha, str) else alpha
    if len(parts) != 3 or not all(isinstance(p, int) and 0 <= p <= 255 for p in parts):
        raise ValueError(f"alpha = {alpha!r}: give refuse, keep, white, black, or a background as R,G,B from 0 to 255")
    return tuple(parts)


def stored_dtype(dtype: DTypeLike, value_range: Range | None) -> np.dtype[Any]:
    """The type in which values of `dtype` are stored. Without a range uint8 and uint16 are kept. With a range, integers become
    uint8 if 255 is a multiple of its span, else uint16 if the span is at most 65535, so that each value has a different level.
    Everything else becomes float32. Raises ValueError for other integers without a range, and for types that are no numbers."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.dtype(np.float32)
    if kind.kind not in "iu":
        raise ValueError(f"values of type {kind}: wanted whole numbers or floats")
    if value_range is None:
        if kind.name not in ("uint8", "uint16"):
            raise ValueError(f"values of type {kind} have no scale: declare their range, {DECLARE}")
        return np.dtype(kind.name)
    low, high = value_range
    if low != int(low) or high != int(high) or high - low > 65535:
        return np.dtype(np.float32)
    return np.dtype(np.uint8 if 255 % int(high - low) == 0 else np.uint16)


def to_stored(values: NDArray[Any], value_range: Range | None) -> NDArray[Any]:
    """Values within the range -> pixels of `stored_dtype`, of the same shape. Integers become the nearest level, which no two of
    them share; floats are exact to 6e-8 of the span."""
    dtype = stored_dtype(values.dtype, value_range)
    if value_range is None:
        return np.ascontiguousarray(values, dtype=dtype)  # also converts to the byte order of this machine
    low, high = value_range
    if dtype == np.float32:
        return np.ascontiguousarray((values.astype(np.float64) - low) / (high - low), dtype=np.float32)
    span, scale = int(high - low), scale_of(dtype)
    whole = values.astype(np.int64) - int(low)
    return np.ascontiguousarray((2 * whole * scale + span) // (2 * span), dtype=dtype)  # rounded in integers


def to_values(pixels: NDArray[Any], value_range: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Pixels of any shape -> the values that they represent, float64: the inverse of the declared range.

    `value_range` is that of an `ImageSet` or of a sampling record; None returns the levels. If the source held whole numbers
    with a span up to 65535, np.rint restores them exactly.

    >>> to_values(np.array([0, 65535], np.uint16), (0, 4095))
    array([   0., 4095.])
    """
    scale = scale_of(pixels.dtype)
    if (declared := check_range(value_range)) is None:
        return pixels.astype(np.float64)
    low, high = declared
    return low + pixels.astype(np.float64) / scale * (high - low)


def to_depth(pixels: Pixels, dtype: DTypeLike) -> Pixels:
    """The same images as another type of pixels, so that a comparison does not measure the depth. Floats are rounded to the
    nearest level; uint8 becomes uint16 exactly (p * 257). Raises ValueError for uint16 -> uint8 if a level would be lost."""
    have, want = scale_of(pixels.dtype), scale_of(dtype)
    if have == want:
        return pixels
    if 1 in (have, want):
        values = pixels.astype(np.float64)
        return np.rint(values * want).astype(dtype) if have == 1 else (values / have).astype(np.float32)
    if want > have:
        return pixels.astype(np.uint16) * np.uint16(257)
    if np.any(pixels % 257):
        advice = "compare them with 16-bit images, or reduce them, np.rint(images / 257).astype(np.uint8)"
        raise ValueError(f"16-bit images that 8 bits cannot hold: {advice}")
    return (pixels // np.uint16(257)).astype(np.uint8)


@dataclass
class Survey:
    """Statistics of blocks of values that decide whether and how they can be stored."""

    value_range: Range | None = None
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    infinite: int = 0  # NaN or infinite
    outside: int = 0  # outside the declared range, or outside 0..1 for floats
    eight_bit: bool = True  # floats that are all k / 255, to the precision of their type
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.uint8))

    def see(self, values: NDArray[Any]) -> bool:
        """Adds a block. Returns whether all its values can be stored."""
        self.dtype = values.dtype
        self.count += values.size
        if values.dtype.kind not in "biuf":
            return False  # not numbers: `fault` reports it
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
        """Why these values cannot be stored, with what to type, or None."""
        seen = f"{self.dtype.name} images from {self.low:.6g} to {self.high:.6g}"
        if self.infinite:
            return f"{self.dtype.name} images with NaN or infinity in {self.infinite} of {self.count} values: replace them first"
        if self.value_range is not None:
            low, high = self.value_range
            return None if not self.outside else (
                f"{seen}: {self.outside} of {self.count} values lie outside the declared range {low:.6g} to {high:.6g}, and "
                f"nothing is clipped: declare --range {self.low:.6g} {self.high:.6g} (value_range=({self.low:.6g}, "
                f"{self.high:.6g})) or wider, or clip them yourself"
            )  # fmt: skip
        if self.dtype.name in ("uint8", "uint16") or (self.dtype.kind == "f" and not self.outside):
            return None
        wanted = "wanted uint8 in 0..255, uint16 in 0..65535, floats in [0, 1], or a declared range"
        if self.dtype.kind == "b":
            return f"{seen}: {wanted}; pass images.astype(np.uint8) * 255"
        if self.dtype.kind not in "iuf":
            return f"images of type {self.dtype}: {wanted}"
        advice = next((f"{text}, or " for kind, low, high, text in _ADVICE if kind == self.dtype.kind.replace("u", "i")
                       and low <= self.low and self.high <= high), "")  # fmt: skip
        return f"{seen}: {wanted}; {advice}declare what they are: {DECLARE}"


_ADVICE = (  # kind of dtype, lowest and highest value, what to type: the first that fits
    ("i", 0, 255, "pass images.astype(np.uint8)"),
    ("i", 0, 65535, "pass images.astype(np.uint16) if 65535 is the top"),
    ("f", -1, 1, "if they are in [-1, 1], pass (images + 1) / 2"),
    ("f", -1.5, 1.5, "if they overshoot, pass ((images + 1) / 2).clip(0, 1) for [-1, 1], images.clip(0, 1) for [0, 1]"),
    ("f", 0, 255, "if they are in [0, 255], pass images.round().astype(np.uint8)"),
    ("f", -math.inf, math.inf, "scale them to [0, 1] first"),
)
