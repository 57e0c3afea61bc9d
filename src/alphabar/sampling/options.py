"""The options of `sample`, which are also those of `alphabar sample`. Imports no torch, so that --help stays fast."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from alphabar.core.bounds import UNCHECKED, Batch, Bounds, Checked, Seed, Share, Steps

if TYPE_CHECKING:
    from alphabar.core.types import Grid, Images
    from alphabar.denoiser.plan import Adaptive, Plan
    from alphabar.sampling.fitted import Tuned

    GridName = str | Grid
    PlanName = str | Plan | Adaptive
    TunedFile = str | Path | Tuned
    Classes = int | str | Sequence[int | str]
    SamplerOptions = Mapping[str, int | float | str | bool]
    Limit = bool | float
    SamplerName = str | Callable[..., Images]
else:  # What can be typed on a command line, which reads these annotations. Python callers may pass the types above.
    GridName = PlanName = SamplerName = str
    TunedFile = Path
    Classes = Annotated[tuple[str, ...], UNCHECKED]
    SamplerOptions = dict[str, int | float | str]
    Limit = Annotated[bool, Bounds(0, 1e6)]

Precision = Literal["float32", "bf16", "auto"]
Weight = Annotated[float, Bounds(-1e4, 1e4)]  # of guidance
Threshold = Annotated[float, Bounds(0.5, 1, above=True)]


@dataclass(frozen=True)
class SampleOptions(Checked):
    """Every option that decides which images `sample` makes. None leaves a choice to the model or the sampler."""

    sampler: SamplerName | None = None
    """Name of a sampler (`alphabar samplers` lists them), ddim if left out, or for a distilled model consistency; "tuned", the
    one that `alphabar tune` fitted to this run for that number of steps; "tuned:NAME", where several were fitted; or, on the
    command line, "distilled", what `alphabar distill` made of this run. In Python also a function, as
    `alphabar.sampling.catalogue.own_sampler` describes it."""
    steps: Steps = 50
    """Steps of the sampler. Each costs a network call (some samplers: two), unless a call plan skips it."""
    eta: Share | None = None
    """Share of fresh noise, from 0 (deterministic) to 1 (DDPM's). None: the sampler's default."""
    options: SamplerOptions | None = None
    """Further options of the sampler by name: --options.s_churn 40, in Python {"s_churn": 40.0}."""
    seed: Seed = 0
    """Seed of all noise. Image k of a seed is the same whatever the number of images and the batch."""
    batch: Batch = 64
    """Images in one network call."""
    grid: GridName | None = None
    """Noise levels: leading, trailing, linspace (integer timesteps), time, log_sigma, karras, or karras_few (for at most 20
    steps). In Python also a float64 tensor of levels that falls strictly to 0; its length then sets the number of steps.
    None: the schedule's default, or that of the diffusers pipeline."""
    plan: PlanName | None = None
    """Call plan, the steps that call the network: "every(3, last=50)", progressive, or "adaptive(0.02)", which decides image by
    image. In Python also a `Plan`. None: all steps call."""
    clip: Limit | None = None
    """Clip x0_hat to [-1, 1] at every step; in Python, a number clips to [-number, number]. None: no clipping, but a diffusers
    pipeline is clipped as its scheduler says."""
    threshold: Threshold | None = None
    """Dynamic thresholding of x0_hat: the share of pixels that is kept unclipped, such as 0.995."""
    variance: str | None = None
    """Variance of ddpm: posterior or beta. None: posterior, or that of the diffusers pipeline."""
    tuned: TunedFile | None = None
    """File of a fitted sampler, used instead of `sampler`. In Python also a `Tuned`."""
    classes: Classes | None = None
    """For a class-conditional run: names or numbers of classes, which the images take in turns, or all. Image k of the seed gets
    class k modulo their number. None: no class."""
    guidance: Weight | None = None
    """Weight of classifier-free guidance: 1 is none, 2 follows the class more closely and doubles the network calls."""
    guidance_interval: Annotated[tuple[float, float], Bounds(0, math.inf)] | None = None
    """Lowest and highest noise level (sigma) at which guidance acts. None: all levels."""
    fast: str | None = None
    """How the network is run: auto (the way that finishes soonest here, by measurement), none, channels_last, compile,
    onnxruntime, openvino, mnn, or cuda_graphs."""
    precision: Precision = "float32"
    """bf16 multiplies in bfloat16, which changes the images slightly. auto: bf16 where it is measured to be faster here and a few
    images agree with float32; the record states which."""


@dataclass(frozen=True)
class VaryOptions(SampleOptions):
    """How variations of images are made: how far from the image, how many, and by which sampler."""

    strength: Annotated[float, Bounds(0, 1, above=True)] = 0.4
    """How far the variations may go: the share of the sampler's steps that is carried out. 1 starts at the highest noise level,
    at which nearly nothing of the image is left; of 50 steps, 0.4 takes the last 20."""
    draws: Annotated[int, Bounds(1, 100_000)] = 1
    """Variations of each image, each from its own noise."""

    @property
    def carried_out(self) -> int:
        """The last steps of the sampler, which are carried out."""
        return max(1, round(self.strength * self.steps))


@dataclass(frozen=True)
class InvertOptions(Checked):
    """How the noise of an image is found, from which DDIM at eta 0 makes that image."""

    steps: Steps = 50
    """Steps of DDIM, the same for the way up and the way back."""
    iterations: Annotated[int, Bounds(1, 1000)] = 1
    """Network calls of a step on the way up, at most. 1: DDIM inversion. More: fixed-point iteration towards the noise from which
    the way back gives the image itself; images that have converged stop earlier."""
    tolerance: Annotated[float, Bounds(0, 1)] = 1e-5
    """The fixed-point iteration of an image ends where its largest change is below this share of the noise level."""
    grid: GridName = "karras"
    """Noise levels, as for `sample`. karras has small steps at low levels, without which the way back is far off."""
    classes: Classes | None = None
    """For a class-conditional run: names or numbers of classes, which the images take in turns. None: no class."""
    guidance: Weight | None = None
    """Weight of classifier-free guidance, as for `sample`; weights above 1 make the inversion less exact."""
    batch: Batch = 64
    """Images in one network call."""
