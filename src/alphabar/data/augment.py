"""Augmentation, drawn from a generator that the caller addresses.

`flip` and `shift` change pixels, and what is trained on them is learnt. `Geometry` is augmentation that does not leak into the
samples (Karras et al. 2022, arXiv:2206.00364, app. F.2): a network that is told how each image was moved learns the images
themselves where it is told that nothing was done.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from alphabar.core.types import Images, Pixels
from alphabar.data.values import scale_of


def flip(pixels: Pixels, rng: np.random.Generator, probability: float = 0.5) -> Pixels:
    """Each image mirrored left to right with the probability given; a copy, of the same shape."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability = {probability}: give one from 0 to 1")
    mirrored = rng.random(len(pixels)) < probability
    return np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)


def shift(pixels: Pixels, rng: np.random.Generator, most: int = 2, fill: float = 0) -> Pixels:
    """Each image moved by -most..most whole pixels along both axes; what moves in has the level `fill`, 0 to 255, 65535 or 1.

    Nothing wraps round or is reflected. Raises ValueError when `most` could move an image out of its frame.
    """
    n, h, w, _ = pixels.shape
    if not 0 <= most < min(h, w):
        raise ValueError(f"most = {most}: images of {w}x{h} can be moved by 0 to {min(h, w) - 1} pixels")
    if not 0 <= fill <= (scale := scale_of(pixels.dtype)):
        raise ValueError(f"fill = {fill}: give a level from 0 to {scale}")
    padded = np.pad(pixels, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=fill)
    moves = rng.integers(0, 2 * most + 1, size=(n, 2))
    out = np.empty_like(pixels)
    for row, image, (dy, dx) in zip(out, padded, moves, strict=True):
        row[:] = image[dy : dy + h, dx : dx + w]
    return out


AUGMENT_DIM = 9  # numbers that say how an image was moved


@dataclass(frozen=True)
class Geometry:
    """Mirror images, scaling, rotation, stretching and shifts, each with `probability`.

    Both mirrors; scaling by 2^(0.2 z); rotation by any angle; stretching by 2^(0.2 z) along one direction and its inverse
    across; shifts of z / 8 of the width and height, with z ~ N(0, 1): the table of Karras et al. 2022, app. F.2.
    """

    probability: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"augment = {self.probability}: give a probability from 0 to 1; 0.12 is EDM's for CIFAR-10")

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, " 9"]:
        """How one image is moved, as its network is told: all 0 where it is not moved at all.

        mirrored left to right, upside down; log2 of the scale; cos - 1 and sin of the angle; the stretch's log2 times cos and
        sin of twice its direction's angle; shift to the right and down, in widths and heights.
        """
        use, z = rng.random(6) < self.probability, rng.standard_normal(4)
        turn, direction = (rng.random(2) * 2 - 1) * math.pi
        mirrors = rng.random(2) < 0.5
        said = np.zeros(AUGMENT_DIM, np.float32)
        said[:2] = use[:2] & mirrors
        if use[2]:
            said[2] = 0.2 * z[0]
        if use[3]:
            said[3:5] = math.cos(turn) - 1, math.sin(turn)
        if use[4]:
            said[5:7] = 0.2 * z[1] * math.cos(direction), 0.2 * z[1] * math.sin(direction)
        if use[5]:
            said[7:9] = z[2:] / 8
        return said


def moved(images: Images, said: Float[Tensor, "b 9"]) -> Images:
    """The images moved as `Geometry.draw` says, bilinearly, reflected at the borders. Those that are not moved stay exact, and so
    do those that are mirrored only."""
    out = images.clone()
    for column, axis in ((0, -1), (1, -2)):
        rows = (said[:, column] != 0).nonzero()[:, 0].to(images.device)
        if len(rows):
            out[rows] = out[rows].flip(axis)
    rows = (said[:, 2:] != 0).any(1).nonzero()[:, 0]
    if not len(rows):
        return out
    scale, cos, sin, along, across, right, down = said[rows, 2:].double().unbind(1)
    cos = cos + 1
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    # symmetric, of eigenvalues +-length along the direction and across: its exponential stretches
    stretch = torch.linalg.matrix_exp(
        math.log(2) * torch.stack([torch.stack([along, across], 1), torch.stack([across, -along], 1)], 1)
    )
    forward = torch.exp2(scale)[:, None, None] * (turn @ stretch)
    height, width = images.shape[-2:]
    back = torch.linalg.inv(forward)
    # grid_sample asks where a pixel comes from, in units of half the width and half the height
    units = torch.tensor([1.0, height / width], dtype=torch.float64)
    theta = back * units[None, None, :] / units[None, :, None]
    from_ = -(theta @ torch.stack([2 * right, 2 * down], 1)[:, :, None])
    here = rows.to(images.device)
    grid = F.affine_grid(torch.cat([theta, from_], 2).to(images), list(out[here].shape), align_corners=False)
    out[here] = F.grid_sample(out[here], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return out
