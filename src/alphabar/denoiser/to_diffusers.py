"""A model written as a folder from which diffusers draws the same images: what `alphabar export` does."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from alphabar.core.files import write_atomically
from alphabar.denoiser.diffusers_scheduler import PREDICTIONS
from alphabar.denoiser.diffusers_unet import WEIGHTS, DiffusersUNet
from alphabar.denoiser.from_diffusers import DiffusersModel
from alphabar.denoiser.model import Model
from alphabar.schedule.betas import Betas, Linear


def export_diffusers(model: Model, folder: str | Path, *, pipeline: Literal["ddim", "ddpm"] = "ddim") -> list[str]:
    """Writes a model as a folder from which diffusers draws the same images from the same noise. Returns what to mind.

    The network must be diffusers' own (kind "unet2d"), its time integer timesteps, its range -1..1. pipeline: a DDIMPipeline
    or a DDPMPipeline, both with trailing timesteps and no clipping. A run whose images were padded draws padded images in
    diffusers; the folder's README.md and the notes say what to cut off.
    Raises ValueError for a model that diffusers has no words for, and for a folder that is not empty.
    """
    folder = Path(folder)
    _check_exportable(model, folder)
    scheduler = _scheduler_config(model, pipeline)
    try:
        import diffusers
    except ImportError as e:
        raise ImportError("export to diffusers needs it: pip install 'alphabar[diffusers]'") from e
    from safetensors.torch import save_file

    unet = cast(DiffusersUNet, model.network).unet
    notes = _notes(model, scheduler)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "unet").mkdir(parents=True)
    (part / "scheduler").mkdir()
    unet.save_config(part / "unet")
    weights: dict[str, Tensor] = {k: v.detach().cpu().contiguous() for k, v in unet.state_dict().items()}
    save_file(weights, part / "unet" / WEIGHTS, metadata={"format": "pt"})
    names = {"ddim": ("DDIMPipeline", "DDIMScheduler"), "ddpm": ("DDPMPipeline", "DDPMScheduler")}[pipeline]
    version = {"_diffusers_version": diffusers.__version__}
    _write(part / "scheduler" / "scheduler_config.json", {"_class_name": names[1], **version, **scheduler})
    index = {"_class_name": names[0], **version, "scheduler": ["diffusers", names[1]], "unet": ["diffusers", "UNet2DModel"]}
    _write(part / "model_index.json", index)
    write_atomically(part / "README.md", _readme(model, names[0], notes))
    if folder.exists():
        folder.rmdir()  # it is empty
    part.rename(folder)
    return notes


def _write(file: Path, values: Mapping[str, Any]) -> None:
    write_atomically(file, json.dumps(values, indent=2) + "\n")


def _check_exportable(model: Model, folder: Path) -> None:
    spec = getattr(model, "spec", None)
    way = "train one that can: alphabar train SET --out RUN --model.network unet2d --schedule.kind linear --model.data-range 1"
    if isinstance(model, DiffusersModel):
        raise ValueError("this model came from a folder of diffusers, and is one already")
    if not isinstance(spec, Mapping) or spec["network"] != "unet2d":
        kind = spec["network"] if isinstance(spec, Mapping) else type(model).__name__
        raise ValueError(f"the network is {kind!r}, which diffusers has not, and cannot be exported to it; {way}")
    if model.classes:
        raise ValueError("the network is told classes, which pipelines of DDPM and DDIM do not pass on: train one without them")
    if not isinstance(model.own_schedule, (Linear, Betas)):
        raise ValueError(
            f"the schedule is {model.own_schedule.kind!r}, whose time is continuous; diffusers knows integer timesteps. This run "
            f"cannot be exported; {way}"
        )
    if model.prediction not in PREDICTIONS.values():
        raise ValueError(f"the network predicts {model.prediction!r}, which pipelines of DDPM and DDIM do not know; {way}")
    if model.data_range != 1:
        raise ValueError(
            f"the network's range is -{model.data_range:g}..{model.data_range:g}; diffusers' is -1..1. This run cannot be "
            f"exported; {way}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty: choose another folder")


def _scheduler_config(model: Model, pipeline: str) -> dict[str, Any]:
    schedule = cast(Linear | Betas, model.own_schedule)
    curve = schedule.curve if isinstance(schedule, Betas) else "linear"
    known = ("linear", "scaled_linear", "squaredcos_cap_v2") + (("sigmoid", "laplace") if pipeline == "ddpm" else ())
    config: dict[str, Any] = {
        "num_train_timesteps": schedule.steps,
        "beta_start": schedule.beta_min,
        "beta_end": schedule.beta_max,
        "beta_schedule": curve if curve in known else "linear",
        "trained_betas": None if curve in known else schedule.betas.tolist(),
        "rescale_betas_zero_snr": isinstance(schedule, Betas) and schedule.zero_snr,
        "prediction_type": {v: k for k, v in PREDICTIONS.items()}[model.prediction],
        "clip_sample": False,
        "thresholding": False,
        "timestep_spacing": "trailing",
        "steps_offset": 0,
    }
    return config | ({"set_alpha_to_one": True} if pipeline == "ddim" else {"variance_type": "fixed_small"})


def _notes(model: Model, scheduler: Mapping[str, Any]) -> list[str]:
    notes = []
    if k := model.crop:
        notes.append(f"cut {k} pixels off every side of what diffusers draws, image[{k}:-{k}, {k}:-{k}]: its images were padded")
    if model.pixels != "uint8":
        notes.append(f"its images are {model.pixels}, and diffusers writes 8 bits: take output_type='np', floats from 0 to 1")
    if model.value_range is not None:
        low, high = model.value_range
        notes.append(f"0 and 1 of diffusers' floats stand for the values {low:g} and {high:g}")
    if (first := model.schedule.sigma_max / (1 + model.schedule.sigma_max**2) ** 0.5) < 1 - 1e-4:
        notes.append(
            f"to draw the images that `alphabar sample` draws, multiply its starting noise by {first:.6f}: it starts from x of "
            "standard deviation sigma_max, diffusers from sqrt(alphabar) x of 1"
        )
    notes.append(
        f"give DDIMPipeline a number of steps that divides {scheduler['num_train_timesteps']}: at others its scheduler does not "
        "step to the next timestep of its own list"
    )
    return notes


def _readme(model: Model, pipeline: str, notes: Iterable[str]) -> str:
    code = f"from diffusers import {pipeline}\n\npipe = {pipeline}.from_pretrained(FOLDER)\n"
    code += "images = pipe(batch_size=16, num_inference_steps=50).images\n"
    lines = "".join(f"- {note}\n" for note in notes)
    head = f"# A diffusion model for diffusers\n\nExported by alphabar, model {model.fingerprint}."
    return f"{head}\n\n```python\n{code}```\n\n{lines}"
