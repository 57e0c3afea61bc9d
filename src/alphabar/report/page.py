"""Pages: one HTML file each, with its pictures inside and nothing fetched from anywhere."""

import base64
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphabar.evaluation.estimate import LEVEL
from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES
from alphabar.record import write_atomically
from alphabar.report import load
from alphabar.report.load import RunData, in_words, number, score_rows, series
from alphabar.report.plots import Level, Line, plot, short

if TYPE_CHECKING:
    from PIL.Image import Image

    from alphabar.types import Pixels

TEMPLATES = Path(__file__).parent / "templates"
INTERVAL = f"{100 * LEVEL:g} % interval"
_MOST_BYTES = 20_000_000  # of one preview; anything larger would make the page unwieldy


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Writes one page about one or several runs to `out` and returns it.

    runs: run folders; "bundled" is the run behind the bundled model. What a run lacks is said on the page.
    Raises ValueError for no runs, FileNotFoundError for a path that is no folder.
    """
    if not runs:
        raise ValueError("a report is about runs: name at least one, as in `alphabar report runs/garments`")
    loaded = [load.load_run(Path(run)) for run in runs]
    names = load.names(loaded)
    shown = [_run(run, name, f"run{k}", k) for k, (run, name) in enumerate(zip(loaded, names, strict=True))]
    html = render(
        "report.html.j2", title=names[0] if len(names) == 1 else f"{len(names)} runs", runs=shown, names=names,
        differing=[(key, [_value(v) for v in values]) for key, values in load.differing(loaded)] if len(loaded) > 1 else [],
        overlays=_overlays(loaded, names), made=stamp(),
    )  # fmt: skip
    out = Path(out)
    write_atomically(out, html)
    return out


def render(template: str, **context: Any) -> str:
    """A template of this package, filled in; every text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": count, "short": short, "duration": duration, "sig": sig, "kid": kid, "pretty": pretty, "bracket": bracket,
    }  # fmt: skip
    environment.globals |= {"INTERVAL": INTERVAL, "kid": kid}
    return environment.get_template(template).render(**context)


# ---- values in words


def count(value: float | None) -> str:
    """1234567 -> "1,234,567"; None -> "unknown"."""
    return "unknown" if value is None else f"{value:,.0f}"


def sig(value: float | None, digits: int = 3) -> str:
    """A number to three digits, without an exponent where one can do without; None -> a dash."""
    if value is None:
        return "–"
    rounded = float(f"{value:.{digits}g}")
    if 10**digits <= abs(rounded) < 1e7:
        text = f"{value:,.0f}"
    elif rounded == 0 or 1e-4 <= abs(rounded) < 1:
        text = f"{value:.{digits}g}"
    elif abs(rounded) < 10**digits and abs(rounded) >= 1:
        text = f"{rounded:g}"
    else:
        text = f"{value:.{max(digits - 1, 1)}g}"
    return text.replace("-", "−")


def kid(value: float | None) -> str:
    """A thousand times a KID, with two decimals: a column of them lines up, and noise round 0 reads as 0; None -> a dash."""
    if value is None:
        return "–"
    text = f"{1000 * value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def bracket(ends: Sequence[float] | None, words: Callable[[float | None], str] = sig) -> str:
    """(1.31, 2.03) -> "[1.31, 2.03]", each end as `words` has it; None -> nothing."""
    return "" if ends is None else f"[{words(ends[0])}, {words(ends[1])}]"


def duration(seconds: float | None) -> str:
    """75 -> "1 min 15 s"; None -> "unknown"."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def pretty(value: Any) -> str:
    """Plain data as indented JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def stamp() -> str:
    """Now, as "2026-11-22 23:01 UTC"."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC"


def machine_words(machine: Mapping[str, Any]) -> str:
    """A machine's record in a line: processor, cores, accelerators; whatever of it is there."""
    accelerators = machine.get("accelerators")
    parts = [machine.get("cpu"), f"{machine['cores']} cores" if machine.get("cores") else None]
    parts += accelerators if isinstance(accelerators, list) else []
    return ", ".join(str(part) for part in parts if part)


def _value(value: Any) -> str:
    """A recipe's value as TOML would have it."""
    return "–" if value is None else json.dumps(value, ensure_ascii=False, default=str)


# ---- pictures


def png_uri(image: "Image") -> str:
    """A picture as a data URI, so that the page carries it."""
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return _uri(out.getvalue())


def strip(pixels: "Pixels", columns: int | None = None, pad: int = 1) -> "Image":
    """A contact sheet whose gaps are transparent, for light pages and dark ones. pixels: (n, h, w, c), as stored."""
    import numpy as np
    from PIL import ImageOps

    from alphabar.data.sheet import contact_sheet, shown

    pixels = shown(pixels)
    columns = len(pixels) if columns is None else columns
    sheet = contact_sheet(pixels, columns=columns, pad=pad)
    covered = contact_sheet(np.zeros((*pixels.shape[:3], 1), np.uint8), columns=columns, pad=pad)  # paper is white
    out = sheet.convert("RGBA" if sheet.mode == "RGB" else "LA")
    out.putalpha(ImageOps.invert(covered))
    width, height = out.size
    return out.crop((pad, pad, width - pad, height - pad))  # flush with the text above it


def _uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _preview(images: int, path: Path) -> dict[str, Any]:
    """A sheet of samples, or why it cannot be shown."""
    from PIL import Image, UnidentifiedImageError

    about = {"images": images, "uri": None, "width": 0, "height": 0, "fault": None}
    try:
        if path.stat().st_size > _MOST_BYTES:
            return about | {"fault": f"{path.name} is too large to be put into a page"}
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            width, height = picture.size
        return about | {"uri": _uri(path.read_bytes()), "width": width, "height": height}
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        return about | {"fault": f"{path.name} cannot be read ({e})"}


def _chosen(previews: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """The first, the middle and the last of them."""
    return [previews[k] for k in sorted({0, len(previews) // 2, len(previews) - 1})] if previews else []


# ---- a run


def _run(run: RunData, name: str, key: str, index: int) -> dict[str, Any]:
    losses, held = run.of("loss"), run.of("heldout")
    by_band, rows = load.bands(held), score_rows(run)
    known = [row for row in held if number(row, "loss") is not None]
    last_held = known[-1] if known else None
    fids = [row for row in rows if row["metric"] == "fid"]
    best = min(fids, key=lambda row: row["value"], default=None)
    previews = _chosen(run.previews)
    return {
        "name": name, "key": key, "index": index, "path": str(run.path), "state": load.state(run),
        "recipe": [(k, _value(v)) for k, v in run.recipe.items()], "machine": run.machine, "data": run.data,
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
            if (found := load.curves(run, metric)) or metric in ("fid", "kid")  # which are missed, the others are not
            for made in [_score_plot(f"{key}{metric.replace('_', '')}", metric, found)]
        ],
        "previews": [_preview(*p) for p in previews], "preview_count": len(run.previews),
        "scores": [_score(row) for row in rows], "without": _without(rows), "warrants": _warrants(rows),
        "higher": [TITLES[m] for m in TITLES if m in HIGHER],
    }  # fmt: skip


def _without(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each reason why scores have no interval."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if (why := load.missing_interval(row)) is not None:
            told.setdefault(why, []).append(TITLES.get(row["metric"], row["metric"]))
    return [f"No interval, {', '.join(dict.fromkeys(metrics))}: {why}." for why, metrics in told.items()]


def _warrants(rows: list[dict[str, Any]]) -> str | None:
    """What the check of the extractors found, metric by metric, where the records say it."""
    told = dict.fromkeys(
        f"{TITLES.get(row['metric'], row['metric'])}: {row['warrant']}" for row in rows if isinstance(row.get("warrant"), str)
    )
    return "; ".join(told) or None


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
    import statistics

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


def _score_plot(name: str, metric: str, found: list[load.Curve]) -> Any:
    several = len(found) > 1
    lines, levels = [], []
    title = TITLES[metric]
    for k, curve in enumerate(found):
        lines.append(
            Line(f"{title}, {curve.protocol}", curve.images, curve.values, curve.intervals, colour=k, markers=True, bars=True)
        )
        if curve.floor is not None:
            which = "its floor" if several else "floor: real against real"
            words = _floor_words(curve.floor, curve.floor_interval)
            levels.append(Level(f"{which}, {words}", curve.floor, k if several else None, curve.floor_interval))
    if not found:
        return None
    last = found[-1]
    end = f"{sig(last.values[-1])} {bracket(last.intervals[-1])}".strip()
    alt = f"{title} against images seen, from {sig(last.values[0])} to {end}."
    return plot(name, alt, lines, levels=levels, log_y=metric == "fid", from_zero=metric not in HIGHER)


def _floor_words(value: float, ends: tuple[float, float] | None) -> str:
    return f"{sig(value)} {bracket(ends)}".strip()


def _bars(metric: str, found: Sequence[load.Curve]) -> str:
    """What the bars of a metric are, and why some or all are not there."""
    notes = "; ".join(dict.fromkeys(note for curve in found for note in curve.notes))
    bars = f"Bars: {INTERVAL}s, for {INTERVALS[metric]}."
    if not any(ends is not None for curve in found for ends in curve.intervals):
        return f"No bars: {notes}." if notes else ""
    return f"{bars} A point without one: {notes}." if notes else bars


def _score(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": TITLES.get(row["metric"], row["metric"]), "value": row["value"], "images": number(row, "images"),
        "interval": load.interval(row), "floor_interval": load.interval(row, "floor_interval"),
        "floor": number(row, "floor"), "floor_n": number(row, "floor_n"), "n": number(row, "n"),
        "words": in_words(row), "nfe": number(row, "nfe"), "record": row,
    }  # fmt: skip


def _overlays(runs: list[RunData], names: list[str]) -> list[dict[str, Any]]:
    """Plots of all runs together: FID where it was taken under one protocol, and held-out loss."""
    if len(runs) < 2:
        return []
    out = []
    groups: dict[tuple[str, ...], list[tuple[int, list[dict[str, Any]]]]] = {}
    for k, run in enumerate(runs):
        own: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in score_rows(run):
            if row["metric"] == "fid" and number(row, "images") is not None:
                own.setdefault(load.protocol(row), []).append(row)
        for key, rows in own.items():
            groups.setdefault(key, []).append((k, load.rewound(rows)))
    for g, group in enumerate(group for group in groups.values() if len(group) > 1):
        lines = [
            Line(names[k], *series(rows, "value"), [load.interval(row) for row in rows], colour=k, markers=True, bars=True)
            for k, rows in group
        ]
        last = [rows[-1] for _, rows in group]
        real = next((row for row in last if number(row, "floor") is not None), None)
        levels = []
        if real is not None:
            floor, ends = real["floor"], load.interval(real, "floor_interval")
            levels = [Level(f"floor: real against real, {_floor_words(floor, ends)}", floor, interval=ends)]
        made = plot(f"overfid{g}", "FID of the runs against images seen.", lines, levels=levels, log_y=True)
        if made is not None:
            bars = f" Bars: {INTERVAL}s, for {INTERVALS['fid']}." if any(load.interval(row) for row in last) else ""
            out.append({"title": "FID", "plot": made, "words": f"Of {in_words(last[0])}.{bars}"})
    lines = [Line(names[k], *series(run.of("heldout"), "loss"), colour=k) for k, run in enumerate(runs)]
    if sum(bool(line.x) for line in lines) > 1 and (
        made := plot("overheld", "Held-out loss of the runs against images seen.", lines, log_y=True)
    ):
        words = "Losses of runs that differ in prediction, schedule, density or weighting are in different units."
        out.append({"title": "Held-out loss", "plot": made, "words": words})
    return out
