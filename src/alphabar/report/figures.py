"""Pictures of scores: a card, a comparison, a curve against n. PNG, to be looked at beside the table."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import contact_sheet
from alphabar.evaluation.compare import Comparison
from alphabar.evaluation.heldout import DenoisingLoss
from alphabar.evaluation.measured import CurvePoint
from alphabar.evaluation.score import HIGHER, TITLES, Score
from alphabar.sampling.fitted import Tuned
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import GRIDS, make_grid

_INK, _REAL, _OWN, _GOOD, _BAD = "#333333", "#6b7280", "#1f5fa8", "#17803d", "#b42318"


def draw_card(scores: Sequence[Score], images: Pixels, path: str | Path) -> Path:
    """Each metric with its interval beside what as many real images get, over a sheet of the first images scored."""
    figure, top, below = _page(len(scores), 2.1)
    for axes, score in zip(top, scores, strict=True):
        _pair(axes, score)
    _sheet(below, [images[:24]], [""])
    first = scores[0]
    figure.suptitle(
        f"{first.n:,} images against {first.n_reference:,} of {first.reference_name}; extractor {first.extractor}",
        fontsize=9,
    )
    return _save(figure, path)


def draw_comparison(found: Sequence[Comparison], images: tuple[Pixels, Pixels], names: tuple[str, str], path: str | Path) -> Path:
    """Each metric's difference in units of its own half interval, better to the right, over both sets' first images."""
    figure, top, below = _page(1, 0.6 + 0.38 * len(found))
    axes = top[0]
    for row, c in enumerate(reversed(found)):
        if c.difference.interval is None:
            axes.text(0, row, c.difference.note or "no interval", fontsize=8, ha="center", va="center", color=_REAL)
            continue
        low, high = c.difference.interval
        half = max((high - low) / 2, 1e-300)
        sign = 1 if c.metric in HIGHER else -1
        middle = sign * (high + low) / 2 / half
        colour = {"better": _GOOD, "worse": _BAD}.get(c.verdict, _REAL)
        shown = float(np.clip(middle, -9, 9))  # the axis ends; the number beside it does not
        axes.errorbar([shown], [row], xerr=[1], color=colour, marker="o", markersize=6, capsize=4, linewidth=2)
        axes.text(11.2, row, f"{c.a.value:.4g} against {c.b.value:.4g}: {c.verdict}", fontsize=9, va="center", color=colour)
    axes.axvline(0, color=_INK, linewidth=1)
    axes.set_xlim(-11, 11)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_yticks(range(len(found)), [TITLES[c.metric] for c in reversed(found)])
    axes.set_xlabel(f"{names[1]} is better  ←   difference, 1 = half of its 95 % interval   →  {names[0]} is better", fontsize=9)
    _bare(axes)
    _sheet(below, [images[0][:20], images[1][:20]], list(names))
    a = found[0].a
    noise = "same noise, image by image" if found[0].paired else "unlike noise"
    figure.suptitle(f"{a.n:,} images each ({noise}) against {a.n_reference:,} of {a.reference_name}", fontsize=9)
    return _save(figure, path)


def draw_curve(points: Sequence[CurvePoint], path: str | Path, limit: Score | None = None) -> Path:
    """Each metric against 1/n, with intervals, the floor, and FID-infinity (`limit`) at 1/n = 0."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(p.metric for p in points))
    figure = Figure(figsize=(5.2 * len(metrics), 3.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        own = [p for p in points if p.metric == metric]
        x = [1 / p.n for p in own]
        _errors(axes, x, [p.value for p in own], [p.one.interval for p in own], [p.one.value for p in own], _OWN, TITLES[metric])
        real = [p for p in own if p.floor is not None]
        _errors(
            axes, [1 / p.n for p in real], [p.floor.value for p in real if p.floor], [p.floor.interval for p in real if p.floor],
            [p.floor.value for p in real if p.floor], _REAL, "real images (floor)",
        )  # fmt: skip
        if metric == "fid" and limit is not None:
            _errors(axes, [0], [limit.value], [limit.interval], [limit.value], _GOOD, f"FID-infinity {limit.value:.4g}")
        axes.set_xlim(-0.03 * max(x), 1.05 * max(x))
        axes.set_xticks([0, *x], ["∞", *(f"{p.n:,}" for p in own)], fontsize=7, rotation=45)
        axes.set_xlabel("images n (axis in 1/n)", fontsize=9)
        axes.set_title(TITLES[metric], fontsize=10, loc="left")
        axes.legend(fontsize=8, frameon=False)
        _bare(axes)
    return _save(figure, path)


def draw_losses(found: DenoisingLoss, path: str | Path) -> Path:
    """The loss by noise level of held-out and trained images, and the gap between them with its intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for values, colour, label in ((found.heldout, _OWN, "held out"), (found.train, _REAL, "trained on")):
        if values is not None:
            numbers = [v.value for v in values]
            _errors(left, found.sigma, numbers, [v.interval for v in values], numbers, colour, label)
    left.set_yscale("log")
    left.set_title("mean squared error of x0_hat a pixel", fontsize=10, loc="left")
    left.legend(fontsize=8, frameon=False)
    if found.gap is not None:
        numbers = [v.value for v in found.gap]
        _errors(right, found.sigma, numbers, [v.interval for v in found.gap], numbers, _OWN, "")
        right.axhline(0, color=_INK, linewidth=1)
        right.set_title("held out less trained on, with 95 % intervals", fontsize=10, loc="left")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("sigma", fontsize=9)
        _bare(axes)
    figure.suptitle(f"relative gap over all levels {found.relative_gap}" if found.relative_gap else "", fontsize=9)
    return _save(figure, path)


def _errors(
    axes: Any,
    x: Sequence[float],
    y: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    centres: Sequence[float],
    colour: str,
    label: str,
) -> None:
    """Points with the intervals of `centres`, moved along to y."""
    pairs = [(c, c) if i is None else i for c, i in zip(centres, intervals, strict=True)]
    down = [max(c - i[0], 0.0) for c, i in zip(centres, pairs, strict=True)]
    up = [max(i[1] - c, 0.0) for c, i in zip(centres, pairs, strict=True)]
    axes.errorbar(x, y, [down, up], color=colour, marker="o", markersize=4, capsize=3, linewidth=1.2, label=label)


def draw_lengths(scores: Mapping[float, Score], last: Score, path: str | Path) -> Path:
    """A score over the length of the weights' average, with intervals, beside that of the average the run samples with."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    x = sorted(scores)
    values = [scores[k].value for k in x]
    _errors(axes, x, values, [scores[k].interval for k in x], values, _OWN, "average of that length")
    axes.axhline(last.value, color=_REAL, linewidth=1.5, label="the run's own average")
    if last.interval is not None:
        axes.axhspan(*last.interval, color=_REAL, alpha=0.15, linewidth=0)
    axes.set_xlabel("relative length of the average", fontsize=9)
    axes.set_title(f"{TITLES[last.metric]}, {last.n:,} images, 95 % intervals", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False)
    _bare(axes)
    return _save(figure, path)


def draw_levels(fit: Tuned, schedule: Schedule, path: str | Path) -> Path:
    """Where a fitted sampler spends its calls, beside the standard grids: levels over the number of the call, log scale.

    Also its fresh noise, where it has any; a grid that has not so many steps is left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    calls = range(1, fit.calls + 1)
    for name in GRIDS:
        try:
            levels = make_grid(schedule, fit.calls, name)[:-1].tolist()
        except ValueError:  # a grid of integer timesteps, or more steps than there are
            continue
        axes.plot(calls, levels, linewidth=1.1, marker=".", markersize=4, alpha=0.8, label=name)
    axes.plot(calls, fit.sigmas, color="#111111", linewidth=2.2, marker="o", markersize=6, label=f"fitted ({fit.name})")
    if fit.stochastic:
        noisy = [(k, c) for k, c in zip(calls, fit.fresh, strict=True) if c > 0]
        axes.plot(
            *zip(*noisy, strict=True), color="#b42318", linestyle=":", marker="x", markersize=5, label="fresh noise after it"
        )
    axes.set_yscale("log")
    axes.set_xlabel("call")
    axes.set_ylabel("sigma, as the network is told it")
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"{fit.calls} calls, fitted to model {fit.model}", fontsize=9, loc="left")
    return _save(figure, path)


def _page(columns: int, height: float) -> tuple[Any, list[Any], Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height + 2.4), layout="constrained")
    grid = figure.add_gridspec(2, columns, height_ratios=(height, 2.2))
    return figure, [figure.add_subplot(grid[0, k]) for k in range(columns)], figure.add_subplot(grid[1, :])


def _pair(axes: Any, score: Score) -> None:
    """One metric of a card: the images' value and the real images', each with its interval."""
    rows = [("images", score.value, score.interval, _OWN), ("real", score.floor, score.floor_interval, _REAL)]
    for k, (_, value, interval, colour) in enumerate(rows):
        if value is None:
            continue
        _errors(axes, [k], [value], [interval], [value], colour, "")
        axes.annotate(f"{value:.3g}", (k, value), textcoords="offset points", xytext=(7, -3), fontsize=8, color=colour)
    axes.set_xlim(-0.5, 1.9)
    axes.set_xticks([0, 1], [name for name, *_ in rows], fontsize=8)
    axes.set_title(TITLES[score.metric], fontsize=9, loc="left")
    axes.text(
        0,
        -0.24,
        "higher is better" if score.metric in HIGHER else "lower is better",
        fontsize=7,
        color=_REAL,
        transform=axes.transAxes,
    )
    axes.tick_params(labelsize=7)
    _bare(axes)


def _sheet(axes: Any, sets: Sequence[Pixels], names: Sequence[str]) -> None:
    """Rows of images, a set a row (or two), named at the left."""
    columns = max(1, min(12 if len(sets) == 1 else 20, len(sets[0])))
    sheets = [np.asarray(contact_sheet(np.asarray(images), columns=columns)) for images in sets]
    axes.imshow(np.concatenate(sheets), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    starts = np.cumsum([0] + [s.shape[0] for s in sheets])
    axes.set_yticks([(a + b) / 2 for a, b in pairwise(starts)], names, fontsize=9)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _bare(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Any, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})
    return path
