"""Series of values in rows of a run's record, also of other releases, in which fields may be missing or of another type."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def number(row: Row, key: str) -> float | None:
    """row[key] where it is a finite number, else None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def interval(row: Row, key: str = "interval") -> tuple[float, float] | None:
    """row[key] where it is two finite numbers in rising order, else None."""
    ends = row.get(key)
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = (number({key: end}, key) for end in ends)
    return None if low is None or high is None or low > high else (low, high)


def missing_interval(row: Row) -> str | None:
    """Why a score has no interval; None where it has one."""
    if interval(row) is not None:
        return None
    note = row.get("note")
    return note.removeprefix("no interval: ") if isinstance(note, str) and note else "its record has none"


def rewound(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in rising order of images. A resumed run repeats what came after its checkpoint: later rows replace earlier ones."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        images = number(row, "images")
        if images is None:
            continue
        while kept and kept[-1]["images"] >= images:
            kept.pop()
        kept.append(row)
    return kept


def series(rows: Iterable[Row], key: str) -> tuple[list[float], list[float]]:
    """(images, values) of the rows that have both as finite numbers."""
    pairs = [(number(row, "images"), number(row, key)) for row in rows]
    good = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in good], [y for _, y in good]


def _bands(row: Row) -> list[Row]:
    """The noise bands of a held-out record: {"sigma": [low, high], "loss": ...}."""
    bands = row.get("bands")
    return [band if isinstance(band, Mapping) else {} for band in bands] if isinstance(bands, list) else []


def loss_by_band(rows: Sequence[Row]) -> list[tuple[str, list[float], list[float]]]:
    """Held-out loss of each noise band during training: (the band in words, images, losses), the least noise first."""
    last = next((bands for row in reversed(rows) if (bands := _bands(row))), [])
    out = []
    for k, band in enumerate(last):
        same = [{"images": row.get("images"), **bands[k]} for row in rows if len(bands := _bands(row)) == len(last)]
        x, y = series(same, "loss")
        if x:
            sigma = interval(band, "sigma")
            out.append((f"band {k + 1}" if sigma is None else f"sigma {sigma[0]:.2g} to {sigma[1]:.2g}", x, y))
    return out


def loss_by_sigma(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """(noise levels, losses) of the last held-out record, each level being the geometric middle of its band."""
    found = []
    for band in _bands(rows[-1]) if rows else ():
        sigma, loss = interval(band, "sigma"), number(band, "loss")
        if sigma is not None and loss is not None and sigma[0] > 0:
            found.append((math.sqrt(sigma[0] * sigma[1]), loss))
    return [x for x, _ in found], [y for _, y in found]
