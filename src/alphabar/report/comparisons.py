"""What was decided: comparisons kept with a run, and the verdict of the experiment that trained it, in words and intervals."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alphabar.evaluation.score import HIGHER, TITLES, Score
from alphabar.report.words import bracket, kid, sig
from alphabar.results.runs import OUTCOME, RunData
from alphabar.results.series import interval, number

_WIDE, _HIGH = 240, 26  # of an interval's picture
_COLOURS = {"better": "var(--c3)", "worse": "var(--c6)"}


@dataclass(frozen=True)
class Line:
    """One metric of a comparison. bar: its interval, the middle of the picture being 0 and to the right a better than b."""

    metric: str
    a: str
    b: str
    difference: str
    verdict: str
    words: str
    bar: Markup | None


@dataclass(frozen=True)
class Verdict:
    """A comparison of a with b. lead: its outcome in a sentence. about: what was compared, and how."""

    a: str
    b: str
    lead: str
    about: str
    lines: list[Line]


def comparisons(runs: Sequence[RunData]) -> tuple[list[Verdict], list[str]]:
    """The comparisons that the runs hold, the latest first, one that several hold once; and sentences on what is not shown."""
    rows = {json.dumps(row, sort_keys=True, default=str): row for run in runs for row in run.comparisons}
    latest: dict[str, tuple[float, Verdict]] = {}
    told, again = [], 0
    for row in sorted(rows.values(), key=lambda row: number(row, "time") or 0.0):
        try:
            found, key = _verdict(row)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            told.append(f"A row of comparisons.jsonl cannot be read ({type(e).__name__}: {e}).")
            continue
        again += key in latest
        latest[key] = (number(row, "time") or 0.0, found)
    if again:
        told.append(
            f"{again} earlier {'comparison' if again == 1 else 'comparisons'} of the same sets under the same protocol "
            f"{'is' if again == 1 else 'are'} left out."
        )
    return [found for _, found in sorted(latest.values(), key=lambda pair: -pair[0])], told


def _verdict(row: Mapping[str, Any]) -> tuple[Verdict, str]:
    """A row of comparisons.jsonl, and what a later row must share to replace it."""
    a, b = (str(name) for name in row["names"])
    own = row["comparisons"]
    first = Score.from_json(own[0]["a"])
    noise = "from the same noise, compared image by image" if own[0]["paired"] else "from unlike noise"
    when = time.strftime("%Y-%m-%d", time.gmtime(row["time"])) if number(row, "time") is not None else "on an unknown day"
    about = f"{first.n:,} images each, {noise}, against {first.n_reference:,} of {first.reference_name}; {when}"
    lines = [_line(c) for c in own]
    key = json.dumps([row["sets"], row.get("models"), first.n, first.extractor, first.reference, [c["metric"] for c in own]])
    return Verdict(a, b, _lead(a, b, lines), about, lines), key


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
    metric = str(row["metric"])
    words = kid if metric == "kid" else sig
    title = TITLES[metric] + (" ×1000" if metric == "kid" else "")
    value = number(row["difference"], "value")
    ends = interval(row["difference"])
    verdict = str(row["verdict"])
    sides = [f"{words(float(side['value']))} {bracket(interval(side), words)}".strip() for side in (row["a"], row["b"])]
    shown = f"{words(value)} {bracket(ends, words)}".strip()
    bar = None if ends is None or value is None else interval_bar(value, ends, metric in HIGHER, verdict, f"{title}: {shown}")
    return Line(title, sides[0], sides[1], shown, verdict, str(row["words"]), bar)


def interval_bar(value: float, ends: tuple[float, float], higher: bool, verdict: str, alt: str) -> Markup:
    """An interval of a difference as a picture on a scale of its own: 0 in the middle, to the right the first is better."""
    sign = 1.0 if higher else -1.0
    reach = max(abs(ends[0]), abs(ends[1]), 1e-300)
    low, high = sorted(sign * end / reach for end in ends)
    half, middle = _WIDE / 2 - 8, _WIDE / 2
    colour = _COLOURS.get(verdict, "var(--muted)")
    return Markup(
        '<svg class="bar" viewBox="0 0 {w} {h}" role="img" aria-label="{alt}">'
        '<line x1="0" x2="{w}" y1="{y}" y2="{y}" stroke="var(--line)" stroke-width="1"/>'
        '<line x1="{m}" x2="{m}" y1="0" y2="{h}" stroke="var(--ink)" stroke-width="1.5"/>'
        '<line x1="{a}" x2="{b}" y1="{y}" y2="{y}" stroke="{c}" stroke-width="4" stroke-linecap="round"/>'
        '<circle cx="{v}" cy="{y}" r="6.5" fill="{c}"/></svg>'
    ).format(
        w=_WIDE, h=_HIGH, y=_HIGH / 2, m=middle, a=round(middle + half * low, 1), b=round(middle + half * high, 1),
        v=round(middle + half * sign * value / reach, 1), c=colour, alt=f"Difference of {alt}.",
    )  # fmt: skip


@dataclass(frozen=True)
class Trialled:
    """An experiment's outcome. runs: those of the page that it trained. rows: variant, mean and difference by metric."""

    hypothesis: str
    verdict: str
    words: str
    folder: Path
    finished: bool
    metrics: list[str]
    than: str
    rows: list[tuple[str, int, list[tuple[str, str]]]]


def experiments(runs: Sequence[RunData]) -> tuple[list[Trialled], list[str]]:
    """The experiments that trained the runs, as outcome.json has them; and sentences on what cannot be read."""
    found, told = [], []
    for folder in dict.fromkeys(run.experiment for run in runs if run.experiment is not None):
        try:
            found.append(_trialled(folder, json.loads((folder / OUTCOME).read_text(encoding="utf-8"))))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as e:
            told.append(f"{folder / OUTCOME} cannot be read ({type(e).__name__}: {e}).")
    return found, told


def _trialled(folder: Path, data: Mapping[str, Any]) -> Trialled:
    about = data["experiment"]
    metrics = list(next(iter(data["means"].values()), {}))

    def shown(metric: str, estimate: Mapping[str, Any] | None) -> str:
        if estimate is None:
            return ""
        words = kid if metric == "kid" else sig
        return f"{words(number(estimate, 'value'))} {bracket(interval(estimate), words)}".strip()

    rows = [
        (
            str(variant), sum(t["variant"] == variant for t in data["trials"]),
            [(shown(m, by.get(m)), shown(m, data["differences"].get(variant, {}).get(m))) for m in metrics],
        )
        for variant, by in data["means"].items()
    ]  # fmt: skip
    titles = [TITLES[m] + (" ×1000" if m == "kid" else "") for m in metrics]
    return Trialled(
        str(about["hypothesis"]), str(data["verdict"]), str(data["words"]), folder, bool(data["finished"]), titles,
        str(about["than"]), rows,
    )  # fmt: skip
