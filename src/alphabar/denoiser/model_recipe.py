"""The part of a recipe that describes the model: its network and what the network predicts."""

from dataclasses import dataclass
from typing import Literal

from alphabar.schedule.noising import Prediction


@dataclass(frozen=True)
class ModelRecipe:
    """The network, what it predicts, and the range of its input."""

    network: Literal["unet", "unet2d"] = "unet"
    """"unet": our own compact U-Net. "unet2d": diffusers' UNet2DModel (extra `diffusers`)."""
    channels: tuple[int, ...] = (64, 96)
    """Channels of each level; every level below the first halves the size."""
    blocks: int = 1
    """Residual blocks per level (layers_per_block of UNet2DModel)."""
    patch: int = 2
    """Side of the pixel-unshuffle before the first level; 1 is none. Only for "unet"."""
    attention: tuple[int, ...] = ()
    """Levels with self-attention; 0 is the finest."""
    embedding: int = 128
    """Width of the time embedding. Only for "unet"."""
    groups: int = 16
    """Channels per group of group norm ("unet"); number of groups ("unet2d")."""
    dropout: float = 0.0
    """Share of activations dropped in every residual block during training."""
    init: Literal["default", "lesson"] = "default"
    """"lesson": second convolution of every residual block and last convolution zero, down-samplers orthogonal."""
    prediction: Prediction = "v"
    """What the network predicts: eps, x0, v, or flow (the velocity eps - x0 of flow matching)."""
    data_range: float = 1.0
    """Half the width of the network's input range: 1.0 is -1..1, 0.5 is -0.5..0.5; EDM's is 1 / sigma_data, 2.0."""
    conditional: bool = False
    """Condition the network on the class of each image; the set needs labels. --train.label-dropout hides some, for guidance."""
