"""Series of values in rows of a run's record: numbers, intervals, losses by noise level, and scores during training.

Every reader here accepts rows of older and newer releases, in which fields may be missing or have another type.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alphabar.core.stored_names import SCORE, renamed

if TYPE_CHECKING:
    from alphabar.results.runs import RunData

Row = Mapping[str, Any]


def number(row: Row, key: str) -> float | None:
    """row[key] where it is a finite number, else None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
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


def score_rows(run: "RunData") -> list[dict[str, Any]]:
    """All scores of a run, with `images` where they were computed during training: scores.jsonl, else its events."""
    rows: list[dict[str, Any]] = run.scores or [
        {"images": event.get("images"), **score}
        for event in run.of("score")
        if isinstance(scores := event.get("scores"), list)
        for score in scores
        if isinstance(score, dict)
    ]
    rows = [renamed(row, SCORE) for row in rows]
    return [row for row in rows if isinstance(row.get("metric"), str) and number(row, "value") is not None]


def _sampling(score: Row) -> Row:
    """The record of how the scored images were sampled."""
    how = score.get("sampler")
    return how if isinstance(how, Mapping) else {}


def protocol(score: Row) -> tuple[str, ...]:
    """What two scores must share to be points of one curve: metric, both sides, extractor, sampler and its options."""
    names = ("metric", "n", "n_reference", "extractor", "reference", "preprocessing")
    return (
        *(json.dumps(score.get(name), sort_keys=True, default=str) for name in names),
        *(json.dumps(_sampling(score).get(k), default=str) for k in ("sampler", "steps", "eta", "plan", "grid_name", "clip")),
    )


def protocol_words(score: Row) -> str:
    """The protocol of a score in a line: "1,024 images, ddim, 25 calls, eta 0"."""
    how = _sampling(score)
    n, nfe, eta = number(score, "n"), number(score, "nfe"), number(how, "eta")
    parts = [
        "an unknown number of images" if n is None else f"{int(n):,} images", how.get("sampler"),
        None if nfe is None else f"{nfe:.4g} calls", None if eta is None else f"eta {eta:g}", how.get("plan"),
    ]  # fmt: skip
    return ", ".join(str(part) for part in parts if part)


@dataclass(frozen=True)
class Curve:
    """One metric during training, under one protocol.

    intervals: of each value, None where the record has none; `notes` of those records say why. floor: the score of as many real
    images, None where unknown. floor_interval: only where all records have the same floor.
    """

    metric: str
    protocol: str
    images: list[float]
    values: list[float]
    intervals: list[tuple[float, float] | None]
    floor: float | None
    floor_interval: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)


def by_protocol(run: "RunData", metric: str) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """The scores of a metric that were computed during training, by protocol, each in rising order of images."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in score_rows(run):
        if row["metric"] == metric and number(row, "images") is not None:
            groups.setdefault(protocol(row), []).append(row)
    return {key: rewound(rows) for key, rows in groups.items()}


def curves(run: "RunData", metric: str) -> list[Curve]:
    """A metric during training, one curve a protocol."""
    groups = list(by_protocol(run, metric).values())
    titles = [protocol_words(rows[-1]) for rows in groups]
    out = []
    for title, rows in zip(titles, groups, strict=True):
        last = rows[-1]
        if titles.count(title) > 1:  # the same words for different protocols: say more
            title += f", extractor {last.get('extractor')}, reference {last.get('reference')}"
        x, y = series(rows, "value")
        floors = [f for row in rows if (f := number(row, "floor")) is not None]
        floor = statistics.fmean(floors) if floors else None
        floor_interval = interval(last, "floor_interval") if len(set(floors)) == 1 else None
        notes = [note for row in rows if (note := missing_interval(row))]
        out.append(Curve(metric, title, x, y, [interval(row) for row in rows], floor, floor_interval, notes))
    return out
