"""A model from plain data and back: what a checkpoint says about itself is enough to make the model again."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alphabar.core.types import Images, Labels, Timesteps
from alphabar.data.values import check_range, scale_of
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.unet import UNet
from alphabar.schedule.kinds import schedule_from
from alphabar.schedule.noising import Prediction

FORMAT = 1  # of the JSON in a weight file's header
# 2 adds `pixels` and `value_range`, 3 `classes`; each is written only where it is needed: for images that are not uint8 of the
# usual range, and for a model that is told classes.
FORMATS = (1, 2, 3)
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class ModelRecipe:
    """The network and how it is read.

    network: "unet" is our own; "unet2d" is diffusers' UNet2DModel (the extra `diffusers`).
    """

    network: Literal["unet", "unet2d"] = "unet"
    """"unet": our own compact U-Net. "unet2d": diffusers' UNet2DModel."""
    channels: tuple[int, ...] = (64, 96)
    """Channels of each level; every level below the first halves the size."""
    blocks: int = 1
    """Residual blocks a level (layers_per_block of UNet2DModel)."""
    patch: int = 2
    """Side of the pixel-unshuffle before the first level; 1 is none. Only for "unet"."""
    attention: tuple[int, ...] = ()
    """Levels with self-attention; 0 is the finest."""
    embedding: int = 128
    """Width of the time embedding. Only for "unet"."""
    groups: int = 16
    """Channels a group of group norm ("unet"); number of groups ("unet2d")."""
    dropout: float = 0.0
    """Share of activations dropped in every residual block in training."""
    init: Literal["default", "lesson"] = "default"
    """"lesson": second convolution of every residual block and last convolution zero, down-samplers orthogonal."""
    prediction: Prediction = "v"
    """What the network says: eps, x0, v, or flow (the velocity eps - x0 of flow matching)."""
    data_range: float = 1.0
    """Half the width of the network's input range: 1.0 is -1..1, 0.5 is -0.5..0.5; EDM's is 1 / sigma_data, 2.0."""
    conditional: bool = False
    """Tell the network the class of each image; the set needs labels. --train.label-dropout hides some, for guidance."""


class DiffusersNet(nn.Module):
    """diffusers' UNet2DModel as a plain network (y, t) -> output."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as e:
            raise ImportError("the network 'unet2d' is diffusers' UNet2DModel: pip install 'alphabar[diffusers]'") from e
        self.unet = UNet2DModel(**config)

    def train(self, mode: bool = True) -> "DiffusersNet":
        """As of any module, less a copy: told that they train, diffusers' residual blocks bring what they add back from
        channels-last, and the next convolution brings it there again. What they hold, dropout included, is told."""
        from diffusers.models.resnet import ResnetBlock2D

        super().train(mode)
        for block in self.unet.modules():
            if isinstance(block, ResnetBlock2D):
                block.training = False
        return self

    def forward(self, y: Images, t: Timesteps, labels: Labels | None = None) -> Images:
        out: Tensor = self.unet(y, t, class_labels=labels).sample
        return out


def _t_scale(schedule: Mapping[str, Any]) -> float:
    """Brings a schedule's time to a range of about 1000: integer timesteps, 0..1, or log sigma in some form."""
    if schedule_from(dict(schedule)).steps is not None:
        return 1.0
    return 1000.0 if schedule["kind"] in ("cosine", "flow") else 250.0


def model_spec(
    recipe: ModelRecipe,
    schedule: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    crop: int = 0,
    pixels: str = "uint8",
    value_range: tuple[float, float] | None = None,
    classes: Sequence[str] = (),
    augment: int = 0,
) -> dict[str, Any]:
    """Everything that makes the model again, as plain data. image_shape: (c, h, w) that the network sees.

    crop: pixels that padding added on each side, cut off again after sampling. pixels: the type that its images are
    stored in, and its samples too: uint8, uint16 or float32. value_range: what the ends of their scale stand for, where
    it was declared. classes: names of the classes that the network is told; none where it is told none. augment: numbers
    that say how an image was augmented; 0 where none is.
    Raises ValueError for a conditional recipe without classes, and for augmentation of "unet2d", which is not told of it.
    """
    if recipe.conditional and not classes:
        raise ValueError(
            "model.conditional needs images with labels, and this set has none: leave it out, or use a set with labels"
        )
    classes = classes if recipe.conditional else ()
    c, h, w = image_shape
    net: dict[str, Any]
    if recipe.network == "unet":
        net = {
            "in_channels": c,
            "patch": recipe.patch,
            "channels": list(recipe.channels),
            "blocks": recipe.blocks,
            "attention": list(recipe.attention),
            "embedding": recipe.embedding,
            "group_size": recipe.groups,
            "dropout": recipe.dropout,
            "t_scale": _t_scale(schedule),
            **({"classes": len(classes)} if classes else {}),
            **({"augment": augment} if augment else {}),
        }
    else:
        if augment:
            raise ValueError(
                "train.augment needs a network that is told how an image was augmented, and UNet2DModel is not: use "
                "--model.network unet, or --train.augment 0"
            )
        levels = len(recipe.channels)
        net = {
            "sample_size": [h, w],
            "in_channels": c,
            "out_channels": c,
            "block_out_channels": list(recipe.channels),
            "layers_per_block": recipe.blocks,
            "norm_num_groups": recipe.groups,
            "dropout": recipe.dropout,
            "down_block_types": ["AttnDownBlock2D" if k in recipe.attention else "DownBlock2D" for k in range(levels)],
            "up_block_types": ["AttnUpBlock2D" if k in recipe.attention else "UpBlock2D" for k in reversed(range(levels))],
            **({"num_class_embeds": len(classes) + 1} if classes else {}),
        }
    depth = {} if pixels == "uint8" and value_range is None else {"pixels": pixels, "value_range": value_range and [*value_range]}
    return {
        **depth,
        **({"classes": [*classes]} if classes else {}),
        "format": 3 if classes else 2 if depth else FORMAT,
        "network": recipe.network,
        "arguments": net,
        "schedule": dict(schedule),
        "prediction": recipe.prediction,
        "data_range": recipe.data_range,
        "image_shape": list(image_shape),
        "crop": crop,
    }


class Model(Preconditioned):
    """A denoiser that knows its specification (and so can be stored and made again) and its fingerprint.

    home: the folder where what is made of it is kept, as `load_model` noted it; None where it came from none.
    """

    home: Path | None = None

    def __init__(self, spec: Mapping[str, Any]) -> None:
        _check_spec(spec)
        kind, arguments = spec["network"], dict(spec["arguments"])
        network = UNet(**arguments) if kind == "unet" else DiffusersNet(**arguments)
        c, h, w = spec["image_shape"]
        super().__init__(network, schedule_from(spec["schedule"]), spec["prediction"], spec["data_range"], (c, h, w))
        if isinstance(network, UNet):
            network.check_size(h, w)
        self.spec = dict(spec)
        self.crop: int = spec.get("crop", 0)
        self.pixels: str = spec.get("pixels", "uint8")
        declared = spec.get("value_range")
        self.value_range: tuple[float, float] | None = None if declared is None else (float(declared[0]), float(declared[1]))
        self.class_names: tuple[str, ...] = tuple(spec.get("classes", ()))

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over the specification and all weights, as they are now."""
        digest = hashlib.sha256(json.dumps(self.spec, sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def build(
    recipe: ModelRecipe,
    schedule: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    seed: int = 0,
    crop: int = 0,
    *,
    pixels: str = "uint8",
    value_range: tuple[float, float] | None = None,
    classes: Sequence[str] = (),
    augment: int = 0,
) -> Model:
    """A new model with weights drawn from `seed`; torch's global random state is left as it was. The other
    arguments are those of `model_spec`."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        model = Model(model_spec(recipe, schedule, image_shape, crop, pixels, value_range, classes, augment))
        if recipe.init == "lesson":
            _lesson_init(model.network)
    return model


def _lesson_init(network: nn.Module) -> None:
    """Second convolutions of residual blocks and the last convolution at zero, down-samplers orthogonal."""
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if name.endswith((".conv2", ".conv_out", ".leave")):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif module.stride == (2, 2):
            nn.init.orthogonal_(module.weight)


def save_weights(path: Path, model: Model, weights: Mapping[str, Tensor] | None = None) -> None:
    """Weights and specification in one safetensors file (the specification is JSON in its header)."""
    from safetensors.torch import save_file

    state = weights if weights is not None else model.state_dict()
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    save_file(tensors, path, metadata={"alphabar": json.dumps(model.spec)})


def load_weights(path: Path) -> Model:
    """The model that a weight file describes, in evaluation mode on the CPU.

    Raises ValueError where the file is no such file, is cut short, or does not match its own description.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except SafetensorError as e:
        raise ValueError(f"{path} is no safetensors file, or was cut short ({e})") from e
    if "alphabar" not in metadata:
        raise ValueError(f"{path} holds weights but not what model they belong to: it was not written by alphabar")
    try:
        spec = json.loads(metadata["alphabar"])
        model = Model(spec)
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError, json.JSONDecodeError) as e:
        raise ValueError(f"{path}: its weights and its description do not go together: {e}") from e
    return model.eval()


_WANTED = {
    "network": str,
    "arguments": dict,
    "schedule": dict,
    "prediction": str,
    "data_range": (int, float),
    "image_shape": list,
}


def _check_spec(spec: Mapping[str, Any]) -> None:
    if spec.get("format") not in FORMATS:
        raise ValueError(f"model description of format {spec.get('format')!r}: this release reads formats {FORMATS}")
    for key, kind in _WANTED.items():
        if not isinstance(spec.get(key), kind):  # type: ignore[arg-type]
            raise ValueError(f"model description: {key} is {spec.get(key)!r}")
    if spec["network"] not in ("unet", "unet2d"):
        raise ValueError(f"network {spec['network']!r} is unknown: use unet or unet2d")
    shape = spec["image_shape"]
    if len(shape) != 3 or not all(isinstance(k, int) and 0 < k <= 65536 for k in shape):
        raise ValueError(f"model description: image_shape is {shape!r}; wanted [channels, height, width]")
    scale_of(spec.get("pixels", "uint8"))  # raises ValueError for a type that images are not stored in
    if spec.get("value_range") is not None:
        check_range(spec["value_range"])
    classes = spec.get("classes", [])
    if not isinstance(classes, list) or len(classes) > MOST_CLASSES or not all(isinstance(c, str) for c in classes):
        raise ValueError(f"model description: classes is {classes!r:.60}; wanted a list of names")
    known = spec["arguments"].get("classes", (spec["arguments"].get("num_class_embeds") or 1) - 1)
    if known != len(classes):
        raise ValueError(f"model description: {len(classes)} classes have names, and the network is told {known}")
    if not math.isfinite(spec["data_range"]):
        raise ValueError(f"model description: data_range is {spec['data_range']!r}")
