"""Same-seed sheets of several runs and checkpoints in one table: a row a run, a column an amount of images seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from alphabar.report.png import png, read_png, smaller, strip, uri
from alphabar.results.runs import RunData
from alphabar.results.series import number

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = 8  # checkpoints side by side
SIDE = 3  # a cell shows at most 3 x 3 images
BUDGET = 4_000_000  # bytes of all cells together
_EDGES = (96, 64, 48, 32, 24, 16)  # pixels of an image's longer side, as the budget allows


@dataclass(frozen=True)
class Cell:
    """What one run drew after `images` images of training. uri: None where the sheet could not be read; `fault` says why."""

    images: int
    uri: str | None
    width: int = 0
    height: int = 0
    fault: str | None = None


@dataclass(frozen=True)
class Sheets:
    """columns: images seen. rows: by run, a cell a column or None. shown: images in a cell. of: sheets that there are, of which
    `left_out` are not on the page. notes: sentences."""

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


def side_by_side(runs: Sequence[RunData], columns: int = COLUMNS, budget: int = BUDGET) -> Sheets | None:
    """The first images of the sheets of all runs, of at most `columns` checkpoints, in at most `budget` bytes where that can be.

    None where no run has a sheet. A run whose checkpoints lie elsewhere gives the one next to a column.
    """
    of = sum(len(run.previews) for run in runs)
    if not of:
        return None
    while True:
        seen = chosen(sorted({images for run in runs for images, _ in run.previews}), columns)
        picked = [nearest(run.previews, seen) for run in runs]
        opened = [[None if p is None else (p[0], _opened(run, *p)) for p in row] for run, row in zip(runs, picked, strict=True)]
        for edge in _EDGES:
            last = columns <= 2 and edge == _EDGES[-1]  # no smaller is tried
            drawn = _within(math.inf if last else budget, opened, edge)
            if drawn is not None:
                break
        if drawn is not None:
            break
        columns = max(2, columns * 2 // 3)
    rows = [[None if d is None else _cell(*d) for d in row] for row in drawn]
    shown = max((min(len(o[1]), SIDE**2) for row in opened for o in row if o and isinstance(o[1], np.ndarray)), default=0)
    return Sheets(seen, rows, shown, of, of - sum(c is not None for row in rows for c in row), _notes(runs, opened, edge))


def chosen(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of rising values, evenly spread by rank, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(k * (len(values) - 1) / (most - 1))] for k in range(most)]


def nearest(previews: Sequence[tuple[int, Path]], columns: Sequence[int]) -> list[tuple[int, Path] | None]:
    """For every column the sheet that lies closest to it and to no other column closer; None where there is none."""
    out: list[tuple[int, Path] | None] = [None] * len(columns)
    for images, path in previews:
        k = min(range(len(columns)), key=lambda k: abs(columns[k] - images))
        there = out[k]
        if there is None or abs(images - columns[k]) < abs(there[0] - columns[k]):
            out[k] = (images, path)
    return out


def _opened(run: RunData, images: int, path: Path) -> "UInt8[np.ndarray, 'n h w c'] | Image | str":
    """The images of a sheet; the sheet itself where it does not say where they lie; or why it cannot be read."""
    try:
        picture = read_png(path)
    except ValueError as e:
        return str(e)
    layout = _layout(run, path, picture.size)
    return picture if layout is None else _cut(picture, layout)


def _layout(run: RunData, path: Path, size: tuple[int, int]) -> _Layout | None:
    """As the event of the sheet has it; for runs of an older release, as the recipe has it; None where that does not fit."""
    name = f"samples/{path.name}"
    told: dict[str, Any] = next((e for e in reversed(run.events) if e.get("event") == "preview" and e.get("path") == name), {})
    sheet = told.get("sheet")
    if isinstance(sheet, dict):
        try:
            h, w = (int(v) for v in sheet["image"])
            found = _Layout(int(told["n"]), int(sheet["columns"]), int(sheet["scale"]), int(sheet["pad"]), h, w)
        except (KeyError, TypeError, ValueError):
            return None
    else:
        n = int(number(run.recipe, "watch.preview_n") or 0)
        if n < 1:
            return None
        columns = math.ceil(math.sqrt(n))
        (w, odd_w), (h, odd_h) = (
            divmod(side - 1 - cells, 2 * cells) for side, cells in zip(size, (columns, -(-n // columns)), strict=True)
        )
        if odd_w or odd_h:
            return None
        found = _Layout(n, columns, 2, 1, h, w)
    if min(found.n, found.columns, found.scale, found.h, found.w) < 1 or found.pad < 0:
        return None
    rows = -(-found.n // found.columns)
    wide, high = (
        cells * (side * found.scale + found.pad) + found.pad for cells, side in ((found.columns, found.w), (rows, found.h))
    )
    return found if size[0] >= wide and size[1] >= high else None  # a line of text may stand below, and be wider


def _cut(picture: "Image", layout: _Layout) -> UInt8[np.ndarray, "n h w c"]:
    """The first images of a sheet, at the size at which they were drawn."""
    pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA", "I", "I;16") else "RGB"))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    out = []
    for k in range(min(layout.n, SIDE**2)):
        top = layout.pad + k // layout.columns * (layout.h * layout.scale + layout.pad)
        left = layout.pad + k % layout.columns * (layout.w * layout.scale + layout.pad)
        out.append(
            pixels[top : top + layout.h * layout.scale : layout.scale, left : left + layout.w * layout.scale : layout.scale]
        )
    return np.stack(out)


def _within(most: float, opened: Sequence[Sequence[Any]], edge: int) -> list[list[tuple[int, bytes | str] | None]] | None:
    """All cells, in rows; None as soon as they take more than `most` bytes."""
    out: list[list[tuple[int, bytes | str] | None]] = []
    for row in opened:
        out.append([])
        for one in row:
            cell = None if one is None else (one[0], _drawn(one[1], edge))
            out[-1].append(cell)
            most -= len(cell[1]) if cell is not None and isinstance(cell[1], bytes) else 0
            if most < 0:
                return None
    return out


def _drawn(opened: "UInt8[np.ndarray, 'n h w c'] | Image | str", edge: int) -> bytes | str:
    """A cell as a PNG file, or why there is none."""
    if isinstance(opened, str):
        return opened
    if isinstance(opened, np.ndarray):
        small, _ = smaller(opened, edge)
        return png(strip(small, columns=min(SIDE, len(small))))
    k = -(-max(opened.size) // (SIDE * edge))
    return png(opened if k == 1 else opened.reduce(k))


def _cell(images: int, drawn: bytes | str) -> Cell:
    if isinstance(drawn, str):
        return Cell(images, None, fault=drawn)
    width, height = (int.from_bytes(drawn[k : k + 4], "big") for k in (16, 20))  # of a PNG's header
    return Cell(images, uri(drawn), width, height)


def _notes(runs: Sequence[RunData], opened: Sequence[Sequence[Any]], edge: int) -> list[str]:
    """What a reader must know of the sheets: whether they compare image by image, and what was made smaller."""
    events = [[e for e in run.events if e.get("event") == "preview"] for run in runs]
    seeds = {e.get("seed") for own in events for e in own}
    steps = {e.get("steps") for own in events for e in own}
    arrays = [o[1] for row in opened for o in row if o is not None and isinstance(o[1], np.ndarray)]
    shapes = {a.shape[1:] for a in arrays}
    out = []
    if len(seeds) == 1 and len(shapes) <= 1 and None not in seeds:
        out.append(f"Image k of every sheet starts from the same noise (seed {seeds.pop()}), in all runs and at all checkpoints.")
    elif not seeds:
        out.append("These runs do not say of which seed their sheets are.")
    else:
        out.append(
            "The sheets are not all of one seed and one size of images, so image k of one need not go with image k of another."
        )
    if len(steps) > 1:
        out.append(f"They were drawn in unlike numbers of calls: {', '.join(str(s) for s in sorted(steps, key=str))}.")
    if any(max(shape[:2]) > edge for shape in shapes):
        out.append(f"Images are shown at most {edge} pixels wide and high; the sheets in samples/ hold them whole.")
    if any(o is not None and not isinstance(o[1], np.ndarray | str) for row in opened for o in row):
        out.append("Some sheets do not say where their images lie and are shown whole.")
    return out
