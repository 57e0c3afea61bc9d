"""The section of the report page about one run: its state, curves, sheets, and protocols of its scores."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.core.files import finite
from alphabar.core.messages import command
from alphabar.core.run import Run
from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES
from alphabar.report.png import fitted, read_png, uri
from alphabar.report.svg import Level, Line, Plot, plot
from alphabar.report.words import FLOOR, INTERVAL, as_toml, estimate_words, machine_words, sig, without_interval
from alphabar.results.curves import Curve, curves, protocol, protocol_words, score_rows
from alphabar.results.runs import RunData, state
from alphabar.results.series import interval, loss_by_band, missing_interval, number, series

# stored with every score but not part of what its protocol is
NOT_PROTOCOL = (
    "metric", "value", "images", "interval", "se", "level", "bias", "note", "floor", "floor_n", "floor_interval", "floor_seed",
    "floor_sets", "check_result",
)  # fmt: skip
DISTANCES = "The Fréchet distance of the last images drawn, in the features that the tuning is fitted to: no score."
FACTS = {
    "data.set": "images", "model.network": "network", "model.prediction": "prediction", "schedule.kind": "schedule",
    "train.batch": "batch", "train.lr": "learning rate",
}  # fmt: skip


def run_section(run: RunData, name: str, key: str, index: int, *, sheets: int, most: int) -> dict[str, Any]:
    """Everything that the template shows of a run.

    key: letters and digits that no other run of the page has. sheets: 3 for the first, middle and last sheet of samples, 1 for
    the last; each takes at most `most` bytes.
    """
    losses, heldout, rows = run.of("loss"), run.of("heldout"), score_rows(run)
    known = [row for row in heldout if number(row, "loss") is not None]
    fids = [row for row in rows if row["metric"] == "fid"]
    picked = sorted({0, len(run.previews) // 2, len(run.previews) - 1}) if run.previews else []
    speeds = series(losses, "images_per_second")[1]
    return {
        "name": name, "key": key, "index": index, "path": str(run.path), "state": state(run),
        "to_score": command("alphabar", "score", run.path, "--against", "SET:test"), "missing": run.missing,
        "recipe": [(k, as_toml(v)) for k, v in run.recipe.items()], "facts": _facts(run.recipe), "data": run.data,
        "machine": run.machine, "machine_words": machine_words(run.machine),
        "speed": statistics.median(speeds) if speeds else None, "fids": len(fids),
        "heldout": finite(known[-1]) if known else None,
        "best_fid": _score(min(fids, key=lambda row: row["value"])) if fids else None,
        "plots": _plots(run, key, losses, heldout, known),
        "previews": [_preview(*run.previews[k], most) for k in picked[-sheets:]], "preview_count": len(run.previews),
        "copies": _copies(run, most),
        "scores": [_score(row) for row in rows], "protocols": _protocols(rows), "checks": _checks(rows),
        "without": without_interval((row["metric"], why) for row in rows if (why := missing_interval(row)) is not None),
        "higher": [TITLES[m] for m in TITLES if m in HIGHER],
    }  # fmt: skip


def _facts(recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = []
    for key, name in FACTS.items():
        if key in recipe:
            value = f"{recipe[key]:g}" if isinstance(recipe[key], float) else str(recipe[key])
            if key == "model.network" and isinstance(channels := recipe.get("model.channels"), list):
                value += f", channels {' / '.join(map(str, channels))}"
            out.append((name, value))
    return out


def _plots(
    run: RunData, key: str, losses: list[dict[str, Any]], heldout: list[dict[str, Any]], known: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """{"title", "plot", "words"} of each plot of what was logged."""
    bands, loss = loss_by_band(heldout), _loss_plot(f"{key}loss", losses, known)
    by_noise = plot(
        f"{key}bands", f"Held-out loss of {len(bands)} bands of noise levels against images seen.",
        [Line(words, x, y, colour=k) for k, (words, x, y) in enumerate(bands)], log_y=True,
    )  # fmt: skip
    words = "The held-out loss is the loss on images that are never trained on." if known else "No held-out loss was logged."
    out = [
        {"title": "Loss", "plot": loss, "words": words},
        {"title": "Held-out loss by noise level", "plot": by_noise, "words": ""},
        {"title": "Distance of features", "plot": _distances(f"{key}frechet", losses), "words": DISTANCES},
    ]
    for metric, title in TITLES.items():
        found = curves(run, metric)
        made = _score_plot(f"{key}{metric.replace('_', '')}", metric, found)
        out.append({"title": title, "plot": made, "words": _bars(metric, found) if made else ""})
    rate = plot(
        f"{key}lr", "Learning rate against images seen.", [Line("", *series(losses, "lr"), thin=True)], size=(380, 140),
        from_zero=True,
    )  # fmt: skip
    return [p for p in [*out, {"title": "Learning rate", "plot": rate, "words": ""}] if p["plot"] is not None]


def _distances(name: str, losses: list[dict[str, Any]]) -> Plot | None:
    found = {words: series(losses, f"frechet_{calls}") for calls, words in ((1, "1 call"), (2, "2 calls"))}
    lines = [Line(words, x, y, colour=k) for k, (words, (x, y)) in enumerate(found.items()) if y]
    ends = [f"{line.label}: from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines]
    alt = f"Fréchet distance of drawn images against images seen. {'. '.join(ends)}."
    return plot(name, alt, lines, log_y=True) if lines else None


def _loss_plot(name: str, losses: list[dict[str, Any]], heldout: list[dict[str, Any]]) -> Plot | None:
    x, y = series(losses, "loss")
    hx, hy = series(heldout, "loss")
    ends = [None if (se := number(row, "se")) is None else (loss - se, loss + se) for row, loss in zip(heldout, hy, strict=True)]
    alt = "Training loss against images seen"
    alt += f": from {y[0]:.3g} to {y[-1]:.3g}" if y else ""
    alt += f". Held-out loss: from {hy[0]:.3g} to {hy[-1]:.3g}" if hy else ""
    lines = [Line("training loss", x, y, colour=0, thin=True), Line("held-out loss ± its standard error", hx, hy, ends, colour=1)]
    return plot(name, f"{alt}.", lines, log_y=True)


def _score_plot(name: str, metric: str, found: list[Curve]) -> Plot | None:
    """A line for each protocol, and its floor as a level."""
    if not found:
        return None
    several, title = len(found) > 1, TITLES[metric]
    lines, levels = [], []
    for k, c in enumerate(found):
        lines.append(Line(f"{title}, {c.protocol}", c.images, c.values, c.intervals, colour=k, markers=True, bars=True))
        if c.floor is not None:
            words = f"{'its floor' if several else FLOOR}, {estimate_words('', c.floor, c.floor_interval)}"
            levels.append(Level(words, c.floor, k if several else None, c.floor_interval))
    last = found[-1]
    end = estimate_words("", last.values[-1], last.intervals[-1])
    alt = f"{title} against images seen, from {sig(last.values[0])} to {end}."
    return plot(name, alt, lines, levels=levels, log_y=metric == "fid", from_zero=metric not in HIGHER)


def _bars(metric: str, found: Sequence[Curve]) -> str:
    """What the bars of a metric are, and why some or all points have none."""
    notes = "; ".join(dict.fromkeys(note for curve in found for note in curve.notes))
    if not any(ends is not None for curve in found for ends in curve.intervals):
        return f"No bars: {notes}." if notes else ""
    bars = f"Bars: {INTERVAL}s, for {INTERVALS[metric]}."
    return f"{bars} A point without one: {notes}." if notes else bars


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


def _copies(run: RunData, most: int) -> dict[str, Any] | None:
    """The result of the last test for copies during training, and the sheet of the nearest pairs that it left."""
    tests = [row for row in run.of("copies") if isinstance(row.get("verdict"), str) and isinstance(row.get("reason"), str)]
    if not tests:
        return None
    seen, sheet = int(number(tests[-1], "images") or 0), Run(run.path).copies
    return {
        "verdict": tests[-1]["verdict"], "reason": tests[-1]["reason"], "images": seen, "tests": len(tests),
        "found": sum(row["verdict"] == "copies found" for row in tests),
        "sheet": _preview(seen, sheet, most) if sheet.exists() else None,
    }  # fmt: skip


def _score(row: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: number(row, name) for name in ("images", "floor", "floor_n", "n", "nfe")}
    return numbers | {
        "metric": TITLES.get(row["metric"], row["metric"]), "value": row["value"], "interval": interval(row),
        "floor_interval": interval(row, "floor_interval"), "words": protocol_words(row),
    }  # fmt: skip


def _checks(rows: list[dict[str, Any]]) -> str | None:
    """The results of `alphabar extractor check` that the scores carry, metric by metric."""
    found = [(row["metric"], row["check_result"]) for row in rows if isinstance(row.get("check_result"), str)]
    return "; ".join(dict.fromkeys(f"{TITLES.get(metric, metric)}: {result}" for metric, result in found)) or None


def _protocols(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each protocol once: what the records of its scores have in common."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(protocol(row)[1:], []).append(row)  # without the metric
    records = ({k: v for k, v in _common(own).items() if k not in NOT_PROTOCOL} for own in groups.values())
    found = zip(groups.values(), records, strict=True)
    return [{"words": protocol_words(own[0]), "scores": len(own), "record": record} for own, record in found]


def _common(rows: Sequence[Any]) -> dict[str, Any]:
    """The keys that have the same value in all rows, also within nested records."""
    out: dict[str, Any] = {}
    for key, value in rows[0].items():
        values = [row.get(key) for row in rows]
        if all(v == value for v in values):
            out[key] = value
        elif all(isinstance(v, dict) for v in values):
            out[key] = _common(values)
    return out
