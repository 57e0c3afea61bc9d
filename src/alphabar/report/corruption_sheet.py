"""The picture of a check: a row a ladder, its scores against strength, and what the images looked like."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import contact_sheet
from alphabar.data.values import scale_of
from alphabar.evaluation.corruption_check import Check, Ladder, Rung
from alphabar.evaluation.estimate import Estimate

_COLOURS = {"fid": "#1f5fa8", "kid": "#b4530a"}


def draw_check(check: Check, path: str | Path) -> Path:
    """Writes a PNG of all ladders: FID (left axis) and KID (right axis) with 95 % intervals, undamaged images first."""
    from matplotlib.figure import Figure

    rows = len(check.ladders)
    if rows == 0:
        raise ValueError("this check ran no ladder, so there is nothing to draw")
    figure = Figure(figsize=(15, 0.6 + 2.15 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2, width_ratios=(1, 2.4))
    for row, ladder in enumerate(check.ladders):
        _curves(figure.add_subplot(grid[row, 0]), ladder)
        _strip(figure.add_subplot(grid[row, 1]), ladder)
    figure.suptitle(
        f"extractor {check.name} ({check.extractor}) against {check.reference_name}: {check.verdict}", fontsize=11, wrap=True
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=80, metadata={"Software": None})
    return path


def _curves(axes: Any, ladder: Ladder) -> None:
    for k, metric in enumerate(ladder.rungs[0].scores):
        own = axes if k == 0 else axes.twinx()
        scores = [rung.scores[metric] for rung in ladder.rungs]
        half = [_half(score) for score in scores]
        x = np.arange(len(scores))
        good = ladder.ranked[metric]
        own.errorbar(
            x, [s.value for s in scores], half, color=_COLOURS[metric], marker="o", markersize=4, capsize=2,
            linestyle="-" if good else ":",
        )  # fmt: skip
        own.set_ylabel(metric.upper() + ("" if good else ": not ranked"), color=_COLOURS[metric], fontsize=8)
        own.tick_params(labelsize=7)
    axes.set_xticks(np.arange(len(ladder.rungs)), [f"{rung.strength:g}" for rung in ladder.rungs])
    axes.set_xlabel(ladder.unit, fontsize=8)
    axes.set_title(ladder.name, fontsize=9, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _half(score: Estimate) -> float:
    return 0.0 if score.interval is None else (score.interval[1] - score.interval[0]) / 2


def _strip(axes: Any, ladder: Ladder) -> None:
    """A small sheet of every rung, side by side."""
    sheets = [np.asarray(contact_sheet(_grey_or_rgb(images), columns=3)) for images in ladder.shown]
    gap = np.full((sheets[0].shape[0], max(2, sheets[0].shape[1] // 20), *sheets[0].shape[2:]), 255, np.uint8)
    strip = np.concatenate([part for sheet in sheets for part in (sheet, gap)][:-1], axis=1)
    axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    wide = sheets[0].shape[1] + gap.shape[1]
    places = [k * wide + sheets[0].shape[1] / 2 for k in range(len(sheets))]
    axes.set_xticks(places, [_label(rung) for rung in ladder.rungs], fontsize=8)
    axes.set_yticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label(rung: Rung) -> str:
    return "none" if not rung.rise else f"{rung.strength:g}"


def _grey_or_rgb(images: Pixels) -> Pixels:
    """8 bit, to be looked at; of any number of channels but 3, the first."""
    shown = images if images.shape[3] in (1, 3) else images[..., :1]
    if shown.dtype == np.uint8:
        return shown
    return np.rint(shown.astype(np.float64) / scale_of(shown.dtype) * 255).astype(np.uint8)


def table(check: Check) -> Sequence[tuple[str, str, str, str, str]]:
    """For a printed table: ladder, metric, undamaged, scores by strength, what is wrong (or "ranked")."""
    out = []
    for ladder in check.ladders:
        for metric in ladder.ranked:
            values = ", ".join(f"{rung.scores[metric].value:.3g} at {rung.strength:g}" for rung in ladder.rungs[1:])
            start = f"{ladder.rungs[0].scores[metric].value:.3g}"
            out.append((ladder.name, metric.upper(), start, values, ladder.reason(metric) or "ranked"))
    return out
