"""`alphabar export`."""

import json
from pathlib import Path
from typing import Literal


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

    Args:
        run: a run folder, a .safetensors file, or (for timesteps) diffusers:PATH.
        out: a folder that is empty or does not exist; for timesteps a JSON file, printed if left out.
        to: diffusers: the folder of a pipeline, with its weights in safetensors. timesteps: for every sampler that
            `alphabar tune` fitted to the run, the list that set_timesteps(timesteps=...) takes.
        pipeline: ddim or ddpm.
        checkpoint: last or best.
    """
    from alphabar.core.files import write_atomically
    from alphabar.denoiser.to_diffusers import export_diffusers
    from alphabar.sampling.timesteps import fitted_timesteps
    from alphabar.training.checkpoint import load_model

    model = load_model(run, checkpoint)
    if to == "timesteps":
        text = json.dumps(fitted_timesteps(model), indent=1)
        if out is not None:
            write_atomically(out, text + "\n")
        print(text if out is None else out)
        return
    if out is None:
        raise ValueError("name the folder to write: --out FOLDER")
    notes = export_diffusers(model, out, pipeline=pipeline)
    print(f"{out}: {pipeline.upper()}Pipeline.from_pretrained reads it, and so does alphabar, as {to}:{out}")
    for note in notes:
        print(f"- {note}")
