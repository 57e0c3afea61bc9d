"""The model as data: the recipe that describes a new one, and the specification from which it can be made again, which is stored
in the header of its weight file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from alphabar.core.bounds import Bounds, Checked
from alphabar.core.stored_values import FLAG, PAIR, SHAPE, TEXT, StoredValues, listed, number, one_of, whole
from alphabar.data.fit_size import Fit
from alphabar.data.latents import Latents, latents_of
from alphabar.data.values import check_range, scale_of
from alphabar.denoiser.diffusers_config import MAX_BLOCKS, MAX_LEVELS, WIDTH, check_unet2d
from alphabar.denoiser.own_networks import BUILT_IN, find_network
from alphabar.schedule.kinds import schedule_from
from alphabar.schedule.noising import Prediction

FORMAT = 1
# Format 2 adds `pixels` and `value_range`, format 3 `classes`. Each is written only where it is needed: for images that are not
# uint8 of the usual range, and for a class-conditional model. `fit`, which decides nothing in the network, needs no new format.
# Format 4 adds `latents` (`data.latents.Latents`).
FORMATS = (1, 2, 3, 4)
MAX_CLASSES = 100_000
NAMES = listed(TEXT, MAX_CLASSES)
UNET = {  # arguments of a `UNet`
    **dict.fromkeys(("in_channels", "embedding", "group_size"), WIDTH), "channels": listed(WIDTH, MAX_LEVELS, 1),
    "patch": whole(1, 64), "blocks": whole(1, MAX_BLOCKS), "attention": listed(whole(0, MAX_LEVELS), MAX_LEVELS),
    "dropout": number(0, 1), "t_scale": number(1e-6, 1e6), "classes": whole(0, MAX_CLASSES), "augment": whole(0, 64),
}  # fmt: skip
LUCIDRAINS_UNET = {  # arguments of the Unet of denoising-diffusion-pytorch
    **dict.fromkeys(("dim", "init_dim", "channels"), WIDTH), "full_attn": listed(FLAG, MAX_LEVELS, 1),
    **dict.fromkeys(("dim_mults", "attn_heads", "attn_dim_head"), listed(WIDTH, MAX_LEVELS, 1)),
}  # fmt: skip
Width = Annotated[int, Bounds(1, 65_536)]  # of a layer
Level = Annotated[int, Bounds(0, 15)]


@dataclass(frozen=True)
class ModelRecipe(Checked):
    """The network, what it predicts, and the range of its input."""

    section = "model."

    network: str = "unet"
    """"unet": our own compact U-Net. "unet2d": diffusers' UNet2DModel (extra `diffusers`). Or one from `register_network`, which
    decides all of it itself; channels, blocks, patch, attention, embedding, groups and dropout then have no effect."""
    channels: tuple[Width, ...] = (64, 96)
    """Channels of each level; every level below the first halves the size."""
    blocks: Annotated[int, Bounds(1, 64)] = 1
    """Residual blocks per level (layers_per_block of UNet2DModel)."""
    patch: Annotated[int, Bounds(1, 64)] = 2
    """Side of the pixel-unshuffle before the first level; 1 is none. Only for "unet"."""
    attention: tuple[Level, ...] = ()
    """Levels with self-attention; 0 is the finest."""
    embedding: Width = 128
    """Width of the time embedding. Only for "unet"."""
    groups: Width = 16
    """Channels per group of group norm ("unet"); number of groups ("unet2d")."""
    dropout: Annotated[float, Bounds(0, 1, below=True)] = 0.0
    """Share of activations dropped in every residual block during training."""
    init: Literal["default", "lesson"] = "default"
    """"lesson": second convolution of every residual block and last convolution zero, down-samplers orthogonal."""
    prediction: Prediction = "v"
    """What the network predicts: eps, x0, v, or flow (the velocity eps - x0 of flow matching)."""
    data_range: Annotated[float, Bounds(0, 1e4, above=True)] = 1.0
    """Half the width of the network's input range: 1.0 is -1..1, 0.5 is -0.5..0.5; EDM's is 1 / sigma_data, 2.0. Of latents
    it is the standard deviation."""
    conditional: bool = False
    """Condition the network on the class of each image; the set needs labels. --train.label-dropout hides some, for guidance."""


def model_spec(
    recipe: ModelRecipe, schedule: Mapping[str, Any], image_shape: tuple[int, int, int], crop: int, pixels: str,
    value_range: tuple[float, float] | None, classes: Sequence[str], augment: int, fit: str | None = None,
    latents: Latents | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The specification of a new model. The arguments and errors are those of `model.build`, which documents them."""
    if recipe.conditional and not classes:
        raise ValueError(
            "model.conditional needs images with labels, and this set has none: leave it out, or use labelled images"
        )
    names = [*classes] if recipe.conditional else []
    if recipe.network == "unet":
        arguments = _unet_arguments(recipe, image_shape[0], _time_scale(schedule), len(names), augment)
    elif augment:
        raise ValueError(
            f"train.augment needs a network that takes the augmentation as input, and {recipe.network} does not: use "
            "--model.network unet, or --train.augment 0"
        )
    elif recipe.network != "unet2d":
        find_network(recipe.network)
        arguments = {}
    else:
        arguments = _unet2d_arguments(recipe, image_shape, len(names))
    depth = {} if pixels == "uint8" and value_range is None else {"pixels": pixels, "value_range": value_range and [*value_range]}
    return {
        **depth, **({"classes": names} if names else {}), **({"fit": fit} if fit else {}),
        **({} if latents is None else {"latents": latents.spec()}),
        "format": 4 if latents else 3 if names else 2 if depth else FORMAT,
        "network": recipe.network, "arguments": arguments, "schedule": dict(schedule), "prediction": recipe.prediction,
        "data_range": recipe.data_range * (latents.limit if latents else 1), "image_shape": list(image_shape), "crop": crop,
    }  # fmt: skip


def _unet_arguments(recipe: ModelRecipe, channels: int, t_scale: float, classes: int, augment: int) -> dict[str, Any]:
    return {
        "in_channels": channels, "patch": recipe.patch, "channels": list(recipe.channels), "blocks": recipe.blocks,
        "attention": list(recipe.attention), "embedding": recipe.embedding, "group_size": recipe.groups,
        "dropout": recipe.dropout, "t_scale": t_scale, **({"classes": classes} if classes else {}),
        **({"augment": augment} if augment else {}),
    }  # fmt: skip


def _unet2d_arguments(recipe: ModelRecipe, image_shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DModel. It gets one more class than there are, which stands for none."""
    c, h, w = image_shape
    attends = [k in recipe.attention for k in range(len(recipe.channels))]
    return {
        "sample_size": [h, w], "in_channels": c, "out_channels": c, "block_out_channels": list(recipe.channels),
        "layers_per_block": recipe.blocks, "norm_num_groups": recipe.groups, "dropout": recipe.dropout,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        **({"num_class_embeds": classes + 1} if classes else {}),
    }  # fmt: skip


def _time_scale(schedule: Mapping[str, Any]) -> float:
    """The factor that brings a schedule's time (integer timesteps, 0..1, or log sigma in some form) to a range of about 1000."""
    if schedule_from(dict(schedule)).steps is not None:
        return 1.0
    return 1000.0 if schedule["kind"] in ("cosine", "flow") else 250.0


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the key, for a specification (read from a file) that describes no model."""
    if spec.get("format") not in FORMATS:
        raise ValueError(f"model description of format {spec.get('format')!r}: this release reads formats {FORMATS}")
    c = StoredValues(
        {"crop": 0, "pixels": "uint8", "classes": [], "consistency": False, "null_class": True, **spec}, "model description"
    )
    network, arguments, names = c.get("network", TEXT), c.table("arguments"), c.get("classes", NAMES)
    c.table("schedule"), c.get("prediction", TEXT), c.get("data_range", number(1e-6, 1e6))
    channels, height, width = c.get("image_shape", SHAPE)
    if "fit" in spec:
        c.get("fit", one_of(get_args(Fit)))
    c.get("crop", whole(0, (min(height, width) - 1) // 2)), c.get("consistency", FLAG)
    scale_of(c.get("pixels", TEXT))  # raises ValueError for a type that images are not stored in
    if spec.get("value_range") is not None:
        check_range(c.get("value_range", PAIR))
    if (
        spec.get("latents") is not None
        and len(latents_of(c.table("latents").values, "model description: latents").mean) != channels
    ):
        raise ValueError(f"model description: the means of its latents are not {channels}")
    if network not in BUILT_IN:
        find_network(network)
        return
    if network == "unet2d":
        check_unet2d(arguments, [channels, height, width])
    elif network == "lucidrains":
        arguments.check(LUCIDRAINS_UNET)
    elif (given := arguments.check(UNET).values.get("in_channels", 1)) != channels:
        raise ValueError(f"model description: in_channels is {given}, and images have {channels}")
    null = network == "unet" or c.get("null_class", FLAG)  # whether one label more stands for no class
    known = arguments.values.get("classes", max((arguments.values.get("num_class_embeds") or 0) - null, 0))
    if known != len(names):
        raise ValueError(f"model description: it names {len(names)} classes, and the network has {known}")
