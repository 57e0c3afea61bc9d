"""Figures drawn from the folders of experiments: scores of trained variants, losses, and the four experiments that ship."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figure_parts import BLUE, GREEN, GREY, ORANGE, Drawn, table, words
from matplotlib.figure import Figure

import alphabar
from alphabar.core.files import read_jsonl
from alphabar.core.run import Run
from alphabar.core.stored_values import read_object
from alphabar.data.contact_sheet import contact_sheet
from alphabar.data.split import holdout
from alphabar.evaluation.estimate import Estimate, over_seeds
from alphabar.training.checkpoint import read_state
from alphabar.training.config import resolve
from alphabar.verbs.train import recipe_images

HERE = Path(__file__).parent


def _finished(folder: Path) -> dict[str, Any]:
    """The configuration of a finished experiment, its rows, and the scores of every variant and seed."""
    if not (folder / "rows").is_dir():
        raise SystemExit(f"no experiment in {folder}: alphabar experiment {HERE / 'short.toml'} --out {folder}")
    config = json.loads((folder / "experiment.json").read_text())
    rows = [json.loads(p.read_text()) for p in sorted((folder / "rows").glob("*.json"))]
    by = {(r["variant"], r["seed"]): {s["metric"]: s for s in r["scores"]} for r in rows}
    minutes = sum(r["seconds"] for r in rows) / 60
    return {"config": config, "by": by, "rows": rows, "minutes": minutes}


def decided(difference: Estimate) -> str:
    """Whether a difference of scores is better (below 0), worse, or not decided at 95 %."""
    low, high = difference.interval or (-np.inf, np.inf)
    return "not decided" if low <= 0 <= high else ("worse" if low > 0 else "better")


def trained(work: Path, experiment: Path, pairs: Sequence[tuple[str, str]], names: dict[str, str]) -> Drawn:
    """Scores of trained variants, seed by seed, and the differences a - b of the pairs (a, b)."""
    found = _finished(experiment)
    config, metric = found["config"], found["config"]["metric"]
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
    axes.set(xlabel=f"{unit} (a dot per training, a line at their mean; left is better)", ylim=(len(shown) - 0.5, -0.5))
    axes.spines[["top", "right"]].set_visible(False)
    differences, rows = {}, []
    for a, b in pairs:
        gap = over_seeds([x - y for x, y in zip(values[a], values[b], strict=True)])
        decision = decided(gap)
        differences[f"{a} minus {b}"] = {**gap.to_json(), "decision": decision}
        rows.append(
            [
                f"{names[a]} minus {names[b]}",
                words(gap.value, gap.interval),
                decision if decision == "not decided" else f"the first is {decision}",
            ]
        )
    images, n = config["budget"]["images"], config["scoring"]["n"]
    return Drawn(
        figure,
        f"{unit} of {len(shown)} trained variants",
        f"{len(shown)} variants of a {'tiny ' if config['name'] == 'short' else ''}network, {len(seeds)} seeds each, "
        f"{images:,} images seen in every "
        f"training ({found['minutes']:.0f} minutes for all {len(found['rows'])} trainings of the experiment); {n:,} samples "
        f"of each, DDIM with "
        f"{config['scoring']['steps']} calls, against the 10,000 test images. Intervals are Student's over {len(seeds)} seeds.",
        {
            "values": values,
            "differences": differences,
            "training_minutes": found["minutes"],
            "trained_on": found["rows"][0]["machine"]["cpu"],
        },
        table(["difference", f"{unit}, with 95 % interval", "decision"], rows),
    )


def tracking(work: Path, experiment: Path) -> Drawn:
    """Losses and held-out losses recorded during training, and scores against the final held-out loss."""
    found = _finished(experiment)
    metric = found["config"]["metric"]
    scale, unit = (1000.0, "KID x 1000") if metric == "kid" else (1.0, "FID")
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = dict(zip(sorted({r["variant"] for r in found["rows"]}), (GREEN, ORANGE, BLUE, GREY), strict=False))
    ends: dict[str, dict[str, list[float]]] = {}
    for row in found["rows"]:
        name, colour = row["variant"], colours[row["variant"]]
        events = [json.loads(line) for line in (experiment / row["run"] / "events.jsonl").read_text().splitlines()]
        for kind, dash in (("loss", "-"), ("heldout", ":")):
            losses = [(e["images"], e["loss"]) for e in events if e["event"] == kind]
            left.plot(*zip(*losses, strict=True), color=colour, ls=dash, lw=1)
        score = scale * found["by"][name, row["seed"]][metric]["value"]
        right.plot(losses[-1][1], score, "o", color=colour, label=name if row["seed"] == found["rows"][0]["seed"] else None)
        of_variant = ends.setdefault(name, {"heldout_loss": [], "score": []})
        of_variant["heldout_loss"].append(losses[-1][1])
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
        f"Read from the `events.jsonl` of the {len(found['rows'])} runs of the experiment, {len(found['config']['seeds'])} "
        f"seeds per variant, and their scores ({found['config']['scoring']['n']:,} samples each). Table: means over the seeds. "
        "Chapters 2 and 3 report which differences are decided, with intervals.",
        {"ends": ends},
        table(["variant", "held-out loss", unit], rows),
    )


def experiments(work: Path, experiment: Path, shown: int = 8) -> Drawn:
    """The four included experiments: scores of every training, and the first images of seed 0 from every variant."""
    names = {
        "range": ("wide", "narrow"), "schedule": ("linear_0.01", "linear_0.02", "cosine"), "prediction": ("v", "eps"),
        "average": ("average", "last_weights"),
    }  # fmt: skip
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    y, ticks, strips, rows, numbers = 0.0, [], [], [], {}
    for k, (name, variants) in enumerate(names.items()):
        found = _finished(experiment / name)
        seeds = found["config"]["seeds"]
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
                decision = decided(gap)
                rows.append(
                    [
                        name, a.replace("_", " "), f"{np.mean(values[a]):.2f}", b.replace("_", " "),
                        f"{np.mean(values[b]):.2f}", words(gap.value, gap.interval), decision,
                    ]
                )  # fmt: skip
                numbers[f"{name}: {a} minus {b}"] = {**gap.to_json(), "decision": decision}
        numbers[name] = values
    left.set_yticks([t for t, _ in ticks], [w for _, w in ticks], fontsize=7)
    left.set(xlabel="FID (a dot per training; left is better)", ylim=(y - 0.6 - 0.5, -0.5), xlim=(0, None))
    left.spines[["top", "right"]].set_visible(False)
    for at, strip in strips:
        right.imshow(strip, cmap="gray", vmin=0, vmax=255, extent=(0, shown, at + 0.47, at - 0.47), aspect="auto")
    right.set(xlim=(0, shown), ylim=(y - 0.6 - 0.5, -0.5))
    right.axis("off")
    machines = sorted({a for n in names for r in _finished(experiment / n)["rows"] for a in r["machine"]["accelerators"]})
    config = found["config"]
    return Drawn(
        figure,
        "FID of every training of four experiments, and the same noise drawn by each variant",
        f"Four experiments on Fashion-MNIST, recipe garments, {config['budget']['images']:,} images seen in every training, "
        f"{len(config['seeds'])} seeds per variant, trained on {', '.join(machines) or 'a CPU'}; {config['scoring']['n']:,} "
        f"samples of each, DDIM with {config['scoring']['steps']} calls, bundled extractor, against the 10,000 test images. "
        f"A vertical line is the mean. "
        f"Right: the first {shown} images of seed {config['seeds'][0]}, from the same noise in every row.",
        numbers,
        table(["experiment", "first", "its FID", "second", "its FID", "first minus second", "the first is"], rows),
    )


def own_images(work: Path, run: str, n: int = 200) -> Drawn:
    """Images drawn by a run at its end above real ones, and its losses on images seen and held out."""
    home, columns = Run(run), 12
    recipe, events = resolve(home.recipe), list(read_jsonl(home.events))
    images = recipe_images(recipe)
    trained_on, heldout = holdout(images.pixels, recipe.data.holdout, hashes=images.hashes)
    made = alphabar.sample(alphabar.load_model(run), n, steps=50, seed=0, out=work / "samples" / f"{Path(run).name}-n{n}.npz")
    kid = alphabar.score(str(work / "samples" / f"{Path(run).name}-n{n}.npz"), f"{recipe.data.set}:heldout", "auto",
                         run=Path(run), metrics=("kid",), reading=recipe.data.reading())[0]  # fmt: skip
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
    real = np.asarray(images.pixels[heldout[np.linspace(0, len(heldout) - 1, 2 * columns).astype(int)]])
    drawn = contact_sheet(np.concatenate([made.images[: 4 * columns], real]), columns=columns)
    left.imshow(drawn, interpolation="nearest")
    left.set_xticks([])
    left.set_yticks([drawn.height * at for at in (4 / 12, 10 / 12)], ["drawn", "held out"], rotation=90, va="center", fontsize=8)
    for kind, dash, label in (("loss", "-", "images seen"), ("heldout", ":", "held-out images")):
        right.plot(
            *zip(*((e["images"], e["loss"]) for e in events if e["event"] == kind), strict=True), dash, color=BLUE, label=label
        )
    right.set(xlabel="images seen", ylabel="loss", xscale="log", yscale="log")
    right.legend(fontsize=7, frameon=False)
    state = read_state(home.checkpoint())  # of a run that may go on
    seconds, seen, size = state["seconds"], state["images"], sum(p.numel() for p in alphabar.load_model(run).parameters())
    return Drawn(
        figure,
        "emoji drawn after training, held-out emoji, and the losses of the training",
        f"{len(trained_on):,} emoji, {seen:,} images seen ({seen / len(trained_on):.0f} passes) in {seconds / 60:.0f} minutes on "
        f"{read_object(home.path / 'machine.json')['cpu']}; network of {size / 1e6:.1f} M parameters. Drawn by DDIM with 50 "
        f"calls, not chosen; the two rows below are held-out images. KID of {n} samples against the {len(heldout)} held-out "
        f"images, extractor auto: {words(kid.value, kid.interval, 4)}, as many real images {kid.floor:.4f}.",
        {"kid": kid.value, "interval": kid.interval, "floor": kid.floor, "n": n, "images": seen, "minutes": seconds / 60},
    )
