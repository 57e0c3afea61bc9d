"""Figures of the tutorial that need no samples: noise, schedules, the range bug, the check of an extractor."""

from pathlib import Path

import numpy as np
import torch
from figure_parts import AGAINST, BLUE, GREEN, GREY, ORANGE, Drawn, garments, of, show, table
from matplotlib.figure import Figure
from torch import nn

import alphabar
from alphabar.core.seeds import starting_noise
from alphabar.data.images import to_model, to_pixels
from alphabar.evaluation.corruption_check import check
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.schedule.base import Scaled, Schedule
from alphabar.schedule.noising import add_noise, alphabar_of


def noising(work: Path, image_set: str = "fashion_mnist") -> Drawn:
    """Real garments with increasing noise, as input of the network."""
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
        inputs = add_noise(x0, torch.full((len(x0),), sigma), noise) * share**0.5
        for row, image in enumerate(to_pixels(inputs.clamp(-1, 1))):
            show(grid[row, column], image, f"sigma {sigma:g}\nalphabar {share:.2g}" if row == 0 else "")
    named = (
        "a T-shirt, trousers, a pullover and a dress of the Fashion-MNIST test images"
        if image_set == "fashion_mnist"
        else image_set
    )
    return Drawn(
        figure,
        "four images in seven columns of rising noise",
        f"One noise per image (seed 0), seven levels: {named}, as input of the network, sqrt(alphabar) x, clipped to -1..1 for "
        f"display.",
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
        f"FID of {n:,} real garments of the training images against the 10,000 test images as their range shrinks, with 95 % "
        "intervals. The images differ from real ones in nothing but their range.",
        {"n": n, "lost": strengths, "fid": [s.to_json() for s in scores]},
        table(["share lost", *(f"{s:g}" for s in strengths)], [["FID", *(of(s) for s in scores)]]),
    )


def schedules(work: Path) -> Drawn:
    """What is left of the image along three schedules, and along one of them with half the input range."""
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
        "each. "
        "alphabar and sigma are those of images in [-1, 1], so that they can be compared.",
        numbers,
        table(["schedule", "alphabar at the end", "sigma at the end", "share of times with sigma > 3"], rows),
    )


class Thumbnail(nn.Module):
    """49 features: the image at 7 x 7 pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 7).flatten(1)


def extractor(work: Path, n: int = 896) -> Drawn:
    """The check of two extractors with the same corruptions."""
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
    figure.axes[0].set_ylabel("FID / FID without corruption")
    figure.axes[0].legend(fontsize=7, frameon=False)
    return Drawn(
        figure,
        "FID of corrupted garments by two extractors, over FID of the same garments without corruption",
        f"FID of {n:,} corrupted real garments over that of the same garments without corruption, by the bundled extractor and "
        "by one that reduces images to 7 x 7 pixels. The score of a good extractor rises with every severity; both were "
        "tested by `alphabar.evaluation.corruption_check.check`.",
        numbers,
        table(["corruption", "extractor", "FID, none", "weakest", "strongest", "ranked"], rows),
    )
