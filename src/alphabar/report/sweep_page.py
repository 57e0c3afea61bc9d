"""The page of a sweep: plots of quality against calls and seconds, the table of settings, and images from the same noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import shown_note
from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES, Score
from alphabar.report import page, svg
from alphabar.report.png import png_uri, smaller, strip
from alphabar.report.sweep_words import explanations, floor_words, front_words, machines, standing_words
from alphabar.report.words import INTERVAL, column, interval_words, sig, value_words
from alphabar.results.sweeps import COSTS, Row, Sweep
from alphabar.sampling.samples import Samples

AXES = {"calls": "network calls an image", "seconds": "seconds an image"}
_APART = 0.003  # relative distance by which the points of different methods at equal calls are set apart


def write_page(sweep: Sweep, metrics: Sequence[str], run: str, real: Pixels, shown: int) -> Path:
    """Writes the page of a sweep and returns its path.

    Args:
        sweep: the result, with standings in `metrics`.
        metrics: the metrics to show; the first one sorts and marks the settings.
        run: the name of the run, for the title.
        real: real images to compare with.
        shown: images of every setting.
    """
    first, scores = metrics[0], sweep.rows[0].scores
    groups, notes = _sheets(sweep, first, shown)
    return page.write_page(
        sweep.page, "sweep.html.j2",
        title=f"{len(sweep.rows)} ways to sample {Path(run).name or run}", sweep=sweep, run=run, lead=front_words(sweep, first),
        figures=figures(sweep, metrics), legend=legend(sweep), groups=groups, notes=notes, shown=shown,
        real_uri=png_uri(strip(smaller(real)[0])), real_count=len(real), columns=[column(m) for m in metrics],
        first=TITLES[first], table=_table(sweep, metrics), floors=[floor_words(scores[m]) for m in metrics],
        explanations=explanations(sweep, metrics), score=scores[first],
        seconds=sum(row.seconds * row.scores[first].n for row in sweep.rows), machines=machines(sweep),
    )  # fmt: skip


def methods(sweep: Sweep) -> list[tuple[str, list[Row]]]:
    """The methods with their rows, the fewest calls first; the number of a method is the colour of its line."""
    names = dict.fromkeys(row.setting.method for row in sweep.rows)
    return [(name, [row for row in sweep.rows if row.setting.method == name]) for name in names]


def legend(sweep: Sweep) -> list[tuple[str, str, str]]:
    """(css colour, dash, label) of each line in the plots of a sweep."""
    entries = [(*svg.swatch(k), method) for k, (method, _) in enumerate(methods(sweep))]
    return [*entries, ("var(--ink)", "solid", "the front"), ("var(--ink)", "dashed", "as many real images (the floor)")]


def figures(sweep: Sweep, metrics: Sequence[str], name: str = "", size: tuple[float, float] = (760, 430)) -> list[dict[str, Any]]:
    """One plot for each metric and cost: {"title", "plot", "words"}.

    Args:
        sweep: the result, with standings in `metrics`.
        metrics: the metrics to plot.
        name: letters and digits that distinguish these plots from those of another sweep on the same page.
        size: width and height, as for `svg.plot`.
    """
    out = []
    for metric in metrics:
        for cost, axis in AXES.items():
            plot = _plot(sweep, metric, cost, name, size)
            if plot is not None:
                title = f"{column(metric)} against {axis.removesuffix(' an image')}"
                out.append({"title": title, "plot": plot, "words": _caption(sweep, metric, cost)})
    return out


def _plot(sweep: Sweep, metric: str, cost: str, name: str, size: tuple[float, float]) -> svg.Plot | None:
    times = 1000.0 if metric == "kid" else 1.0

    def scaled(interval: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if interval is None else (times * interval[0], times * interval[1])

    lines, alt = [], []
    groups = methods(sweep)
    for k, (method, rows) in enumerate(groups):
        rows = sorted(rows, key=lambda row: row.cost(cost))
        apart = 1 + _APART * (k - (len(groups) - 1) / 2) if cost == "calls" else 1.0
        x, y = [row.cost(cost) * apart for row in rows], [times * row.scores[metric].value for row in rows]
        intervals = [scaled(row.scores[metric].interval) for row in rows]
        lines.append(svg.Line("", x, y, intervals, colour=k, markers=True, bars=True, thin=True))
        points = (f"{sig(value)} at {sig(row.cost(cost))}" for row, value in zip(rows, y, strict=True))
        alt.append(f"{method}: {', '.join(points)}")
    on = sweep.front(metric, cost)
    costs = sorted({row.cost(cost) for row in sweep.rows})
    values = [times * row.scores[metric].value for row in [*on, on[-1]]]
    front = svg.Line("", [*(row.cost(cost) for row in on), costs[-1]], values, colour=None, steps=True)
    scores = [row.scores[metric] for row in sweep.rows]
    floor, ends = scores[0].floor, scaled(scores[0].floor_interval)
    return svg.plot(
        f"{name}{metric.replace('_', '')}{cost}", f"{column(metric)} against {AXES[cost]}. {'; '.join(alt)}.", [front, *lines],
        levels=[] if floor is None else [svg.Level("", times * floor, interval=ends)], x_label=AXES[cost], log_x=True,
        log_y=metric not in HIGHER, x_ticks=costs if cost == "calls" and len(costs) <= 7 else ticks(costs[0], costs[-1]),
        linear_below=_noise_level(times, scores), size=size,
    )  # fmt: skip


def _caption(sweep: Sweep, metric: str, cost: str) -> str:
    words = "Higher is better." if metric in HIGHER else "Lower is better."
    if any(row.scores[metric].interval is not None for row in sweep.rows):
        words += f" Bars: {INTERVAL}s, for {INTERVALS[metric]}."
    if cost == "calls" and len(methods(sweep)) > 1:
        words += " Points of equal calls are set slightly apart."
    return words


def _noise_level(times: float, scores: Sequence[Score]) -> float:
    """A round number below which values are lost in their noise: a y axis for both signs is linear below it."""
    widths = [times * (s.interval[1] - s.interval[0]) / 2 for s in scores if s.interval is not None]
    width = min(widths) if widths else times * max(abs(s.value) for s in scores) / 100
    return next((v for e in range(-6, 6) for m in (1, 2, 5) if (v := m * 10.0**e) >= width), 1.0)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high for a log axis, at most eight where possible."""
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in range(-6, 7) for m in steps if low / 1.02 <= m * 10.0**e <= high * 1.02]
        if len(found) <= 8:
            break
    return found or [low]


def _sheets(sweep: Sweep, metric: str, shown: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The images of every setting, grouped by method, the most calls first; and notes on how they are shown."""
    groups, notes = [], []
    for method, rows in methods(sweep):
        lines = []
        for row in sorted(rows, key=lambda row: -row.calls):
            images = Samples.load(row.samples).images[:shown]
            small, note = smaller(images)
            notes += [text for text in (note, shown_note(images)) if text]
            lines.append({
                "calls": row.calls, "seconds": row.seconds, "front": row.standings[metric]["calls"].on,
                "score": f"{column(metric)} {value_words(metric, row.scores[metric].value)}", "uri": png_uri(strip(small)),
                "alt": f"{len(images)} images sampled by {row.title}.",
            })  # fmt: skip
        groups.append({"method": method, "rows": lines})
    return groups, list(dict.fromkeys(notes))


def _table(sweep: Sweep, metrics: Sequence[str]) -> list[dict[str, Any]]:
    first = metrics[0]
    return [
        {
            "method": row.setting.method, "steps": row.setting.steps, "calls": row.calls, "seconds": row.seconds,
            "on": row.standings[first]["calls"].on,
            "scores": [(value_words(m, row.scores[m].value), interval_words(m, row.scores[m].interval)) for m in metrics],
            "standings": [(row.standings[first][cost].on, standing_words(row, sweep.rows, first, cost)) for cost in COSTS],
        }
        for row in sweep.rows
    ]  # fmt: skip
