"""Augmentation that does not leak into the samples (Karras et al. 2022, arXiv:2206.00364, app. F.2): the network is given the
parameters of each image's transformation, and samples with all parameters 0 look as if no image had been transformed."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from alphabar.core.types import Images

AUGMENT_DIM = 9  # parameters of a transformation


@dataclass(frozen=True)
class Geometry:
    """Mirror images, scaling, rotation, stretching and shifts, each applied with `probability`.

    Both mirrors; scaling by 2^(0.2 z); rotation by any angle; stretching by 2^(0.2 z) along one direction and its inverse
    across; shifts of z / 8 of the width and height, with z ~ N(0, 1): the table of Karras et al. 2022, app. F.2.
    """

    probability: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"augment = {self.probability}: give a probability from 0 to 1; 0.12 is EDM's for CIFAR-10")

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, " 9"]:
        """The parameters of one random transformation; all 0 for the identity.

        In this order: mirrored left to right, mirrored upside down (0 or 1); log2 of the scale; cos - 1 and sin of the angle;
        log2 of the stretch times cos and sin of twice the angle of its direction; shift to the right and down, in widths
        and heights.
        """
        use, z = rng.random(6) < self.probability, rng.standard_normal(4)
        angle, direction = (rng.random(2) * 2 - 1) * math.pi
        mirrors = rng.random(2) < 0.5
        out = np.zeros(AUGMENT_DIM, np.float32)
        out[:2] = use[:2] & mirrors
        if use[2]:
            out[2] = 0.2 * z[0]
        if use[3]:
            out[3:5] = math.cos(angle) - 1, math.sin(angle)
        if use[4]:
            out[5:7] = 0.2 * z[1] * math.cos(direction), 0.2 * z[1] * math.sin(direction)
        if use[5]:
            out[7:9] = z[2:] / 8
        return out


def transformed(images: Images, parameters: Float[Tensor, "b 9"]) -> Images:
    """Images transformed by the parameters of `Geometry.draw`, with bilinear interpolation and reflection at the borders.
    The identity and mirror images are exact."""
    out = images.clone()
    for column, axis in ((0, -1), (1, -2)):
        if len(rows := (parameters[:, column] != 0).nonzero()[:, 0].to(images.device)):
            out[rows] = out[rows].flip(axis)
    rows = (parameters[:, 2:] != 0).any(1).nonzero()[:, 0]
    if not len(rows):
        return out
    scale, cos, sin, along, across, right, down = parameters[rows, 2:].double().unbind(1)
    cos = cos + 1
    rotation = torch.stack([cos, -sin, sin, cos], 1).reshape(-1, 2, 2)
    # a symmetric matrix with eigenvalues +-log2(stretch) along the direction and across it: its exponential stretches
    stretch = torch.linalg.matrix_exp(math.log(2) * torch.stack([along, across, across, -along], 1).reshape(-1, 2, 2))
    inverse = torch.linalg.inv(torch.exp2(scale)[:, None, None] * (rotation @ stretch))
    height, width = images.shape[-2:]
    # grid_sample maps output to input positions, in units of half the width and half the height
    units = torch.tensor([1.0, height / width], dtype=torch.float64)
    theta = inverse * units[None, None, :] / units[None, :, None]
    offset = -(theta @ torch.stack([2 * right, 2 * down], 1)[:, :, None])
    here = rows.to(images.device)
    grid = F.affine_grid(torch.cat([theta, offset], 2).to(images), list(out[here].shape), align_corners=False)
    out[here] = F.grid_sample(out[here], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return out
