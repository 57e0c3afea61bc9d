"""Same-seed sheets of several runs and checkpoints in one table: a row a run, a column a number of images seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from alphabar.report.png import EDGES, Picture, picture, png, read_png, smaller, strip
from alphabar.results.runs import RunData
from alphabar.results.series import number

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
COLUMNS = 8  # checkpoints side by side
SIDE = 3  # a cell shows at most 3 x 3 images
BUDGET = 4_000_000  # bytes of all cells together


@dataclass(frozen=True)
class Cell:
    """What one run sampled after `images` images of training; `fault` says why a sheet without a picture cannot be read."""

    images: int
    picture: Picture | None
    fault: str | None = None


@dataclass(frozen=True)
class Sheets:
    """The table. columns: images seen. rows: a cell or None for each column. shown: images in a cell. of: all existing sheets."""

    columns: list[int]
    rows: list[list[Cell | None]]
    shown: int
    of: int
    left_out: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Layout:
    """Where the images lie on a sheet: n of h x w pixels, each enlarged by `scale`, with `pad` pixels between them."""

    n: int
    columns: int
    scale: int
    pad: int
    h: int
    w: int

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether a sheet of size (width, height) has room for it; a line of text below may make a sheet larger."""
        if min(self.n, self.columns, self.scale, self.h, self.w) < 1 or self.pad < 0:
            return False
        rows = -(-self.n // self.columns)
        needed = (k * (side * self.scale + self.pad) + self.pad for k, side in ((self.columns, self.w), (rows, self.h)))
        return all(have >= need for have, need in zip(size, needed, strict=True))


def side_by_side(runs: Sequence[RunData], columns: int = COLUMNS, budget: int = BUDGET) -> Sheets | None:
    """The first images of the sheets of all runs; None where no run has a sheet.

    A run without a sheet for a column shows the nearest one. To keep within `budget` bytes, images are made smaller, then columns
    are left out, down to two.
    """
    of = sum(len(run.previews) for run in runs)
    if not of:
        return None
    while True:
        seen = spread(sorted({images for run in runs for images, _ in run.previews}), columns)
        picked = [nearest(run.previews, seen) for run in runs]
        opened = [[p and (p[0], _open(run, *p)) for p in row] for run, row in zip(runs, picked, strict=True)]
        for edge in EDGES:
            cells = _encode(opened, edge, math.inf if columns <= 2 and edge == EDGES[-1] else budget)
            if cells is not None:
                break
        if cells is not None:
            break
        columns = max(2, columns * 2 // 3)
    arrays = [o[1] for row in opened for o in row if o and isinstance(o[1], np.ndarray)]
    left_out = of - sum(cell is not None for row in cells for cell in row)
    return Sheets(seen, cells, max((len(a) for a in arrays), default=0), of, left_out, _notes(runs, opened, edge))


def spread(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, evenly spread by rank, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]


def nearest(previews: Sequence[tuple[int, Path]], columns: Sequence[int]) -> list[tuple[int, Path] | None]:
    """For each column the sheet that is closest to it and closer to no other column; None where there is none."""
    out: list[tuple[int, Path] | None] = [None] * len(columns)
    for images, path in previews:
        k = min(range(len(columns)), key=lambda k: abs(columns[k] - images))
        there = out[k]
        if there is None or abs(images - columns[k]) < abs(there[0] - columns[k]):
            out[k] = (images, path)
    return out


def _open(run: RunData, images: int, path: Path) -> "UInt8[np.ndarray, 'n h w c'] | Image | str":
    """The first images of a sheet; the whole sheet where their places are not known; or why it cannot be read."""
    try:
        sheet = read_png(path)
    except ValueError as e:
        return str(e)
    layout = _layout(run, path, sheet.size)
    return sheet if layout is None else _cut(sheet, layout)


def _layout(run: RunData, path: Path, size: tuple[int, int]) -> _Layout | None:
    """The layout that the preview's event records, or, of an older release, the one that follows from the recipe."""
    name = f"samples/{path.name}"
    event: dict[str, Any] = next((e for e in reversed(run.events) if e.get("event") == "preview" and e.get("path") == name), {})
    sheet = event.get("sheet")
    if isinstance(sheet, dict):
        try:
            h, w = (int(v) for v in sheet["image"])
            found = _Layout(int(event["n"]), int(sheet["columns"]), int(sheet["scale"]), int(sheet["pad"]), h, w)
        except (KeyError, TypeError, ValueError):
            return None
    else:
        n = int(number(run.recipe, "watch.preview_n") or 0)
        if n < 1:
            return None
        columns = math.ceil(math.sqrt(n))
        cells = columns, -(-n // columns)
        (w, odd_w), (h, odd_h) = (divmod(s - 1 - k, 2 * k) for s, k in zip(size, cells, strict=True))
        if odd_w or odd_h:
            return None
        found = _Layout(n, columns, 2, 1, h, w)
    return found if found.fits(size) else None


def _cut(sheet: "Image", layout: _Layout) -> UInt8[np.ndarray, "n h w c"]:
    """The first images of a sheet, at their original size."""
    pixels = np.asarray(sheet.convert("L" if sheet.mode in ("1", "L", "LA", "I", "I;16") else "RGB"))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    high, wide, step = layout.h * layout.scale, layout.w * layout.scale, layout.scale
    out = []
    for k in range(min(layout.n, SIDE**2)):
        top = layout.pad + k // layout.columns * (high + layout.pad)
        left = layout.pad + k % layout.columns * (wide + layout.pad)
        out.append(pixels[top : top + high : step, left : left + wide : step])
    return np.stack(out)


def _encode(opened: Sequence[Sequence[Any]], edge: int, budget: float) -> list[list[Cell | None]] | None:
    """All cells, with images of at most `edge` pixels; None as soon as they take more than `budget` bytes."""
    out: list[list[Cell | None]] = []
    for row in opened:
        out.append([])
        for one in row:
            if one is None or isinstance(one[1], str):
                out[-1].append(one and Cell(one[0], None, one[1]))
                continue
            images, pixels = one
            if isinstance(pixels, np.ndarray):
                small, _ = smaller(pixels, edge)
                data = png(strip(small, columns=min(SIDE, len(small))))
            else:
                k = -(-max(pixels.size) // (SIDE * edge))
                data = png(pixels if k == 1 else pixels.reduce(k))
            budget -= len(data)
            if budget < 0:
                return None
            out[-1].append(Cell(images, picture(data)))
    return out


def _note(sheet: Any) -> str:
    """How the images of a sheet are shown, as its event records it."""
    note = sheet.get("note") if isinstance(sheet, dict) else None
    return note if isinstance(note, str) else ""


def _notes(runs: Sequence[RunData], opened: Sequence[Sequence[Any]], edge: int) -> list[str]:
    """Whether sheets can be compared image by image, and what was made smaller."""
    events = [e for run in runs for e in run.events if e.get("event") == "preview"]
    seeds, steps = ({v if isinstance(v := e.get(k), int) else None for e in events} for k in ("seed", "steps"))
    shapes = {o[1].shape[1:] for row in opened for o in row if o is not None and isinstance(o[1], np.ndarray)}
    out = []
    if not seeds:
        out.append("These runs do not record the seed of their sheets.")
    elif len(seeds) == 1 and len(shapes) <= 1 and None not in seeds:
        out.append(f"Image k of every sheet starts from the same noise (seed {seeds.pop()}), in all runs and at all checkpoints.")
    else:
        out.append("The sheets differ in seed or size of images, so image k of one sheet does not correspond to that of another.")
    out += [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(_note(e.get("sheet")) for e in events) if note]
    if len(steps) > 1:
        out.append(f"They were sampled with different numbers of calls: {', '.join(str(s) for s in sorted(steps, key=str))}.")
    if any(max(shape[:2]) > edge for shape in shapes):
        out.append(f"Images are shown at most {edge} pixels wide and high; the sheets in samples/ have full size.")
    if any(o is not None and not isinstance(o[1], np.ndarray | str) for row in opened for o in row):
        out.append("Some sheets do not record where their images lie and are shown whole.")
    return out
