"""The types of the project. The tests check shapes at run time."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8, UInt16
from torch import Tensor

Images = Float[Tensor, "b c h w"]  # noisy or clean images; clean ones live in [-1, 1]
Sampled = Float[Tensor, "b k y x"]  # what a sampler ends with: images, which may have padding, or latents of images
Measured = Float[Tensor, "b m u v"]  # linear measurements of images, and their coefficients
Levels = Float[Tensor, " b"]  # one sigma per image, >= 0, in units of the clean images
Times = Float64[Tensor, "..."]  # times of a schedule, or sigmas, in float64
Labels = Int64[Tensor, " b"]  # the class of each image, 0 .. classes - 1; `classes` means no class
Timesteps = Float[Tensor, " b"]  # one time per image, the network's input, float32
Grid = Float64[Tensor, " n"]  # strictly decreasing levels that end in 0: n levels make n - 1 steps
# Stored images. The type decides the scale: uint8 0..255, uint16 0..65535, float32 0..1.
Pixels = UInt8[np.ndarray, "n h w c"] | UInt16[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]
Features = Float[Tensor, "n d"]  # one row per image, from an extractor

OnStep = Callable[[int, float, Tensor, Tensor], None]  # (step, sigma, x, x0_hat), before x moves on


@runtime_checkable
class Denoiser(Protocol):
    """A function (x, sigma) -> E[x0 | x], where x = x0 + sigma * noise and x0 lives in [-1, 1]."""

    def __call__(self, x: Images, sigma: Levels, /) -> Images: ...


@runtime_checkable
class Noise(Protocol):
    """Standard normal noise like `like`; the same `draw` gives the same noise."""

    def __call__(self, draw: int, like: Images, /) -> Images: ...
