"""The lab book: one page about one or several runs, with everything that a folder of runs knows about them."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alphabar.evaluation.score import INTERVALS
from alphabar.report import comparisons as verdicts
from alphabar.report import run_section as one
from alphabar.report import sheets, sweep_page, trajectory
from alphabar.report.page import write_page
from alphabar.report.png import png_uri, smaller, strip
from alphabar.report.run_section import floor_words
from alphabar.report.svg import Level, Line, plot
from alphabar.report.sweep_words import front_words, time_caveats
from alphabar.report.words import INTERVAL, as_toml, column, interval_words, value_words
from alphabar.results import runs as load
from alphabar.results.runs import RunData
from alphabar.results.series import interval, loss_by_sigma, number, protocol, protocol_words, rewound, score_rows, series
from alphabar.results.sweeps import read_sweep
from alphabar.sampling.samples import Samples

OPEN = 3  # runs that are shown unfolded
WHOLE_SHEETS = 4_000_000  # bytes of whole sheets of all runs together
_FRONT_ROWS, _FRONT_IMAGES = 8, 8  # settings and images of a sweep that are shown


def write_report(runs: Sequence[Path], out: Path, *, sweeps: Sequence[Path] = (), draw: bool | None = None) -> Path:
    """Writes one page about one or several runs to `out` and returns it.

    runs: run folders; the folder of an experiment stands for its trainings, "bundled" for the run behind the bundled model.
    sweeps: folders of sweeps beside those that lie in the runs. draw: the way from noise to image of runs that kept none: None
    while that takes seconds, True whatever it takes, False never. What a run lacks is said on the page.

    Raises ValueError for no runs and a sweep that cannot be read, FileNotFoundError for a path that is no folder.
    """
    if not runs:
        raise ValueError("a report is about runs: name at least one, as in `alphabar report runs/garments`")
    loaded = [load.load_run(path) for path in load.with_trainings([Path(run) for run in runs])]
    names = load.names(loaded)
    several = len(loaded) > 1
    most = WHOLE_SHEETS // (len(loaded) if several else 3)
    shown = [
        one.view(run, name, f"run{k}", k, sheets=1 if several else 3, most=most)
        for k, (run, name) in enumerate(zip(loaded, names, strict=True))
    ]
    decided, told = verdicts.comparisons(loaded)
    tried, more = verdicts.experiments(loaded)
    fronts, unread = _fronts(loaded, [Path(folder) for folder in sweeps])
    return write_page(
        Path(out), "report.html.j2", title=names[0] if not several else f"{len(names)} runs", runs=shown, names=names,
        folded=len(shown) > OPEN,
        differing=[(key, [as_toml(v) for v in values]) for key, values in load.differing(loaded)] if several else [],
        grid=sheets.side_by_side(loaded), ways=trajectory.ways(loaded, names, draw), overlays=_overlays(loaded, names),
        verdicts=decided, tried=tried, told=[*told, *more], fronts=fronts, unread=unread, asdict=asdict,
    )  # fmt: skip


def _fronts(runs: Sequence[RunData], given: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every sweep of the runs, and those given: its front, and the images of the settings on it; and what cannot be read."""
    folders = dict.fromkeys(folder.resolve() for folder in [*(f for run in runs for f in run.sweeps), *given])
    asked = {folder.resolve() for folder in given}
    out: list[dict[str, Any]] = []
    unread = []
    for folder in folders:
        try:
            sweep = read_sweep(folder)
        except (OSError, ValueError) as e:
            if folder in asked:
                raise ValueError(f"{folder} is no sweep that can be shown: {e}") from e
            unread.append(f"A sweep cannot be shown: {e}.")
            continue
        metrics = list(sweep.rows[0].standings)
        first = metrics[0]
        on = sweep.front(first)
        picked = [on[k] for k in sheets.chosen(range(len(on)), _FRONT_ROWS)]
        rows = []
        for row in picked:
            try:
                images = Samples.load(row.samples).images[:_FRONT_IMAGES]
            except (OSError, ValueError, KeyError) as e:
                unread.append(f"The images of {row.title} cannot be shown: {e}.")
                continue
            rows.append({
                "title": row.setting.method, "calls": row.calls,
                "score": f"{column(first)} {value_words(first, row.scores[first].value)}",
                "ends": interval_words(first, row.scores[first].interval), "uri": png_uri(strip(smaller(images)[0])),
                "alt": f"{len(images)} images sampled by {row.title}.",
            })  # fmt: skip
        score = sweep.rows[0].scores[first]
        out.append({
            "name": _home(folder), "lead": front_words(sweep, first), "settings": len(sweep.rows), "page": str(sweep.page),
            "figures": sweep_page.figures(sweep, [first], f"front{len(out)}", size=(440, 270)),
            "legend": sweep_page.legend(sweep),
            "rows": rows, "of": len(on), "protocol": sweep.protocol, "n": sweep.protocol.get("n"),
            "clocks": time_caveats(sweep),
            "reference": score.reference_name, "floor": f"{column(first)} {value_words(first, score.floor)}",
        })  # fmt: skip
    return out, unread


def _home(folder: Path) -> str:
    """A sweep's name: RUN/sweeps/NAME -> "NAME of RUN"."""
    return f"{folder.name} of {folder.parents[1].name}" if folder.parent.name == "sweeps" else folder.name


def _overlays(runs: list[RunData], names: list[str]) -> list[dict[str, Any]]:
    """Plots of all runs together: FID where it was taken under one protocol, held-out loss, and that loss by level at the end."""
    if len(runs) < 2:
        return []
    out = []
    groups: dict[tuple[str, ...], list[tuple[int, list[dict[str, Any]]]]] = {}
    for k, run in enumerate(runs):
        own: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in score_rows(run):
            if row["metric"] == "fid" and number(row, "images") is not None:
                own.setdefault(protocol(row), []).append(row)
        for key, rows in own.items():
            groups.setdefault(key, []).append((k, rewound(rows)))
    for g, group in enumerate(group for group in groups.values() if len(group) > 1):
        lines = [
            Line(names[k], *series(rows, "value"), [interval(row) for row in rows], colour=k, markers=True, bars=True)
            for k, rows in group
        ]
        last = [rows[-1] for _, rows in group]
        real = next((row for row in last if number(row, "floor") is not None), None)
        levels = []
        if real is not None:
            floor, ends = real["floor"], interval(real, "floor_interval")
            levels = [Level(f"floor: real against real, {floor_words(floor, ends)}", floor, interval=ends)]
        made = plot(f"overfid{g}", "FID of the runs against images seen.", lines, levels=levels, log_y=True)
        if made is not None:
            bars = f" Bars: {INTERVAL}s, for {INTERVALS['fid']}." if any(interval(row) for row in last) else ""
            out.append({"title": "FID", "plot": made, "words": f"Of {protocol_words(last[0])}.{bars}"})
    lines = [Line(names[k], *series(run.of("heldout"), "loss"), colour=k) for k, run in enumerate(runs)]
    if sum(bool(line.x) for line in lines) > 1 and (
        made := plot("overheld", "Held-out loss of the runs against images seen.", lines, log_y=True)
    ):
        words = "Losses of runs that differ in prediction, schedule, density or weighting are in different units."
        out.append({"title": "Held-out loss", "plot": made, "words": words})
    lines = [Line(names[k], *loss_by_sigma(run.of("heldout")), colour=k, markers=True) for k, run in enumerate(runs)]
    if sum(bool(line.x) for line in lines) > 1 and (
        made := plot(
            "oversigma", "Last held-out loss of the runs against sigma.", lines, x_label="sigma", log_x=True, log_y=True,
            x_ticks=[t for t in (0.01, 0.1, 1.0, 10.0, 100.0) if min(map(_low, lines)) <= t <= max(map(_high, lines))] or None,
        )
    ):  # fmt: skip
        words = "The last held-out loss in bands of noise, each at its geometric middle, in the units of the loss beside."
        out.append({"title": "Held-out loss by sigma", "plot": made, "words": words})
    return out


def _low(line: Line) -> float:
    return min(line.x, default=math.inf)


def _high(line: Line) -> float:
    return max(line.x, default=0.0)
