"""The command `alphabar restore`."""

from pathlib import Path

from alphabar.cli import show
from alphabar.cli.options import Flat, Json, Reading
from alphabar.verbs.options import RestoreOptions


def restore(
    run: str, images: str, *, out: Path, options: Flat[RestoreOptions] = RestoreOptions(), checkpoint: str = "last",
    device: str | None = None, reading: Reading = Reading(), as_json: Json = False,
) -> None:  # fmt: skip
    """Fill in, enlarge, sharpen, denoise or color images with a run, without training, and see how sure it is.

    ```
    alphabar restore bundled fashion_mnist:test --degrade --task inpaint --mask box --calls 30 --out inpainted
    alphabar restore runs/photos damaged/ --task inpaint --mask scratches.png --out repaired
    ```

    The images are the measurements themselves, or with --degrade originals, which are degraded first. Writes OUT.npz (draws,
    mean, standard deviation, 90 % interval), OUT.png and OUT.html: measurement, draws, mean and uncertainty of every image.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        images: SET or SET:SPLIT, one image, or SET[a:b] for images a to b - 1. RUN's held-out images are SET:heldout.
        out: name of what is written, without a suffix.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    from alphabar.core.machine import device_of
    from alphabar.core.outputs import check_output
    from alphabar.core.processes import world
    from alphabar.report.restore_page import draw_sheet, write_restore_page
    from alphabar.restoration.result import TITLES
    from alphabar.sampling.samples import npz_path, sheet_path
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs.restore import restore

    sheet = sheet_path(str(out))
    page = sheet.with_suffix(".html") if sheet.suffix == ".png" else sheet
    inputs = [run, images, *([options.mask] if Path(options.mask).exists() else [])]
    for path, kind in ((npz_path(out), "samples"), (sheet, "picture"), (page, "page")):
        check_output(path, kind, inputs)
    model = load_model(run, checkpoint)
    with show.stopped_by_ctrl_c("stopped; the finished batches are kept, and the same command continues from them"):
        found = restore(model, images, options=options, out=out, reading=reading.given(), device=device_of(device), home=run)
    if world()[0] != 0:  # the first process prints for all
        return
    draw_sheet(found, sheet)
    write_restore_page(found, page, near=[Path(run)])
    values = found.to_json()
    if not as_json:
        scores = values.pop("scores")
        values |= {TITLES[k]: show.words(v["value"]) + show.interval(v["interval"]) for k, v in scores.items()}
    hidden = ("grid", "sampler", "first_index", "versions", "image_shape")
    record = {k: v for k, v in values.items() if as_json or (k not in hidden and v is not None)}
    show.record({**record, "picture": str(sheet), "page": str(page)}, as_json, str(out), page)
