"""The commands that work on given images with a trained model: `alphabar vary`, `invert` and `interpolate`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.cli.options import Flat, Json, Reading
from alphabar.core.bounds import Count
from alphabar.sampling.options import InvertOptions, SampleOptions, VaryOptions

if TYPE_CHECKING:
    from alphabar.core.types import Pixels

SHOWN = 16  # images of the set in a picture


@Parameter(name="*")
@dataclass(frozen=True)
class VaryCommand(VaryOptions):
    """Options of `alphabar vary`: those of the Python function, but the network runs in the way that finishes soonest."""

    fast: str | None = "auto"


def vary(
    run: str, images: str, *, out: str, n: Count | None = None, options: VaryCommand = VaryCommand(), gif: Path | None = None,
    checkpoint: str = "last", device: str | None = None, reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Make variations of images: noise is added, and the model removes it (SDEdit).

    ```
    alphabar vary bundled fashion_mnist:test --n 8 --draws 3 --strength 0.6 --out variations.npz
    alphabar vary runs/photos photo.png --size 64 --out variations.npz --gif variations.gif
    ```

    Writes OUT.npz with the variations, of the type of the given images, and the record of how they were made, or, when OUT
    ends in a slash, a folder of PNGs; and next to it a picture and a page: the originals and their variations.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        images: SET or SET:SPLIT, one image, or SET[a:b] for images a to b - 1. RUN's held-out images are SET:heldout.
        out: PATH.npz, or a folder ending in a slash.
        n: the first N images; all if left out.
        gif: also write the way from noise to the variations as a GIF.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    import numpy as np

    from alphabar.core.machine import device_of
    from alphabar.core.outputs import check_output
    from alphabar.core.processes import world
    from alphabar.data.animation import check_animation, save_animation
    from alphabar.report.images_page import write_vary_page
    from alphabar.sampling.batches import spread_out
    from alphabar.sampling.given_images import given_images
    from alphabar.sampling.preview import FRAMES
    from alphabar.sampling.samples import sheet_path
    from alphabar.sampling.vary import vary
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs.memorisation import with_heldout

    sheet, inputs = sheet_path(out), [run, images]
    page = sheet.with_suffix(".html")
    check_output(sheet, "picture", inputs)
    check_output(page, "page", inputs)
    check_animation(gif, inputs)
    model, read = load_model(run, checkpoint), asdict(reading)
    originals = given_images(model, with_heldout(run, images, read), n, read)
    with show.stopped_by_ctrl_c("stopped; the finished batches are kept, and the same command continues from them"):
        made = vary(
            model, originals, options=options, out=out, device=str(device_of(device)),
            keep_x0=spread_out(options.carried_out, FRAMES) if gif else False,
        )  # fmt: skip
    if world()[0] != 0:  # the first process prints for all
        return
    columns = min(len(originals), SHOWN)

    def rows(pixels: "Pixels") -> "Pixels":
        return pixels.reshape(-1, len(originals), *pixels.shape[1:])[:, :columns].reshape(-1, *pixels.shape[1:])

    above = np.asarray(originals.pixels[:columns])
    captions = ["original", *(f"variation {d + 1}" for d in range(options.draws))]
    _picture([above, rows(made.images)], captions, sheet)
    write_vary_page(made, np.asarray(originals.pixels), page, near=[Path(run)])
    if gif:
        save_animation([np.concatenate([above, rows(x)]) for x in (*(made.x0 or ()), made.images)], gif, columns=columns)
    record = {k: v for k, v in made.record.items() if k not in ("grid", "x0_steps", "indices")}
    show.record({**record, "sigma": made.record["grid"][0], "sheet": str(sheet), "page": str(page)}, as_json, out, page)


def _picture(parts: "list[Pixels]", captions: list[str], path: Path) -> None:
    """Rows of images with captions, all with the same levels."""
    import numpy as np

    from alphabar.core.outputs import save_picture
    from alphabar.data.contact_sheet import contact_sheet, screen_scale

    pixels = np.concatenate(parts)
    columns = len(pixels) // len(captions)
    save_picture(contact_sheet(pixels, columns=columns, scale=screen_scale(pixels), captions=captions), path)


def invert(
    run: str, images: str, *, out: str, n: Count | None = None, options: Flat[InvertOptions] = InvertOptions(),
    checkpoint: str = "last", device: str | None = None, reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Find the noise from which DDIM at eta 0 makes given images, and measure how far the way back is from them.

    ```
    alphabar invert bundled fashion_mnist:test --n 16 --steps 50 --out inverted.npz
    alphabar invert runs/photos photo.png --steps 50 --iterations 20 --out inverted.npz
    ```

    Writes OUT.npz with `noise` (n x c x h x w), `originals`, `images` (the way back), the error of each and the record; and next
    to it a picture and a page: originals, noise, the way back.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        images: SET or SET:SPLIT, one image, or SET[a:b] for images a to b - 1. RUN's held-out images are SET:heldout.
        out: PATH.npz.
        n: the first N images; all if left out.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    from alphabar.core.machine import device_of
    from alphabar.core.outputs import check_output
    from alphabar.data.images import to_pixels
    from alphabar.evaluation.estimate import mean_of
    from alphabar.report.images_page import write_invert_page
    from alphabar.sampling.invert import invert
    from alphabar.sampling.samples import sheet_path
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs.memorisation import with_heldout

    sheet = sheet_path(out)
    page = sheet.with_suffix(".html")
    check_output(sheet, "picture", [run, images])
    check_output(page, "page", [run, images])
    model, read = load_model(run, checkpoint), asdict(reading)
    with show.stopped_by_ctrl_c("stopped; nothing was written"):
        found = invert(
            model, with_heldout(run, images, read), options=options, n=n, reading=read, out=out, device=str(device_of(device))
        )
    rows: dict[str, Any] = {
        "original": found.images[:SHOWN], "noise": to_pixels(found.noise[:SHOWN] / 3, found.images.dtype),
        "way back": found.back[:SHOWN],
    }  # fmt: skip
    if rows["noise"].shape != rows["original"].shape:  # noise of latents, or of padded images
        del rows["noise"]
    _picture([*rows.values()], [*rows], sheet)
    record = {k: v for k, v in found.record.items() if k != "grid"}
    error = mean_of(found.rmse)
    write_invert_page(found, rows, error, page, near=[Path(run)])
    shown = {"rmse": error if as_json else str(error), "worst": float(found.rmse.max()), "sheet": str(sheet), "page": str(page)}
    show.record({**record, **shown}, as_json, out, page)


def interpolate(
    run: str, a: str, b: str, *, out: str, n: Count = 9, options: Flat[SampleOptions] = SampleOptions(),
    iterations: Count = 10, gif: Path | None = None, checkpoint: str = "last", device: str | None = None,
    reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Make images on the way from one to another, by spherical interpolation of their noise.

    ```
    alphabar interpolate bundled 0 1 --n 9 --out way.npz --gif way.gif
    alphabar interpolate bundled "fashion_mnist:test[3]" "fashion_mnist:test[8]" --n 9 --out way.npz
    ```

    Writes OUT.npz with the images and the record of how they were made, or, when OUT ends in a slash, a folder of PNGs; and a
    picture of them in a row next to it.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        a: a seed, SEED:INDEX for another image of the seed than its first, or one image (a path, or SET[k]), which is inverted.
        b: likewise.
        out: PATH.npz, or a folder ending in a slash.
        n: images, a and b included.
        iterations: network calls of a step of the inversion, at most.
        gif: also write the way and back as a GIF.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    from alphabar.core.machine import device_of
    from alphabar.core.outputs import check_output, save_picture
    from alphabar.core.processes import world
    from alphabar.data.animation import check_animation, save_animation
    from alphabar.data.contact_sheet import contact_sheet, screen_scale
    from alphabar.sampling.interpolate import interpolate
    from alphabar.sampling.samples import sheet_path
    from alphabar.training.checkpoint import load_model

    sheet = sheet_path(out)
    check_output(sheet, "picture", [run, a, b])
    check_animation(gif, [run, a, b])
    model = load_model(run, checkpoint)
    with show.stopped_by_ctrl_c("stopped; the finished batches are kept, and the same command continues from them"):
        made = interpolate(
            model, a, b, n, options=options, iterations=iterations, reading=asdict(reading), out=out,
            device=str(device_of(device)),
        )  # fmt: skip
    if world()[0] != 0:  # the first process prints for all
        return
    save_picture(contact_sheet(made.images[:100], columns=min(n, 20), scale=screen_scale(made.images)), sheet)
    if gif:
        save_animation([image[None] for image in made.images], gif, back=True, scale=screen_scale(made.images) ** 2)
    record = {k: v for k, v in made.record.items() if k not in ("grid", "x0_steps")}
    show.record({**record, "sheet": str(sheet)}, as_json, out, sheet)
