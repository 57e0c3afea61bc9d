"""The figures of the tutorial, one command each, and the captions under them.

    python docs/tutorial/make_figures.py noising
    python docs/tutorial/make_figures.py all
    python docs/tutorial/make_figures.py experiments --experiment experiments     # of docs/experiments.md: the folder of all four

Draws docs/tutorial/figures/NAME.png, keeps its numbers and its caption in NAME.json beside it, and puts both into the chapter
or page that shows the figure. Samples are kept in the folder of --work, so that a figure drawn again draws no image again.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import alphabar
from alphabar.core.machine import machine
from alphabar.core.seeds import starting_noise
from alphabar.data.images import to_model, to_pixels
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.corruption_check import check
from alphabar.evaluation.estimate import over_seeds
from alphabar.evaluation.measured import Measured
from alphabar.evaluation.score import TITLES
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.schedule.base import Scaled, Schedule
from alphabar.schedule.noising import add_noise, alphabar_of

HERE = Path(__file__).parent
PAGES = (*sorted(HERE.glob("*.md")), HERE.parent / "experiments.md")  # that show figures
AGAINST = "fashion_mnist:test"
BLUE, ORANGE, GREEN, GREY = "#3563a8", "#c8641e", "#3c8a4f", "#777777"


@dataclass
class Drawn:
    """A figure, what stands under it, and its numbers. table: a table in Markdown, or ""."""

    figure: Figure
    alt: str
    caption: str
    numbers: dict[str, Any] = field(default_factory=dict)
    table: str = ""


# ---- what several figures take


@cache
def model() -> Any:
    return alphabar.load_model("bundled")


@cache
def ruler() -> alphabar.ImageEval:
    return alphabar.ImageEval("bundled", AGAINST)


def drawn(work: Path, n: int, seed: int = 0, **how: Any) -> alphabar.Samples:
    """n images of the bundled model, from the folder of --work where they are there already."""
    told = "-".join(f"{k}_{re.sub(r'[^a-z0-9.]+', '_', str(v))}" for k, v in sorted(how.items()))
    path = work / "samples" / f"{told}-seed{seed}-n{n}.npz"
    if path.exists():
        return alphabar.Samples.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return alphabar.sample(model(), n, seed=seed, batch=128, channels_last=True, out=path, **how)


@cache
def measured(work: Path, n: int, metrics: tuple[str, ...], seed: int, how: tuple[tuple[str, Any], ...]) -> Measured:
    return ruler().measure(drawn(work, n, seed, **dict(how)), metrics=metrics)


def scored(work: Path, n: int, metrics: tuple[str, ...] = ("fid", "kid"), seed: int = 0, **how: Any) -> Measured:
    """Scores of such images against the 10,000 test images, by the bundled extractor."""
    return measured(work, n, metrics, seed, tuple(sorted(how.items())))


def garments(n: int) -> np.ndarray:
    """The first test image of each of n classes, in turns."""
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
    """Rows of images, each with its name to the left."""
    columns = len(images[0])
    figure = Figure(figsize=(width, 0.75 * len(images) * width / 7.2 * 8 / columns + 0.1), layout="constrained")
    grid = figure.subplots(len(images), columns, squeeze=False)
    for line, several, label in zip(grid, images, labels, strict=True):
        for axes, image in zip(line, several, strict=True):
            show(axes, image)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def bars(axes: Any, values: Sequence[Any], labels: Sequence[str], colours: Sequence[str], floor: float | None = None) -> None:
    """Scores with their intervals, one a line."""
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


# ---- the figures


def noising(work: Path, image_set: str = "fashion_mnist") -> Drawn:
    """Real garments under rising noise, as a network sees them."""
    sigmas = [0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 79.0]
    pixels = garments(4) if image_set == "fashion_mnist" else np.asarray(alphabar.load(image_set, "test").pixels[:4])
    x0 = to_model(pixels)
    noise = starting_noise(0, range(len(x0)), tuple(x0.shape[1:]))
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    grid = figure.subplots(len(x0), len(sigmas))
    shares = []
    for column, sigma in enumerate(sigmas):
        share = float(alphabar_of(torch.tensor(sigma, dtype=torch.float64)))
        shares.append(share)
        seen = add_noise(x0, torch.full((len(x0),), sigma), noise) * share**0.5  # the network's input
        for row, image in enumerate(to_pixels(seen.clamp(-1, 1))):
            show(grid[row, column], image, f"sigma {sigma:g}\nalphabar {share:.2g}" if row == 0 else "")
    named = (
        "a T-shirt, trousers, a pullover and a dress of the Fashion-MNIST test images"
        if image_set == "fashion_mnist"
        else image_set
    )
    return Drawn(
        figure,
        "four images in seven columns of rising noise",
        f"One noise an image (seed 0), seven levels: {named}, as the network sees them, sqrt(alphabar) x, cut to -1..1 for "
        f"the eye.",
        {"sigma": sigmas, "alphabar": shares},
    )


def range_corruption(work: Path, n: int = 896) -> Drawn:
    """FID of real garments that lose a share of their range."""
    (found,) = check("bundled", AGAINST, n=n, corruptions=["range"], progress=True).corruptions
    scores = [r.scores["fid"] for r in found.severities]
    strengths = [r.severity for r in found.severities]
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    axes = top.subplots()
    below = [[s.value - s.interval[0], s.interval[1] - s.value] if s.interval else [0, 0] for s in scores]
    axes.errorbar(strengths, [s.value for s in scores], np.array(below).T, marker="o", color=BLUE, capsize=3)
    axes.set(
        xlabel="share of the range that is lost (0.5: -0.5..0.5 written as if it were -1..1)",
        ylabel=f"FID, {n:,} images",
        yscale="log",
    )
    axes.spines[["top", "right"]].set_visible(False)
    for axes, severity, images in zip(bottom.subplots(1, len(strengths)), strengths, found.shown, strict=True):
        show(axes, images[0], f"{severity:g}")
    return Drawn(
        figure,
        "FID rising with the share of the range that is lost, and one garment at every share",
        f"FID of {n:,} real garments of the training images against the 10,000 test images as their range shrinks, with 95 "
        f"% intervals. Nothing "
        "but the range is wrong with these pictures.",
        {"n": n, "lost": strengths, "fid": [s.to_json() for s in scores]},
        table(["share lost", *(f"{s:g}" for s in strengths)], [["FID", *(of(s) for s in scores)]]),
    )


def _finished(folder: Path) -> dict[str, Any]:
    """Scores of every variant and seed of an experiment, and how it was told."""
    if not (folder / "rows").is_dir():
        raise SystemExit(f"no experiment in {folder}: alphabar experiment {HERE / 'short.toml'} --out {folder}")
    told = json.loads((folder / "experiment.json").read_text())
    rows = [json.loads(p.read_text()) for p in sorted((folder / "rows").glob("*.json"))]
    by = {(r["variant"], r["seed"]): {s["metric"]: s for s in r["scores"]} for r in rows}
    minutes = sum(r["seconds"] for r in rows) / 60
    return {"told": told, "by": by, "rows": rows, "minutes": minutes}


def trained(work: Path, experiment: Path, pairs: Sequence[tuple[str, str]], names: dict[str, str]) -> Drawn:
    """Scores of trained variants, seed by seed, and what their differences decide. pairs: (a, b), a less b."""
    found = _finished(experiment)
    told, metric = found["told"], found["told"]["metric"]
    scale, unit = (1000.0, "KID x 1000") if metric == "kid" else (1.0, "FID")
    shown = [v for v in names if any(v == k for k, _ in found["by"])]
    seeds = sorted({s for _, s in found["by"]})
    values = {v: [scale * found["by"][v, s][metric]["value"] for s in seeds] for v in shown}
    figure = Figure(figsize=(7.2, 0.55 * len(shown) + 1.0), layout="constrained")
    axes = figure.subplots()
    for y, v in enumerate(shown):
        axes.plot(values[v], [y] * len(seeds), "o", color=BLUE, alpha=0.7)
        axes.plot([np.mean(values[v])] * 2, [y - 0.25, y + 0.25], color="black")
    axes.set_yticks(range(len(shown)), [names[v] for v in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=f"{unit} (a dot a training, a stroke their mean; left is better)", ylim=(len(shown) - 0.5, -0.5))
    axes.spines[["top", "right"]].set_visible(False)
    decided, rows = {}, []
    for a, b in pairs:
        gap = over_seeds([x - y for x, y in zip(values[a], values[b], strict=True)])
        low, high = gap.interval or (-np.inf, np.inf)
        verdict = "not decided" if low <= 0 <= high else ("worse" if low > 0 else "better")
        decided[f"{a} less {b}"] = {**gap.to_json(), "verdict": verdict}
        rows.append(
            [
                f"{names[a]} less {names[b]}",
                words(gap.value, gap.interval),
                verdict if verdict == "not decided" else f"the first is {verdict}",
            ]
        )
    images, n = told["budget"]["images"], told["scoring"]["n"]
    return Drawn(
        figure,
        f"{unit} of {len(shown)} trained variants",
        f"{len(shown)} variants of a {'tiny ' if told['name'] == 'short' else ''}network, {len(seeds)} seeds each, "
        f"{images:,} images seen in every "
        f"training ({found['minutes']:.0f} minutes for all {len(found['rows'])} trainings of the experiment); {n:,} samples "
        f"of each, DDIM with "
        f"{told['scoring']['steps']} calls, against the 10,000 test images. Intervals are Student's over {len(seeds)} seeds.",
        {
            "values": values,
            "differences": decided,
            "training_minutes": found["minutes"],
            "trained_on": found["rows"][0]["machine"]["cpu"],
        },
        table(["difference", f"{unit}, with 95 % interval", "so"], rows),
    )


def schedules(work: Path) -> Drawn:
    """What is left of the image along three schedules, and of images in half the range."""
    known: dict[str, tuple[Schedule, str, str]] = {
        "linear, beta to 0.02": (alphabar.Linear(), BLUE, "-"),
        "the same, input in -0.5..0.5": (Scaled(alphabar.Linear(), 0.5), BLUE, "--"),
        "linear, beta to 0.01": (alphabar.Linear(beta_max=0.01), ORANGE, "-"),
        "cosine": (alphabar.Cosine(), GREEN, "-"),
    }
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    left, right = top.subplots(1, 2)
    strip = bottom.subplots(len(known), 9)
    x0 = to_model(garments(9)[8:9])  # a bag
    noise = starting_noise(0, [0], tuple(x0.shape[1:]))
    rows, numbers = [], {}
    for line, (name, (schedule, colour, dash)) in zip(strip, known.items(), strict=True):
        share = torch.linspace(0, 1, 201, dtype=torch.float64)
        sigma = schedule.sigma(schedule.t_min + share * (schedule.t_max - schedule.t_min))
        left.plot(share, alphabar_of(sigma), color=colour, ls=dash, label=name)
        right.semilogy(share, sigma, color=colour, ls=dash)
        for axes, k in zip(line, range(0, 201, 25), strict=True):
            s = sigma[k : k + 1].float()
            show(
                axes,
                to_pixels((add_noise(x0, s, noise) * alphabar_of(s).sqrt()).clamp(-1, 1))[0],
                f"{float(share[k]):.3g}" if line is strip[0] else "",
            )
        line[0].set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=7)
        end, far = float(alphabar_of(sigma[-1])), float((sigma > 3).double().mean())
        numbers[name] = {"alphabar_at_the_end": end, "sigma_max": float(sigma[-1]), "share_above_sigma_3": far}
        rows.append([name, f"{end:.2g}", f"{float(sigma[-1]):.3g}", f"{100 * far:.0f} %"])
    left.set(xlabel="t, as a share of the schedule", ylabel="alphabar, images in [-1, 1]")
    right.set(xlabel="t, as a share of the schedule", ylabel="sigma")
    left.legend(fontsize=7, frameon=False)
    return Drawn(
        figure,
        "alphabar and sigma along four schedules, and one bag under each",
        "What is left of the image along the schedules (exact, no training), and a bag of the test images at nine times of "
        "each. alphabar and sigma "
        "are those of images in [-1, 1], so that they compare.",
        numbers,
        table(["schedule", "alphabar at the end", "sigma at the end", "of the times, sigma above 3"], rows),
    )


class Thumbnail(nn.Module):
    """49 features: the image at 7 x 7 pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 7).flatten(1)


def extractor(work: Path, n: int = 896) -> Drawn:
    """Two extractors under the same damage."""
    names = ["noise", "inverted"]
    thumbnail = ModuleExtractor(Thumbnail(), "thumbnail", 49, channels=1)
    checks = {
        "bundled": check("bundled", AGAINST, n=n, corruptions=names, progress=True),
        "7 x 7 pixels": check(thumbnail, AGAINST, n=n, corruptions=names),
    }
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    rows, numbers = [], {}
    for axes, k in zip(figure.subplots(1, len(names)), range(len(names)), strict=True):
        for (who, made), colour in zip(checks.items(), (BLUE, ORANGE), strict=True):
            found = made.corruptions[k]
            fid = [r.scores["fid"].value for r in found.severities]
            axes.plot([r.severity for r in found.severities], np.array(fid) / fid[0], "o-", color=colour, label=who, ms=3)
            ranked = found.ranked["fid"]
            numbers[f"{who}, {found.name}"] = {
                "ranked": ranked,
                "reason": found.reason("fid"),
                "fid": [r.scores["fid"].to_json() for r in found.severities],
            }
            weakest, strongest = found.severities[1].scores["fid"], found.severities[-1].scores["fid"]
            rows.append(
                [
                    found.name,
                    who,
                    of(found.severities[0].scores["fid"], 3),
                    of(weakest, 3),
                    of(strongest, 3),
                    "yes" if ranked else "**no**",
                ]
            )
        axes.axhline(1, color=GREY, ls=":")
        axes.set(title=f"{found.name}", xlabel=found.unit, yscale="log")
        axes.xaxis.label.set_size(6)
        axes.title.set_size(9)
    figure.axes[0].set_ylabel("FID / FID undamaged")
    figure.axes[0].legend(fontsize=7, frameon=False)
    return Drawn(
        figure,
        "FID of damaged garments by two extractors, over FID of undamaged ones",
        f"FID of {n:,} damaged real garments over that of the same garments undamaged, by the bundled extractor and by one "
        f"that sees 7 x 7 pixels. "
        "A good extractor rises everywhere; both are judged by `alphabar.evaluation.corruption_check.check`.",
        numbers,
        table(["damage", "extractor", "FID, none", "weakest", "strongest", "ranked"], rows),
    )


def skipping(work: Path, n: int = 8) -> Drawn:
    """The same noise with all calls and with a part of them; and calls saved by a plan against calls saved by fewer steps."""
    every = {"sampler": "ddim", "steps": 40, "eta": 1.0}  # DDPM's step, in fewer of them
    few = {"every step": every, "every(3)": {**every, "plan": "every(3)"}, "every(8)": {**every, "plan": "every(8)"}}
    sets = {name: drawn(work, n, **how) for name, how in few.items()}
    flat = {"sampler": "ddim", "eta": 0.0}
    limit, fewer = (drawn(work, n, steps=k, **flat) for k in (40, 10))
    plan = drawn(work, n, steps=20, plan="every(2)", **flat)

    def away(a: alphabar.Samples, b: alphabar.Samples) -> list[float]:
        """Root mean square difference of each image, in grey levels."""
        return np.sqrt(((a.images.astype(float) - b.images) ** 2).mean((1, 2, 3))).tolist()

    moved = {f"40 steps of eta 1, {name}": (s, away(s, sets["every step"])) for name, s in sets.items() if name != "every step"}
    moved |= {"20 steps of eta 0, every(2)": (plan, away(plan, limit)), "10 steps of eta 0": (fewer, away(fewer, limit))}
    figure = rows_of([s.images for s in sets.values()], [f"{name}\n{s.record['nfe']:g} calls" for name, s in sets.items()])
    gap = over_seeds([a - b for a, b in zip(away(plan, limit), away(fewer, limit), strict=True)])
    found = {name: over_seeds(values) for name, (_, values) in moved.items()}
    return Drawn(
        figure,
        "eight garments with all calls, a third, and an eighth of them",
        f"{n} garments of the bundled model from the same noise, by DDPM's step (eta 1) at 40 levels, with all network "
        f"calls and with a part "
        f"of them. Below: how far the images are from those of 40 calls, root mean square in grey levels of 255, mean over "
        f"{n} images with "
        f"Student's 95 % interval. 10 calls by a plan less 10 calls by fewer steps: {words(gap.value, gap.interval, 1)}.",
        {"away": {k: v.to_json() for k, v in found.items()}, "plan_less_fewer_steps": gap.to_json()},
        table(
            ["way", "calls", "away from 40 calls"],
            [[k, f"{moved[k][0].record['nfe']:g}", words(v.value, v.interval, 1)] for k, v in found.items()],
        ),
    )


def _gaps(a: Measured, b: Measured, names: tuple[str, str], metrics: Sequence[str]) -> list[Comparison]:
    one, other = (Measured({m: x.scores[m] for m in metrics}, {m: x.expansions[m] for m in metrics}, x.images) for x in (a, b))
    return compare_measured(one, other, names=names)


def _json(c: Comparison) -> dict[str, Any]:
    return {
        "a": c.a.value, "a_interval": c.a.interval, "b": c.b.value, "b_interval": c.b.interval,
        "difference": c.difference.to_json(), "verdict": c.verdict, "paired": c.paired, "floor": c.a.floor,
    }  # fmt: skip


def eta(work: Path, n: int = 128) -> Drawn:
    """The same noise under eta 0 and 1 with more and more calls."""
    calls = (10, 20, 40)
    sets = {(e, k): drawn(work, 8, sampler="ddim", steps=k, eta=e) for e in (0.0, 1.0) for k in calls}
    figure = rows_of([s.images for s in sets.values()], [f"eta {e:g}\n{k} calls" for e, k in sets])
    far = {e: float(np.sqrt(((sets[e, 20].images.astype(float) - sets[e, 40].images) ** 2).mean())) for e in (0.0, 1.0)}
    flat, noisy = (
        scored(work, n, ("kid",), **({"sampler": "ddim", "steps": 10} | ({} if e == 0 else {"eta": e}))) for e in (0.0, 1.0)
    )
    (gap,) = _gaps(noisy, flat, ("eta 1", "eta 0"), ("kid",))
    rows = [[f"{e:g}", of(m.scores["kid"], 1, 1000), f"{far[e]:.1f}"] for e, m in ((0.0, flat), (1.0, noisy))]
    return Drawn(
        figure,
        "eight garments at eta 0 and eta 1 with 10, 20 and 40 calls",
        f"Eight garments of the bundled model, the same starting noise in every row. At 10 calls, {n:,} images against the "
        f"10,000 test images: "
        f"{gap.words}. The last column: root mean square difference between the rows of 20 and of 40 calls, in grey levels "
        f"of 255 (8 images).",
        {"rms_20_to_40_calls": far, "kid": _json(gap)},
        table(["eta", "KID x 1000 at 10 calls", "20 against 40 calls, grey levels"], rows),
    )


FIVE = {
    "DDIM": {"sampler": "ddim", "steps": 5},
    "dpmpp_3m on karras_few": {"sampler": "dpmpp_3m", "steps": 5, "grid": "karras_few"},
    "fitted to the model": {"sampler": "tuned", "steps": 5},
}


def few_calls(work: Path, n: int = 1024) -> Drawn:
    """Five calls, three ways."""
    sets = {"DDIM, 40 calls": drawn(work, 8, sampler="ddim", steps=40, eta=0.0)} | {
        f"{k}, 5 calls": drawn(work, 8, **how) for k, how in FIVE.items()
    }
    found = {k: scored(work, n, **how) for k, how in FIVE.items()}
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    for line, (label, s) in zip(top.subplots(len(sets), 8), sets.items(), strict=True):
        for axes, image in zip(line, s.images, strict=True):
            show(axes, image)
        line[0].set_ylabel(label.replace(" on ", "\non ").replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=7)
    axes = bottom.subplots()
    fid = [m.scores["fid"] for m in found.values()]
    bars(axes, fid, list(found), [GREY, BLUE, GREEN], fid[0].floor)
    axes.set(xlabel=f"FID at 5 calls, {n:,} images, with 95 % intervals", xscale="log")
    (gap,) = _gaps(found["fitted to the model"], found["dpmpp_3m on karras_few"], ("fitted", "dpmpp_3m"), ("fid",))
    return Drawn(
        figure,
        "eight garments by three samplers with five calls, under the same garments with forty, and FID of the three",
        f"Eight garments of the bundled model from the same noise, and FID of {n:,} images of each way against the 10,000 "
        f"test images. {gap.words}.",
        {"fid": {k: m.scores["fid"].to_json() for k, m in found.items()}, "fitted_less_dpmpp_3m": _json(gap)},
        table(
            ["5 calls", "FID with 95 % interval", "KID x 1000"],
            [[k, of(m.scores["fid"]), of(m.scores["kid"], 1, 1000)] for k, m in found.items()],
        ),
    )


def tracking(work: Path, experiment: Path) -> Drawn:
    """What runs wrote down: loss, held-out loss, and the score beside them."""
    found = _finished(experiment)
    metric = found["told"]["metric"]
    scale, unit = (1000.0, "KID x 1000") if metric == "kid" else (1.0, "FID")
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = dict(zip(sorted({r["variant"] for r in found["rows"]}), (GREEN, ORANGE, BLUE, GREY), strict=False))
    ends: dict[str, dict[str, list[float]]] = {}
    for row in found["rows"]:
        name, colour = row["variant"], colours[row["variant"]]
        events = [json.loads(line) for line in (experiment / row["run"] / "events.jsonl").read_text().splitlines()]
        for kind, dash in (("loss", "-"), ("heldout", ":")):
            told = [(e["images"], e["loss"]) for e in events if e["event"] == kind]
            left.plot(*zip(*told, strict=True), color=colour, ls=dash, lw=1)
        score = scale * found["by"][name, row["seed"]][metric]["value"]
        right.plot(told[-1][1], score, "o", color=colour, label=name if row["seed"] == found["rows"][0]["seed"] else None)
        of_variant = ends.setdefault(name, {"heldout_loss": [], "score": []})
        of_variant["heldout_loss"].append(told[-1][1])
        of_variant["score"].append(score)
    left.set(xlabel="images seen", ylabel="loss; dotted: held-out")
    right.set(xlabel="held-out loss at the end", ylabel=f"{unit} (lower is better)")
    right.legend(fontsize=7, frameon=False)
    rows = [
        [v, f"{np.mean(by['heldout_loss']):.3f}", f"{np.mean(by['score']):.1f}"]
        for v, by in sorted(ends.items(), key=lambda kv: np.mean(kv[1]["heldout_loss"]))
    ]
    return Drawn(
        figure,
        "loss of twelve short runs, and their scores against their held-out loss",
        f"Read from the `events.jsonl` of the {len(found['rows'])} runs of the experiment, {len(found['told']['seeds'])} "
        f"seeds a "
        f"variant, and their scores ({found['told']['scoring']['n']:,} samples each). Below: means over the seeds. What the "
        "scores decide, with intervals, stands in chapters 2 and 3.",
        {"ends": ends},
        table(["variant", "held-out loss", unit], rows),
    )


def comparing(work: Path, n: int = 1024) -> Drawn:
    """One comparison from the same noise and from unlike noise, on halves of the samples of `few_calls`."""
    metrics, half = ("kid", "precision", "recall", "density", "coverage"), n // 2
    fitted, free = (drawn(work, n, **FIVE[k]) for k in ("fitted to the model", "dpmpp_3m on karras_few"))

    def part(s: alphabar.Samples, start: int) -> Measured:
        record = {**s.record, "first_index": start, "n": half}
        return ruler().measure(s.images[start : start + half], record, metrics)

    a = part(fitted, 0)
    same, unlike = (_gaps(a, part(free, start), ("fitted", "dpmpp_3m"), metrics) for start in (0, half))
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, one, two in zip(figure.subplots(1, len(metrics)), same, unlike, strict=True):
        for x, (c, colour) in enumerate(((one, BLUE), (two, ORANGE))):
            axes.plot([x, x], c.difference.interval, color=colour, lw=2)
            axes.plot(x, c.difference.value, "o", color=colour)
        axes.axhline(0, color=GREY, ls=":")
        axes.set_title(TITLES[one.metric], fontsize=9)
        axes.set_xticks([0, 1], ["same", "unlike"], fontsize=7)
        axes.set_xlim(-0.6, 1.6)
        axes.tick_params(axis="y", labelsize=6)
    rows = [
        [
            TITLES[c.metric],
            *(words(x.difference.value, x.difference.interval, 4 if c.metric == "kid" else 3) + f", {x.verdict}" for x in (c, d)),
        ]
        for c, d in zip(same, unlike, strict=True)
    ]
    return Drawn(
        figure,
        "differences of five metrics from the same noise and from unlike noise",
        f"Fitted sampler less dpmpp_3m on karras_few, 5 calls, {half:,} images each against the 10,000 test images: from the "
        f"same noise (images 0 to {half - 1} of seed 0 on both sides) and from unlike noise (the other side's are {half} to "
        f"{n - 1}). 95 % intervals; verdicts hold for all {len(metrics)} metrics together.",
        {"same": {c.metric: _json(c) for c in same}, "unlike": {c.metric: _json(c) for c in unlike}},
        table(["metric", "same noise", "unlike noise"], rows),
    )


def experiments(work: Path, experiment: Path, shown: int = 8) -> Drawn:
    """The four experiments that ship: a dot a training, and the first images of seed 0 under every variant."""
    names = {
        "range": ("wide", "narrow"), "schedule": ("linear_0.01", "linear_0.02", "cosine"), "prediction": ("v", "eps"),
        "average": ("average", "last_weights"),
    }  # fmt: skip
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    y, ticks, strips, rows, numbers = 0.0, [], [], [], {}
    for k, (name, variants) in enumerate(names.items()):
        found = _finished(experiment / name)
        seeds = found["told"]["seeds"]
        values = {v: [found["by"][v, s]["fid"]["value"] for s in seeds] for v in variants}
        for v in variants:
            left.plot(values[v], [y] * len(seeds), "o", color=(BLUE, ORANGE, GREEN, GREY)[k], alpha=0.7)
            left.plot([np.mean(values[v])] * 2, [y - 0.3, y + 0.3], color="black")
            ticks.append((y, f"{name}: {v.replace('_', ' ')}"))
            drawn = next(r for r in found["rows"] if r["variant"] == v and r["seed"] == seeds[0])
            images = alphabar.Samples.load(experiment / name / drawn["samples"]).images[:shown, :, :, 0]
            strips.append((y, np.concatenate(images, axis=1)))
            y += 1
        y += 0.6
        for a in variants:
            for b in [x for x in variants if (a, x) in (variants[:2], ("cosine", "linear_0.02"))]:
                gap = over_seeds([p - q for p, q in zip(values[a], values[b], strict=True)])
                low, high = gap.interval or (-np.inf, np.inf)
                verdict = "not decided" if low <= 0 <= high else ("worse" if low > 0 else "better")
                rows.append(
                    [
                        name, a.replace("_", " "), f"{np.mean(values[a]):.2f}", b.replace("_", " "),
                        f"{np.mean(values[b]):.2f}", words(gap.value, gap.interval), verdict,
                    ]
                )  # fmt: skip
                numbers[f"{name}: {a} less {b}"] = {**gap.to_json(), "verdict": verdict}
        numbers[name] = values
    left.set_yticks([t for t, _ in ticks], [w for _, w in ticks], fontsize=7)
    left.set(xlabel="FID (a dot a training; left is better)", ylim=(y - 0.6 - 0.5, -0.5), xlim=(0, None))
    left.spines[["top", "right"]].set_visible(False)
    for at, strip in strips:
        right.imshow(strip, cmap="gray", vmin=0, vmax=255, extent=(0, shown, at + 0.47, at - 0.47), aspect="auto")
    right.set(xlim=(0, shown), ylim=(y - 0.6 - 0.5, -0.5))
    right.axis("off")
    machines = sorted({a for n in names for r in _finished(experiment / n)["rows"] for a in r["machine"]["accelerators"]})
    told = found["told"]
    return Drawn(
        figure,
        "FID of every training of four experiments, and the same noise drawn by each variant",
        f"Four experiments on Fashion-MNIST, recipe garments, {told['budget']['images']:,} images seen in every training, "
        f"{len(told['seeds'])} seeds a variant, trained on {', '.join(machines) or 'a CPU'}; {told['scoring']['n']:,} samples "
        f"of each, DDIM with {told['scoring']['steps']} calls, bundled extractor, against the 10,000 test images. A stroke is "
        f"the mean. Right: the first {shown} images of seed {told['seeds'][0]}, from the same noise in every row.",
        numbers,
        table(["experiment", "first", "its FID", "second", "its FID", "first less second", "the first is"], rows),
    )


# ---- the command

RANGE = {"linear_0.02": "input in -1..1", "narrow": "input in -0.5..0.5", "wide": "input in -1..1"}
SCHEDULE = {"linear_0.02": "linear to 0.02", "linear_0.01": "linear to 0.01", "cosine": "cosine"}
FIGURES: dict[str, Callable[..., Drawn]] = {
    "noising": noising,
    "range_ladder": range_corruption,
    "range": trained,
    "schedules": schedules,
    "schedule": trained,
    "extractor": extractor,
    "skipping": skipping,
    "eta": eta,
    "few_calls": few_calls,
    "tracking": tracking,
    "comparing": comparing,
    "experiments": experiments,
}


def block(name: str, told: dict[str, Any], page: Path) -> str:
    """What stands in the chapter between the two marks of a figure."""
    picture = (HERE / "figures" / f"{name}.png").relative_to(page.parent)
    lines = [
        f"<!-- figure: {name} -->",
        f"![{told['alt']}]({picture.as_posix()})",
        "",
        f"*{told['caption']}* `{told['command']}` ({told['machine']}, {told['minutes']:.1f} minutes)",
    ]
    return "\n".join([*lines, *(["", told["table"]] if told["table"] else []), "<!-- end of figure -->"])


def put(name: str, told: dict[str, Any]) -> list[Path]:
    """Writes a figure's picture and caption into the chapters that show it."""
    wrote = []
    for page in PAGES:
        text = page.read_text()
        new = re.sub(
            rf"<!-- figure: {name} -->.*?<!-- end of figure -->",
            lambda _, page=page: block(name, told, page),  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
        if new != text:
            page.write_text(new)
            wrote.append(page)
    return wrote


def make(name: str, work: Path, experiment: Path, extra: dict[str, Any], shown: str) -> None:
    function = FIGURES[name]
    if name == "range":
        wide = "wide" if (experiment / "rows" / "wide-seed0.json").exists() else "linear_0.02"
        function = partial(
            trained,
            pairs=[("narrow", wide)],
            names={k: v for k, v in RANGE.items() if k in ("narrow", wide)},
            experiment=experiment,
        )
    elif name == "schedule":
        function = partial(
            trained, pairs=[(k, "linear_0.02") for k in ("linear_0.01", "cosine")], names=SCHEDULE, experiment=experiment
        )
    elif name in ("tracking", "experiments"):
        function = partial(function, experiment=experiment)
    begun = time.perf_counter()
    made = function(work, **extra)
    target = HERE / "figures" / f"{name}.png"
    target.parent.mkdir(exist_ok=True)
    made.figure.savefig(target, dpi=110, metadata={"Software": None})
    told = {
        "command": f"python docs/tutorial/make_figures.py {shown}", "alt": made.alt, "caption": made.caption,
        "table": made.table,
        "machine": f"{machine()['cpu']}, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        "minutes": (time.perf_counter() - begun) / 60, "numbers": made.numbers,
    }  # fmt: skip
    target.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"{target}: {', '.join(str(p) for p in put(name, told)) or 'no chapter shows it'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=[*FIGURES, "all", "captions"])
    parser.add_argument("--work", type=Path, default=Path("runs/tutorial"), help="where samples and trainings are kept")
    parser.add_argument(
        "--experiment", type=Path, help="a finished experiment for range, schedule and tracking; the short one if left out"
    )
    parser.add_argument("--n", type=int, help="images that are scored")
    parser.add_argument("--set", help="for noising: another set, as cifar10")
    given = parser.parse_args()
    if given.figure == "captions":  # puts what the .json files say into the chapters again
        for path in sorted((HERE / "figures").glob("*.json")):
            put(path.stem, json.loads(path.read_text()))
        return
    experiment = given.experiment or given.work / "short"
    every = [name for name in FIGURES if name != "experiments" or given.experiment]  # which take a GPU, or half a day
    for name in every if given.figure == "all" else [given.figure]:
        extra: dict[str, Any] = {}
        if given.n and name in ("range_ladder", "extractor", "skipping", "eta", "few_calls", "comparing"):
            extra["n"] = given.n
        if given.set and name == "noising":
            extra["image_set"] = given.set
        if name in ("range", "schedule", "tracking") and given.experiment is None and not (experiment / "index.html").exists():
            subprocess.run(
                [sys.executable, "-m", "alphabar", "experiment", str(HERE / "short.toml"), "--out", str(experiment)],
                check=True,
            )
        told = given.experiment and name in ("range", "schedule", "tracking", "experiments")
        shown = name + (f" --experiment {given.experiment}" if told else "")
        make(name, given.work, experiment, extra, shown + (f" --n {given.n}" if "n" in extra else ""))


if __name__ == "__main__":
    main()
