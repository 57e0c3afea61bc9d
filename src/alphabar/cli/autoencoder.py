"""`alphabar autoencoder train`, `alphabar autoencoder check` and `alphabar encode`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from alphabar.cli import show
from alphabar.cli.options import Flat, Json, Reading
from alphabar.core.bounds import Count, checks_numbers
from alphabar.training.options import AutoencoderOptions

app = App(
    name="autoencoder",
    help="Train an autoencoder on your images, and test how well it restores them; `alphabar encode` makes latents with it.\n\n"
    "```\nalphabar autoencoder train photos/ --factor 4 --out photos.safetensors\n"
    "alphabar autoencoder check photos.safetensors --against photos/\n```",
    help_format="markdown",
)


@app.command
def train(
    image_set: str, *, out: Path, options: Flat[AutoencoderOptions] = AutoencoderOptions(), reading: Reading = Reading(),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train a small convolutional autoencoder on images of any size, depth and number of channels.

    ```
    alphabar autoencoder train photos/ --factor 4 --out photos.safetensors
    alphabar autoencoder train cells.npz --factor 8 --latent 8 --images 50000 --out cells.safetensors
    ```

    It prints what it trains and how long that takes, and at the end how well held-out images are restored. Ctrl-C stops, and the
    same command continues.

    Args:
        image_set: fashion_mnist, cifar10, a path, or hf:owner/name.
        out: the file to write, PATH.safetensors.
    """
    from alphabar.core.outputs import check_output
    from alphabar.data.image_set import load, parse_set
    from alphabar.training.autoencoder import train_autoencoder
    from alphabar.verbs.autoencoder import check_autoencoder

    if out.suffix != ".safetensors":
        raise ValueError(f"{out} does not end in .safetensors: give --out {out}.safetensors")
    name, split = parse_set(image_set)
    check_output(out, "autoencoder", [name])
    images = load(name, split, **asdict(reading))
    with show.stopped_by_ctrl_c("{}; the same command continues"):
        made = train_autoencoder(images, options=options, part=out.with_suffix(".part"), out=out)
    record = {"autoencoder": str(out), "fingerprint": made.fingerprint, **made.record}
    if made.record["held_out"]:
        found = check_autoencoder(made, images, progress=not as_json)
        record |= {"psnr": str(found.psnr), "error": str(found.error)} if not as_json else found.to_json()
    show.record(record, as_json, str(out))
    if not as_json:
        show.hint("autoencoder", "check", out, "--against", image_set)


@app.command
@checks_numbers
def check(
    autoencoder: Path, *, against: str, extractor: str | None = None, n: Count = 2000, out: Path | None = None,
    reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Restore images that an autoencoder was not trained on: PSNR, error, and the best score that a model of its latents can get.

    ```
    alphabar autoencoder check photos.safetensors --against photos/
    alphabar autoencoder check photos.safetensors --against photos/:test --extractor extractors/photos.safetensors
    ```

    Args:
        autoencoder: a file or folder of ours, or a folder of diffusers.
        against: SET or SET:SPLIT; of the set that it was trained on, the held-out images.
        extractor: as for `alphabar score`: adds FID and KID of restored images, next to those of as many originals.
        n: images, at most.
        out: picture of originals, each with the restored image to its right; AUTOENCODER_check.png in this folder if left out.
    """
    import numpy as np

    from alphabar.core.outputs import check_output, save_picture
    from alphabar.data.contact_sheet import contact_sheet, screen_scale
    from alphabar.data.image_set import load, parse_set
    from alphabar.denoiser.autoencoder import read_autoencoder
    from alphabar.verbs.autoencoder import check_autoencoder

    target = out or Path(f"{autoencoder.stem}_check.png")
    name, split = parse_set(against)
    check_output(target, "picture", [autoencoder, name])
    found = check_autoencoder(
        read_autoencoder(autoencoder), load(name, split, **asdict(reading)), extractor, n=n, progress=not as_json
    )
    pairs = np.stack([found.pixels, found.restored], 1).reshape(-1, *found.pixels.shape[1:])
    save_picture(contact_sheet(pairs, columns=10, scale=screen_scale(pairs)), target)
    if as_json:
        show.as_json_line({**found.to_json(), "picture": str(target)})
        return
    rows = [("PSNR, dB", str(found.psnr), ""), ("error, levels", str(found.error), "")]
    rows += [(s.metric.upper(), f"{s.value:.4g}{show.interval(s.interval)}", f"{s.floor:.4g}") for s in found.scores]
    show.table(("", "restored", "originals"), rows, f"{found.n} images; {target}")
    show.hint("encode", parse_set(against)[0], "--with", autoencoder, "--out", "latents")


def encode(
    image_set: str,
    *,
    path: Annotated[Path, Parameter(name="--with")],
    out: Path,
    reading: Reading = Reading(),
    as_json: Json = False,
) -> None:
    """Encode a set into latents, on which `alphabar train` trains in place of the images; `alphabar sample` decodes.

    ```
    alphabar encode photos/ --with photos.safetensors --out photos_latents
    alphabar train photos_latents --recipe auto --out runs/photos
    ```

    The folder, and every run that is trained on it, holds a copy of the autoencoder. The images are needed again where they are
    now only for scores.

    Args:
        image_set: fashion_mnist, cifar10, a path, or hf:owner/name; the test split is encoded too.
        path: an autoencoder: a file of `alphabar autoencoder train`, or a folder of diffusers (AutoencoderKL, AutoencoderTiny,
            AutoencoderDC).
        out: the folder to write.
    """
    from alphabar.verbs.autoencoder import encode

    with show.stopped_by_ctrl_c("stopped; nothing was written"):
        about = encode(image_set, path, out, reading=reading.given(), progress=not as_json)
    show.record({"out": str(out), **{k: v for k, v in about.items() if k != "format"}}, as_json, str(out))
    if not as_json:
        show.hint("train", out, "--out", f"runs/{out.name}")
