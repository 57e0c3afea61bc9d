"""Comparisons kept with runs, and the verdicts of the experiments that trained them, in words and intervals."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alphabar.core.stored_values import read_object
from alphabar.evaluation.score import HIGHER, Score
from alphabar.report.words import column, estimate_words
from alphabar.results.runs import OUTCOME, RunData
from alphabar.results.series import interval, number

_WIDTH, _HEIGHT = 240, 26  # of an interval's picture
_COLOURS = {"better": "var(--c3)", "worse": "var(--c6)"}


@dataclass(frozen=True)
class Line:
    """One metric of a comparison. bar: a picture of its interval; the middle is 0, and to the right a is better than b."""

    metric: str
    a: str
    b: str
    difference: str
    verdict: str
    words: str
    bar: Markup | None


@dataclass(frozen=True)
class PageComparison:
    """A comparison of a with b. lead: its result in a sentence. about: what was compared, and how."""

    a: str
    b: str
    lead: str
    about: str
    lines: list[Line]


def comparisons(runs: Sequence[RunData]) -> tuple[list[PageComparison], list[str]]:
    """The comparisons kept with the runs, the latest first and each once; and sentences about those that are not shown."""
    rows = {json.dumps(row, sort_keys=True, default=str): row for run in runs for row in run.comparisons}
    latest: dict[str, tuple[float, PageComparison]] = {}
    notes, earlier = [], 0
    for row in sorted(rows.values(), key=lambda row: number(row, "time") or 0.0):
        try:
            found, key = _comparison(row)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            notes.append(f"A row of comparisons.jsonl cannot be read ({type(e).__name__}: {e}).")
            continue
        earlier += key in latest
        latest[key] = (number(row, "time") or 0.0, found)
    if earlier:
        what, verb = ("comparison", "is") if earlier == 1 else ("comparisons", "are")
        notes.append(f"{earlier} earlier {what} of the same sets under the same protocol {verb} left out.")
    return [found for _, found in sorted(latest.values(), key=lambda pair: -pair[0])], notes


def _comparison(row: Mapping[str, Any]) -> tuple[PageComparison, str]:
    """A row of comparisons.jsonl, and a key that a later row must share to replace it."""
    a, b = (str(name) for name in row["names"])
    own = row["comparisons"]
    first = Score.from_json(own[0]["a"])
    noise = "from the same noise, compared image by image" if own[0]["paired"] else "from different noise"
    when = time.strftime("%Y-%m-%d", time.gmtime(row["time"])) if number(row, "time") is not None else "on an unknown day"
    about = f"{first.n:,} images each, {noise}, against {first.n_reference:,} real images, {first.reference_name}; {when}"
    lines = [_line(c) for c in own]
    key = json.dumps([row["sets"], row.get("models"), first.n, first.extractor, first.reference, [c["metric"] for c in own]])
    return PageComparison(a, b, _lead(a, b, lines), about, lines), key


def _lead(a: str, b: str, lines: Sequence[Line]) -> str:
    by: dict[str, list[str]] = {}
    for line in lines:
        by.setdefault(line.verdict, []).append(line.metric.removesuffix(" ×1000"))
    parts = [f"{a} is {verdict} than {b} by {_and(by[verdict])}" for verdict in ("better", "worse") if verdict in by]
    if "the same images" in by:
        parts.append(f"{a} and {b} are the same images")
    if "not decided" in by:
        left = by["not decided"]
        parts.append(f"{_and(left)} {'does' if len(left) == 1 else 'do'} not decide" if parts else "no metric decides")
    return f"{'; '.join(parts)}."


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _line(row: Mapping[str, Any]) -> Line:
    metric, verdict = str(row["metric"]), str(row["verdict"])
    value, ends = number(row["difference"], "value"), interval(row["difference"])
    a, b = (estimate_words(metric, float(side["value"]), interval(side)) for side in (row["a"], row["b"]))
    difference, title = estimate_words(metric, value, ends), column(metric)
    bar = None
    if ends is not None and value is not None:
        bar = interval_bar(value, ends, metric in HIGHER, verdict, f"{title}: {difference}")
    return Line(title, a, b, difference, verdict, str(row["words"]), bar)


def interval_bar(value: float, ends: tuple[float, float], higher: bool, verdict: str, alt: str) -> Markup:
    """The interval of a difference, first minus second, as a picture: 0 in the middle, to the right the first set is better."""
    sign = 1.0 if higher else -1.0
    reach = max(abs(ends[0]), abs(ends[1]), 1e-300)
    low, high = sorted(sign * end / reach for end in ends)
    half, middle = _WIDTH / 2 - 8, _WIDTH / 2
    return Markup(
        '<svg class="bar" viewBox="0 0 {w} {h}" role="img" aria-label="{alt}">'
        '<line x1="0" x2="{w}" y1="{y}" y2="{y}" stroke="var(--line)" stroke-width="1"/>'
        '<line x1="{m}" x2="{m}" y1="0" y2="{h}" stroke="var(--ink)" stroke-width="1.5"/>'
        '<line x1="{a}" x2="{b}" y1="{y}" y2="{y}" stroke="{c}" stroke-width="4" stroke-linecap="round"/>'
        '<circle cx="{v}" cy="{y}" r="6.5" fill="{c}"/></svg>'
    ).format(
        w=_WIDTH, h=_HEIGHT, y=_HEIGHT / 2, m=middle, a=round(middle + half * low, 1), b=round(middle + half * high, 1),
        v=round(middle + half * sign * value / reach, 1), c=_COLOURS.get(verdict, "var(--muted)"), alt=f"Difference of {alt}.",
    )  # fmt: skip


def experiments(runs: Sequence[RunData]) -> tuple[list[dict[str, Any]], list[str]]:
    """The experiments that trained the runs, from outcome.json; and sentences about those that cannot be read."""
    found, notes = [], []
    for folder in dict.fromkeys(run.experiment for run in runs if run.experiment is not None):
        try:
            found.append(_experiment(folder, read_object(folder / OUTCOME)))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            notes.append(f"{folder.name}/{OUTCOME} cannot be read ({type(e).__name__}: {e}).")
    return found, notes


def _experiment(folder: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows. rows: of each variant its name, number of trainings, and (mean, difference) by metric."""
    about, means, differences = data["experiment"], data["means"], data["differences"]
    metrics = list(next(iter(means.values()), {}))

    def shown(metric: str, estimate: Mapping[str, Any] | None) -> str:
        return "" if estimate is None else estimate_words(metric, number(estimate, "value"), interval(estimate))

    rows = []
    for variant, by in means.items():
        cells = [(shown(m, by.get(m)), shown(m, differences.get(variant, {}).get(m))) for m in metrics]
        rows.append((str(variant), sum(t["variant"] == variant for t in data["trials"]), cells))
    shown_keys = {"verdict": data["verdict"], "words": data["words"], "finished": bool(data["finished"]), "folder": folder.name}
    return shown_keys | {k: str(about[k]) for k in ("hypothesis", "than")} | {"metrics": [*map(column, metrics)], "rows": rows}
