"""The command line. Every command's --help opens with two commands that can be pasted."""

import json
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

app = App(
    name="alphabar",
    help="A laboratory for image diffusion models.\n\n```\nalphabar demo\nalphabar train fashion_mnist --out runs/garments\n```",
    help_format="markdown",
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)
extractor_app = App(
    name="extractor", help="Train an extractor of features on a set of your own, and check what it sees.", help_format="markdown"
)
app.command(extractor_app)
runs_app = App(
    name="runs",
    help="List runs, and take checkpoints away without losing what they were.\n\n"
    "```\nalphabar runs\nalphabar runs runs/ --where data.set=fashion_mnist train.lr=0.001 --state finished\n```",
    help_format="markdown",
)
app.command(runs_app)

Json = Annotated[bool, Parameter(name="--json", negative="", help="print JSON instead of a table")]


# how images are read: see `alphabar.data.sources.load`
ValueRange = Annotated[
    tuple[float, float] | None,
    Parameter(name="--range", allow_leading_hyphen=True, help="LOW HIGH: the values at the bottom and the top of the scale"),
]
Alpha = Annotated[
    str, Parameter(help="of transparent images: refuse, keep (one more channel), or the background: white, black, R,G,B")
]
SkipBroken = Annotated[bool, Parameter(negative="", help="leave damaged images out, and say which")]
AxesOrder = Annotated[Literal["nhwc", "nchw"] | None, Parameter(help="of arrays whose shape leaves it open")]


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """The options of `alphabar.data.sources.load`, as every command that reads images has them."""

    value_range: ValueRange = None
    alpha: Alpha = "refuse"
    skip_broken: SkipBroken = False
    axes: AxesOrder = None


Interval = Annotated[tuple[float, float] | None, Parameter(help="LOW HIGH: levels (sigma) within which guidance acts")]


@app.command
def demo(*, out: str = "demo", minutes: float = 2.5) -> None:
    """Draw, score and compare garments from the bundled model, with no download; about three minutes on 2 cores.

    ```
    alphabar demo
    alphabar demo --out /tmp/demo --minutes 1
    ```

    Parameters
    ----------
    out
        folder for the page, the sheets and the results.
    minutes
        of drawing; more minutes, more images.
    """
    from alphabar.verbs.demo import run

    run(out, minutes=minutes)


@app.command
def data(
    image_set: str,
    *,
    sheet: Path | None = None,
    n: int = 100,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Print the data card of a set and write a contact sheet.

    ```
    alphabar data fashion_mnist
    alphabar data photos/ --sheet photos.png --n 64
    ```

    Parameters
    ----------
    image_set
        fashion_mnist, cifar10, a path, or hf:owner/name; with :test for the test split.
    sheet
        where the contact sheet goes; SET.png in this folder if left out.
    n
        images on the contact sheet, picked by seed 0.
    """
    import numpy as np

    from alphabar.core.seeds import generator
    from alphabar.data.card import data_card
    from alphabar.data.contact_sheet import contact_sheet, shown_note
    from alphabar.data.sources import load, parse_set

    images = load(*parse_set(image_set), **asdict(reading))
    card = data_card(images)
    chosen = np.sort(generator(0).permutation(len(images))[:n])
    path = sheet or Path(f"{images.name}_{images.split}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    some = np.asarray(images.pixels[chosen])
    contact_sheet(some, scale=2 if images.image_shape[1] < 64 else 1).save(path)
    card["sheet"], card["sheet_note"] = str(path), shown_note(some)
    _show(card, as_json, f"{images.name}:{images.split}")


@app.command
def train(
    image_set: str,
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    out: Path,
    recipe: str = "garments",
    images: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    value_range: ValueRange = None,
    alpha: Alpha | None = None,
    skip_broken: SkipBroken = False,
    axes: AxesOrder = None,
) -> None:
    """Train a model on a set, into a run folder; previews, held-out loss and FID appear while it runs.

    ```
    alphabar train fashion_mnist --out runs/garments
    alphabar train photos/ --recipe garments --out runs/photos --images 200000 --train.lr 1e-3
    ```

    Every key of the recipe can be set as --section.key VALUE; --dry-run prints them all, and what the run will cost.
    Ctrl-C stops with a checkpoint, and the same command with --resume goes on from it.

    Parameters
    ----------
    image_set
        fashion_mnist, cifar10, a path, or hf:owner/name.
    out
        the run folder.
    recipe
        garments, ddpm_v2, ddpm_v3, or a TOML file.
    images
        budget in images seen, in place of the recipe's.
    seed
        in place of the recipe's.
    resume
        go on from the run's last checkpoint; the recipe is the run's own.
    dry_run
        print the resolved recipe and the cost, and train nothing.
    """
    from alphabar.core.run import Run
    from alphabar.training.config import resolve
    from alphabar.verbs import train as api

    source: str | Path = recipe
    if resume:
        source = Run(out).recipe
        if not source.exists():
            raise FileNotFoundError(f"there is no run at {out} to resume: leave --resume out to begin it")
    settings = [*tokens] if resume else [*tokens, "--data.set", image_set]
    if value_range is not None:
        settings += ["--data.range", *(str(v) for v in value_range)]
    if alpha is not None:
        settings += ["--data.alpha", alpha]
    if skip_broken:
        settings += ["--data.skip-broken"]
    if axes is not None:
        settings += ["--data.axes", axes]
    resolved = api.with_budget(resolve(source, settings), images, seed)
    if dry_run:
        print(resolved.toml())
        _show(api.cost(resolved), False, "cost")
        return
    try:
        api.train(resolved, out, resume=resume)
    except KeyboardInterrupt as e:
        print(f"{e}\ngo on with: alphabar train {image_set} --out {out} --resume", file=sys.stderr)
        raise SystemExit(130) from None


@app.command
def sample(
    run: str,
    *,
    out: str,
    n: int = 64,
    sampler: str = "ddim",
    steps: int = 50,
    eta: float | None = None,
    options: Annotated[dict[str, int | float | str] | None, Parameter(help="of the sampler, as --options.s_churn 40")] = None,
    seed: int = 0,
    batch: int = 64,
    grid: str | None = None,
    plan: str | None = None,
    clip: bool | None = None,
    threshold: float | None = None,
    variance: str | None = None,
    tuned: Path | None = None,
    classes: tuple[str, ...] | None = None,
    guidance: float | None = None,
    guidance_interval: Interval = None,
    fast: str = "auto",
    precision: Literal["float32", "bf16"] = "float32",
    checkpoint: str = "last",
    device: str | None = None,
    as_json: Json = False,
) -> None:
    """Draw images from a run.

    ```
    alphabar sample bundled --n 64 --steps 25 --out garments.npz
    alphabar sample runs/garments --n 10000 --sampler ddim --steps 50 --eta 1 --seed 1 --out samples.npz
    ```

    Writes OUT.npz with `images` (n x h x w x c, of the type that the model was trained on) and the record of how they
    were made, or, when OUT ends in a slash, a folder of PNGs; and a contact sheet of the first 100 beside it. An
    interrupted command goes on where it stopped.

    Parameters
    ----------
    run
        a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
    out
        PATH.npz, or a folder ending in a slash.
    n
        images.
    sampler
        a name in `alphabar samplers`; tuned, the one that `alphabar tune` fitted to this run for so many steps; tuned:NAME.
    steps
        of the sampler; each costs a network call unless a plan skips it.
    eta
        0 (deterministic) to 1 (all the noise); the sampler's own if left out.
    seed
        image k of a seed is the same whatever n and batch.
    batch
        images at a time.
    grid
        leading, trailing, linspace (integer timesteps), time, log_sigma, karras or karras_few (for 20 steps or fewer).
    plan
        which steps call the network, as "every(3, last=50)", progressive, or "adaptive(0.02)" (image by image).
    clip
        hold x0_hat within -1..1 at every step, or --no-clip; diffusers:PATH does as its scheduler says if left out.
    threshold
        dynamic thresholding of x0_hat, a share such as 0.995.
    variance
        posterior or beta, for ddpm.
    tuned
        a fitted sampler's file, in place of --sampler.
    classes
        of a class-conditional run: names or numbers of classes, which images take in turns, or all.
    guidance
        weight of classifier-free guidance; 1 is none, 2 follows the class more closely, for twice the calls.
    fast
        how the network is run: auto (what finishes soonest here, by measurement), none, or channels_last, compile, onnxruntime,
        openvino, mnn, cuda_graphs.
    precision
        bf16 multiplies in bfloat16, which changes images a little.
    checkpoint
        last or best.
    device
        cpu, cuda, mps; the best there is if left out.
    """
    from alphabar.core.machine import best_device
    from alphabar.sampling.sample import sample as draw
    from alphabar.training.checkpoint import load_model

    model = load_model(run, checkpoint)
    try:
        samples = draw(
            model,
            n,
            sampler=sampler,
            steps=steps,
            eta=eta,
            options=options,
            seed=seed,
            batch=batch,
            grid=grid,
            plan=plan,
            clip=clip,
            threshold=threshold,
            variance=variance,
            tuned=tuned,
            classes=classes,
            guidance=guidance,
            guidance_interval=guidance_interval,
            fast=fast,
            precision=precision,
            out=out,
            device=device or best_device(),
            channels_last=True,
        )
    except KeyboardInterrupt:
        print("stopped; the finished batches are kept, and the same command goes on from them", file=sys.stderr)
        raise SystemExit(130) from None
    sheet = Path(out.rstrip("/") + ".png") if out.endswith("/") else Path(out).with_suffix(".png")
    from alphabar.data.contact_sheet import contact_sheet

    contact_sheet(samples.images[:100], scale=2 if samples.images.shape[1] < 64 else 1).save(sheet)
    told = {k: v for k, v in samples.record.items() if k not in ("grid", "x0_steps")}
    _show({**told, "sheet": str(sheet)}, as_json, str(out))


@app.command
def ema(
    run: str,
    *,
    against: str,
    lengths: tuple[float, ...] | None = None,
    extractor: str = "bundled",
    n: int = 1000,
    sampler: str = "unipc",
    steps: int = 20,
    seed: int = 0,
    device: str | None = None,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Choose the length of the weights' average after training, from the snapshots of a run.

    ```
    alphabar train fashion_mnist --out runs/garments --train.ema-snapshots 16
    alphabar ema runs/garments --against fashion_mnist:test --lengths 0.03 0.05 0.1 0.15
    ```

    Then `--checkpoint ema:0.1` stands for that average wherever a run is read. Writes a table and a picture into the run.

    Parameters
    ----------
    run
        a run folder.
    against
        SET[:SPLIT] of real images.
    lengths
        relative to the whole training, more than 0 and less than 0.289; six usual ones if left out.
    extractor
        a path, or bundled.
    n
        images drawn from each.
    sampler
        a name in `alphabar samplers`.
    steps
        of the sampler.
    seed
        of the noise, the same for each.
    device
        cpu, cuda, mps; the best there is if left out.
    """
    from alphabar.verbs import ema as averaging

    found = averaging.choose_length(
        run, against, lengths or averaging.TRIED, extractor=extractor, n=n, sampler=sampler, steps=steps, seed=seed,
        device=device, reading=asdict(reading), progress=not as_json,
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_json()))
        return
    shown = [(f"{k:g}", v) for k, v in found.scores.items()] + [("last", found.last)]
    _table(
        ("length", *(s.metric for s in found.last)),
        [
            (k, *(f"{s.value:.4g}" + ("" if s.interval is None else " [{:.4g}, {:.4g}]".format(*s.interval)) for s in v))
            for k, v in shown
        ],
        f"{n:,} images each; last is the average that the run samples with",
    )
    for c in found.against_last:
        print(c.words)
    print(f"best by FID: --checkpoint ema:{found.best:g} (of several, so score it again with another seed); {found.picture}")


@app.command
def experiment(
    file: str,
    *,
    out: Path,
    reuse: tuple[Path, ...] = (),
    at_once: int = 1,
    ray: str | None = None,
    device: str | None = None,
    shown: int = 16,
    dry_run: bool = False,
    as_json: Json = False,
) -> None:
    """Settle a question by training: variants of a recipe, several seeds, one budget for all, and a verdict with intervals.

    ```
    alphabar experiment range --out experiments/range
    alphabar experiment mine.toml --out experiments/mine --dry-run
    ```

    FILE is TOML: hypothesis (words), better and than (names of variants), seeds, [budget] images or minutes,
    [variants.NAME] with recipe keys, and, if you like, recipe, metric and [scoring]. Those that ship: range, schedule,
    prediction, average. A stopped or killed experiment goes on with the same command.

    Parameters
    ----------
    file
        a TOML file, or the name of an experiment that ships.
    out
        folder for the runs, the rows, and the page index.html.
    reuse
        folders of other experiments: trainings that they have and this one would repeat are copied.
    at_once
        trainings side by side, each in a process of its own: small networks leave a GPU idle most of the time.
    ray
        local, or the address of a Ray cluster whose machines all see the folder.
    device
        cpu, cuda, mps; the best there is if left out.
    shown
        images a variant on the page.
    dry_run
        print the resolved experiment and stop.
    """
    from alphabar.results.experiments import read_experiment

    told = read_experiment(file)
    if dry_run:
        print(json.dumps(told.to_json(), indent=None if as_json else 1))
        return
    from alphabar.report.experiment_page import table
    from alphabar.verbs import experiment as experimenting

    try:
        found = experimenting.experiment(
            told, out, reuse=reuse, at_once=at_once, ray=ray, device=device, shown=shown, progress=not as_json
        )
    except KeyboardInterrupt as stopped:
        print(f"{stopped}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
    if as_json:
        print(json.dumps(found.to_json()))
        return
    from rich.console import Console

    Console().print(table(found))
    print(f"{found.verdict}: {found.words}")
    print(found.page)


@app.command
def samplers(*, as_json: Json = False) -> None:
    """List the samplers: what each is for, its order, its calls for ten steps, its options.

    ```
    alphabar samplers
    alphabar samplers --json
    ```
    """
    from alphabar.sampling.catalogue import SAMPLERS

    shown = {e.name: [k for k in e.options if k != "data_range"] for e in SAMPLERS.values()}
    if as_json:
        print(json.dumps([
            {"name": e.name, "order": e.order, "stochastic": e.stochastic, "calls_of_10_steps": e.calls(10),
             "options": shown[e.name], "summary": e.summary} for e in SAMPLERS.values()
        ]))  # fmt: skip
        return
    _table(
        ("sampler", "order", "calls of 10 steps", "options", "what it is for"),
        [(e.name, str(e.order), str(e.calls(10)), ", ".join(shown[e.name]), e.summary) for e in SAMPLERS.values()],
        "samplers; and tuned, once `alphabar tune` has fitted one to the model",
    )


@app.command
def tune(
    run: str,
    *,
    calls: tuple[int, ...],
    fit: Literal["grid", "solver", "images", "features"] = "solver",
    base: str | None = None,
    name: str | None = None,
    against: str | None = None,
    extractor: str | None = None,
    judge: str = "bundled",
    n: int = 256,
    n_judge: int = 2000,
    seed: int | None = None,
    rounds: int = 3,
    steps: int = 14,
    rate: float = 0.02,
    eta: float = 0.3,
    batch: int = 512,
    bf16: bool = False,
    begin: str | None = None,
    out: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    checkpoint: str = "last",
    device: str | None = None,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Fit a sampler of a few calls to a run: its levels, its coefficients, and, by real images, its noise.

    ```
    alphabar tune runs/garments --calls 5 10 20
    alphabar tune runs/garments --calls 10 --fit features --against fashion_mnist --extractor extractors/other.safetensors
    ```

    Then `alphabar sample RUN --sampler tuned --steps 10`. Minutes on 2 cores for small models; features take longer. Writes a
    plot of the levels beside the standard grids. Ctrl-C ends a descent early and keeps what was found.

    Parameters
    ----------
    run
        a run folder, a .safetensors file, bundled, or diffusers:PATH.
    calls
        network calls an image; one sampler is fitted for each number.
    fit
        grid (levels only), solver (and coefficients, by least squares), images (and the gradient of the distance from a fine
        trajectory), features (and that of the Frechet distance to real images, with fresh noise).
    base
        sampler whose coefficients a fit of the levels takes; the best if left out. dpmpp_2m for a grid that diffusers is to walk.
    name
        under which it is kept; the fit's own if left out. --sampler tuned:NAME asks for it.
    against
        SET of real images, for features: its train split is fitted to, its test split judges.
    extractor
        for features: what is fitted to.
    judge
        for features: another extractor, which no fit has seen.
    n
        starting noises of the fine trajectory.
    n_judge
        images that the judge sees.
    seed
        of the fit; one that nobody samples with if left out.
    rounds
        of descent, for images and features; each goes 0.6 times as far as the one before.
    steps
        of a round.
    rate
        how far a step of the descent may change the images, root mean square, at first.
    eta
        share of fresh noise that a descent by features begins with; 0 leaves noise out.
    batch
        images a step of the descent.
    bf16
        multiply in bfloat16 while descending.
    begin
        name of fitted samplers that the run has, to descend from, with as many calls or fewer, which grow; or the .json file of
        one, which may be of another model, as of the run before it was trained on. Give another --seed with it, and a smaller
        --rate.
    out
        folder for the fitted samplers; tuned/ in the run, or here for bundled and single files.
    overwrite
        replace a fitted sampler of that name and number of calls.
    checkpoint
        last or best.
    device
        cpu, cuda, mps; the best there is if left out.
    """
    from alphabar.report.figures import draw_levels
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs import tune as tuning

    descent = tuning.Descent(rounds=rounds, steps=steps, batch=batch, rate=rate, eta=eta, bf16=bf16)
    done = tuning.tune(
        run, calls, fit=fit, base=base, name=name, against=against, extractor=extractor, judge=judge, n=n, n_judge=n_judge,
        seed=tuning.SEED if seed is None else seed, descent=descent, begin=begin, out=out, overwrite=overwrite,
        reading=asdict(reading), checkpoint=checkpoint, device=device, progress=not as_json,
    )  # fmt: skip
    schedule = load_model(run, checkpoint).schedule
    pictures = [str(draw_levels(t.fit, schedule, t.path.with_suffix(".png"))) for t in done]
    if as_json:
        print(json.dumps([{**t.to_json(), "picture": p} for t, p in zip(done, pictures, strict=True)]))
        return
    for t, picture in zip(done, pictures, strict=True):
        rows = [(k, f"{v:.4f}") for k, v in sorted(t.distance.items(), key=lambda kv: kv[1])]
        _table(
            (f"{t.fit.calls} calls", "distance from the fine trajectory"), rows,
            "root mean square, images in [-1, 1], noise that no fit has seen"
            + ("; fresh noise makes images of their own, far from these" if t.fit.stochastic else ""),
        )  # fmt: skip
        for c in t.compared:
            print(c.words)
        print(f"{t.path}; levels: {picture}")


@app.command
def score(
    samples: str,
    *,
    against: str,
    extractor: str = "bundled",
    n: int | None = None,
    steps: int = 50,
    eta: float = 0.0,
    metrics: tuple[str, ...] | None = None,
    curve: bool = False,
    trained_on: str | None = None,
    picture: Path | None = None,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Score images against real ones: every metric with its interval, beside what as many real images get (the floor).

    ```
    alphabar score samples.npz --against fashion_mnist:test
    alphabar score runs/garments --against fashion_mnist:test --n 2000 --trained-on fashion_mnist --json
    ```

    Writes a picture of the scores over a sheet of the images. Under torchrun all processes share the work.

    Parameters
    ----------
    samples
        an .npz, a folder of images made by any program, or a run (n images are drawn from it first, by DDIM, and kept);
        SAMPLES[a:b] are images a to b.
    against
        SET or SET:SPLIT.
    extractor
        bundled (garments), the path of one that `alphabar extractor train` made, inception:original or inception:clean.
    n
        the first n images of the samples; for a run, how many to draw (2,000 if left out).
    steps
        calls an image, where samples is a run.
    eta
        of DDIM, where samples is a run.
    metrics
        which of fid, fid_infinity, kid, precision, recall, density, coverage; all of them if left out.
    curve
        also FID and KID against the number of images, with the floor and FID-infinity, as a plot.
    trained_on
        SET that the model was trained on: looks for copies of its images, and writes a sheet of the nearest pairs.
    picture
        where the picture goes; beside the samples if left out.
    """
    from alphabar.core.processes import world
    from alphabar.verbs.options import ScoreReportOptions
    from alphabar.verbs.score import score_report

    options = ScoreReportOptions(extractor, n, steps, eta, metrics, curve, trained_on, picture)
    found = score_report(samples, against, options, asdict(reading))
    scores, points, copies, files = found.scores, found.curve, found.copies, found.pictures
    if world()[0] != 0:  # one process speaks for all
        return
    if as_json:
        print(json.dumps(found.to_json()))
        return
    _show_scores(scores)
    if points:
        _table(
            ("metric", "images", "mean of parts", "parts", "interval of one", "floor"),
            [
                (p.metric, f"{p.n:,}", f"{p.value:.4g}", str(p.sets), str(p.one), "" if p.floor is None else str(p.floor))
                for p in points
            ],
            "score against the number of images",
        )
    if copies is not None:
        print(f"copies of {trained_on}, by features: {copies.features}")
        print(f"copies of {trained_on}, by pixels: {copies.pixels}")
    for what, path in files.items():
        print(f"{what}: {path}")


@app.command
def compare(
    a: str,
    b: str,
    *,
    against: str,
    extractor: str = "bundled",
    n: int | None = None,
    steps: int = 50,
    eta: float = 0.0,
    metrics: tuple[str, ...] | None = None,
    picture: Path = Path("compare.png"),
    keep: tuple[Path, ...] = (),
    wandb_report: Annotated[bool, Parameter(negative="")] = False,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Is A better than B? Each metric's difference with its interval, a verdict, and how many images would decide it.

    ```
    alphabar compare ddim10.npz ddim50.npz --against fashion_mnist:test
    alphabar compare "samples.npz[:5000]" "samples.npz[5000:]" --against fashion_mnist:test
    ```

    Sets that were made from the same noise (same seed, as `alphabar sample` records it) are compared image by image. Sets of
    unlike size are refused: --n takes the first n of both. Where A or B is a run, the verdicts are kept with it, in
    comparisons.jsonl, and `alphabar report` shows them; for other sets, --keep says with which run.

    Parameters
    ----------
    a
        an .npz, a folder of images, or a run; PATH[a:b] is a part.
    b
        the same.
    against
        SET or SET:SPLIT.
    extractor
        bundled (garments), a path, inception:original or inception:clean.
    n
        the first n images of both; for runs, how many to draw.
    steps
        calls an image, for runs.
    eta
        of DDIM, for runs.
    metrics
        as for `alphabar score`.
    picture
        where the picture goes.
    keep
        run folders with which the verdicts are kept, too.
    wandb_report
        save the verdicts as a report in Weights & Biases too, with the curves of A and B where they are tracked runs.
    """
    from alphabar.core.processes import world
    from alphabar.evaluation.score import METRICS
    from alphabar.sampling.sample_set import open_samples
    from alphabar.verbs import compare as comparing
    from alphabar.verbs import score as judge

    if wandb_report:
        from alphabar.tracking.workspace import check_server

        check_server()
    ruler, real = judge.evaluator(against, extractor, reading=asdict(reading))
    opened = [open_samples(x, n=n, steps=steps, eta=eta, reading=asdict(reading)) for x in (a, b)]
    names = (_label(a), _label(b)) if _label(a) != _label(b) else ("A", "B")
    found = comparing.compare(opened[0], opened[1], ruler, real, metrics or METRICS, names, keep)
    if world()[0] != 0:
        return
    from alphabar.report.figures import draw_comparison

    path = draw_comparison(found, (opened[0].pixels, opened[1].pixels), names, picture)
    if wandb_report:
        from alphabar.tracking.workspace import comparison_report

        saved = comparison_report(found, names, [Path(x) for x in (a, b) if Path(x).is_dir()]).save()
        print(f"Weights & Biases: {saved.url}", file=sys.stderr)
    if as_json:
        print(json.dumps([c.to_json() for c in found]))
        return
    _table(
        ("metric", *names, "difference", "verdict"),
        [(_title(c.metric), f"{c.a.value:.4g}", f"{c.b.value:.4g}", str(c.difference), c.verdict) for c in found],
        f"{found[0].a.n:,} images each, " + ("the same noise" if found[0].paired else "unlike noise"),
    )
    for c in found:
        print(c.words)
    print(f"picture: {path}")


@app.command
def sweep(
    run: str,
    *,
    against: str,
    samplers: tuple[str, ...] | None = None,
    calls: tuple[int, ...] | None = None,
    steps: tuple[int, ...] = (),
    eta: tuple[float, ...] | None = None,
    plans: tuple[str, ...] = ("full",),
    grids: tuple[str, ...] = ("default",),
    clip: bool | None = None,
    threshold: float | None = None,
    guidance: float = 1.0,
    n: int = 2000,
    seed: int = 0,
    batch: int = 64,
    extractor: str = "bundled",
    metrics: tuple[str, ...] = ("fid", "kid"),
    name: str = "default",
    out: Path | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    ray: str | None = None,
    shown: int = 16,
    dry_run: bool = False,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Draw by many samplers at many numbers of calls from the same noise, score all, and show what a saved call costs.

    ```
    alphabar sweep bundled --against fashion_mnist:test --out sweep
    alphabar sweep runs/garments --against fashion_mnist:test --samplers ddim dpmpp_2m --calls 5 10 20 --n 5000
    ```

    Ends in a table and a page: quality against calls and against seconds with intervals, the front of what nothing beats for
    less, and the same seeds under every setting. A sweep that was stopped or killed goes on where it was with the same
    command; one with more samplers or calls adds to what is there. --dry-run says what it would draw.

    Under torchrun (torchrun --nproc_per_node 2 -m alphabar.cli.main -- sweep ...) the settings are dealt to the processes; --ray
    spreads them over the machines of a Ray cluster.

    Parameters
    ----------
    run
        a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
    against
        SET or SET:SPLIT.
    samplers
        names in `alphabar samplers`, tuned, or tuned:NAME; with options as "heun(s_churn=40)". The usual ones if left out.
    calls
        the most network calls an image: 5 8 10 15 20 50 if both this and --steps are left out.
    steps
        numbers of steps, besides.
    eta
        for the samplers that take it; if left out, 0 and 1 of ddim and its like, 1 of the stochastic ones.
    plans
        which steps call the network, as full "every(3)"; a plan gets as many steps as the calls pay for.
    grids
        as for `alphabar sample`; default is the model's own.
    clip
        hold x0_hat within -1..1 in all of them, or --no-clip; what the model says if left out.
    threshold
        dynamic thresholding of x0_hat, a share such as 0.995.
    guidance
        of a conditional model, which draws all classes in turns; above 1 leads towards them, at twice the calls.
    n
        images a setting.
    seed
        of the noise, the same under every setting.
    batch
        images at a time.
    extractor
        as for `alphabar score`.
    metrics
        as for `alphabar score`; the first one sorts the table.
    name
        the sweep is kept in RUN/sweeps/NAME.
    out
        another folder to keep it in; sweep/ for bundled and for a single file.
    checkpoint
        last or best.
    device
        cpu, cuda, mps; the best there is if left out.
    ray
        local, or the address of a cluster; needs pip install 'alphabar[ray]'.
    shown
        images of every setting on the page.
    dry_run
        list the settings and what was left out, and draw nothing.
    """
    from alphabar.core.processes import world
    from alphabar.sampling.settings import CALLS
    from alphabar.verbs import sweep as sweeping

    wanted: dict[str, Any] = {
        "samplers": samplers, "calls": CALLS if calls is None and not steps else calls or (), "steps": steps,
        "etas": eta, "plans": plans, "grids": grids, "clip": clip, "threshold": threshold,
    }  # fmt: skip
    if dry_run:
        _show_planned(run, checkpoint, wanted, n, as_json)
        return
    try:
        done = sweeping.sweep(
            run, against, **wanted, n=n, seed=seed, batch=batch, extractor=extractor, metrics=metrics, reading=asdict(reading),
            guidance=guidance, name=name, out=out, checkpoint=checkpoint, device=device, ray=ray, shown=shown,
        )  # fmt: skip
    except KeyboardInterrupt as e:
        print(f"stopped; {e}, and the same command goes on from them", file=sys.stderr)
        raise SystemExit(130) from None
    if world()[0] != 0:  # one process speaks for all
        return
    if as_json:
        print(json.dumps(done.to_json()))
        return
    from rich.console import Console

    from alphabar.report.sweep_page import explained, table

    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table(done, metrics))
    for sentence in explained(done, metrics):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"page: {done.page}", highlight=False, markup=False, soft_wrap=True)


def _show_planned(run: str, checkpoint: str, wanted: dict[str, Any], n: int, as_json: bool) -> None:
    from dataclasses import asdict

    from alphabar.sampling.settings import settings
    from alphabar.training.checkpoint import load_model

    found, left_out = settings(load_model(run, checkpoint), **wanted)
    if as_json:
        rows = [{"name": s.name, "setting": s.to_json(), "calls": c} for s, c in found]
        print(json.dumps({"settings": rows, "left_out": [asdict(one) for one in left_out]}))
        return
    total = n * sum(c for _, c in found)
    _table(
        ("calls", "setting", "steps"),
        [(f"{c:g}", s.method, str(s.steps)) for s, c in found],
        "what the sweep would draw",
    )
    print(f"{len(found)} settings of {n:,} images: {total:,.0f} times an image goes through the network")
    for one in left_out:
        print(f"left out: {one}")


@app.command
def export(
    run: str,
    *,
    out: Path | None = None,
    to: Literal["diffusers", "timesteps"] = "diffusers",
    pipeline: Literal["ddim", "ddpm"] = "ddim",
    checkpoint: str = "last",
) -> None:
    """Write a run as a folder from which diffusers draws the same images, or its fitted samplers as timesteps for diffusers.

    ```
    alphabar export runs/unet2d --out garments_diffusers
    alphabar export diffusers:garments_diffusers --to timesteps --out timesteps.json
    ```

    A folder can be written of runs trained with --model.network unet2d --schedule.kind linear --model.data-range 1.

    Parameters
    ----------
    run
        a run folder, a .safetensors file, or (for timesteps) diffusers:PATH.
    out
        a folder that is empty or not there yet; for timesteps a JSON file, printed if left out.
    to
        diffusers: a pipeline's folder, with its weights in safetensors. timesteps: of every sampler that `alphabar tune`
        fitted to the run, the list that set_timesteps(timesteps=...) takes.
    pipeline
        ddim or ddpm.
    checkpoint
        last or best.
    """
    from alphabar.core.files import write_atomically
    from alphabar.denoiser.to_diffusers import export_diffusers
    from alphabar.sampling.timesteps import fitted_timesteps
    from alphabar.training.checkpoint import load_model

    model = load_model(run, checkpoint)
    if to == "timesteps":
        text = json.dumps(fitted_timesteps(model), indent=1)
        if out is None:
            print(text)
        else:
            write_atomically(out, text + "\n")
            print(out)
        return
    if out is None:
        raise ValueError("name the folder to write: --out FOLDER")
    notes = export_diffusers(model, out, pipeline=pipeline)
    print(f"{out}: {pipeline.upper()}Pipeline.from_pretrained reads it, and so does alphabar, as {to}:{out}")
    for note in notes:
        print(f"- {note}")


@app.command
def loss(run: str, *, trained_on: str, n: int = 1000, picture: Path | None = None, as_json: Json = False) -> None:
    """Denoising loss by noise level of held-out and of trained images: the cheap early sign of a model that learns by heart.

    ```
    alphabar loss runs/garments --trained-on fashion_mnist
    alphabar loss bundled --trained-on fashion_mnist --n 500 --json
    ```

    Parameters
    ----------
    run
        a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
    trained_on
        the SET it was trained on; its held-out part is known by content.
    n
        images of either kind.
    picture
        where the plot goes; beside the run if left out.
    """
    from alphabar.report.figures import draw_losses
    from alphabar.verbs.loss import loss as measure
    from alphabar.verbs.score import picture_path

    found = measure(run, trained_on, n=n)
    path = draw_losses(found, picture or picture_path(run, "loss.png"))
    if as_json:
        print(json.dumps(found.to_json()))
        return
    _table(
        ("sigma", "held out", "trained on", "gap"),
        [
            (f"{sigma:.3g}", str(held), str(seen), str(gap))
            for sigma, held, seen, gap in zip(found.sigma, found.heldout, found.train or (), found.gap or (), strict=True)
        ],
        "mean squared error of x0_hat a pixel, images in [-1, 1]",
    )
    print(f"relative gap over all levels: {found.relative_gap}")
    print(f"picture: {path}")


@app.command(name="app")
def playground(
    root: Path | None = None,
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    against: str | None = None,
    extractor: str | None = None,
) -> None:
    """Serve a page for the browser: draw from runs, watch images form, set two settings side by side, score them.

    ```
    alphabar app
    alphabar app runs --port 7861 --against fashion_mnist:test
    ```

    The page is for this machine alone unless --host says otherwise; it has no password. It asks no other machine for anything.
    Needs pip install 'alphabar[app]'. Ctrl-C stops it.

    Parameters
    ----------
    root
        the folder whose runs may be chosen; runs, if there is one here, else this folder. The bundled run is always there.
    port
        where it listens.
    host
        127.0.0.1 is this machine alone; 0.0.0.0 lets everyone use the page who reaches this machine over the network.
    against
        SET[:SPLIT] of real images for scores; fashion_mnist:test for the bundled run if left out.
    extractor
        of the scores: bundled, a path, inception:original or inception:clean; that of the run's recipe if left out.
    """
    from alphabar.web.app import serve
    from alphabar.web.playground import Playground

    serve(Playground(root or _home_of_runs(), against, extractor), host=host, port=port)


@runs_app.default
def list_runs(
    *roots: Path, where: tuple[str, ...] = (), state: tuple[str, ...] = (), model: str | None = None, as_json: Json = False
) -> None:
    """List the runs below some folders: where their recipes differ, how they stand, best score, cost in images, FLOPs and hours.

    ```
    alphabar runs
    alphabar runs runs/ experiments/ --where data.set=fashion_mnist train.lr=0.001 --state finished --json
    ```

    Parameters
    ----------
    roots
        folders that hold runs; runs/ where there is one, else this folder.
    where
        recipe keys and the values they must have, as train.lr=0.001.
    state
        finished, stopped, diverged, open or empty: only those.
    model
        the fingerprint that samples and scores name their model by: only say which run and checkpoint it is, or was.
    """
    from alphabar.results.inventory import find_runs, origin, table

    paths = find_runs(roots or [_home_of_runs()])
    if model is not None:
        found = origin(paths, model)
        if as_json:
            print(json.dumps(found))
        for row in [] if as_json else found:
            print(
                f"{row['run']}, checkpoint {row['checkpoint']}, {row['images']} images" + ("" if row["there"] else "; taken away")
            )
        if not found and not as_json:
            print(f"none of {len(paths)} runs has or had the model {model}")
        return
    if bad := [w for w in where if "=" not in w]:
        raise ValueError(f"--where {bad[0]}: write KEY=VALUE, as train.lr=0.001")
    if bad := [s for s in state if s not in ("finished", "stopped", "diverged", "open", "empty")]:
        raise ValueError(f"--state {bad[0]}: use finished, stopped, diverged, open or empty")
    rows = table(paths, dict(w.split("=", 1) for w in where), state)
    if as_json:
        print(json.dumps([r.to_json() for r in rows]))
        return
    if not rows:
        print(f"no runs{' like that' if paths else ''} below {', '.join(map(str, roots)) or 'here'}")
        return
    _table(
        ("run", "state", "images", "hours", "TFLOP", "best FID", "what differs"),
        [
            (
                r.path, r.state, _of(r.images, r.budget), _number(r.hours, ".2f"), _number(r.tflop, ",.0f"),
                _number(r.fid, ".3g") + ("" if r.fid_interval is None else " [{:.3g}, {:.3g}]".format(*r.fid_interval)),
                ", ".join(f"{k} {v}" for k, v in r.differs.items()),
            )
            for r in rows
        ],
        f"{len(rows)} run{'s' if len(rows) > 1 else ''}",
    )  # fmt: skip


def _home_of_runs() -> Path:
    """Where runs are looked for unless told otherwise."""
    return Path("runs") if Path("runs").is_dir() else Path()


def _of(images: int | None, budget: int | None) -> str:
    return "–" if images is None else f"{images:,}" + (f" of {budget:,}" if budget and budget != images else "")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


@runs_app.command
def prune(*runs: Path, keep: tuple[str, ...] = ("last", "best"), yes: bool = False, as_json: Json = False) -> None:
    """Take checkpoints away, after asking. What each was (images, fingerprint) stays in the run's lineage.jsonl, so that samples
    and scores can still be traced to it; recipe, record and samples stay.

    ```
    alphabar runs prune runs/garments --keep best
    alphabar runs prune runs/old runs/older --keep none --yes
    ```

    Parameters
    ----------
    runs
        run folders.
    keep
        last, best, last.old, snapshots: the ones that stay; none: nothing stays but the record.
    yes
        do not ask.
    """
    from alphabar.results.inventory import plan_removals, remove

    if not runs:
        raise ValueError("name a run folder, as in `alphabar runs prune runs/garments --keep best`")
    planned = plan_removals(runs, () if keep == ("none",) else keep)
    if not planned:
        print("there is nothing to take away", file=sys.stderr)
        return
    for r in planned:
        what = f"{r.run}: {r.name}, {r.size / 2**20:.1f} MiB" + (f", {r.images:,} images" if r.images is not None else "")
        print(what + (f"; {r.loses}" if r.loses else ""), file=sys.stderr)
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError("nobody is there to ask: look at the list, and add --yes")
        if input("take these away? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was taken away", file=sys.stderr)
            return
    freed = remove(planned)
    if as_json:
        print(json.dumps({"freed": freed, "removed": [[r.run, r.name, r.model] for r in planned]}))
    else:
        print(f"{freed / 2**20:.1f} MiB freed; what they were is in lineage.jsonl of each run")


@app.command
def sync(*runs: Path, to: tuple[str, ...] = (), as_json: Json = False) -> None:
    """Send a run's record to trackers: what they have not got yet, or all of it to one that the run never had.

    ```
    alphabar sync runs/garments --to tensorboard
    alphabar sync runs/garments --to wandb mlflow
    ```

    Parameters
    ----------
    runs
        run folders.
    to
        wandb, tensorboard, mlflow, trackio, or module:Class of your own; none: those in the run's recipe.
    """
    from alphabar.core.run import Run
    from alphabar.tracking.outbox import sync as send
    from alphabar.training.config import resolve

    if not runs:
        raise ValueError("name a run folder, as in `alphabar sync runs/garments --to tensorboard`")
    found = {}
    for path in runs:
        names = to or resolve(Run(path).recipe).track
        if not names:
            raise ValueError(f"{path} has no trackers in its recipe: name some, as in --to tensorboard")
        with redirect_stdout(sys.stderr):  # where trackers talk
            found[str(path)] = send(path, names)
    if as_json:
        print(json.dumps(found))
        return
    for where, sent in found.items():
        for name, told in sent.items():
            print(f"{where}: {told['sent']} events to {name}. Look at it: {told['where']}")


@app.command
def report(*runs: Path, out: Path = Path("report.html"), sweep: tuple[Path, ...] = (), trajectory: bool | None = None) -> None:
    """Write one page about one or several runs: what differs, curves, scores, same-seed images, verdicts, the way from noise.

    ```
    alphabar report runs/garments --out garments.html
    alphabar report runs/a runs/b --out compared.html
    ```

    The page is one file that needs no network. It shows what lies in the runs' folders, sweeps and comparisons too, and the
    verdict of the experiment that trained them.

    Parameters
    ----------
    runs
        run folders, or the folder of an experiment for all its trainings.
    out
        the page.
    sweep
        folders of sweeps that lie elsewhere than in the runs.
    trajectory
        draw the way from noise to image for runs that kept none: left out, while it takes seconds; --no-trajectory never.
    """
    from alphabar.report.report_page import write_report

    if not runs:
        raise ValueError("name at least one run, as in: alphabar report runs/garments")
    print(write_report(list(runs), out, sweeps=sweep, draw=trajectory))


@extractor_app.command(name="train")
def train_extractor(
    image_set: str,
    *,
    out: Path,
    self_supervised: Annotated[bool, Parameter(negative="")] = False,
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    temperature: float = 0.5,
    flip: bool = True,
    widths: tuple[int, ...] = (48, 96, 192),
    seed: int = 0,
    bf16: bool = False,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Train an extractor, a residual network whose 512 features scores are worked out on: on a labelled set, or without labels.

    ```
    alphabar extractor train fashion_mnist --out extractors/garments.safetensors
    alphabar extractor train photos/ --out extractors/photos.safetensors --self-supervised
    ```

    Then see what it is good for: alphabar extractor check OUT --against SET.

    Parameters
    ----------
    image_set
        a set with labels (a folder with a subfolder a class, for example); any set with --self-supervised.
    out
        the file to write.
    self_supervised
        learn from the images alone (SimCLR); needs pip install 'alphabar[selfsup]'.
    epochs
        passes over the training images; 16 if left out, 30 without labels.
    batch
        images a step; 128 if left out, 256 without labels.
    lr
        highest learning rate; 0.1 if left out, 0.002 without labels.
    temperature
        of the loss without labels.
    flip
        mirror images at random; --no-flip where left and right differ in kind.
    widths
        channels at half, a quarter, an eighth of the size; more of them for larger images.
    seed
        of weights and order.
    bf16
        multiply in bfloat16; faster only where the processor or GPU has it.
    """
    from alphabar.data.sources import load, parse_set
    from alphabar.features.supervised import train_extractor as learn

    name, split = parse_set(image_set)
    images = load(name, split, **asdict(reading))
    given: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr}
    given = {k: v for k, v in given.items() if v is not None} | {"flip": flip, "widths": widths, "seed": seed, "bf16": bf16}
    try:
        if self_supervised:
            from alphabar.features.simclr import train_self_supervised

            made = train_self_supervised(images, temperature=temperature, **given)
        else:
            try:
                test = load(name, "test", **asdict(reading)) if images.labels is not None else None
            except FileNotFoundError:  # no test split: the accuracy is that of the held-out images
                test = None
            made = learn(images, test=test, **given)
    except KeyboardInterrupt:
        print("stopped; an extractor is written when it is done, so nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
    made.save(out)
    _show(
        {"extractor": str(out), "fingerprint": made.fingerprint, "features": made.dim, **made.training_record}, as_json, str(out)
    )


@extractor_app.command(name="check")
def check_extractor(
    extractor: str,
    *,
    against: str,
    n: int = 2000,
    ladders: tuple[str, ...] = (),
    seed: int = 0,
    out: Path | None = None,
    mark: bool = True,
    as_json: Json = False,
) -> None:
    """Show an extractor real images under known damage, and see whether its FID and KID rise with it.

    ```
    alphabar extractor check bundled --against fashion_mnist:test
    alphabar extractor check extractors/photos.safetensors --against photos/ --n 1000 --out photos_check.png
    ```

    The verdict, "passed" or the kinds of damage that are not ranked, is written into the extractor's file, whose
    fingerprint stays; scores made with it say so. About two minutes on 2 cores for images of 28x28.

    Parameters
    ----------
    extractor
        bundled, or the path of one that `alphabar extractor train` made.
    against
        SET or SET:SPLIT: the reference. What is damaged are real images that it does not hold.
    n
        images of every rung.
    ladders
        blur, noise, contrast, range, inverted, shift, cutout, jpeg, "missing classes", duplicates; all if left out.
    seed
        of the images, the noise, the places and the classes.
    out
        the picture; EXTRACTOR_check.png in this folder if left out.
    mark
        write the verdict into the file; --no-mark leaves it alone. Neither the bundled extractor nor one that was shown some
        ladders only is marked.
    """
    from alphabar.evaluation.corruption_check import check
    from alphabar.features import extractor as files
    from alphabar.report.corruption_sheet import draw_check, table

    try:
        found = check(extractor, against, n=n, seed=seed, ladders=ladders or None, progress=True)
    except KeyboardInterrupt:
        print("stopped; the extractor is not marked", file=sys.stderr)
        raise SystemExit(130) from None
    own = Path(extractor)
    marked = mark and found.whole and own.is_file()
    if marked:
        files.mark(own, found.mark())
    picture = draw_check(found, out or Path(f"{own.stem}_check.png")) if found.ladders else None
    told = {**found.to_json(), "marked": marked, "picture": None if picture is None else str(picture)}
    if as_json:
        print(json.dumps(told))
        return
    from rich.console import Console
    from rich.table import Table

    rows = Table("ladder", "metric", "undamaged", "by strength", "", title="scores of damaged real images", title_justify="left")
    for row in table(found):
        rows.add_row(*row)
    console = Console()
    console.print(rows)
    for name, reason in found.skipped.items():
        console.print(f"{name}: not run, {reason}", markup=False)
    console.print(f"{found.verdict}; picture: {told['picture']}" + ("; written into the file" if marked else ""), markup=False)


def _show(values: dict[str, Any], as_json: bool, title: str) -> None:
    if as_json:
        print(json.dumps(values))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)


def _table(columns: Any, rows: Any, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _title(metric: str) -> str:
    from alphabar.evaluation.score import TITLES

    return TITLES[metric]


def _label(samples: str) -> str:
    name = Path(samples.rstrip("/")).name
    return name.removesuffix(".npz")


def _show_scores(scores: Any) -> None:
    from alphabar.evaluation.score import HIGHER, INTERVALS

    rows = []
    for s in scores:
        interval = "" if s.interval is None else f"{s.interval[0]:.4g} to {s.interval[1]:.4g}"
        floor = "" if s.floor is None else f"{s.floor:.4g}" + ("" if s.floor_n == s.n else f" at {s.floor_n}")
        best = "higher" if s.metric in HIGHER else "lower"
        rows.append((_title(s.metric), f"{s.value:.4g}", interval, floor, best))
    first = scores[0]
    calls = "" if first.nfe is None else f", {first.nfe:.4g} calls an image"
    title = f"{first.n:,} images against {first.n_reference:,} real ones{calls}; the floor: what as many real images get"
    _table(("metric", "value", "95 % interval", "floor", "better"), rows, title)
    for note in dict.fromkeys(s.note for s in scores if s.note and s.interval is None):
        print(note)
    for what in dict.fromkeys(INTERVALS[s.metric] for s in scores if s.interval is not None):
        print(f"interval of {', '.join(_title(s.metric) for s in scores if INTERVALS[s.metric] == what)}: for {what}")
    found = dict.fromkeys(s.check_result for s in scores if s.check_result)
    checked = "; ".join(f"{', '.join(_title(s.metric) for s in scores if s.check_result == w)}: {w}" for w in found)
    if checked:
        print(f"the extractor's check (alphabar extractor check) says: {checked}")
    print(f"extractor {first.extractor}, reference {first.reference_name} {first.reference}, floor: {first.floor_source}")


def main(words: Sequence[str] | None = None) -> None:
    """The program, with the words of the command line unless others are given.

    A wrong input ends in one line that says what to type, a training that diverged (FloatingPointError) in one that says what to
    try; anything else is shown whole."""
    usual = warnings.formatwarning

    def said(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        """A warning of ours as its words alone, without the line of code that gave it."""
        ours = category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1])
        return f"alphabar: {message}\n" if ours else usual(message, category, filename, lineno, line)

    warnings.formatwarning = said
    try:
        app(words)
    except (ValueError, OSError, ImportError, FloatingPointError) as e:
        print(f"alphabar: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        warnings.formatwarning = usual


if __name__ == "__main__":
    main()
