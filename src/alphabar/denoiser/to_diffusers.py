"""Export of a model as a folder of diffusers (`alphabar export`)."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from alphabar.core.files import json_text, remove_leftovers, room_for, temporary, write_atomically
from alphabar.core.messages import as_path
from alphabar.core.outputs import check_folder
from alphabar.denoiser.diffusers_config import PREDICTIONS
from alphabar.denoiser.from_diffusers import WEIGHTS, DiffusersModel
from alphabar.denoiser.model import Model
from alphabar.denoiser.unet import DiffusersUNet
from alphabar.schedule.betas import Betas, Linear

CLASSES = {"ddim": ("DDIMPipeline", "DDIMScheduler"), "ddpm": ("DDPMPipeline", "DDPMScheduler")}
CURVES = {  # beta schedules that each scheduler knows by name; others are written out
    "ddim": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "ddpm": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
}
HOW_TO_TRAIN = (
    "train one that can be exported: alphabar train SET --out RUN --model.network unet2d --schedule.kind linear "
    "--model.data-range 1"
)


def export_diffusers(model: Model, folder: str | Path, *, pipeline: Literal["ddim", "ddpm"] = "ddim") -> list[str]:
    """Writes a model as a folder from which diffusers makes the same images from the same noise.

    Args:
        model: its network is diffusers' UNet2DModel ("unet2d"), its time integer timesteps, its range -1..1.
        folder: a new or empty folder.
        pipeline: a DDIMPipeline or a DDPMPipeline, both with trailing timesteps and no clipping.

    Returns:
        Notes on what to do in diffusers for the same images (such as cropping padded ones), also written to README.md.

    Raises:
        ValueError: for a model that diffusers cannot represent.
        OSError: for a folder that is not empty.
    """
    folder = as_path(folder)
    check_diffusers(model)
    check_folder(folder, "export", ours=())
    try:
        import diffusers
    except ImportError as e:
        raise ImportError("export to diffusers needs it: pip install 'alphabar[diffusers]'") from e
    from safetensors.torch import save_file

    config = _scheduler_config(model, pipeline)
    notes = _notes(model, config)
    unet = cast(DiffusersUNet, model.network).unet
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    place = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=temporary(""), dir=folder.parent)
    with room_for(folder), place as scratch:
        part = Path(scratch) / "part"
        (part / "unet").mkdir(parents=True)
        unet.save_config(part / "unet")
        weights: dict[str, Tensor] = {k: v.detach().cpu().contiguous() for k, v in unet.state_dict().items()}
        save_file(weights, part / "unet" / WEIGHTS, metadata={"format": "pt"})
        pipeline_class, scheduler_class = CLASSES[pipeline]
        version = {"_diffusers_version": diffusers.__version__}
        parts = {"scheduler": ["diffusers", scheduler_class], "unet": ["diffusers", "UNet2DModel"]}
        for file, values in {
            "scheduler/scheduler_config.json": {"_class_name": scheduler_class, **version, **config},
            "model_index.json": {"_class_name": pipeline_class, **version, **parts},
        }.items():
            write_atomically(part / file, json_text(values, indent=2) + "\n")
        write_atomically(part / "README.md", _readme(model, pipeline_class, notes))
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    return notes


def check_diffusers(model: Model) -> None:
    """Raises ValueError for a model that diffusers cannot represent."""
    spec = getattr(model, "spec", None)
    if isinstance(model, DiffusersModel):
        raise ValueError("this model was read from a folder of diffusers, so it needs no export")
    if getattr(model, "latents", None):
        raise ValueError("the model makes latents, and pipelines of DDPM and DDIM make images: it cannot be exported")
    if not isinstance(spec, Mapping) or spec["network"] != "unet2d":
        kind = spec["network"] if isinstance(spec, Mapping) else type(model).__name__
        raise ValueError(f"the network is {kind!r}, which does not exist in diffusers; {HOW_TO_TRAIN}")
    if model.classes:
        raise ValueError(
            "the network is class-conditional, and pipelines of DDPM and DDIM pass no classes: train one without them"
        )
    if not isinstance(model.own_schedule, (Linear, Betas)):
        reason = f"the schedule is {model.own_schedule.kind!r}, whose time is continuous; diffusers has integer timesteps. "
    elif model.prediction not in PREDICTIONS.values():
        reason = f"the network predicts {model.prediction!r}, which pipelines of DDPM and DDIM do not support. "
    elif model.data_range != 1:
        reason = f"the network's range is -{model.data_range:g}..{model.data_range:g}; diffusers' is -1..1. "
    else:
        return
    raise ValueError(f"{reason}This run cannot be exported; {HOW_TO_TRAIN}")


def _scheduler_config(model: Model, pipeline: str) -> dict[str, Any]:
    schedule = cast(Linear | Betas, model.own_schedule)
    curve = schedule.curve if isinstance(schedule, Betas) else "linear"
    named = curve in CURVES[pipeline]
    return {
        "num_train_timesteps": schedule.steps, "beta_start": schedule.beta_min, "beta_end": schedule.beta_max,
        "beta_schedule": curve if named else "linear", "trained_betas": None if named else schedule.betas.tolist(),
        "rescale_betas_zero_snr": isinstance(schedule, Betas) and schedule.zero_snr,
        "prediction_type": {v: k for k, v in PREDICTIONS.items()}[model.prediction], "clip_sample": False,
        "thresholding": False, "timestep_spacing": "trailing", "steps_offset": 0,
        **({"set_alpha_to_one": True} if pipeline == "ddim" else {"variance_type": "fixed_small"}),
    }  # fmt: skip


def _notes(model: Model, config: Mapping[str, Any]) -> list[str]:
    notes = []
    if k := model.crop:
        notes.append(f"cut {k} pixels off every side of the images of diffusers, image[{k}:-{k}, {k}:-{k}]: they are padded")
    if model.pixels != "uint8":
        notes.append(f"the images are {model.pixels}, and diffusers writes 8 bits: use output_type='np', floats from 0 to 1")
    if model.value_range is not None:
        low, high = model.value_range
        notes.append(f"0 and 1 of diffusers' floats stand for the values {low:g} and {high:g}")
    if (first := model.schedule.sigma_max / (1 + model.schedule.sigma_max**2) ** 0.5) < 1 - 1e-4:
        notes.append(
            f"for the same images as `alphabar sample`, multiply the starting noise of diffusers by {first:.6f}: alphabar starts "
            "from x of standard deviation sigma_max, diffusers from sqrt(alphabar) x of 1"
        )
    notes.append(
        f"give DDIMPipeline a number of steps that divides {config['num_train_timesteps']}: for others its scheduler does not "
        "step to the next timestep of its list"
    )
    return notes


def _readme(model: Model, pipeline: str, notes: Iterable[str]) -> str:
    code = [
        f"from diffusers import {pipeline}", "", f"pipe = {pipeline}.from_pretrained(FOLDER)",
        "images = pipe(batch_size=16, num_inference_steps=50).images",
    ]  # fmt: skip
    head = ["# A diffusion model for diffusers", "", f"Exported by alphabar, model {model.fingerprint}.", ""]
    return "\n".join([*head, "```python", *code, "```", "", *(f"- {note}" for note in notes), ""])
