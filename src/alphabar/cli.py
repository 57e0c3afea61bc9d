"""The command line. Every command's --help opens with two commands that can be pasted."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

app = App(
    name="alphabar",
    help="A laboratory for image diffusion models.\n\n```\nalphabar demo\nalphabar train fashion_mnist --out runs/garments\n```",
    help_format="markdown",
    default_parameter=Parameter(consume_multiple=True),
)
extractor_app = App(
    name="extractor", help="Train an extractor of features on a set of your own, and check what it sees.", help_format="markdown"
)
app.command(extractor_app)

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
    from alphabar.demo import run

    run(out, minutes=minutes)


@app.command
def data(
    image_set: str,
    *,
    sheet: Path | None = None,
    n: int = 100,
    value_range: ValueRange = None,
    alpha: Alpha = "refuse",
    skip_broken: SkipBroken = False,
    axes: AxesOrder = None,
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

    from alphabar.data.card import data_card
    from alphabar.data.sheet import contact_sheet, shown_note
    from alphabar.data.sources import load, parse_set
    from alphabar.seeds import generator

    images = load(*parse_set(image_set), value_range=value_range, alpha=alpha, skip_broken=skip_broken, axes=axes)
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
    from alphabar import api
    from alphabar.recipe import resolve
    from alphabar.record import Run

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
    eta: float = 0.0,
    seed: int = 0,
    batch: int = 64,
    grid: str | None = None,
    plan: str | None = None,
    clip: bool = False,
    variance: str | None = None,
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
        a run folder, a .safetensors file, or bundled.
    out
        PATH.npz, or a folder ending in a slash.
    n
        images.
    sampler
        ddim, ddpm or euler.
    steps
        of the sampler; each costs a network call unless a plan skips it.
    eta
        0 (deterministic) to 1 (DDPM), for ddim.
    seed
        image k of a seed is the same whatever n and batch.
    batch
        images at a time.
    grid
        leading, trailing, linspace (integer timesteps), time, log_sigma or karras.
    plan
        which steps call the network, as "every(3, last=50)" or progressive.
    clip
        hold x0_hat within -1..1 at every step.
    variance
        posterior or beta, for ddpm.
    checkpoint
        last or best.
    device
        cpu, cuda, mps; the best there is if left out.
    """
    from alphabar.api import best_device
    from alphabar.sampling.draw import sample as draw
    from alphabar.training.checkpoint import load_model

    model = load_model(run, checkpoint)
    try:
        samples = draw(
            model,
            n,
            sampler=sampler,
            steps=steps,
            eta=eta,
            seed=seed,
            batch=batch,
            grid=grid,
            plan=plan,
            clip=clip,
            variance=variance,
            out=out,
            device=device or best_device(),
            channels_last=True,
        )
    except KeyboardInterrupt:
        print("stopped; the finished batches are kept, and the same command goes on from them", file=sys.stderr)
        raise SystemExit(130) from None
    sheet = Path(out.rstrip("/") + ".png") if out.endswith("/") else Path(out).with_suffix(".png")
    from alphabar.data.sheet import contact_sheet

    contact_sheet(samples.images[:100], scale=2 if samples.images.shape[1] < 64 else 1).save(sheet)
    told = {k: v for k, v in samples.record.items() if k not in ("grid", "x0_steps")}
    _show({**told, "sheet": str(sheet)}, as_json, str(out))


@app.command
def score(
    samples: str,
    *,
    against: str,
    extractor: str = "bundled",
    n: int | None = None,
    steps: int = 50,
    eta: float = 0.0,
    value_range: ValueRange = None,
    alpha: Alpha = "refuse",
    skip_broken: SkipBroken = False,
    axes: AxesOrder = None,
    as_json: Json = False,
) -> None:
    """Score images against real ones: FID and KID, beside what as many real images get (the floor).

    ```
    alphabar score samples.npz --against fashion_mnist:test
    alphabar score runs/garments --against fashion_mnist:test --n 2000 --json
    ```

    Parameters
    ----------
    samples
        an .npz, a folder of images made by any program, or a run (n images are drawn from it first, by DDIM, and kept).
    against
        SET or SET:SPLIT.
    extractor
        bundled (garments), or the path of one that `alphabar extractor train` made.
    n
        the first n images of the samples; for a run, how many to draw (2,000 if left out).
    steps
        calls an image, where samples is a run.
    eta
        of DDIM, where samples is a run.
    """
    from alphabar import api

    reading = {"value_range": value_range, "alpha": alpha, "skip_broken": skip_broken, "axes": axes}
    _show_scores(api.score(samples, against, extractor, n=n, steps=steps, eta=eta, reading=reading), as_json)


@app.command
def report(*runs: Path, out: Path = Path("report.html")) -> None:
    """Write one page about one or several runs: losses, scores, previews, what differs.

    ```
    alphabar report runs/garments --out garments.html
    alphabar report runs/a runs/b --out compared.html
    ```

    Parameters
    ----------
    runs
        run folders.
    out
        the page, a single file that needs no network.
    """
    from alphabar.report.page import write_report

    if not runs:
        raise ValueError("name at least one run, as in: alphabar report runs/garments")
    print(write_report(list(runs), out))


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
    value_range: ValueRange = None,
    alpha: Alpha = "refuse",
    skip_broken: SkipBroken = False,
    axes: AxesOrder = None,
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
    from alphabar.evaluation.learn import train_extractor as learn

    name, split = parse_set(image_set)
    reading: dict[str, Any] = {"value_range": value_range, "alpha": alpha, "skip_broken": skip_broken, "axes": axes}
    images = load(name, split, **reading)
    given: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr}
    given = {k: v for k, v in given.items() if v is not None} | {"flip": flip, "widths": widths, "seed": seed, "bf16": bf16}
    try:
        if self_supervised:
            from alphabar.evaluation.selfsup import train_self_supervised

            made = train_self_supervised(images, temperature=temperature, **given)
        else:
            try:
                test = load(name, "test", **reading) if images.labels is not None else None
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
    from alphabar.evaluation import extractor as files
    from alphabar.evaluation.check import check
    from alphabar.report.ladders import draw_check, table

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


def _show_scores(scores: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps([s.to_json() for s in scores]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "metric",
        "value",
        "floor",
        "images",
        "real",
        "calls",
        title="lower is better; the floor is what real images get",
        title_justify="left",
    )
    for s in scores:
        floor = "" if s.floor is None else f"{s.floor:.4g}" + ("" if s.floor_n == s.n else f" at {s.floor_n}")
        table.add_row(
            s.metric.upper(), f"{s.value:.4g}", floor, str(s.n), str(s.n_reference), "" if s.nfe is None else f"{s.nfe:.4g}"
        )
    console = Console()
    console.print(table)
    first = scores[0]
    console.print(f"extractor {first.extractor}, reference {first.reference_name} {first.reference}, floor: {first.floor_source}")


def main() -> None:
    """The program. A wrong input ends in one line that says what to type; anything else is shown whole."""
    from alphabar.training.loop import Diverged

    try:
        app()
    except (ValueError, FileNotFoundError, FileExistsError, ImportError, Diverged) as e:
        print(f"alphabar: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
