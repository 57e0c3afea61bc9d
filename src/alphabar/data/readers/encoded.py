"""Encoded images (PNG, JPEG, ...) in files or in tables: checked by their headers first, then decoded block by block."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core.types import Pixels
from alphabar.data.cache import Decoded, rows_per_block
from alphabar.data.decode import decode, probe
from alphabar.data.formats import BrokenError, Shape
from alphabar.data.values import Reading, Survey, stored_dtype, to_stored

Blobs = Callable[[], Iterable[tuple[str, bytes]]]  # (name for error messages, encoded image), the same at each call
_USUAL = 256  # pixels a side: the largest size that is suggested
_LISTED = 20  # broken images that an error names


def decoded_from_blobs(
    blobs: Blobs, labels: NDArray[np.int64] | None, classes: tuple[str, ...] | None, place: str, reading: Reading
) -> Decoded:
    """Encoded images in two passes: headers, which give the shape and every refusal early, then pixels. Raises ValueError for
    images of several sizes, types or numbers of channels, and, once all blocks have been taken, for all broken images."""
    headers = _Headers(place, reading)
    for where, data in blobs():
        headers.read(where, data)
    first = headers.checked()
    channels = max(map(int, headers.channels))
    alpha = headers.alpha and reading.alpha == "keep"
    shape, blocks = (*(reading.size or (first.h, first.w)), channels + alpha), _blocks(blobs, channels, alpha, headers)
    classes = classes if labels is not None else None
    dtype = stored_dtype(first.dtype, reading.value_range)
    return Decoded(headers.n, shape, blocks, labels, classes, dtype, headers.broken, headers.jpeg)


class _Kinds(dict[str, list[str]]):
    """The names of the images of each kind."""

    def add(self, kind: str, where: str) -> None:
        self.setdefault(kind, []).append(where)

    def __str__(self) -> str:
        most = sorted(self.items(), key=lambda kind: -len(kind[1]))[:4]
        return "; ".join(f"{len(names)} of {kind} (as {names[0]})" for kind, names in most)


class OnceJPEG(bytes):
    """A file without loss of an image that was stored as JPEG."""


@dataclass
class _Headers:
    """What the headers of a set of images say. broken: what is wrong with the broken ones, by their number."""

    place: str
    reading: Reading
    n: int = 0
    first: Shape | None = None
    alpha: bool = False
    jpeg: int = 0
    sizes: _Kinds = field(default_factory=_Kinds)
    types: _Kinds = field(default_factory=_Kinds)
    channels: _Kinds = field(default_factory=_Kinds)
    broken: dict[int, str] = field(default_factory=dict)

    def read(self, where: str, data: bytes) -> None:
        try:
            shape = probe(data, where, self.reading)
        except BrokenError as error:
            self.broken[self.n] = str(error)
        else:
            self.first = self.first or shape
            self.sizes.add(str(shape), where)
            try:
                self.types.add(str(stored_dtype(shape.dtype, self.reading.value_range)), where)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            self.channels.add(str(shape.c), where)
            self.alpha = self.alpha or shape.alpha
            self.jpeg += data.startswith(b"\xff\xd8") or isinstance(data, OnceJPEG)
        self.n += 1

    def checked(self) -> Shape:
        """The first shape. Raises ValueError unless all images fit together."""
        if self.first is None:
            raise ValueError(self.all_broken() if self.broken else f"{self.place} holds no images")
        if len(self.sizes) > 1 and self.reading.size is None:
            commonest = max(self.sizes, key=lambda size: len(self.sizes[size]))  # the first of several
            width, height = map(int, commonest.split("x"))
            most = 2 * len(self.sizes[commonest]) > self.n and width != height
            size = f"{height}x{width}" if most and max(height, width) <= _USUAL else str(min(height, width, _USUAL))
            raise ValueError(
                f"{self.place} holds images of {len(self.sizes)} sizes, width x height: {self.sizes}. A set has one size: bring "
                f"them to it by --size {size} --fit crop, which keeps the middle, or --fit pad or stretch (size={size!r}, "
                "fit='crop'); or resize them yourself"
            )
        if len(self.types) > 1:
            raise ValueError(
                f"{self.place} holds images of {len(self.types)} types: {self.types}. A set has one scale: convert the files to "
                "one type, or, if all hold the same quantity in whole numbers, declare its range, --range LOW HIGH "
                "(value_range=(LOW, HIGH))"
            )
        if (n := len(self.channels)) > 1 and set(self.channels) != {"1", "3"}:
            raise ValueError(f"{self.place} holds images of {n} numbers of channels: {self.channels}. A set has one")
        return self.first

    def all_broken(self) -> str:
        """The error message that lists the broken images."""
        faults = [self.broken[k] for k in sorted(self.broken)]
        skip = "" if len(faults) == self.n else ", or leave them out: --skip-broken (skip_broken=True)"
        are = "images are" if len(faults) > 1 else "image is"
        return f"{len(faults)} of {self.n} {are} broken in {self.place}:{listed(faults)}\nReplace or remove them{skip}"


def _blocks(blobs: Blobs, channels: int, alpha: bool, headers: _Headers) -> Iterator[Pixels]:
    """Pixels in blocks. Images that turn out to be broken are left out and added to `headers.broken`."""
    reading, broken = headers.reading, headers.broken
    survey = Survey(reading.value_range)
    block: list[NDArray[Any]] = []
    for k, (where, data) in enumerate(blobs()):
        if k in broken:
            continue
        try:
            values = decode(data, where, channels, reading, alpha)
        except BrokenError as error:
            broken[k] = str(error)
            continue
        if reading.value_range is None and values.dtype.kind != "f":
            block.append(reading.fitted(values[None], alpha)[0])
        elif survey.see(values):
            block.append(reading.fitted(to_stored(values, reading.value_range)[None], alpha)[0])
        else:  # the error below discards what was written; reading continues only to count
            continue
        if len(block) >= rows_per_block(block[0].nbytes):
            yield np.stack(block)
            block = []
    if broken and (not reading.skip_broken or len(broken) == headers.n):
        raise ValueError(headers.all_broken())
    if (fault := survey.fault()) is not None:
        raise ValueError(f"{headers.place}: {fault}")
    if block:
        yield np.stack(block)


def listed(faults: list[str] | tuple[str, ...]) -> str:
    """One line per fault, the first 20."""
    more = f"\n  and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return "".join(f"\n  {fault}" for fault in faults[:_LISTED]) + more
