"""`alphabar sample`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from alphabar.cli import show
from alphabar.sampling.options import SampleOptions


@Parameter(name="*")
@dataclass(frozen=True)
class CommandOptions(SampleOptions):
    """Options of `alphabar sample`: those of the Python function, but the network runs in the way that finishes soonest."""

    fast: str | None = "auto"


def sample(
    run: str,
    *,
    out: str,
    n: int = 64,
    options: Annotated[CommandOptions, Parameter(name="*")] = CommandOptions(),
    checkpoint: str = "last",
    device: str | None = None,
    as_json: show.Json = False,
) -> None:
    """Draw images from a run.

    ```
    alphabar sample bundled --n 64 --steps 25 --out garments.npz
    alphabar sample runs/garments --n 10000 --sampler ddim --steps 50 --eta 1 --seed 1 --out samples.npz
    ```

    Writes OUT.npz with `images` (n x h x w x c, of the type that the model was trained on) and the record of how they were
    made, or, when OUT ends in a slash, a folder of PNGs; and a contact sheet of the first 100 next to it. An interrupted
    command continues where it stopped.

    Args:
        run: a run folder, a .safetensors file, bundled, or diffusers:PATH, the folder of a pipeline.
        out: PATH.npz, or a folder ending in a slash.
        n: number of images.
        checkpoint: last, best, or ema:LENGTH.
        device: cpu, cuda or mps; the fastest there is if left out.
    """
    from alphabar.core.machine import best_device
    from alphabar.data.contact_sheet import contact_sheet
    from alphabar.sampling.sample import sample
    from alphabar.training.checkpoint import load_model

    model = load_model(run, checkpoint)
    with show.stopped_by_ctrl_c("stopped; the finished batches are kept, and the same command continues from them"):
        samples = sample(model, n, options=options, out=out, device=device or best_device(), channels_last=True)
    sheet = Path(out.rstrip("/") + ".png") if out.endswith("/") else Path(out).with_suffix(".png")
    contact_sheet(samples.images[:100], scale=2 if samples.images.shape[1] < 64 else 1).save(sheet)
    record = {k: v for k, v in samples.record.items() if k not in ("grid", "x0_steps")}
    show.record({**record, "sheet": str(sheet)}, as_json, out)
