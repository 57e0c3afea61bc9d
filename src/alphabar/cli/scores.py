"""The commands that measure: `alphabar score`, `compare`, `loss` and `ema`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from alphabar.cli import show
from alphabar.cli.options import Flat, Json, Reading
from alphabar.core.bounds import Count
from alphabar.core.messages import plural, say
from alphabar.core.progress import duration
from alphabar.verbs.options import CompareOptions, EmaOptions, LikelihoodOptions, ScoreReportOptions

if TYPE_CHECKING:
    from alphabar.evaluation.score import Score


def score(
    samples: str, *, against: str | None = None, options: Flat[ScoreReportOptions] = ScoreReportOptions(),
    reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Score images against real ones: every metric with its interval, next to the score of as many real images (the floor).

    ```
    alphabar score samples.npz --against fashion_mnist:test
    alphabar score runs/garments --against fashion_mnist:test --n 2000 --trained-on fashion_mnist --json
    ```

    Writes a picture of the scores above a sheet of the images. Under torchrun all processes share the work.

    Args:
        samples: an .npz, a folder of images made by any program, or a run (N images are drawn from it by DDIM and kept);
            SAMPLES[a:b] are images a to b - 1.
        against: SET or SET:SPLIT, the real images; SET:heldout are those that the run of the samples held out, and if left out,
            those of its set.
    """
    from alphabar.verbs.score import score_report

    report = score_report(samples, against, options, asdict(reading))
    if show.done(report, as_json):
        return
    _scores(report.scores)
    for s in report.further:
        say(f"FID by extractor {s.extractor}: {s.estimate}, floor {s.floor:.4g}")
    if report.curve:
        rows = [
            (p.metric, f"{p.n:,}", f"{p.value:.4g}", str(p.sets), str(p.one), "" if p.floor is None else str(p.floor))
            for p in report.curve
        ]
        columns = ("metric", "images", "mean of parts", "parts", "interval of one", "floor")
        show.table(columns, rows, "score against the number of images")
    if report.copies is not None:
        say(f"copies of {options.trained_on}, by features: {report.copies.features}")
        say(f"copies of {options.trained_on}, by pixels: {report.copies.pixels}")
    for what, path in report.pictures.items():
        say(f"{what}: {path}")
    _report_of([*options.keep, samples], "compare", samples, "OTHER.npz", "--against", against or "SET")


def _report_of(runs: "Sequence[str | Path]", *otherwise: object) -> None:
    """The next command: the report of the first of these that is a run, or another."""
    from alphabar.core.run import Run

    found = next((run for run in runs if Run(run).recipe.exists()), None)
    show.hint(*(otherwise if found is None else ("report", found)))


def _scores(scores: "Sequence[Score]") -> None:
    """The table of the scores, and below it what the intervals, the extractor's check and the floor are."""
    from alphabar.evaluation.score import HIGHER, INTERVALS, TITLES, in_order

    def names(chosen: "list[Score]") -> str:
        return ", ".join(TITLES[s.metric] for s in chosen)

    scores, rows = in_order(scores), []
    for s in scores:
        floor = "" if s.floor is None else f"{s.floor:.4g}" + ("" if s.floor_n == s.n else f" at {s.floor_n}")
        best = "higher" if s.metric in HIGHER else "lower"
        rows.append((TITLES[s.metric], f"{s.value:.4g}", show.interval(s.interval, "{:.4g} to {:.4g}"), floor, best))
    first = scores[0]
    calls = "" if first.nfe is None else f", {plural(first.nfe, 'network call')} an image"
    title = f"{first.n:,} images against {first.n_reference:,} real ones{calls}; floor: the score of as many real images"
    show.table(("metric", "value", "95 % interval", "floor", "better"), rows, title)
    for note in dict.fromkeys(s.note for s in scores if s.note and s.interval is None):
        say(note)
    for what in dict.fromkeys(INTERVALS[s.metric] for s in scores if s.interval is not None):
        say(f"interval of {names([s for s in scores if INTERVALS[s.metric] == what])}: for {what}")
    if any(s.interval is not None for s in scores):
        say("intervals are over draws of images, not over trainings (alphabar experiment repeats those)")
    found = dict.fromkeys(s.check_result for s in scores if s.check_result)
    if checked := "; ".join(f"{names([s for s in scores if s.check_result == w])}: {w}" for w in found):
        say(f"result of the extractor's check (alphabar extractor check): {checked}")
    say(f"extractor {first.extractor}, reference {first.reference_name} {first.reference}, floor: {first.floor_source}")


def compare(
    a: str, b: str, *, against: str | None = None, options: Flat[CompareOptions] = CompareOptions(), reading: Reading = Reading(),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Is A better than B? Each metric's difference with its interval, a verdict, and how many images would decide it.

    ```
    alphabar compare ddim10.npz ddim50.npz --against fashion_mnist:test
    alphabar compare "samples.npz[:5000]" "samples.npz[5000:]" --against fashion_mnist:test
    ```

    Sets that were made from the same noise (same seed, as `alphabar sample` records it) are compared image by image. Sets of
    unlike size are refused: --n takes the first N of both. Where A or B is a run, the verdicts are kept in its
    comparisons.jsonl, and `alphabar report` shows them; for other sets, --keep names the run.

    Args:
        a: an .npz, a folder of images, or a run; PATH[a:b] is a part.
        b: the same.
        against: as for score; the runs of A and B must have held out the same images.
    """
    from alphabar.core.processes import world
    from alphabar.evaluation.score import TITLES, in_order
    from alphabar.verbs.compare import compare_report

    found, names = compare_report(a, b, against, options, asdict(reading))
    if world()[0] != 0:  # the first process prints for all
        return
    if options.wandb_report:
        from alphabar.tracking.wandb_report import comparison_report

        saved = comparison_report(found, names, [Path(x) for x in (a, b) if Path(x).is_dir()]).save()
        say(f"Weights & Biases: {saved.url}", sys.stderr)
    if show.done(found, as_json):
        return
    found = in_order(found)
    show.table(
        ("metric", *names, "difference", "verdict"),
        [(TITLES[c.metric], f"{c.a.value:.4g}", f"{c.b.value:.4g}", str(c.difference), c.verdict) for c in found],
        f"{found[0].a.n:,} images each, " + ("the same noise" if found[0].paired else "unlike noise"),
    )
    for c in found:
        say(c.words)
    say(f"picture: {options.picture}")
    _report_of([*options.keep, a, b], "score", a, "--against", against or "SET")


def loss(run: str, *, trained_on: str, n: Count = 1000, picture: Path | None = None, as_json: Json = False) -> None:
    """Denoising loss by noise level on held-out and on training images: a cheap early sign of a model that memorises.

    ```
    alphabar loss runs/garments --trained-on fashion_mnist
    alphabar loss bundled --trained-on fashion_mnist --n 500 --json
    ```

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        trained_on: the SET that it was trained on; its held-out part is found by content.
        n: images of either kind.
        picture: the plot to write; in the run's folder, or next to its file, if left out.
    """
    from alphabar.core.outputs import check_output
    from alphabar.report.figures import draw_losses
    from alphabar.verbs.memorisation import loss
    from alphabar.verbs.score import picture_path

    path = picture or picture_path(run, "loss.png")
    check_output(path, "picture", [run, trained_on])
    found = loss(run, trained_on, n=n)
    draw_losses(found, path)
    if show.done(found, as_json):
        return
    rows = zip(found.sigma, found.heldout, found.train or (), found.gap or (), strict=True)
    show.table(
        ("sigma", "held out", "trained on", "gap"), [(f"{sigma:.3g}", *map(str, losses)) for sigma, *losses in rows],
        "mean squared error of x0_hat a pixel, images in [-1, 1]",
    )  # fmt: skip
    say(f"relative gap over all levels: {found.relative_gap}\npicture: {path}")
    show.hint("score", run, "--trained-on", trained_on, "--against", trained_on)


def likelihood(
    run: str, images: str, *, n: Count | None = None, options: Flat[LikelihoodOptions] = LikelihoodOptions(),
    picture: Path | None = None, checkpoint: str = "last", device: str | None = None, reading: Reading = Reading(),
    as_json: Json = False,
) -> None:  # fmt: skip
    """How likely images are under a run, in bits per dimension: by the probability-flow ODE, and by the variational bound.

    ```
    alphabar likelihood bundled fashion_mnist:test --n 200
    alphabar likelihood runs/scans scans:test --n 500 --method bound --levels 4096
    ```

    Writes a picture: the distribution over the images, and those that need the fewest and the most bits. Likelihood does not tell
    unusual images from usual ones, as smooth images need few bits: for that there is `alphabar anomaly`.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        images: SET or SET:SPLIT, one image, or SET[a:b] for images a to b - 1. RUN's held-out images are SET:heldout.
        n: the first N images; all if left out.
        picture: the picture to write; in the run's folder, or next to its file, if left out.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    from alphabar.core.machine import device_of
    from alphabar.core.outputs import check_output
    from alphabar.report.figures import draw_bits
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs.likelihood import likelihood
    from alphabar.verbs.memorisation import with_heldout
    from alphabar.verbs.score import picture_path

    path = picture or picture_path(run, "likelihood.png")
    check_output(path, "picture", [run, images])
    model, read = load_model(run, checkpoint), asdict(reading)
    with show.stopped_by_ctrl_c("stopped; nothing was written"):
        found = likelihood(
            model,
            with_heldout(run, images, read),
            options=options,
            n=n,
            reading=read,
            device=str(device_of(device)),
            progress=not as_json,
        )
    draw_bits(found, path)
    if show.done({**found.to_json(), "picture": str(path)}, as_json):
        return
    rows = [("probability-flow ODE", found.ode), ("variational bound", found.bound)]
    title = f"bits per dimension of {found.n:,} images of {found.dimensions:,} values"
    show.table(("", "mean [95 % interval]"), [(name, str(value)) for name, value in rows if value is not None], title)
    levels = "floats: density per unit of their scale" if found.levels is None else f"{found.levels:,} levels"
    say(f"{levels}; {plural(found.nfe, 'network call')} an image, {duration(found.seconds)}")
    show.look(path)


def ema(
    run: str, *, against: str, options: Flat[EmaOptions] = EmaOptions(), reading: Reading = Reading(), as_json: Json = False
) -> None:
    """Choose the length of the weights' average after training, from the snapshots of a run.

    ```
    alphabar train fashion_mnist --recipe garments --out runs/garments --train.ema-snapshots 16
    alphabar ema runs/garments --against fashion_mnist:test --lengths 0.03 0.05 0.1 0.15
    ```

    `--checkpoint ema:0.1` then stands for that average wherever a run is read. Writes a table and a picture into the run.

    Args:
        run: a run folder.
        against: SET[:SPLIT] of real images.
    """
    from alphabar.verbs.ema import choose_length

    found = choose_length(run, against, options=options, reading=asdict(reading), progress=not as_json)
    if show.done(found, as_json):
        return
    rows = [(f"{length:g}", scores) for length, scores in found.scores.items()] + [("last", found.last)]
    show.table(
        ("length", *(s.metric for s in found.last)),
        [(length, *(str(s.estimate) for s in scores)) for length, scores in rows],
        f"{options.n:,} images each; last is the average that the run samples with",
    )
    for c in found.against_last:
        say(c.words)
    say(f"best by FID: --checkpoint ema:{found.best:g} (the best of several is biased low; score it again with another seed)")
    say(f"picture: {found.picture}")
    show.hint("sample", run, "--checkpoint", f"ema:{found.best:g}", "--out", "averaged.npz")
