"""Scores of a run during training: rows by protocol, and curves with intervals and floor."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alphabar.core.stored_names import SCORE, renamed
from alphabar.results.runs import RunData
from alphabar.results.series import Row, interval, missing_interval, number, rewound, series


def score_rows(run: RunData) -> list[dict[str, Any]]:
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


def protocol(score: Row) -> tuple[str, ...]:
    """What two scores must share to be points of one curve: metric, both sides, extractor, sampler and its options."""
    names = ("metric", "n", "n_reference", "extractor", "reference", "preprocessing")
    how = _record(score, "sampler")
    values = [score.get(k) for k in names] + [how.get(k) for k in ("sampler", "steps", "eta", "plan", "grid_name", "clip")]
    return tuple(json.dumps(value, sort_keys=True, default=str) for value in values)


def _record(row: Row, key: str) -> Row:
    return value if isinstance(value := row.get(key), Mapping) else {}


def protocol_words(score: Row) -> str:
    """The protocol of a score in a line: "1,024 images, ddim, 25 calls, eta 0"."""
    how = _record(score, "sampler")
    n, nfe, eta = number(score, "n"), number(score, "nfe"), number(how, "eta")
    parts = [
        "an unknown number of images" if n is None else f"{int(n):,} images", how.get("sampler"),
        None if nfe is None else f"{nfe:.4g} calls", None if eta is None else f"eta {eta:g}", how.get("plan"),
    ]  # fmt: skip
    return ", ".join(str(part) for part in parts if part)


@dataclass(frozen=True)
class Curve:
    """One metric during training, under one protocol. notes: why values have no interval. floor: the score of as many real
    images, None where unknown; its interval only where all records have the same floor."""

    metric: str
    protocol: str
    images: list[float]
    values: list[float]
    intervals: list[tuple[float, float] | None]
    floor: float | None
    floor_interval: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)


def by_protocol(run: RunData, metric: str) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """The scores of a metric that were computed during training, by protocol, each in rising order of images."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in score_rows(run):
        if row["metric"] == metric and number(row, "images") is not None:
            groups.setdefault(protocol(row), []).append(row)
    return {key: rewound(rows) for key, rows in groups.items()}


def curves(run: RunData, metric: str) -> list[Curve]:
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
