"""diffusers' UNet2DModel as a network, and reading its configuration and weights from a folder of diffusers."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from alphabar.core.types import Images, Labels, Timesteps
from alphabar.denoiser.diffusers_config import CheckedConfig, read_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
MAX_SIDE = MAX_CHANNELS = 65536
MAX_LEVELS, MAX_BLOCKS = 16, 64
# Keys that do not change the network: written by diffusers' `save_pretrained` and EMAModel.
IGNORED_KEYS = frozenset([
    "_class_name", "_diffusers_version", "_name_or_path", "_use_default_values", "decay", "inv_gamma", "power", "min_decay",
    "optimization_step", "update_after_step", "use_ema_warmup",
])  # fmt: skip
# Projections of attention under their names before diffusers 0.15.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class DiffusersUNet(nn.Module):
    """diffusers' UNet2DModel as a plain network (y, t) -> output."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.unet = _unet2d_class()(**config)

    def train(self, mode: bool = True) -> "DiffusersUNet":
        """Sets training mode everywhere but in the residual blocks themselves (their dropout follows `mode`).

        In training mode diffusers' blocks convert the residual from channels-last to contiguous, which the next convolution
        undoes: two copies per block.
        """
        from diffusers.models.resnet import ResnetBlock2D

        super().train(mode)
        for block in self.unet.modules():
            if isinstance(block, ResnetBlock2D):
                block.training = False
        return self

    def forward(self, y: Images, t: Timesteps, labels: Labels | None = None) -> Images:
        out: Tensor = self.unet(y, t, class_labels=labels).sample
        return out


def _unet2d_class() -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError as e:
        raise ImportError("the network 'unet2d' is diffusers' UNet2DModel: pip install 'alphabar[diffusers]'") from e
    return UNet2DModel


def read_unet_config(file: Path, variance: str) -> dict[str, Any]:
    """The arguments of the unconditional UNet2DModel that a config.json describes.

    Args:
        file: the configuration.
        variance: the scheduler's variance_type, for the message about a network that also predicts the variance.

    Raises:
        ValueError: naming the file and the key, for another network, an unknown key, or a value that cannot be used.
    """
    config = read_json(file)
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{file}: the network is a {config['_class_name']!r:.60}; only UNet2DModel can be read")
    known = set(inspect.signature(inspect.unwrap(_unet2d_class().__init__)).parameters) - {"self"}
    if unknown := sorted(set(config) - known - IGNORED_KEYS):
        raise ValueError(
            f"{file}: {', '.join(unknown)} is unknown to UNet2DModel of the installed diffusers and might change the images: "
            "remove it from the file if it does not"
        )
    for key in ("class_embed_type", "num_class_embeds"):
        if config.get(key) is not None:
            raise ValueError(
                f"{file}: {key} is {config[key]!r:.60}: a class-conditional network. Only unconditional ones can be read"
            )
    embedding = config.get("time_embedding_type", "positional")
    if embedding != "positional":
        raise ValueError(
            f"{file}: time_embedding_type is {embedding!r:.60}; only 'positional' can be read (fourier belongs to "
            "variance-exploding models and has no timestep 0, learned has no time between timesteps)"
        )
    network = {k: v for k, v in config.items() if k in known}
    _check_sizes(network, file)
    checked = CheckedConfig({"in_channels": 3, "out_channels": 3, "layers_per_block": 2} | network, file)
    for key, most in (("in_channels", MAX_CHANNELS), ("out_channels", MAX_CHANNELS), ("layers_per_block", MAX_BLOCKS)):
        network[key] = checked.whole(key, 1, most)
    _check_channels(network, file, variance)
    return network


def _check_sizes(network: Mapping[str, Any], file: Path) -> None:
    levels, size = network.get("block_out_channels", (0,) * 4), network.get("sample_size")
    sides = [size, size] if isinstance(size, int) else size
    if not (isinstance(sides, list) and len(sides) == 2 and all(type(k) is int and 0 < k <= MAX_SIDE for k in sides)):
        raise ValueError(f"{file}: sample_size is {size!r:.60}; give the images' side in pixels, or [height, width]")
    if not isinstance(levels, (list, tuple)) or not 1 <= len(levels) <= MAX_LEVELS:
        raise ValueError(f"{file}: block_out_channels is {levels!r:.60}; wanted a list of numbers of channels")
    divisor = 2 ** (len(levels) - 1)
    if any(k % divisor for k in sides):
        raise ValueError(f"{file}: sample_size {size}: a network of {len(levels)} levels needs sides divisible by {divisor}")


def _check_channels(network: Mapping[str, Any], file: Path, variance: str) -> None:
    c, out = network["in_channels"], network["out_channels"]
    if out == 2 * c:
        raise ValueError(
            f"{file}: out_channels {out} is twice in_channels {c}: the network also predicts the variance (variance_type learned "
            f"or learned_range; the scheduler has {variance}), which no sampler here uses. Only a fixed variance can be read"
        )
    if out != c:
        raise ValueError(
            f"{file}: in_channels {c}, out_channels {out}: a conditional network. Only unconditional ones can be read"
        )


def load_unet_weights(network: DiffusersUNet, folder: Path) -> None:
    """Fills the network with the weights in a folder, in float32.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if they are split, pickled or damaged, or do not match the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.exists():
        raise _missing_weights(folder)
    try:
        weights = {_current_name(k): v.float() for k, v in load_file(file).items()}
    except SafetensorError as e:
        raise ValueError(f"{file} is not a safetensors file, or is truncated ({e})") from e
    try:
        network.unet.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as e:
        raise ValueError(f"{file} does not match config.json: {e}") from e


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
