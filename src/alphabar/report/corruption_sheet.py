"""The picture of a check: one row per corruption, with its scores against severity and some of its images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.data.contact_sheet import contact_sheet
from alphabar.evaluation.check_result import CheckResult, CorruptionResult, SeverityScores
from alphabar.evaluation.estimate import Estimate
from alphabar.report.figures import save, without_frame

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
        scores = [at.scores[metric] for at in result.severities]
        half = [_half(score) for score in scores]
        x = np.arange(len(scores))
        good = result.ranked[metric]
        own.errorbar(
            x, [s.value for s in scores], half, color=_COLOURS[metric], marker="o", markersize=4, capsize=2,
            linestyle="-" if good else ":",
        )  # fmt: skip
        own.set_ylabel(metric.upper() + ("" if good else ": not ranked"), color=_COLOURS[metric], fontsize=8)
        own.tick_params(labelsize=7)
    axes.set_xticks(np.arange(len(result.severities)), [f"{at.severity:g}" for at in result.severities])
    axes.set_xlabel(result.unit, fontsize=8)
    axes.set_title(result.name, fontsize=9, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _half(score: Estimate) -> float:
    return 0.0 if score.interval is None else (score.interval[1] - score.interval[0]) / 2


def _strip(axes: Any, result: CorruptionResult) -> None:
    """Some images of every severity, side by side."""
    sheets = [np.asarray(contact_sheet(images, columns=3)) for images in result.shown]
    gap = np.full((sheets[0].shape[0], max(2, sheets[0].shape[1] // 20), *sheets[0].shape[2:]), 255, np.uint8)
    strip = np.concatenate([part for sheet in sheets for part in (sheet, gap)][:-1], axis=1)
    axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    wide = sheets[0].shape[1] + gap.shape[1]
    places = [k * wide + sheets[0].shape[1] / 2 for k in range(len(sheets))]
    axes.set_xticks(places, [_label(at) for at in result.severities], fontsize=8)
    axes.set_yticks([])
    without_frame(axes)


def _label(at: SeverityScores) -> str:
    return "none" if not at.rise else f"{at.severity:g}"


def table(check: CheckResult) -> Sequence[tuple[str, str, str, str, str]]:
    """For a printed table: corruption, metric, uncorrupted score, scores by severity, what is wrong (or "ranked")."""
    out = []
    for result in check.corruptions:
        for metric in result.ranked:
            values = ", ".join(f"{at.scores[metric].value:.3g} at {at.severity:g}" for at in result.severities[1:])
            start = f"{result.severities[0].scores[metric].value:.3g}"
            out.append((result.name, metric.upper(), start, values, result.reason(metric) or "ranked"))
    return out
