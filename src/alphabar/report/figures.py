"""PNG figures of scores and losses: a card, a comparison, curves, and the noise levels of a fitted sampler."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core.files import replacing
from alphabar.core.messages import as_path
from alphabar.core.outputs import SOFTWARE, check_output
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import contact_sheet, levels_of, shown, shown_note
from alphabar.evaluation.check_result import CheckResult, CorruptionResult
from alphabar.evaluation.compare import Comparison
from alphabar.evaluation.estimate import Estimate
from alphabar.evaluation.heldout import DenoisingLoss
from alphabar.evaluation.likelihood import Likelihood
from alphabar.evaluation.score import HIGHER, TITLES, CurvePoint, Score, in_order
from alphabar.report.words import FLOOR, INTERVAL, as_drawn
from alphabar.sampling.fitted import Tuned
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import GRIDS, make_grid

_BLACK, _REAL, _MAIN, _GOOD, _BAD = "#333333", "#6b7280", "#1f5fa8", "#17803d", "#b42318"


def draw_card(scores: Sequence[Score], images: Pixels, path: str | Path, real: NDArray[Any] | None = None) -> Path:
    """Each metric with its interval next to that of as many real images, above a sheet of the first scored and real images."""
    scores = in_order(scores)
    figure, top, below = _with_sheet(len(scores), 2.1)
    for axes, score in zip(top, scores, strict=True):
        sides = [(0, score.estimate, _MAIN)]
        if score.floor is not None:
            sides.append((1, Estimate(score.floor, interval=score.floor_interval), _REAL))
        for x, estimate, colour in sides:
            _estimates(axes, [x], [estimate], colour)
            at = (x, estimate.value)
            axes.annotate(f"{estimate.value:.3g}", at, textcoords="offset points", xytext=(7, -3), fontsize=8, color=colour)
        axes.set_xlim(-0.5, 1.9)
        axes.set_xticks([0, 1], ["images", "real"], fontsize=8)
        better = "higher is better" if score.metric in HIGHER else "lower is better"
        axes.text(0, -0.24, better, fontsize=7, color=_REAL, transform=axes.transAxes)
        axes.tick_params(labelsize=7)
        _finish(axes, TITLES[score.metric], fontsize=9)
    _sheet(below, {"images": images[:24]} | ({} if real is None else {"real": real[:12]}), 12)
    first = scores[0]
    about = f"{first.n:,} images against {first.n_reference:,} real images, {first.reference_name}; extractor {first.extractor}"
    about += f"\n{INTERVAL}s over draws of images, not over trainings"
    figure.suptitle(about, fontsize=9)
    return save(figure, path)


def draw_comparison(
    found: Sequence[Comparison], images: tuple[Pixels, Pixels], names: tuple[str, str], path: str | Path,
    real: NDArray[Any] | None = None,
) -> Path:  # fmt: skip
    """The difference of each metric in units of half its interval, to the right the first set is better, above both sets and
    real images."""
    figure, (axes,), below = _with_sheet(1, 0.6 + 0.38 * len(found))
    reach = 2.0
    for row, c in enumerate(reversed(found)):
        if c.difference.interval is None:
            axes.text(0, row, c.difference.note or "no interval", fontsize=8, ha="center", va="center", color=_REAL)
            continue
        low, high = c.difference.interval
        half = max((high - low) / 2, 1e-300)
        middle = (1 if c.metric in HIGHER else -1) * (high + low) / 2 / half
        colour = {"better": _GOOD, "worse": _BAD}.get(c.verdict, _REAL)
        within = float(np.clip(middle, -999, 999))  # an interval of no width; the text has the values
        reach = max(reach, abs(within) + 1)
        axes.errorbar([within], [row], xerr=[1], color=colour, marker="o", markersize=6, capsize=4, linewidth=2)
        words = f"{c.a.value:.4g} against {c.b.value:.4g}: {c.verdict}"
        axes.text(1.01, row, words, fontsize=9, va="center", color=colour, transform=axes.get_yaxis_transform())
    axes.axvline(0, color=_BLACK, linewidth=1)
    axes.set_xlim(-1.15 * reach, 1.15 * reach)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_yticks(range(len(found)), [TITLES[c.metric] for c in reversed(found)])
    axes.set_xlabel(f"{names[1]} is better  ←   difference, 1 = half of its {INTERVAL}   →  {names[0]} is better", fontsize=9)
    _finish(axes)
    sets = {names[0]: images[0][:20], names[1]: images[1][:20]}
    _sheet(below, sets | ({} if real is None else {"real": real[:20]}), 20)
    a = found[0].a
    noise = "same noise, image by image" if found[0].paired else "different noise"
    figure.suptitle(f"{a.n:,} images each ({noise}) against {a.n_reference:,} real images, {a.reference_name}", fontsize=9)
    return save(figure, path)


def draw_curve(points: Sequence[CurvePoint], path: str | Path, limit: Score | None = None) -> Path:
    """Each metric against 1/n, with intervals, the floor, and FID-infinity (`limit`) at 1/n = 0."""
    metrics = list(dict.fromkeys(p.metric for p in points))
    figure, plots = _plots(len(metrics), (5.2 * len(metrics), 3.6))
    for axes, metric in zip(plots, metrics, strict=True):
        own = [p for p in points if p.metric == metric]
        x = [1 / p.n for p in own]
        _estimates(axes, x, [p.one for p in own], _MAIN, TITLES[metric], [p.value for p in own])
        floors = {1 / p.n: p.floor for p in own if p.floor is not None}
        _estimates(axes, list(floors), list(floors.values()), _REAL, FLOOR)
        if metric == "fid" and limit is not None:
            _estimates(axes, [0], [limit.estimate], _GOOD, f"FID-infinity {limit.value:.4g}")
        axes.set_xlim(-0.03 * max(x), 1.05 * max(x))
        axes.set_xticks([0, *x], ["∞", *(f"{p.n:,}" for p in own)], fontsize=7, rotation=45)
        _finish(axes, TITLES[metric], "images n (axis in 1/n)", legend=True)
    return save(figure, path)


def draw_losses(found: DenoisingLoss, path: str | Path) -> Path:
    """The denoising loss of held-out and trained images by noise level, and the difference with its intervals."""
    figure, (left, right) = _plots(2, (10, 3.6))
    _estimates(left, found.sigma, found.heldout, _MAIN, "held out")
    if found.train is not None:
        _estimates(left, found.sigma, found.train, _REAL, "trained on")
    left.set_yscale("log")
    _finish(left, "mean squared error of x0_hat a pixel", "sigma", legend=True)
    if found.gap is not None:
        _estimates(right, found.sigma, found.gap, _MAIN)
        right.axhline(0, color=_BLACK, linewidth=1)
    _finish(right, "" if found.gap is None else f"held out minus trained on, with {INTERVAL}s", "sigma")
    for axes in (left, right):
        axes.set_xscale("log")
    figure.suptitle(f"relative gap over all levels {found.relative_gap}" if found.relative_gap else "", fontsize=9)
    return save(figure, path)


def draw_bits(found: Likelihood, path: str | Path, shown: int = 8) -> Path:
    """How many bits per dimension the images need: their distribution, and the images that need the fewest and the most."""
    figure, (axes,), below = _with_sheet(1, 4.6)
    kinds = (
        ("probability-flow ODE", found.ode, found.ode_bits, _MAIN),
        ("variational bound", found.bound, found.bound_bits, _REAL),
    )
    for name, mean, bits, colour in kinds:
        if mean is not None and bits is not None:
            axes.hist(bits, bins=min(40, max(5, len(bits) // 5)), color=colour, alpha=0.5, label=f"{name} {mean}")
    _finish(axes, f"{found.n:,} images", "bits per dimension", legend=True)
    bits = found.ode_bits if found.ode_bits is not None else found.bound_bits
    order = np.argsort(bits if bits is not None else np.zeros(found.n), kind="stable")
    sets = {"fewest bits": found.pixels[order[:shown]], "most bits": found.pixels[order[::-1][:shown]]}
    _sheet(below, sets, min(shown, found.n))
    return save(figure, path)


def draw_lengths(scores: Mapping[float, Score], last: Score, path: str | Path) -> Path:
    """A score against the length of the average of the weights, with intervals, and that of the average the run samples with."""
    figure, (axes,) = _plots(1, (6.4, 3.8))
    x = sorted(scores)
    _estimates(axes, x, [scores[k].estimate for k in x], _MAIN, "average of that length")
    axes.axhline(last.value, color=_REAL, linewidth=1.5, label="the average that the run samples with")
    if last.interval is not None:
        axes.axhspan(*last.interval, color=_REAL, alpha=0.15, linewidth=0)
    title = f"{TITLES[last.metric]}, {last.n:,} images, {INTERVAL}s"
    _finish(axes, title, "relative length of the average", legend=True)
    return save(figure, path)


def draw_levels(fit: Tuned, schedule: Schedule, path: str | Path) -> Path:
    """The noise levels of a fitted sampler and of the standard grids that have so many steps, and the fitted fresh noise."""
    figure, (axes,) = _plots(1, (7.2, 4.4))
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
        axes.plot(*zip(*noisy, strict=True), color=_BAD, linestyle=":", marker="x", markersize=5, label="fresh noise after it")
    axes.set_yscale("log")
    axes.set_ylabel("sigma")
    _finish(axes, f"{fit.calls} calls, fitted to model {fit.model}", "call", legend=True)
    return save(figure, path)


def _plots(columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure with plots side by side. size: width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _with_sheet(columns: int, height: float) -> tuple[Any, list[Any], Any]:
    """A figure with plots side by side, `height` inches high, above one plot over the whole width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height + 2.4), layout="constrained")
    grid = figure.add_gridspec(2, columns, height_ratios=(height, 2.2))
    return figure, [figure.add_subplot(grid[0, k]) for k in range(columns)], figure.add_subplot(grid[1, :])


def _estimates(
    axes: Any, x: Sequence[float], estimates: Sequence[Estimate], colour: str, label: str = "",
    y: Sequence[float] | None = None, line: str = "-",
) -> None:  # fmt: skip
    """Points with their intervals; y: other positions of the points, to which the intervals are moved."""
    ends = [(e.value, e.value) if e.interval is None else e.interval for e in estimates]
    down = [max(e.value - low, 0.0) for e, (low, _) in zip(estimates, ends, strict=True)]
    up = [max(high - e.value, 0.0) for e, (_, high) in zip(estimates, ends, strict=True)]
    values = [e.value for e in estimates] if y is None else y
    style = {"color": colour, "marker": "o", "markersize": 4, "capsize": 3, "linewidth": 1.2, "linestyle": line}
    axes.errorbar(x, values, [down, up], label=label, **style)


def _sheet(axes: Any, sets: Mapping[str, NDArray[Any]], columns: int) -> None:
    """Contact sheets of the sets, one below the other, with their names at the left, all with the levels of those called real."""
    pixels = [np.asarray(images) for images in sets.values()]
    levels, columns = levels_of(*([sets["real"]] if "real" in sets else pixels)), max(1, min(columns, len(pixels[0])))
    sheets = [np.asarray(contact_sheet(shown(images, levels), columns=columns)) for images in pixels]
    axes.set_xlabel("\n".join(dict.fromkeys(filter(None, (shown_note(images, levels) for images in pixels)))), fontsize=8)
    axes.imshow(np.concatenate(sheets), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    starts = np.cumsum([0] + [s.shape[0] for s in sheets])
    axes.set_yticks([(a + b) / 2 for a, b in pairwise(starts)], [as_drawn(name) for name in sets], fontsize=9)
    axes.set_xticks([])
    without_frame(axes)


def without_frame(axes: Any) -> None:
    """Removes the frame and the tick marks around an image."""
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _finish(axes: Any, title: str = "", x_label: str = "", *, legend: bool = False, fontsize: int = 10) -> None:
    """Title, label and legend; no frame at the top and the right."""
    if title:
        axes.set_title(title, fontsize=fontsize, loc="left")
    if x_label:
        axes.set_xlabel(x_label, fontsize=9)
    if legend:
        axes.legend(fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: Any, path: str | Path, dpi: int = 100) -> Path:
    """Writes a figure as a PNG without version or date, so that equal figures are equal files. Raises as `check_output`."""
    from matplotlib.text import Text

    path = as_path(path)
    check_output(path, "picture")
    for text in figure.findobj(Text):
        text.set_text(as_drawn(text.get_text()))
    with warnings.catch_warnings(), replacing(path) as part:
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a name in a script that the font lacks
        figure.savefig(part, format="png", dpi=dpi, metadata=SOFTWARE)
    return path


_COLOURS = {"fid": "#1f5fa8", "kid": "#b4530a"}


def draw_check(check: CheckResult, path: str | Path) -> Path:
    """Writes a PNG of all corruptions: FID (left axis) and KID (right axis) with 95 % intervals, uncorrupted images first."""
    from matplotlib.figure import Figure

    rows = len(check.corruptions)
    if rows == 0:
        raise ValueError("this check tested no corruption, so there is nothing to draw")
    figure = Figure(figsize=(15, 0.6 + 2.15 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2, width_ratios=(1, 2.4))
    for row, result in enumerate(check.corruptions):
        _curves(figure.add_subplot(grid[row, 0]), result)
        _strip(figure.add_subplot(grid[row, 1]), result)
    figure.suptitle(
        f"extractor {check.name} ({check.extractor}) against {check.reference_name}: {check.verdict}", fontsize=11, wrap=True
    )
    return save(figure, path, dpi=80)


def _curves(axes: Any, result: CorruptionResult) -> None:
    for k, metric in enumerate(result.severities[0].scores):
        own = axes if k == 0 else axes.twinx()
        scores, good = [at.scores[metric] for at in result.severities], result.ranked[metric]
        _estimates(own, range(len(scores)), scores, _COLOURS[metric], line="-" if good else ":")
        own.set_ylabel(metric.upper() + ("" if good else ": not ranked"), color=_COLOURS[metric], fontsize=8)
        own.tick_params(labelsize=7)
    axes.set_xticks(np.arange(len(result.severities)), [f"{at.severity:g}" for at in result.severities])
    axes.set_xlabel(result.unit, fontsize=8)
    _finish(axes, result.name, fontsize=9)


def _strip(axes: Any, result: CorruptionResult) -> None:
    """Some images of every severity, side by side."""
    levels = levels_of(result.shown[0])
    sheets = [np.asarray(contact_sheet(shown(images, levels), columns=3)) for images in result.shown]
    gap = np.full((sheets[0].shape[0], max(2, sheets[0].shape[1] // 20), *sheets[0].shape[2:]), 255, np.uint8)
    strip = np.concatenate([part for sheet in sheets for part in (sheet, gap)][:-1], axis=1)
    axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    wide = sheets[0].shape[1] + gap.shape[1]
    places = [k * wide + sheets[0].shape[1] / 2 for k in range(len(sheets))]
    axes.set_xticks(places, [f"{at.severity:g}" if at.rise else "none" for at in result.severities], fontsize=8)
    axes.set_yticks([])
    without_frame(axes)


def check_table(check: CheckResult) -> Sequence[tuple[str, str, str, str, str]]:
    """For a printed table: corruption, metric, uncorrupted score, scores by severity, what is wrong (or "ranked")."""
    out = []
    for result in check.corruptions:
        for metric in result.ranked:
            values = ", ".join(f"{at.scores[metric].value:.3g} at {at.severity:g}" for at in result.severities[1:])
            start = f"{result.severities[0].scores[metric].value:.3g}"
            out.append((result.name, metric.upper(), start, values, result.reason(metric) or "ranked"))
    return out
