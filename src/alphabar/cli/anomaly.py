"""The command `alphabar anomaly`."""

from dataclasses import asdict
from pathlib import Path

from alphabar.cli import show
from alphabar.cli.options import Flat, Json, Reading
from alphabar.core.bounds import Count
from alphabar.core.messages import plural, say
from alphabar.verbs.options import AnomalyOptions

SHOWN = 8  # images of a row of the picture


def anomaly(
    run: str, images: str, *, usual: str, n: Count | None = None, options: Flat[AnomalyOptions] = AnomalyOptions(),
    picture: Path = Path("anomaly.png"), checkpoint: str = "last", device: str | None = None, reading: Reading = Reading(),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score how unusual images are to a run, by its denoising loss, and measure how well that tells them from usual ones.

    ```
    alphabar anomaly runs/scans new_scans/ --usual scans:test
    alphabar anomaly bundled other.npz --usual fashion_mnist:test --n 200 --json
    ```

    Writes a picture of the most and the least unusual images; --json prints the score of each.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH (a pipeline), lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        images: SET or SET:SPLIT, one image, or SET[a:b] for images a to b - 1. RUN's held-out images are SET:heldout.
        usual: SET or SET:SPLIT of usual images that the run was not trained on.
        n: the first N images; all if left out.
        picture: the picture to write.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    import numpy as np

    from alphabar.core.machine import device_of
    from alphabar.core.outputs import check_output, save_picture
    from alphabar.data.contact_sheet import contact_sheet, screen_scale
    from alphabar.sampling.given_images import given_images
    from alphabar.training.checkpoint import load_model
    from alphabar.verbs.anomaly import anomaly
    from alphabar.verbs.memorisation import with_heldout

    check_output(picture, "picture", [run, images, usual])
    model, read = load_model(run, checkpoint), asdict(reading)
    given, usual = given_images(model, with_heldout(run, images, read), n, read), with_heldout(run, usual, read)
    with show.stopped_by_ctrl_c("stopped; nothing was written"):
        found = anomaly(model, given, usual, options=options, reading=read, device=str(device_of(device)), progress=not as_json)
    order = np.argsort(-found.scores, kind="stable")
    rows = [order[:SHOWN], order[::-1][:SHOWN]]
    pixels = np.concatenate([np.asarray(given.pixels)[row] for row in rows])
    save_picture(contact_sheet(pixels, len(rows[0]), screen_scale(pixels), captions=["most unusual", "least"]), picture)
    if show.done({**found.to_json(), "scores": found.scores.tolist(), "picture": str(picture)}, as_json):
        return
    low, middle, high = np.percentile(found.scores, (5, 50, 95))
    usual_low, usual_middle, usual_high = np.percentile(found.usual_scores, (5, 50, 95))
    lines = [
        ("images", str(found.n), f"{middle:.4g}", f"{low:.4g} to {high:.4g}"),
        ("usual images", str(len(found.usual_scores)), f"{usual_middle:.4g}", f"{usual_low:.4g} to {usual_high:.4g}"),
    ]
    show.table(("", "n", "median score", "90 % of them"), lines, f"anomaly score {found.kind}; higher is more unusual")
    if found.auc is not None:
        say(f"ROC AUC of the images against usual ones: {found.auc} (0.5: they are alike)")
    say(f"{plural(found.nfe, 'network call')} an image")
    show.look(picture)
