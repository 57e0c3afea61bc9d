"""What a sweep found: rows, a table for the terminal, and a page with the front of quality against calls and seconds."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from alphabar.core.files import write_atomically
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import shown_note
from alphabar.evaluation.estimate import LEVEL
from alphabar.evaluation.measured import Measured, load_measured
from alphabar.evaluation.pareto import Standing, front, standings
from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES, Score
from alphabar.report import page
from alphabar.report import svg as plots
from alphabar.report.png import png_uri, smaller, strip
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import LeftOut, Setting

if TYPE_CHECKING:
    from rich.table import Table

COSTS = {"calls": "network calls an image", "seconds": "seconds an image"}
_APART = 0.003  # by which lines are set apart on the axis of costs, as a share


@dataclass(frozen=True, eq=False)
class Row:
    """A finished setting. calls: of the network, counted, an image. seconds: an image. where: what it was drawn on.

    standings: by metric and cost ("calls", "seconds").
    """

    setting: Setting
    calls: float
    seconds: float
    scores: Mapping[str, Score]
    record: Mapping[str, Any]
    where: Mapping[str, Any]
    samples: Path
    standings: Mapping[str, Mapping[str, Standing]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], samples: Path) -> "Row":
        scores = {s["metric"]: Score.from_json(s) for s in data["scores"]}
        return cls(
            Setting.from_json(data["setting"]), float(data["nfe"]), float(data["seconds_per_image"]), scores,
            data["record"], data["machine"], samples,
        )  # fmt: skip

    def cost(self, name: str) -> float:
        return self.calls if name == "calls" else self.seconds

    def rank(self, metric: str) -> float:
        """The smaller, the better."""
        value = self.scores[metric].value
        return -value if metric in HIGHER else value

    @property
    def title(self) -> str:
        return f"{self.setting.method}, {page.sig(self.calls)} calls"


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sweep found. rows: the fewest calls first. protocol: what they share. finished: not stopped before its end."""

    folder: Path
    page: Path
    rows: list[Row]
    left_out: list[LeftOut]
    protocol: Mapping[str, Any]
    finished: bool = True

    def front(self, metric: str, cost: str = "calls") -> list[Row]:
        """The rows that no other beats at no higher cost, the cheapest first."""
        return sorted((row for row in self.rows if row.standings[metric][cost].on), key=lambda row: row.cost(cost))

    def to_json(self) -> dict[str, Any]:
        """Plain data, for json.dumps."""
        return {
            "folder": str(self.folder), "page": str(self.page), "finished": self.finished, "protocol": dict(self.protocol),
            "rows": [
                {
                    "name": row.setting.name, "setting": row.setting.to_json(), "nfe": row.calls,
                    "seconds_per_image": row.seconds, "samples": str(row.samples), "machine": dict(row.where),
                    "scores": [score.to_json() for score in row.scores.values()],
                    "front": {
                        metric: {cost: self._standing(standing) for cost, standing in by_cost.items()}
                        for metric, by_cost in row.standings.items()
                    },
                }
                for row in self.rows
            ],
            "left_out": [asdict(one) for one in self.left_out],
        }  # fmt: skip

    def _standing(self, standing: Standing) -> dict[str, Any]:
        gap = standing.difference
        return {
            "on": standing.on, "behind": None if standing.behind is None else self.rows[standing.behind].setting.name,
            "difference": None if gap is None else gap.to_json(), "decided": standing.decided,
        }  # fmt: skip


def stand(rows: Sequence[Row], metrics: Sequence[str], measured: Callable[[str], Measured]) -> list[Row]:
    """The rows with their standings. measured(name): what `save_measured` kept of a setting."""
    loaded = []
    for row in rows:
        whole = measured(row.setting.name)
        loaded.append(Measured({m: whole.scores[m] for m in metrics}, {m: whole.expansions[m] for m in metrics}, whole.images))
    found = {metric: {cost: standings(loaded, [row.cost(cost) for row in rows], metric) for cost in COSTS} for metric in metrics}
    return [
        replace(row, standings={m: {cost: each[k] for cost, each in by_cost.items()} for m, by_cost in found.items()})
        for k, row in enumerate(rows)
    ]


def read_rows(folder: Path, metrics: Sequence[str]) -> list[Row]:
    """The finished settings of a sweep's folder that have these scores, the fewest calls first, and of as many the best one."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "rows").glob("[!.]*.json"))]
    rows = [Row.from_json(row, folder / f"{row['name']}.npz") for row in every if "scores" in row]
    rows = [row for row in rows if set(metrics) <= set(row.scores)]
    return sorted(rows, key=lambda row: (row.calls, row.rank(metrics[0]) if metrics else 0.0))


def read_sweep(folder: Path) -> Sweep:
    """What `alphabar sweep` left in a folder, with the metrics that all its settings have.

    Raises OSError, or ValueError for a folder that holds no finished setting, or files that are no sweep's.
    """
    try:
        protocol = json.loads((folder / "protocol.json").read_text(encoding="utf-8"))
        rows = read_rows(folder, ())
        if not rows:
            raise ValueError(f"no setting of the sweep in {folder} is finished")
        metrics = [m for m in rows[0].scores if all(m in row.scores for row in rows)]
        if not metrics:
            raise ValueError(f"the settings of the sweep in {folder} share no metric")
        rows = stand(read_rows(folder, metrics), metrics, lambda name: load_measured(folder / "rows" / f"{name}.npz"))
    except (KeyError, TypeError, AttributeError, BadZipFile) as e:
        raise ValueError(f"{folder} holds files that are no sweep's ({type(e).__name__}: {e})") from e
    return Sweep(folder, folder / "index.html", rows, [], protocol)


# ---- in words


def said(row: Row, rows: Sequence[Row], metric: str, cost: str) -> str:
    """ "front", or what it lies behind: "worse than ddim · 8", or "not decided: ddim · 8", the number being calls."""
    standing = row.standings[metric][cost]
    if standing.on or standing.behind is None:
        return "front"
    better = rows[standing.behind]
    return f"worse than {_brief(better)}" if standing.decided else f"not decided: {_brief(better)}"


def _brief(row: Row) -> str:
    return f"{row.setting.method} · {page.sig(row.calls)}"


def value(score: Score) -> str:
    """A score as its tables have it: KID a thousand times."""
    return page.kid(score.value) if score.metric == "kid" else page.sig(score.value)


def ends(score: Score) -> str:
    """Its interval, in the same units."""
    return page.bracket(score.interval, page.kid if score.metric == "kid" else page.sig)


def column(metric: str) -> str:
    """Its heading."""
    return f"{TITLES[metric]} ×1000" if metric == "kid" else TITLES[metric]


def table(sweep: Sweep, metrics: Sequence[str]) -> "Table":
    """The table for a terminal: one row a setting, the fewest calls first."""
    from rich import box
    from rich.table import Table

    title = f"{sweep.protocol['n']:,} images a setting, all from the same noise"
    out = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    first = metrics[0]
    for name in ("calls", "setting", "s/image", *(column(m) for m in metrics), f"{TITLES[first]} front: calls", "seconds"):
        left = name in ("setting", f"{TITLES[first]} front: calls", "seconds")
        out.add_column(name, justify="left" if left else "right", no_wrap=name not in ("setting",))
    for row in sweep.rows:
        on = row.standings[first]["calls"]
        marks = [_mark(row.standings[first][cost]) for cost in COSTS]
        scores = [f"{value(row.scores[m])} {ends(row.scores[m])}".strip() for m in metrics]
        style = "bold" if on.on else None
        out.add_row(page.sig(row.calls), row.setting.method, page.sig(row.seconds), *scores, *marks, style=style)
    score = sweep.rows[0].scores
    floors = [page.kid(score[m].floor) if m == "kid" else page.sig(score[m].floor) for m in metrics]
    out.add_row("", "real images: the floor", "", *floors, "", "", style="dim")
    return out


def _mark(standing: Standing) -> str:
    return "● on" if standing.on else "worse" if standing.decided else "not decided"


def explained(sweep: Sweep, metrics: Sequence[str]) -> list[str]:
    """What the marks and brackets mean, a sentence each."""
    told = [
        f"On the front: no other setting has both no higher cost and a better {TITLES[metrics[0]]}, by the values found. Worse: "
        f"behind the best of those that cost no more by more than chance, image by image on the same noise, at {100 * LEVEL:g} % "
        "for all pairs of settings together. Not decided: more images would tell."
    ]
    scores = [s for row in sweep.rows for m, s in row.scores.items() if m in metrics]
    known = list(dict.fromkeys(s.metric for s in scores if s.interval is not None))
    if known:
        what = ", ".join(f"{TITLES[m]}'s for {INTERVALS[m]}" for m in known)
        told.append(f"In brackets: {100 * LEVEL:g} % intervals of one setting, {what}.")
    lacking: dict[str, list[str]] = {}
    for s in scores:
        if s.interval is None:
            why = (s.note or "the record does not say why").removeprefix("no interval: ")
            lacking.setdefault(why, []).append(TITLES[s.metric])
    told += [f"No interval, {', '.join(dict.fromkeys(names))}: {why}." for why, names in lacking.items()]
    return told + clocks(sweep)


def clocks(sweep: Sweep) -> list[str]:
    """How far the seconds compare."""
    places = list(dict.fromkeys(f"{r.where['cpu']}, {r.where['device']}" for r in sweep.rows))
    together = sorted({int(r.where["processes"]) for r in sweep.rows})
    told = ["Seconds were taken once, while drawing, and hold whatever else the machine did."]
    if len(places) > 1:
        told.append(f"Seconds were taken on unlike machines ({'; '.join(places)}): compare calls instead.")
    if len(together) > 1 or together[0] > 1:
        told.append(
            f"Up to {together[-1]} settings were drawn at once: where they shared a machine, seconds are longer than alone."
        )
    return told


# ---- the page


def write_page(sweep: Sweep, metrics: Sequence[str], run: str, real: Pixels, shown: int) -> Path:
    """Writes the sweep's page, one file without a network. real: images to be put beside; shown: columns of the sheets."""
    methods = methods_of(sweep)
    first = metrics[0]
    groups, notes = [], []
    for method in methods:
        own = sorted((row for row in sweep.rows if row.setting.method == method), key=lambda row: -row.calls)
        lines = []
        for row in own:
            images = Samples.load(row.samples).images[:shown]
            small, note = smaller(images)
            notes += [text for text in (note, shown_note(images)) if text]
            lines.append({
                "calls": row.calls, "seconds": row.seconds, "score": f"{TITLES[first]} {value(row.scores[first])}",
                "front": row.standings[first]["calls"].on, "uri": png_uri(strip(small)),
                "alt": f"{len(images)} images drawn by {row.title}.",
            })  # fmt: skip
        groups.append({"method": method, "rows": lines})
    some = sweep.rows[0].scores
    html = page.render(
        "sweep.html.j2",
        title=f"{len(sweep.rows)} ways to draw from {Path(run).name or run}", sweep=sweep, run=run, lead=lead(sweep, first),
        figures=figures(sweep, metrics), legend=legend(methods), groups=groups, shown=shown,
        real_uri=png_uri(strip(smaller(real)[0])), real_count=len(real),
        columns=[column(m) for m in metrics], first=TITLES[first], table=_cells(sweep, metrics),
        floors=[(page.kid if m == "kid" else page.sig)(some[m].floor) for m in metrics],
        floor_ends=[page.bracket(some[m].floor_interval, page.kid if m == "kid" else page.sig) for m in metrics],
        told=explained(sweep, metrics), notes=list(dict.fromkeys(notes)), score=some[first], count=page.count,
        seconds=sum(row.seconds * row.scores[first].n for row in sweep.rows), made=page.stamp(),
        machines=sorted({f"{row.where['cpu']}, {row.where['device']}" for row in sweep.rows}),
    )  # fmt: skip
    write_atomically(sweep.page, html)
    return sweep.page


def methods_of(sweep: Sweep) -> list[str]:
    """The methods of its rows; the number of one is the colour of its line."""
    return list(dict.fromkeys(row.setting.method for row in sweep.rows))


def lead(sweep: Sweep, metric: str) -> str:
    """The front in two sentences."""
    on = sweep.front(metric)
    best = on[-1]
    score = best.scores[metric]
    text = f"{best.setting.method} with {page.sig(best.calls)} calls has the best {TITLES[metric]} here"
    text += f", {value(score)} {ends(score)}".rstrip()
    few = [row for row in on if row.calls <= best.calls / 2]
    if few:
        half = few[-1]
        score = half.scores[metric]
        text += f"; with {page.sig(half.calls)} calls, {half.setting.method} comes to {value(score)} {ends(score)}".rstrip()
    return f"{text}."


def _cells(sweep: Sweep, metrics: Sequence[str]) -> list[dict[str, Any]]:
    first = metrics[0]
    return [
        {
            "method": row.setting.method, "steps": row.setting.steps, "calls": row.calls, "seconds": row.seconds,
            "on": row.standings[first]["calls"].on,
            "scores": [(value(row.scores[m]), ends(row.scores[m])) for m in metrics],
            "standings": [(row.standings[first][cost].on, said(row, sweep.rows, first, cost)) for cost in COSTS],
        }
        for row in sweep.rows
    ]  # fmt: skip


def legend(methods: Sequence[str]) -> list[tuple[str, str, str]]:
    entries = [(*plots.swatch(k), method) for k, method in enumerate(methods)]
    return [*entries, ("var(--ink)", "solid", "the front"), ("var(--ink)", "dashed", "real images: the floor")]


def figures(sweep: Sweep, metrics: Sequence[str], name: str = "", size: tuple[float, float] = (760, 430)) -> list[dict[str, Any]]:
    """A plot a metric and cost. name: letters and digits that set them apart from those of another sweep on a page. size: as for
    `plot`."""
    methods = methods_of(sweep)
    out = []
    for metric in metrics:
        for cost, axis in COSTS.items():
            drawn = _figure(sweep, metric, cost, methods, name, size)
            if drawn is not None:
                made, words = drawn
                out.append({"title": f"{column(metric)} against {axis.removesuffix(' an image')}", "plot": made, "words": words})
    return out


def _figure(
    sweep: Sweep, metric: str, cost: str, methods: Sequence[str], name: str, size: tuple[float, float]
) -> tuple[plots.Plot, str] | None:
    times = 1000.0 if metric == "kid" else 1.0
    scores = [row.scores[metric] for row in sweep.rows]
    floor = scores[0].floor

    def interval(ends: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if ends is None else (times * ends[0], times * ends[1])

    lines, alt = [], []
    for k, method in enumerate(methods):
        own = sorted((row for row in sweep.rows if row.setting.method == method), key=lambda row: row.cost(cost))
        apart = 1 + _APART * (k - (len(methods) - 1) / 2) if cost == "calls" else 1.0
        x, y = [row.cost(cost) * apart for row in own], [times * row.scores[metric].value for row in own]
        bars = [interval(row.scores[metric].interval) for row in own]
        lines.append(plots.Line("", x, y, bars, colour=k, markers=True, bars=True, thin=True))
        points = (f"{page.sig(b)} at {page.sig(row.cost(cost))}" for row, b in zip(own, y, strict=True))
        alt.append(f"{method}: {', '.join(points)}")
    on = sweep.front(metric, cost)
    costs = [row.cost(cost) for row in sweep.rows]
    edge = [row.cost(cost) for row in on]
    few = sorted(set(costs)) if cost == "calls" else []
    marks = few if 0 < len(few) <= 7 else ticks(min(costs), max(costs))
    steps = plots.Line(
        "", [*edge, max(costs)], [times * row.scores[metric].value for row in [*on, on[-1]]], colour=None, steps=True
    )
    levels = []
    if floor is not None:
        levels = [plots.Level("", times * floor, interval=interval(scores[0].floor_interval))]
    made = plots.plot(
        f"{name}{metric.replace('_', '')}{cost}", f"{column(metric)} against {COSTS[cost]}. {'; '.join(alt)}.", [steps, *lines],
        levels=levels, x_label=COSTS[cost], log_x=True, log_y=metric not in HIGHER, x_ticks=marks,
        linear_below=_near(times, scores), size=size,
    )  # fmt: skip
    if made is None:
        return None
    words = ["Higher is better." if metric in HIGHER else "Lower is better."]
    if any(s.interval is not None for s in scores):
        words.append(f"Bars: {page.INTERVAL}s, for {INTERVALS[metric]}.")
    if cost == "calls" and len(methods) > 1:
        words.append("Points of equal calls are set a little apart.")
    return made, " ".join(words)


def _near(times: float, scores: Sequence[Score]) -> float:
    """A round number below which values are lost in their noise: where an axis for both signs is linear."""
    widths = sorted(times * (s.interval[1] - s.interval[0]) / 2 for s in scores if s.interval is not None)
    width = widths[0] if widths else times * max(abs(s.value) for s in scores) / 100
    return next((v for e in range(-6, 6) for m in (1, 2, 5) if (v := m * 10.0**e) >= width), 1.0)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high for a log axis, no more than about eight."""
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in range(-6, 7) for m in steps if low / 1.02 <= m * 10.0**e <= high * 1.02]
        if len(found) <= 8:
            break
    return found or [low]


__all__ = [
    "Row", "Sweep", "explained", "figures", "front", "lead", "legend", "read_rows", "read_sweep", "stand", "table", "ticks",
    "write_page",
]  # fmt: skip
