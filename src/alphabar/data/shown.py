"""What image sets and samples have in common: they count, index and slice as sequences, and show themselves in a notebook."""

import base64
import html
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.types import Images, Pixels
from alphabar.data.contact_sheet import Levels, contact_sheet, screen_scale
from alphabar.data.images import to_model

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 64  # images that a notebook shows
S = TypeVar("S", bound="Shown")


class Shown(ABC):
    """A sequence of images. A subclass gives `_pixels` (n, h, w, c), `_words`, and `_part`."""

    @property
    @abstractmethod
    def _pixels(self) -> Pixels: ...

    @property
    @abstractmethod
    def _words(self) -> str:
        """What the images are, in a line."""

    @abstractmethod
    def _part(self: S, chosen: NDArray[np.int64]) -> S:
        """The images at `chosen`, as what this is."""

    def __len__(self) -> int:
        return len(self._pixels)

    @overload
    def __getitem__(self, k: int) -> Pixels: ...
    @overload
    def __getitem__(self: S, k: slice) -> S: ...
    def __getitem__(self, k: int | slice) -> Any:
        """Image k, (h, w, c), or for a slice the same kind of thing with fewer images."""
        return self._part(np.arange(len(self))[k]) if isinstance(k, slice) else self._pixels[k]

    def __iter__(self) -> Iterator[Pixels]:
        return iter(self._pixels)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._pixels, dtype=dtype, copy=copy)

    def pil(self, k: int) -> "Image":
        """Image k for the screen: 8 bits, of 2, 4 or more channels the first four side by side (`contact_sheet.shown`)."""
        return contact_sheet(self._pixels[k][None], pad=0)

    def tensor(self) -> Images:
        """All images as a model sees them: float32 (n, c, h, w) in [-1, 1]."""
        return to_model(np.asarray(self._pixels), torch.device("cpu"))

    def sheet(self, columns: int | None = None, scale: int = 1, pad: int = 1, levels: Levels | None = None) -> "Image":
        """One picture of all images.

        Args:
            columns: images in a row. None: about as many as rows.
            scale: edge length of a pixel.
            pad: pixels between images.
            levels: shares of the scale that are shown as black and white. None: of low-contrast images that are not of 8 bits,
                their percentiles 0.1 and 99.9, which a line under the sheet says.
        """
        return contact_sheet(self._pixels, columns=columns, scale=scale, pad=pad, levels=levels)

    def _repr_png_(self) -> bytes:
        some, file = self._pixels[:MOST], io.BytesIO()
        contact_sheet(some, scale=screen_scale(some)).save(file, "PNG")
        return file.getvalue()

    def _repr_html_(self) -> str:
        more = f"; the first {MOST} are shown" if len(self) > MOST else ""
        data = base64.b64encode(self._repr_png_()).decode()
        words = html.escape(self._words + more)
        return f'<figure><img src="data:image/png;base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>'
