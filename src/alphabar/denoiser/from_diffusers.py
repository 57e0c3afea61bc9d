"""`diffusers:PATH`: the folder of a pipeline of diffusers, read as a model.

The folder holds model_index.json, unet/ (config.json and safetensors) and scheduler/ (scheduler_config.json). Nothing in it is
executed or unpickled. Every setting is either reproduced or refused by name; an unknown key is refused, because it might change
the images. Written for diffusers 0.42; absent keys have the defaults of its classes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from alphabar.core.messages import as_path, command
from alphabar.core.stored_values import naming, read_object
from alphabar.core.weights import fill, read_tensors
from alphabar.denoiser.diffusers_config import SCHEDULERS, SamplingDefaults, read_scheduler, read_unet_config
from alphabar.denoiser.model import Model
from alphabar.denoiser.model_spec import FORMAT, FORMATS
from alphabar.denoiser.unet import DiffusersUNet

PREFIX = "diffusers:"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PIPELINES = ("DDPMPipeline", "DDIMPipeline")
WHY_NOT = {  # hints about other unconditional pipelines
    "LDMPipeline": "its network works on latents, which a VQ model decodes",
    "ScoreSdeVePipeline": "it is variance-exploding",
    "KarrasVePipeline": "it is variance-exploding",
    "PNDMPipeline": "save the same network with the scheduler that it was trained with",
}
# Projections of attention under their names before diffusers 0.15.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersModel(Model):
    """A model whose folder also says how it is sampled. spec["sampling"] holds `defaults` as plain data."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.defaults = SamplingDefaults(**spec["sampling"])


def read_diffusers(folder: str | Path) -> DiffusersModel:
    """The model in the folder of a DDPMPipeline or DDIMPipeline with a UNet2DModel, on the CPU, in float32.

    Raises:
        FileNotFoundError: for a missing folder or file.
        ValueError: naming the file and the key, for a setting that cannot be reproduced here.
    """
    folder = as_path(folder)
    index_file = folder / "model_index.json"
    if not folder.is_dir():
        fetch = command("hf", "download", "OWNER/NAME", "--local-dir", folder)
        raise FileNotFoundError(f"there is no folder at {folder}: diffusers: reads local folders, as `{fetch}` makes them")
    if not index_file.exists():
        raise FileNotFoundError(f"{folder} has no model_index.json: give the folder that pipeline.save_pretrained(FOLDER) wrote")
    pipeline, scheduler = _read_index(index_file)
    unet_file = _component(folder, "unet", "config.json")
    scheduler_file = _component(folder, "scheduler", "scheduler_config.json")
    config = read_object(scheduler_file)
    schedule, prediction, defaults = read_scheduler(config, scheduler_file, scheduler, pipeline)
    network = read_unet_config(unet_file, str(config.get("variance_type")))
    if prediction == "eps" and schedule.zero_terminal_snr:
        raise ValueError(
            f"{scheduler_file}: rescale_betas_zero_snr with prediction_type 'epsilon': at the last timestep no signal is left, "
            "so eps contains no information about the image (diffusers divides by 0 there). If the network was trained without "
            "it, set rescale_betas_zero_snr to false; if it predicts v, set prediction_type to 'v_prediction'"
        )
    null = read_object(unet_file).get("null_class") is not None
    names = [str(k) for k in range((network.get("num_class_embeds") or 0) - null)]
    classes = {"classes": names, "format": FORMATS[-1], **({} if null else {"null_class": False})} if names else {}
    size = network["sample_size"]
    h, w = (size, size) if isinstance(size, int) else size
    spec = {
        "format": FORMAT, "network": "unet2d", "arguments": network, "schedule": schedule.spec(), "prediction": prediction,
        "data_range": 1.0, "image_shape": [network["in_channels"], h, w], "crop": 0, "sampling": asdict(defaults), **classes,
    }  # fmt: skip
    # the device "meta" allocates nothing, however large a network the configuration asks for
    with naming(f"{unet_file}: diffusers' UNet2DModel cannot be made from it"), torch.device("meta"):
        model = DiffusersModel(json.loads(json.dumps(spec)))
    _load_weights(cast(DiffusersUNet, model.network), unet_file.parent)
    return model.eval()


def _read_index(file: Path) -> tuple[str, str]:
    """Class names of the pipeline and of its scheduler."""
    index = read_object(file)
    how_to_save = (
        "If the network is an unconditional UNet2DModel on pixels, save it with the scheduler that it was trained with: "
        f"DDPMPipeline(UNet2DModel.from_pretrained('{file.parent}/unet'), DDPMScheduler(beta_schedule=..., "
        "prediction_type=...)).save_pretrained('NEW')"
    )
    name = index.get("_class_name")
    if name not in PIPELINES:
        hint = WHY_NOT.get(str(name), "others are conditional, or work on latents, or bring their own code")
        raise ValueError(f"{file}: the pipeline is {name!r:.80}; {' and '.join(PIPELINES)} can be read ({hint}). {how_to_save}")
    parts = {k: v for k, v in index.items() if not k.startswith("_")}
    if odd := sorted(set(parts) ^ {"unet", "scheduler"}):
        raise ValueError(f"{file}: a {name} has a unet and a scheduler; this one differs in {', '.join(odd)}")
    for part, known in (("unet", ("UNet2DModel",)), ("scheduler", SCHEDULERS)):
        found = parts[part]
        if not (isinstance(found, list) and len(found) == 2 and found[0] == "diffusers" and found[1] in known):
            raise ValueError(
                f"{file}: the {part} is {found!r:.80}; wanted {' or '.join(known)} of diffusers (code inside a folder is never "
                f"run). {how_to_save if part == 'scheduler' else ''}".rstrip()
            )
    return str(name), str(parts["scheduler"][1])


def _component(folder: Path, part: str, name: str) -> Path:
    """A component's configuration, in its folder or, as the first releases saved it, next to model_index.json."""
    for file in (folder / part / name, folder / name):
        if file.exists():
            return file
    raise FileNotFoundError(f"{folder} has no {part}/{name}: give the folder that pipeline.save_pretrained(FOLDER) wrote")


def _load_weights(network: DiffusersUNet, folder: Path) -> None:
    """Fills the network with the weights in a folder, in float32."""
    file = folder / WEIGHTS
    if not file.exists():
        raise _missing_weights(folder)
    fill(network.unet, {_current_name(k): v for k, v in read_tensors(file)[0].items()}, f"{file} does not match config.json")


def _missing_weights(folder: Path) -> Exception:
    """What to do about a folder without WEIGHTS: it depends on the files that lie there instead."""
    names = sorted(p.name for p in folder.iterdir())
    if any(".safetensors.index" in name and name.endswith(".json") for name in names):
        return ValueError(
            f"{folder / WEIGHTS} is split into several files: load and save it with save_pretrained(PATH, max_shard_size='100GB')"
        )
    if variants := [name for name in names if name.endswith(".safetensors")]:
        return ValueError(f"{folder} has {', '.join(variants)} but no {WEIGHTS}: rename the one to be read to that")
    if pickles := [name for name in names if name.endswith((".bin", ".pt", ".ckpt"))]:
        return ValueError(
            f"{folder} has its weights only as a pickle ({', '.join(pickles)}), and unpickling runs any code that a file holds. "
            "If you trust its source, convert it to safetensors: "
            'python -c "from diffusers import UNet2DModel as M; '
            f"M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')\""
        )
    return FileNotFoundError(f"{folder} has no {WEIGHTS}")


def _current_name(name: str) -> str:
    parts = name.split(".")
    return ".".join(OLD_NAMES.get(part, part) for part in parts) if "attentions" in parts else name
