"""What the page says of one run: how it stands, its curves, its sheets, its protocols."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES
from alphabar.report.png import fitted, read_png, uri
from alphabar.report.svg import Level, Line, plot
from alphabar.report.words import INTERVAL, as_toml, bracket, machine_words, sig
from alphabar.results import runs as load
from alphabar.results import series as record
from alphabar.results.runs import RunData
from alphabar.results.series import loss_by_band, number, protocol_words, score_rows, series

# what decides a protocol and yet is written with every score: shown once for all scores that share it
_OWN = (
    "metric", "value", "images", "interval", "se", "level", "bias", "note", "floor", "floor_n", "floor_interval", "floor_seed",
    "floor_sets", "check_result",
)  # fmt: skip


def _preview(images: int, path: Path, most: int) -> dict[str, Any]:
    """A sheet of samples in at most `most` bytes, or why it cannot be shown."""
    about = {"images": images, "uri": None, "width": 0, "height": 0, "fault": None, "part": 1}
    try:
        picture = read_png(path)
    except ValueError as e:
        return about | {"fault": str(e)}
    whole = path.read_bytes()
    data, part = (whole, 1) if len(whole) <= most else fitted(picture, most)
    return about | {"uri": uri(data), "width": picture.width, "height": picture.height, "part": part}


def _chosen(previews: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """The first, the middle and the last of them."""
    return [previews[k] for k in sorted({0, len(previews) // 2, len(previews) - 1})] if previews else []


def view(run: RunData, name: str, key: str, index: int, *, sheets: int = 3, most: int = 3_000_000) -> dict[str, Any]:
    """All that the template says of a run. key: letters and digits, unlike any other run's. sheets: 3, its first, middle and last
    one, or 1, its last; each of at most `most` bytes."""
    losses, held = run.of("loss"), run.of("heldout")
    by_band, rows = loss_by_band(held), score_rows(run)
    known = [row for row in held if number(row, "loss") is not None]
    last_held = known[-1] if known else None
    fids = [row for row in rows if row["metric"] == "fid"]
    best = min(fids, key=lambda row: row["value"], default=None)
    previews = _chosen(run.previews)[-sheets:]
    return {
        "name": name, "key": key, "index": index, "path": str(run.path), "state": load.state(run),
        "recipe": [(k, as_toml(v)) for k, v in run.recipe.items()], "machine": run.machine, "data": run.data,
        "machine_words": machine_words(run.machine),
        "missing": run.missing, "facts": _facts(run), "speed": _speed(run),
        "heldout": last_held, "best_fid": None if best is None else _score(best), "fids": len(fids),
        "loss_plot": _loss_plot(f"{key}loss", losses, known),
        "band_plot": plot(
            f"{key}bands", f"Held-out loss of {len(by_band)} bands of noise against images seen.",
            [Line(words, x, y, colour=k) for k, (words, x, y) in enumerate(by_band)], log_y=True,
        ),
        "lr_plot": plot(
            f"{key}lr", "Learning rate against images seen.", [Line("", *series(losses, "lr"), thin=True)],
            size=(380, 140), from_zero=True,
        ),
        "score_plots": [
            {"title": title, "plot": made, "words": _bars(metric, found)}
            for metric, title in TITLES.items()
            if (found := record.curves(run, metric)) or metric in ("fid", "kid")  # which are missed, the others are not
            for made in [_score_plot(f"{key}{metric.replace('_', '')}", metric, found)]
        ],
        "previews": [_preview(*p, most) for p in previews], "preview_count": len(run.previews),
        "scores": [_score(row) for row in rows], "protocols": _protocols(rows),
        "without": _without(rows), "warrants": _warrants(rows),
        "higher": [TITLES[m] for m in TITLES if m in HIGHER],
    }  # fmt: skip


def _without(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each reason why scores have no interval."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if (why := record.missing_interval(row)) is not None:
            told.setdefault(why, []).append(TITLES.get(row["metric"], row["metric"]))
    return [f"No interval, {', '.join(dict.fromkeys(metrics))}: {why}." for why, metrics in told.items()]


def _warrants(rows: list[dict[str, Any]]) -> str | None:
    """What the check of the extractors found, metric by metric, where the records say it."""
    found = dict.fromkeys(
        f"{TITLES.get(row['metric'], row['metric'])}: {row['check_result']}"
        for row in rows
        if isinstance(row.get("check_result"), str)
    )
    return "; ".join(found) or None


def _facts(run: RunData) -> list[tuple[str, str]]:
    """What the run is, in a few words: only what its recipe says."""
    r, out = run.recipe, []
    if "data.set" in r:
        out.append(("images", str(r["data.set"])))
    if "model.network" in r:
        channels = r.get("model.channels")
        wide = f", channels {' / '.join(map(str, channels))}" if isinstance(channels, list) else ""
        out.append(("network", f"{r['model.network']}{wide}"))
    if "model.prediction" in r:
        out.append(("prediction", str(r["model.prediction"])))
    if "schedule.kind" in r:
        out.append(("schedule", str(r["schedule.kind"])))
    if "train.batch" in r:
        out.append(("batch", str(r["train.batch"])))
    if "train.lr" in r:
        out.append(("learning rate", f"{r['train.lr']:g}" if isinstance(r["train.lr"], float) else str(r["train.lr"])))
    return out


def _speed(run: RunData) -> float | None:
    """Images a second, the median over the log."""
    rates = [v for row in run.of("loss") if (v := number(row, "images_per_second")) is not None]
    return statistics.median(rates) if rates else None


def _loss_plot(name: str, losses: list[dict[str, Any]], held: list[dict[str, Any]]) -> Any:
    x, y = series(losses, "loss")
    hx, hy = series(held, "loss")
    ends = [None if (se := number(row, "se")) is None else (loss - se, loss + se) for row, loss in zip(held, hy, strict=True)]
    alt = "Training loss against images seen"
    if y:
        alt += f": from {y[0]:.3g} to {y[-1]:.3g}"
    if hy:
        alt += f". Held-out loss: from {hy[0]:.3g} to {hy[-1]:.3g}"
    lines = [
        Line("training loss", x, y, colour=0, thin=True),
        Line("held-out loss ± its standard error", hx, hy, ends, colour=1),
    ]
    return plot(name, alt + ".", lines, log_y=True)


def _score_plot(name: str, metric: str, found: list[record.Curve]) -> Any:
    several = len(found) > 1
    lines, levels = [], []
    title = TITLES[metric]
    for k, curve in enumerate(found):
        lines.append(
            Line(f"{title}, {curve.protocol}", curve.images, curve.values, curve.intervals, colour=k, markers=True, bars=True)
        )
        if curve.floor is not None:
            which = "its floor" if several else "floor: real against real"
            words = floor_words(curve.floor, curve.floor_interval)
            levels.append(Level(f"{which}, {words}", curve.floor, k if several else None, curve.floor_interval))
    if not found:
        return None
    last = found[-1]
    end = f"{sig(last.values[-1])} {bracket(last.intervals[-1])}".strip()
    alt = f"{title} against images seen, from {sig(last.values[0])} to {end}."
    return plot(name, alt, lines, levels=levels, log_y=metric == "fid", from_zero=metric not in HIGHER)


def floor_words(value: float, ends: tuple[float, float] | None) -> str:
    return f"{sig(value)} {bracket(ends)}".strip()


def _bars(metric: str, found: Sequence[record.Curve]) -> str:
    """What the bars of a metric are, and why some or all are not there."""
    notes = "; ".join(dict.fromkeys(note for curve in found for note in curve.notes))
    bars = f"Bars: {INTERVAL}s, for {INTERVALS[metric]}."
    if not any(ends is not None for curve in found for ends in curve.intervals):
        return f"No bars: {notes}." if notes else ""
    return f"{bars} A point without one: {notes}." if notes else bars


def _score(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": TITLES.get(row["metric"], row["metric"]), "value": row["value"], "images": number(row, "images"),
        "interval": record.interval(row), "floor_interval": record.interval(row, "floor_interval"),
        "floor": number(row, "floor"), "floor_n": number(row, "floor_n"), "n": number(row, "n"),
        "words": protocol_words(row), "nfe": number(row, "nfe"),
    }  # fmt: skip


def _protocols(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every protocol once: what the records of its scores have in common."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(record.protocol(row)[1:], []).append(row)  # of any metric
    return [
        {"words": protocol_words(own[0]), "scores": len(own), "record": {k: v for k, v in _common(own).items() if k not in _OWN}}
        for own in groups.values()
    ]


def _common(rows: Sequence[Any]) -> dict[str, Any]:
    """The keys that all rows have with one value, within nested records too."""
    out: dict[str, Any] = {}
    for key, value in rows[0].items():
        values = [row.get(key) for row in rows]
        if all(v == value for v in values):
            out[key] = value
        elif all(isinstance(v, dict) for v in values):
            out[key] = _common(values)
    return out
