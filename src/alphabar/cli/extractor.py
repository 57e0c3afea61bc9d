"""`alphabar extractor train` and `alphabar extractor check`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from alphabar.cli import show
from alphabar.cli.reading import Reading

if TYPE_CHECKING:
    from alphabar.evaluation.check_result import CheckResult

app = App(
    name="extractor",
    help="Train a feature extractor on your images, and test whether its scores rise as images get worse.\n\n"
    "```\nalphabar extractor train fashion_mnist --out extractors/garments.safetensors\n"
    "alphabar extractor check extractors/garments.safetensors --against fashion_mnist:test\n```",
    help_format="markdown",
)


@app.command
def train(
    image_set: str,
    *,
    out: Path,
    self_supervised: show.Flag = False,
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    temperature: float = 0.5,
    flip: bool = True,
    widths: tuple[int, ...] = (48, 96, 192),
    seed: int = 0,
    bf16: bool = False,
    reading: Reading = Reading(),
    as_json: show.Json = False,
) -> None:
    """Train an extractor, a residual network with 512 features from which scores are computed: with labels, or without.

    ```
    alphabar extractor train fashion_mnist --out extractors/garments.safetensors
    alphabar extractor train photos/ --out extractors/photos.safetensors --self-supervised
    ```

    Then test it: alphabar extractor check OUT --against SET.

    Args:
        image_set: a set with labels (a folder with a subfolder for each class, for example); any set with --self-supervised.
        out: the file to write.
        self_supervised: train on the images alone (SimCLR); needs pip install 'alphabar[selfsup]'.
        epochs: passes over the training images; 16 if left out, 30 without labels.
        batch: images in a training step; 128 if left out, 256 without labels.
        lr: highest learning rate; 0.1 if left out, 0.002 without labels.
        temperature: of the loss without labels.
        flip: mirror images at random; --no-flip where left and right mean different things, as in digits.
        widths: channels at half, a quarter, an eighth of the image size; give more of them for larger images.
        seed: of weights and order.
        bf16: multiply in bfloat16; faster only where the processor or GPU has it.
    """
    from alphabar.data.image_set import load, parse_set
    from alphabar.features.simclr import train_self_supervised
    from alphabar.features.supervised import train_extractor

    name, split = parse_set(image_set)
    images = load(name, split, **asdict(reading))
    given: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr}
    given = {k: v for k, v in given.items() if v is not None} | {"flip": flip, "widths": widths, "seed": seed, "bf16": bf16}
    with show.stopped_by_ctrl_c("stopped; an extractor is written when its training ends, so nothing was written"):
        if self_supervised:
            made = train_self_supervised(images, temperature=temperature, **given)
        else:
            try:
                test = load(name, "test", **asdict(reading)) if images.labels is not None else None
            except FileNotFoundError:  # without a test split, the accuracy is that of the held-out images
                test = None
            made = train_extractor(images, test=test, **given)
    made.save(out)
    record = {"extractor": str(out), "fingerprint": made.fingerprint, "features": made.dim, **made.training_record}
    show.record(record, as_json, str(out))


@app.command
def check(
    extractor: str,
    *,
    against: str,
    n: int = 2000,
    corruptions: tuple[str, ...] = (),
    seed: int = 0,
    out: Path | None = None,
    mark: bool = True,
    as_json: show.Json = False,
) -> None:
    """Corrupt real images in ten known ways, and test whether an extractor's FID and KID rise with the severity.

    ```
    alphabar extractor check bundled --against fashion_mnist:test
    alphabar extractor check extractors/photos.safetensors --against photos/ --n 1000 --out photos_check.png
    ```

    The result, "passed" or the corruptions that the scores do not rank, is written into the extractor's file, whose fingerprint
    stays; scores made with it repeat the result. About two minutes on 2 cores for images of 28x28.

    Args:
        extractor: bundled, or the path of one that `alphabar extractor train` wrote.
        against: SET or SET:SPLIT: the reference. The images that are corrupted are others than those of the reference.
        n: images at every severity.
        corruptions: blur, noise, contrast, range, inverted, shift, cutout, jpeg, "missing classes", duplicates; all if left out.
        seed: of the images, the noise, the places and the classes.
        out: the picture; EXTRACTOR_check.png in this folder if left out.
        mark: write the result into the file; --no-mark leaves the file alone. It is never written for the bundled extractor, or
            where only some corruptions were tested.
    """
    from alphabar.evaluation.corruption_check import check
    from alphabar.features import extractor as files
    from alphabar.report.corruption_sheet import draw_check

    with show.stopped_by_ctrl_c("stopped; no result was written into the extractor's file"):
        found = check(extractor, against, n=n, seed=seed, corruptions=corruptions or None, progress=True)
    path = Path(extractor)
    marked = mark and found.complete and path.is_file()
    if marked:
        files.write_check_result(path, found.summary())
    picture = draw_check(found, out or Path(f"{path.stem}_check.png")) if found.corruptions else None
    if as_json:
        picture_name = None if picture is None else str(picture)
        show.as_json_line({**found.to_json(), "marked": marked, "picture": picture_name})
        return
    _result(found)
    show.line(f"{found.verdict}; picture: {picture}" + ("; written into the file" if marked else ""))


def _result(found: "CheckResult") -> None:
    from alphabar.report.corruption_sheet import table

    columns = ("corruption", "metric", "uncorrupted", "by severity", "")
    show.table(columns, table(found), "scores of corrupted real images")
    for name, reason in found.skipped.items():
        show.line(f"{name}: not run, {reason}")
