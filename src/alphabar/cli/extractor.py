"""`alphabar extractor train` and `alphabar extractor check`."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cyclopts import App

from alphabar.cli import show
from alphabar.cli.options import Flag, Flat, Json, Reading
from alphabar.core.bounds import Batch, Count, Seed, checks_numbers
from alphabar.features.options import Decay, Epochs, Rate, SimCLROptions, SupervisedOptions

app = App(
    name="extractor",
    help="Train a feature extractor on your images, and test whether its scores rise as images get worse.\n\n"
    "```\nalphabar extractor train fashion_mnist --out extractors/garments.safetensors\n"
    "alphabar extractor check extractors/garments.safetensors --against fashion_mnist:test\n```",
    help_format="markdown",
)


@dataclass(frozen=True)
class TrainOptions(SupervisedOptions, SimCLROptions):
    """The options of both ways to train; None stands for the default of the chosen way, where the two differ."""

    epochs: Epochs | None = None  # type: ignore[assignment]
    """Passes over the training images; 16 if left out, 30 without labels."""
    batch: Batch | None = None  # type: ignore[assignment]
    """Images in a training step; 128 if left out, 256 without labels."""
    lr: Rate | None = None  # type: ignore[assignment]
    """Highest learning rate of the one-cycle schedule; 0.1 if left out, 0.002 without labels."""
    weight_decay: Decay | None = None  # type: ignore[assignment]
    """Weight decay of the convolutions and matrices; 0.0005 if left out, 0.01 without labels."""

    def chosen(self, self_supervised: bool) -> SupervisedOptions | SimCLROptions:
        """The options of the chosen way. Raises ValueError for an option of the other way."""
        kind = SimCLROptions if self_supervised else SupervisedOptions
        names = [f.name for f in fields(kind)]
        for field in fields(self):
            if field.name not in names and getattr(self, field.name) != field.default:
                way = "with labels" if self_supervised else "without labels (--self-supervised)"
                raise ValueError(f"--{field.name} is an option of training {way}: leave it out")
        return kind(**{name: value for name in names if (value := getattr(self, name)) is not None})


@app.command
def train(
    image_set: str, *, out: Path, self_supervised: Flag = False, options: Flat[TrainOptions] = TrainOptions(),
    reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Train an extractor, a residual network from whose features scores are computed: with labels, or without.

    ```
    alphabar extractor train fashion_mnist --out extractors/garments.safetensors
    alphabar extractor train photos/ --out extractors/photos.safetensors --self-supervised
    ```

    Ctrl-C stops, and the same command continues. Then test it: alphabar extractor check OUT --against SET.

    Args:
        image_set: a set with labels (a folder with a subfolder for each class, for example); any set with --self-supervised.
        out: the file to write.
        self_supervised: train on the images alone (SimCLR).
    """
    from alphabar.core.outputs import check_output
    from alphabar.data.image_set import load, parse_set
    from alphabar.features.simclr import train_self_supervised
    from alphabar.features.train import train_extractor

    chosen = options.chosen(self_supervised)
    name, split = parse_set(image_set)
    check_output(out, "extractor", [name])
    images, part = load(name, split, **asdict(reading)).originals(), out.with_suffix(".part")
    with show.stopped_by_ctrl_c("{}; the same command continues"):
        if self_supervised:
            made = train_self_supervised(images, options=chosen, part=part)
        else:
            try:
                test = load(name, "test", **asdict(reading)).originals() if images.labels is not None else None
            except FileNotFoundError:  # without a test split, the accuracy is that of the held-out images
                test = None
            made = train_extractor(images, options=chosen, test=test, part=part)
    made.save(out)
    record = {"extractor": str(out), "fingerprint": made.fingerprint, "features": made.dim, **made.training_record}
    show.record(record, as_json, str(out))
    if not as_json:
        show.hint("extractor", "check", out, "--against", name)


@app.command
@checks_numbers
def check(
    extractor: str, *, against: str, n: Count = 2000, corruptions: tuple[str, ...] = (), seed: Seed = 0, out: Path | None = None,
    mark: bool = True, reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Corrupt real images in ten known ways, and test whether an extractor's FID and KID rise with the severity.

    ```
    alphabar extractor check bundled --against fashion_mnist:test
    alphabar extractor check extractors/photos.safetensors --against photos/ --n 1000 --out photos_check.png
    ```

    The result, "passed" or the corruptions that the scores do not rank, is written into the extractor's file, whose fingerprint
    stays; scores made with it repeat the result. About two minutes on 2 cores for images of 28x28.

    Args:
        extractor: bundled, or the path of one that `alphabar extractor train` wrote.
        against: SET or SET:SPLIT: the reference. The images that are corrupted are others than those of the reference. They get
            the size of the extractor's training images in the way that those got it, if no other is named.
        n: images at every severity.
        corruptions: blur, noise, contrast, range, inverted, shift, cutout, jpeg, "missing classes", duplicates; all if left out.
        seed: of the images, the noise, the places and the classes.
        out: the picture; EXTRACTOR_check.png in this folder if left out.
        mark: write the result into the file; --no-mark leaves the file alone. It is never written for the bundled extractor, or
            where only some corruptions were tested.
    """
    from alphabar.core.outputs import check_output
    from alphabar.data.image_set import load, parse_set
    from alphabar.evaluation.corruption_check import check
    from alphabar.features import extractor as files
    from alphabar.features.load import load_extractor
    from alphabar.report.figures import check_table, draw_check
    from alphabar.sampling.sample_set import reading_for

    path = Path(extractor)
    target = out or Path(f"{path.stem}_check.png")
    check_output(target, "picture", [extractor, parse_set(against)[0]])
    with show.stopped_by_ctrl_c("stopped; no result was written into the extractor's file"):
        opened = load_extractor(extractor)
        real = load(*parse_set(against), **reading_for(opened, asdict(reading)))
        found = check(opened, real, n=n, seed=seed, corruptions=corruptions or None, progress=True)
    marked = mark and found.complete and path.is_file()
    if marked:
        files.write_check_result(path, found.summary())
    picture = draw_check(found, target) if found.corruptions else None
    if show.done({**found.to_json(), "marked": marked, "picture": picture and str(picture)}, as_json):
        return
    columns = ("corruption", "metric", "uncorrupted", "by severity", "")
    show.table(columns, check_table(found), "scores of corrupted real images")
    for name, reason in found.skipped.items():
        show.line(f"{name}: not run, {reason}")
    show.line(f"{found.verdict}; picture: {picture}" + ("; written into the file" if marked else ""))
    show.hint("score", "SAMPLES", "--against", against, "--extractor", extractor)
