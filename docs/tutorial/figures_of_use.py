"""The figure of chapter 11: inversion, interpolation, variations, and several answers to an incomplete image."""

from pathlib import Path

import numpy as np
from figure_parts import BLUE, ORANGE, Drawn, garments, model, show, table, words
from matplotlib.figure import Figure

import alphabar
from alphabar.evaluation.estimate import Estimate, over_seeds
from alphabar.report.restore_page import panels

STEPS = {1: (5, 10, 20, 50, 100), 10: (5, 10, 20)}  # by the iterations of a step


def determinism(work: Path, n: int = 8) -> Drawn:
    """What DDIM at eta 0 can do because it is a map, and what is lost at eta 1."""
    images = garments(n)
    quiet = {"progress": False}
    inverted = {
        (steps, k): alphabar.invert(model(), images, steps=steps, iterations=k, **quiet)
        for k, many in STEPS.items()
        for steps in many
    }
    errors = {key: over_seeds(found.rmse.tolist()) for key, found in inverted.items()}
    start, how = inverted[50, 1].start(), {"steps": 50, "grid": "karras", **quiet}
    back = {eta: alphabar.sample(model(), n, sampler="ddim", eta=eta, start=start, **how).images for eta in (0.0, 1.0)}
    off = {eta: over_seeds(_away(found, images)) for eta, found in back.items()}
    varied = {s: alphabar.vary(model(), images, strength=s, steps=20, **quiet).images for s in (0.4, 0.7)}
    way = alphabar.interpolate(model(), 0, 1, n=8, steps=20, **quiet).images
    answers = alphabar.restore(model(), images, task="inpaint", degrade=True, draws=16, calls=30, **quiet)
    bits = alphabar.likelihood(model(), images, **quiet)
    assert bits.ode is not None
    assert bits.bound is not None

    figure = Figure(figsize=(7.2, 8.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3.3, 1))
    rows = {
        "test images": images, "way back, eta 0": back[0.0], "way back, eta 1": back[1.0], "variations, 0.4": varied[0.4],
        "variations, 0.7": varied[0.7], "between two seeds": way,
    }  # fmt: skip
    cells = top.subplots(len(rows) + 1, 8)
    for line, (label, several) in zip(cells, rows.items(), strict=False):
        for axes, image in zip(line, several, strict=True):
            show(axes, image)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axes, (name, column) in zip(cells[-1], panels(answers).items(), strict=True):
        show(axes, column[2])
        axes.set_xlabel(name, fontsize=7)
    cells[-1, 0].set_ylabel("middle missing", rotation=0, ha="right", va="center", fontsize=8)
    axes = bottom.subplots()
    for k, colour in zip(STEPS, (BLUE, ORANGE), strict=True):
        calls = [inverted[s, k].record["nfe"] for s in STEPS[k]]
        means = [errors[s, k] for s in STEPS[k]]
        axes.loglog(calls, [e.value for e in means], "o-", color=colour, label=f"at most {k} call{'s' if k > 1 else ''} a step")
        axes.fill_between(calls, *zip(*(e.interval or () for e in means), strict=True), color=colour, alpha=0.2)
    axes.axhline(1 / 255, color="black", ls=":", label="half a grey level")
    axes.set(xlabel="network calls of the inversion", ylabel="error of the way back")
    axes.legend(fontsize=7, frameon=False)
    inside = answers.scores["inside"]
    return Drawn(
        figure,
        "garments inverted and made again at eta 0 and 1, variations, a way between two seeds, several answers to a missing "
        "middle, and the error of the inversion by calls",
        f"{n} test images; what DDIM makes of their noise at eta 0 and eta 1 (50 steps); variations at strength 0.4 and 0.7; "
        f"images between seeds 0 and 1; a garment without its middle: 4 of 16 draws, their mean and standard deviation (mmps, 30 "
        f"calls). Below: root mean square error of the way back, images in [-1, 1], with Student's 95 % intervals. At eta 1 it "
        f"is {words(off[1.0].value, off[1.0].interval, 3)}, at eta 0 {words(off[0.0].value, off[0.0].interval, 4)} after "
        f"rounding to levels. Of the missing pixels {words(inside.value, inside.interval)} lie in their 90 % intervals. Bits per "
        f"dimension: {words(bits.ode.value, bits.ode.interval)} by the ODE, {words(bits.bound.value, bits.bound.interval)} by "
        f"the bound.",
        {
            "error": {f"{s} steps, {k} iterations": e.to_json() for (s, k), e in errors.items()},
            "nfe": {f"{s} steps, {k} iterations": found.record["nfe"] for (s, k), found in inverted.items()},
            "after_rounding": {f"eta {eta:g}": e.to_json() for eta, e in off.items()},
            "restored": {name: e.to_json() for name, e in answers.scores.items()},
            "bits": {"ode": bits.ode.to_json(), "bound": bits.bound.to_json()},
        },
        table(
            ["steps, calls of a step at most", "network calls", "error of the way back"],
            [
                [f"{s}, {k}", f"{inverted[s, k].record['nfe']:.3g}", _short(e)]
                for (s, k), e in sorted(errors.items(), key=lambda item: inverted[item[0]].record["nfe"])
            ],
        ),
    )  # fmt: skip


def _short(e: Estimate) -> str:
    """A value and its interval to two digits."""
    low, high = e.interval or (e.value, e.value)
    return f"{e.value:.2g} [{low:.2g}, {high:.2g}]"


def _away(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Root mean square difference of each pair of images, in [-1, 1]."""
    return list(np.sqrt(np.square((a.astype(float) - b) / 127.5).mean((1, 2, 3))))
