"""Figures of the tutorial drawn from samples of the bundled model: skipped calls, eta, few calls, a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figure_parts import BLUE, GREEN, GREY, ORANGE, Drawn, bars, drawn, evaluator, of, rows_of, scored, show, table, words
from matplotlib.figure import Figure

import alphabar
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.estimate import over_seeds
from alphabar.evaluation.score import TITLES, Measured


def skipping(work: Path, n: int = 8) -> Drawn:
    """The same noise with all calls and with a part of them; calls saved by a plan against calls saved by fewer steps."""
    every = {"sampler": "ddim", "steps": 40, "eta": 1.0}  # DDPM's step, with fewer steps
    few = {"every step": every, "every(3)": {**every, "plan": "every(3)"}, "every(8)": {**every, "plan": "every(8)"}}
    sets = {name: drawn(work, n, **how) for name, how in few.items()}
    flat = {"sampler": "ddim", "eta": 0.0}
    limit, fewer = (drawn(work, n, steps=k, **flat) for k in (40, 10))
    plan = drawn(work, n, steps=20, plan="every(2)", **flat)

    def distances(a: alphabar.Samples, b: alphabar.Samples) -> list[float]:
        """Root mean square difference of each image, in grey levels."""
        return np.sqrt(((a.images.astype(float) - b.images) ** 2).mean((1, 2, 3))).tolist()

    moved = {
        f"40 steps of eta 1, {name}": (s, distances(s, sets["every step"])) for name, s in sets.items() if name != "every step"
    }
    moved |= {
        "20 steps of eta 0, every(2)": (plan, distances(plan, limit)),
        "10 steps of eta 0": (fewer, distances(fewer, limit)),
    }
    figure = rows_of([s.images for s in sets.values()], [f"{name}\n{s.record['nfe']:g} calls" for name, s in sets.items()])
    gap = over_seeds([a - b for a, b in zip(distances(plan, limit), distances(fewer, limit), strict=True)])
    found = {name: over_seeds(values) for name, (_, values) in moved.items()}
    return Drawn(
        figure,
        "eight garments with all calls, a third, and an eighth of them",
        f"{n} garments of the bundled model from the same noise, by DDPM's step (eta 1) at 40 levels, with all network "
        f"calls and with a part "
        f"of them. Table: distance of the images from those of 40 calls, root mean square in grey levels of 255, mean over "
        f"{n} images with "
        f"Student's 95 % interval. 10 calls by a plan minus 10 calls by fewer steps: {words(gap.value, gap.interval, 1)}.",
        {"away": {k: v.to_json() for k, v in found.items()}, "plan_less_fewer_steps": gap.to_json()},
        table(
            ["setting", "calls", "distance from 40 calls"],
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
    """The same noise with eta 0 and 1 and a rising number of calls."""
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
    """Five calls with three samplers."""
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
        f"Eight garments of the bundled model from the same noise, and FID of {n:,} images of each sampler against the 10,000 "
        f"test images. {gap.words}.",
        {"fid": {k: m.scores["fid"].to_json() for k, m in found.items()}, "fitted_less_dpmpp_3m": _json(gap)},
        table(
            ["5 calls", "FID with 95 % interval", "KID x 1000"],
            [[k, of(m.scores["fid"]), of(m.scores["kid"], 1, 1000)] for k, m in found.items()],
        ),
    )


def comparing(work: Path, n: int = 1024) -> Drawn:
    """A comparison from the same noise and one from different noise, on halves of the samples of `few_calls`."""
    metrics, half = ("kid", "precision", "recall", "density", "coverage"), n // 2
    fitted, free = (drawn(work, n, **FIVE[k]) for k in ("fitted to the model", "dpmpp_3m on karras_few"))

    def part(s: alphabar.Samples, start: int) -> Measured:
        record = {**s.record, "first_index": start, "n": half}
        return evaluator().measure(s.images[start : start + half], record, metrics)

    a = part(fitted, 0)
    same, different = (_gaps(a, part(free, start), ("fitted", "dpmpp_3m"), metrics) for start in (0, half))
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axes, one, two in zip(figure.subplots(1, len(metrics)), same, different, strict=True):
        for x, (c, colour) in enumerate(((one, BLUE), (two, ORANGE))):
            axes.plot([x, x], c.difference.interval, color=colour, lw=2)
            axes.plot(x, c.difference.value, "o", color=colour)
        axes.axhline(0, color=GREY, ls=":")
        axes.set_title(TITLES[one.metric], fontsize=9)
        axes.set_xticks([0, 1], ["same", "different"], fontsize=7)
        axes.set_xlim(-0.6, 1.6)
        axes.tick_params(axis="y", labelsize=6)
    rows = [
        [
            TITLES[c.metric],
            *(words(x.difference.value, x.difference.interval, 4 if c.metric == "kid" else 3) + f", {x.verdict}" for x in (c, d)),
        ]
        for c, d in zip(same, different, strict=True)
    ]
    return Drawn(
        figure,
        "differences of five metrics from the same noise and from different noise",
        f"Fitted sampler minus dpmpp_3m on karras_few, 5 calls, {half:,} images each against the 10,000 test images: from the "
        f"same noise (images 0 to {half - 1} of seed 0 on both sides) and from different noise (images {half} to {n - 1} "
        f"on the other side). 95 % intervals; decisions account for all {len(metrics)} metrics together.",
        {"same": {c.metric: _json(c) for c in same}, "different": {c.metric: _json(c) for c in different}},
        table(["metric", "same noise", "different noise"], rows),
    )
