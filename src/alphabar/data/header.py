"""What the header of an encoded image says it will decode to, and the two errors of reading an image."""

import struct
import zlib
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError


class RefusedError(ValueError):
    """An intact image that cannot be read without loss or without a guess."""


class BrokenError(ValueError):
    """A file that is damaged, truncated, or not an image."""


DAMAGE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError,
    TypeError, OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises for damaged files."""


@dataclass(frozen=True)
class Shape:
    """Height and width after the EXIF rotation, number of colour channels, and type of the values."""

    h: int
    w: int
    c: int
    """1 for grey, 3 for RGB, or as many as a TIFF has; without alpha."""
    dtype: str = "uint8"
    alpha: bool = False
    """Whether the image may be transparent somewhere: one more channel."""

    def __str__(self) -> str:
        return f"{self.w}x{self.h}"


def short(error: BaseException) -> str:
    """The type and the first line of an error of a library."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no detail'}"
