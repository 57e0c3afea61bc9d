"""The page of a sweep: plots of quality against calls and seconds, the table of settings, and images from the same noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphabar.core.messages import cells
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import Levels, levels_of, shown_note
from alphabar.evaluation.estimate import LEVEL
from alphabar.evaluation.pareto import Standing
from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES, Score
from alphabar.report import page, svg
from alphabar.report.png import png_uri, smaller, strip
from alphabar.report.words import INTERVAL, brackets_explained, column, estimate_words, interval_words, sig, value_words
from alphabar.results.sweeps import COSTS, Row, Sweep
from alphabar.sampling.samples import Samples

if TYPE_CHECKING:
    from rich.table import Table

AXES = {"calls": "network calls an image", "seconds": "seconds an image"}
_APART = 0.003  # relative distance by which the points of different methods at equal calls are set apart


def write_page(sweep: Sweep, metrics: Sequence[str], run: str, real: Pixels, shown: int) -> Path:
    """Writes the page of a sweep of `run`, with `shown` images of each setting; the first metric sorts and marks them."""
    first, scores, levels = metrics[0], sweep.rows[0].scores, levels_of(real)
    groups, notes = _sheets(sweep, first, shown, levels)
    return page.write_page(
        sweep.page, "sweep.html.j2",
        title=f"{len(sweep.rows)} ways to sample {Path(run).name or run}", sweep=sweep, near=[sweep.folder, Path(run)],
        run=Path(run).name or run, lead=front_words(sweep, first),
        figures=figures(sweep, metrics), legend=legend(sweep), groups=groups, notes=notes, shown=shown,
        real_uri=png_uri(strip(smaller(real, levels=levels)[0])), real_count=len(real),
        columns=[_heading(m, sweep) for m in metrics],
        first=TITLES[first], table=_table(sweep, metrics),
        floors=[estimate_words(m, scores[m].floor, scores[m].floor_interval) for m in metrics],
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
    """One plot for each metric and cost. name: letters and digits that no other sweep on the page has."""
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


def _sheets(sweep: Sweep, metric: str, shown: int, levels: Levels) -> tuple[list[dict[str, Any]], list[str]]:
    """The images of every setting, grouped by method, the most calls first; and notes on how they are shown."""
    groups, notes = [], []
    for method, rows in methods(sweep):
        lines = []
        for row in sorted(rows, key=lambda row: -row.calls):
            images = Samples.load(row.samples).images[:shown]
            small, note = smaller(images, levels=levels)
            notes += [text for text in (note, shown_note(images, levels)) if text]
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


def score_words(score: Score) -> str:
    """A score with its interval, in the units of its column."""
    return estimate_words(score.metric, score.value, score.interval)


def standing_words(row: Row, rows: Sequence[Row], metric: str, cost: str) -> str:
    """ "front", "worse than ddim · 8" or "not decided: ddim · 8", where the number is that of network calls."""
    standing = row.standings[metric][cost]
    if standing.on or standing.behind is None:
        return "front"
    better = rows[standing.behind]
    name = f"{better.setting.method} · {sig(better.calls)}"
    return f"worse than {name}" if standing.decided else f"not decided: {name}"


def mark(standing: Standing) -> str:
    """The same in one or two words, for a terminal."""
    return "● on" if standing.on else "worse" if standing.decided else "not decided"


def front_words(sweep: Sweep, metric: str) -> str:
    """The best setting, and the best one for at most half of its calls."""
    on = sweep.front(metric)
    best = on[-1]
    text = f"{best.setting.method} with {sig(best.calls)} network calls has the best {TITLES[metric]} here, "
    text += score_words(best.scores[metric])
    if half := [row for row in on if row.calls <= best.calls / 2]:
        text += f"; with {sig(half[-1].calls)} calls, {half[-1].setting.method} reaches {score_words(half[-1].scores[metric])}"
    return f"{text}."


def explanations(sweep: Sweep, metrics: Sequence[str]) -> list[str]:
    """What marks, brackets, the floor and seconds mean, a sentence or two each."""
    scores = [s for row in sweep.rows for m, s in row.scores.items() if m in metrics]
    first = TITLES[metrics[0]]
    out = [
        f"On the front: no setting that costs no more has a better {first}, by the measured values. Worse: the {first} is worse "
        "than that of the best setting that costs no more, and the difference is not chance; it is taken image by image on the "
        f"same noise, at {100 * LEVEL:g} % for all pairs of settings together. Not decided: more images would be needed."
    ]
    return out + unchecked(scores) + brackets_explained(scores, " of one setting") + time_caveats(sweep)


def _heading(metric: str, sweep: Sweep) -> str:
    """The heading of a metric's column, with a mark where its extractor has not passed its check."""
    return column(metric) + (" †" if unchecked([row.scores[metric] for row in sweep.rows if metric in row.scores]) else "")


def unchecked(scores: Sequence[Score]) -> list[str]:
    """A sentence for metrics whose extractor did not pass `alphabar extractor check`."""
    found: dict[str, dict[str, None]] = {}
    for s in scores:
        if s.check_result not in (None, "passed"):
            found.setdefault(str(s.check_result), {})[TITLES[s.metric]] = None
    where = "; ".join(f"{', '.join(titles)}: {result}" for result, titles in found.items())
    words = f"† The extractor has not passed its check (alphabar extractor check), {where}: its scores may not follow quality."
    return [words] if where else []


def time_caveats(sweep: Sweep) -> list[str]:
    """How far the seconds of the settings can be compared."""
    places = machines(sweep)
    together = max(int(r.where["processes"]) for r in sweep.rows)
    out = ["Seconds were measured once, while sampling, and include whatever else the machine did."]
    if len(places) > 1:
        out.append(f"Seconds were measured on different machines ({'; '.join(places)}): compare calls instead.")
    if together > 1:
        shared = "where they shared a machine, seconds are longer than for one alone."
        out.append(f"Up to {together} settings were sampled at once: {shared}")
    return out


def machines(sweep: Sweep) -> list[str]:
    """The machines that sampled the settings."""
    return list(dict.fromkeys(f"{r.where['cpu']}, {r.where['device']}" for r in sweep.rows))


def sweep_table(sweep: Sweep, metrics: Sequence[str]) -> "Table":
    """A table for a terminal: one row a setting, the fewest calls first, and one for as many real images."""
    from rich import box
    from rich.table import Table

    title = f"{sweep.protocol['n']:,} images a setting, all from the same noise"
    out = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    first = metrics[0]
    headings = [_heading(m, sweep) for m in metrics]
    for name in ("calls", "setting", "s/image", *headings, f"{TITLES[first]} front: calls", "seconds"):
        left = name in ("setting", f"{TITLES[first]} front: calls", "seconds")
        out.add_column(name, justify="left" if left else "right", no_wrap=name != "setting")
    for row in sweep.rows:
        standings = row.standings[first]
        values = [score_words(row.scores[m]) for m in metrics] + [mark(standings[cost]) for cost in COSTS]
        words = cells([sig(row.calls), row.setting.method, sig(row.seconds), *values])
        out.add_row(*words, style="bold" if standings["calls"].on else None)
    scores = sweep.rows[0].scores
    out.add_row("", "real images (the floor)", "", *(value_words(m, scores[m].floor) for m in metrics), "", "", style="dim")
    return out
