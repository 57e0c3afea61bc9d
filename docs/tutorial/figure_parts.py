"""Parts that several figures of the tutorial share: a drawn figure, cached samples and scores, tables, rows of images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import alphabar
from alphabar.evaluation.score import Measured

AGAINST = "fashion_mnist:test"
BLUE, ORANGE, GREEN, GREY = "#3563a8", "#c8641e", "#3c8a4f", "#777777"


@dataclass
class Drawn:
    """A figure with its alternative text, its caption, its numbers, and a Markdown table ("" for none)."""

    figure: Figure
    alt: str
    caption: str
    numbers: dict[str, Any] = field(default_factory=dict)
    table: str = ""


@cache
def model() -> Any:
    return alphabar.load_model("bundled")


@cache
def evaluator() -> alphabar.ImageEval:
    return alphabar.ImageEval("bundled", AGAINST)


def drawn(work: Path, n: int, seed: int = 0, **how: Any) -> alphabar.Samples:
    """n images of the bundled model; read from the folder `work` if they were sampled before."""
    name = "-".join(f"{k}_{re.sub(r'[^a-z0-9.]+', '_', str(v))}" for k, v in sorted(how.items()))
    path = work / "samples" / f"{name}-seed{seed}-n{n}.npz"
    if path.exists():
        return alphabar.Samples.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return alphabar.sample(model(), n, seed=seed, batch=128, channels_last=True, out=path, **how)


@cache
def measured(work: Path, n: int, metrics: tuple[str, ...], seed: int, how: tuple[tuple[str, Any], ...]) -> Measured:
    return evaluator().measure(drawn(work, n, seed, **dict(how)), metrics=metrics)


def scored(work: Path, n: int, metrics: tuple[str, ...] = ("fid", "kid"), seed: int = 0, **how: Any) -> Measured:
    """Scores of n images of the bundled model against the 10,000 test images, by the bundled extractor."""
    return measured(work, n, metrics, seed, tuple(sorted(how.items())))


def garments(n: int) -> np.ndarray:
    """n test images, taken from the classes in turn."""
    real = alphabar.load("fashion_mnist", "test")
    labels = np.asarray(real.labels)
    return np.stack([real.pixels[np.flatnonzero(labels == k % 10)[k // 10]] for k in range(n)])


def words(value: float, interval: Sequence[float] | None, digits: int = 2, scale: float = 1.0) -> str:
    """1.31 [1.17, 1.46]"""
    shown = f"{scale * value:.{digits}f}"
    return shown if interval is None else f"{shown} [{scale * interval[0]:.{digits}f}, {scale * interval[1]:.{digits}f}]"


def of(score: Any, digits: int = 2, scale: float = 1.0) -> str:
    return words(score.value, score.interval, digits, scale)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show(axes: Any, image: np.ndarray, title: str = "") -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)


def rows_of(images: Sequence[np.ndarray], labels: Sequence[str], width: float = 7.2) -> Figure:
    """Rows of images with a label to the left of each."""
    columns = len(images[0])
    figure = Figure(figsize=(width, 0.75 * len(images) * width / 7.2 * 8 / columns + 0.1), layout="constrained")
    grid = figure.subplots(len(images), columns, squeeze=False)
    for line, several, label in zip(grid, images, labels, strict=True):
        for axes, image in zip(line, several, strict=True):
            show(axes, image)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def bars(axes: Any, values: Sequence[Any], labels: Sequence[str], colours: Sequence[str], floor: float | None = None) -> None:
    """Horizontal bars of scores with their intervals."""
    for y, (value, colour) in enumerate(zip(values, colours, strict=True)):
        axes.barh(y, value.value, color=colour, height=0.6, alpha=0.85)
        if value.interval is not None:
            axes.plot(value.interval, [y, y], color="black", lw=1.5)
    if floor is not None:
        axes.axvline(floor, color=GREY, ls=":", label="real images (the floor)")
        axes.legend(fontsize=8, frameon=False)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
