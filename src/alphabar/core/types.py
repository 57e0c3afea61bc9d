"""The words of the project as types (layer 0). Shapes are checked at run time in the tests only."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8, UInt16
from torch import Tensor

Images = Float[Tensor, "b c h w"]  # noisy or clean images; clean ones live in [-1, 1]
Levels = Float[Tensor, " b"]  # one sigma an image, >= 0, in units of the clean images
Times = Float64[Tensor, "..."]  # a schedule's own time, or a sigma, in float64
Labels = Int64[Tensor, " b"]  # the class of each image, 0 .. classes - 1; `classes` itself stands for none
Timesteps = Float[Tensor, " b"]  # one time an image, as a network sees it, float32
Grid = Float64[Tensor, " n"]  # levels that fall strictly and end in 0: n levels make n - 1 steps
# Images as they are stored. The type decides the scale: uint8 0..255, uint16 0..65535, float32 0..1.
Pixels = UInt8[np.ndarray, "n h w c"] | UInt16[np.ndarray, "n h w c"] | Float32[np.ndarray, "n h w c"]
Features = Float[Tensor, "n d"]  # what an extractor makes of n images

OnStep = Callable[[int, float, Tensor, Tensor], None]  # (step, sigma, x, x0_hat), before x moves on


@runtime_checkable
class Denoiser(Protocol):
    """A function (x, sigma) -> E[x0 | x], where x = x0 + sigma * noise and x0 lives in [-1, 1]."""

    def __call__(self, x: Images, sigma: Levels, /) -> Images: ...


@runtime_checkable
class Noise(Protocol):
    """Standard normal noise like `like`; the same `draw` gives the same noise."""

    def __call__(self, draw: int, like: Images, /) -> Images: ...
