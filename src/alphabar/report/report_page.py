"""The report page: everything that the folders of one or several runs hold, on one page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alphabar.core.messages import as_path
from alphabar.core.outputs import check_output
from alphabar.data.contact_sheet import shown_note
from alphabar.evaluation.score import INTERVALS
from alphabar.report import comparisons, live_page, sheets, sweep_page, trajectory
from alphabar.report.page import write_page
from alphabar.report.png import png_uri, smaller, strip
from alphabar.report.run_section import run_section
from alphabar.report.sheets import spread
from alphabar.report.svg import Level, Line, Plot, plot
from alphabar.report.sweep_page import front_words, time_caveats
from alphabar.report.words import FLOOR, INTERVAL, as_toml, column, estimate_words, interval_words, value_words
from alphabar.results.curves import by_protocol, protocol_words
from alphabar.results.runs import RunData, differing, load_run, names, with_trainings
from alphabar.results.series import interval, loss_by_sigma, number, series
from alphabar.results.sweeps import Row, Sweep, read_sweep
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model

OPEN = 3  # up to so many runs are shown unfolded
WHOLE_SHEETS = 4_000_000  # bytes of the full-size sheets of all runs together


def write_report(
    runs: Sequence[Path], out: Path, *, sweeps: Sequence[Path] = (), draw: bool | None = None, with_paths: bool = False,
    live: bool = False,
) -> Path:  # fmt: skip
    """Writes one self-contained HTML page, which works offline, about one run or several.

    Args:
        runs: run folders; the folder of an experiment stands for its trainings, "bundled" for the run behind the bundled model.
        out: the page, which is returned.
        sweeps: folders of sweeps, in addition to those in the runs.
        draw: whether to sample a trajectory (x0_hat from noise to image) for runs that have none: True always, False never, None
            only while that takes seconds.
        with_paths: name the runs by their whole paths on this machine.
        live: let the page draw new images in the reader's browser, for one run; adds 6 MB and the weights in 16 bits.

    Raises:
        ValueError: for no runs, for a folder in `sweeps` that does not hold a sweep, and with `live` for several runs or a model
            that a page cannot draw.
        FileNotFoundError: for a path that is not a folder.
    """
    if not runs:
        raise ValueError("a report is about runs: name at least one, as in `alphabar report runs/garments`")
    check_output(out, "page")
    loaded = [load_run(path) for path in with_trainings([as_path(run) for run in runs])]
    if live and len(loaded) > 1:
        raise ValueError(f"--live draws the images of one run, and these are {len(loaded)}: name one, or leave --live out")
    drawing = {"live": live, **(_drawing("bundled" if str(runs[0]) == "bundled" else loaded[0].path) if live else {})}
    titles = names(loaded)
    several = len(loaded) > 1
    most = WHOLE_SHEETS // (len(loaded) if several else 3)
    sections = [
        run_section(run, name, f"run{k}", k, sheets=1 if several else 3, most=most)
        for k, (run, name) in enumerate(zip(loaded, titles, strict=True))
    ]
    compared, unread_comparisons = comparisons.comparisons(loaded)
    experiments, unread_experiments = comparisons.experiments(loaded)
    fronts, unread = sweep_sections(loaded, [as_path(folder) for folder in sweeps])
    shown = [] if with_paths else [*(run.path for run in loaded), *(f for run in loaded for f in run.sweeps), *map(Path, sweeps)]
    return write_page(
        as_path(out), "report.html.j2", title=f"{len(titles)} runs" if several else titles[0], runs=sections, names=titles,
        folded=len(sections) > OPEN,
        differing=[(key, [as_toml(v) for v in values]) for key, values in differing(loaded)] if several else [],
        grid=sheets.side_by_side(loaded), trajectories=trajectory.trajectories(loaded, titles, draw),
        overlays=_overlays(loaded, titles), compared=compared, experiments=experiments,
        notes=[*unread_comparisons, *unread_experiments], fronts=fronts, unread=unread, asdict=asdict, near=shown, **drawing,
    )  # fmt: skip


def _drawing(run: str | Path) -> dict[str, Any]:
    """What the templates of a page that draws need."""
    made = live_page.live(load_model(run))
    return {"about": made.about, "blobs": live_page.embedded(made), "folder": False, **live_page.credits()}


Item = tuple[str, Plot | None, str]  # title, plot, and words below it


def _overlays(runs: list[RunData], names: list[str]) -> list[dict[str, Any]]:
    """Plots with a line for each run: FID where several have it under one protocol, held-out loss, and that loss by sigma."""
    if len(runs) < 2:
        return []
    items, heldout = _fid(runs, names), [run.of("heldout") for run in runs]
    lines = [Line(names[k], *series(rows, "loss"), colour=k) for k, rows in enumerate(heldout)]
    if sum(bool(line.x) for line in lines) > 1:
        words = "The loss on images that are never trained on (validation loss). Runs that differ in prediction, schedule, noise "
        words += "density or weighting have losses in different units."
        made = plot("overheld", "Held-out loss of the runs against images seen.", lines, log_y=True)
        items.append(("Held-out loss", made, words))
    lines = [Line(names[k], *loss_by_sigma(rows), colour=k, markers=True) for k, rows in enumerate(heldout)]
    if sum(bool(line.x) for line in lines) > 1:
        sigmas = [x for line in lines for x in line.x]
        ticks = [t for t in (0.01, 0.1, 1.0, 10.0, 100.0) if min(sigmas) <= t <= max(sigmas)] or None
        alt = "Last held-out loss of the runs against sigma."
        made = plot("oversigma", alt, lines, x_label="sigma", log_x=True, log_y=True, x_ticks=ticks)
        words = "The last held-out loss by noise level, each band at its geometric middle, in the units of the held-out loss."
        items.append(("Held-out loss by noise level", made, words))
    return [{"title": title, "plot": plot, "words": words} for title, plot, words in items if plot is not None]


def _fid(runs: list[RunData], names: list[str]) -> list[Item]:
    groups: dict[tuple[str, ...], list[tuple[int, list[dict[str, Any]]]]] = {}
    for k, run in enumerate(runs):
        for key, rows in by_protocol(run, "fid").items():
            groups.setdefault(key, []).append((k, rows))
    out = []
    for g, group in enumerate(group for group in groups.values() if len(group) > 1):
        ends = {k: [interval(row) for row in rows] for k, rows in group}
        lines = [Line(names[k], *series(rows, "value"), ends[k], colour=k, markers=True, bars=True) for k, rows in group]
        last = [rows[-1] for _, rows in group]
        real = next((row for row in last if number(row, "floor") is not None), None)
        levels = []
        if real is not None:
            around = interval(real, "floor_interval")
            levels = [Level(f"{FLOOR}, {estimate_words('fid', real['floor'], around)}", real["floor"], interval=around)]
        bars = f" Bars: {INTERVAL}s, for {INTERVALS['fid']}." if any(interval(row) for row in last) else ""
        made = plot(f"overfid{g}", "FID of the runs against images seen.", lines, levels=levels, log_y=True)
        out.append(("FID", made, f"Of {protocol_words(last[0])}.{bars}"))
    return out


ROWS, IMAGES = 8, 8  # settings of a front, and images of each


def sweep_sections(runs: Sequence[RunData], given: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """The sections about the sweeps of the runs and those in the folders `given`, and a sentence for each that cannot be read.

    Raises ValueError for a folder in `given` that does not hold a sweep.
    """
    required = [folder.resolve() for folder in given]
    sections: list[dict[str, Any]] = []
    unread: list[str] = []
    for folder in dict.fromkeys([*(f.resolve() for run in runs for f in run.sweeps), *required]):
        try:
            sweep = read_sweep(folder)
        except (OSError, ValueError) as e:
            if folder in required:
                raise ValueError(f"{folder} does not hold a sweep that can be shown: {e}") from e
            unread.append(f"A sweep cannot be shown: {e}.")
            continue
        sections.append(_section(sweep, f"front{len(sections)}", unread))
    return sections, unread


def _section(sweep: Sweep, key: str, unread: list[str]) -> dict[str, Any]:
    metric = next(iter(sweep.rows[0].standings))
    on = sweep.front(metric)
    shown = [row for k in spread(range(len(on)), ROWS) if (row := _row(on[k], metric, unread)) is not None]
    score, folder = sweep.rows[0].scores[metric], sweep.folder
    return {
        "name": f"{folder.name} of {folder.parents[1].name}" if folder.parent.name == "sweeps" else folder.name,
        "lead": front_words(sweep, metric), "settings": len(sweep.rows), "page": str(sweep.page), "rows": shown, "of": len(on),
        "figures": sweep_page.figures(sweep, [metric], key, size=(440, 270)), "legend": sweep_page.legend(sweep),
        "protocol": sweep.protocol, "n": sweep.protocol.get("n"),
        "caveats": [*time_caveats(sweep), *dict.fromkeys(f"{row['note']}." for row in shown if row["note"])],
        "reference": score.reference_name, "floor": f"{column(metric)} {value_words(metric, score.floor)}",
    }  # fmt: skip


def _row(row: Row, metric: str, unread: list[str]) -> dict[str, Any] | None:
    """The images of a setting on the front."""
    try:
        images = Samples.load(row.samples).images[:IMAGES]
    except (OSError, ValueError, KeyError) as e:
        unread.append(f"The images of {row.title} cannot be shown: {e}.")
        return None
    score = row.scores[metric]
    return {
        "title": row.setting.method, "calls": row.calls, "score": f"{column(metric)} {value_words(metric, score.value)}",
        "ends": interval_words(metric, score.interval), "uri": png_uri(strip(smaller(images)[0])), "note": shown_note(images),
        "alt": f"{len(images)} images sampled by {row.title}.",
    }  # fmt: skip
