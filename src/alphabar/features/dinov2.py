"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193) as a feature extractor, from a folder of transformers on this machine."""

from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from alphabar.core.messages import as_path
from alphabar.core.stored_values import StoredValues, read_object, whole
from alphabar.features.module_extractor import ModuleExtractor

PREFIX = "dinov2:"
SIZE = 224  # pixels of an input's side, as Stein et al. 2023 (arXiv:2306.04675) use it
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class _ClassToken(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        token: Tensor = self.network(pixel_values=x).last_hidden_state[:, 0]
        return token


def load_dinov2(name: str) -> ModuleExtractor:
    """The class token after the last layer norm, of images resized to 224 x 224, which suits images of 64 pixels and more.

    Args:
        name: "dinov2:FOLDER"; the folder holds config.json and model.safetensors, as facebook/dinov2-base on the Hugging Face
            hub. No file is downloaded, and none is unpickled.

    Raises:
        FileNotFoundError: Without such a folder.
        ImportError: Without transformers.
        ValueError: For another kind of model, odd numbers in its description, or weights that are incomplete.
    """
    folder = as_path(name.removeprefix(PREFIX))
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json and model.safetensors: give the folder of a DINOv2 model of transformers, as "
            "hf download facebook/dinov2-base --local-dir dinov2-base writes it"
        )
    config = read_object(folder / "config.json")
    if config.get("model_type") != "dinov2":
        raise ValueError(f"{folder / 'config.json'} describes a {config.get('model_type')!r}: give the folder of a dinov2 model")
    bounds = {"hidden_size": 4096, "num_hidden_layers": 64, "num_attention_heads": 64, "image_size": 2048, "patch_size": 64,
              "mlp_ratio": 16, "num_channels": 3}  # fmt: skip
    StoredValues(config, str(folder / "config.json")).check({key: whole(1, most) for key, most in bounds.items()}, bounds)
    try:
        from transformers import Dinov2Model
    except ImportError as e:
        raise ImportError("DINOv2 is read by transformers, which is not installed: pip install 'alphabar[dinov2]'") from e
    try:
        read: tuple[Any, dict[str, Any]] = Dinov2Model.from_pretrained(  # type: ignore[assignment]
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as e:
        raise ValueError(f"{folder} cannot be read as a DINOv2 model: {str(e).splitlines()[0]}") from e
    network, info = read
    if wrong := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ValueError(f"{folder / 'model.safetensors'} lacks {wrong[0]} ({len(wrong)} weights in all): download it again")
    side = min(SIZE, network.config.image_size)
    layer = {"layer": "class token after the last layer norm", "patch": network.config.patch_size}
    return ModuleExtractor(
        _ClassToken(network), folder.name, network.config.hidden_size, preprocessing=layer, resize="clean", size=(side, side),
        mean=MEAN, std=STD,
    )  # fmt: skip
