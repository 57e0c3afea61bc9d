"""The options of `tune`, which are also those of `alphabar tune`. Imports no torch, so that --help stays fast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from alphabar.core.bounds import Batch, Bounds, Checked, Count, Seed, Share

if TYPE_CHECKING:
    from alphabar.sampling.fitted import Tuned

    Starts = str | Mapping[int, Tuned]
else:  # What can be typed on a command line, which reads these annotations. Python callers may pass the type above.
    Starts = str

Fit = Literal["grid", "solver", "images", "features"]
Base = Literal["ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis"]  # one call a step, no noise, linear in x and x0_hat
BASES: tuple[str, ...] = get_args(Base)
SEED = 1_000_000
"""Default seed of fits. The held-out images have the next seed. Samples are seldom made with either."""


@dataclass(frozen=True)
class TuneOptions(Checked):
    """How a sampler is fitted to a model."""

    fit: Fit = "solver"
    """What is fitted: grid, the noise levels only; solver, also the coefficients, by least squares; images, then also both by
    the gradient of the distance from a fine trajectory; features, by the gradient of the Frechet distance to real images, with
    fresh noise."""
    base: Base | None = None
    """Sampler whose coefficients the fitted levels get: ddim, dpmpp_2m, dpmpp_3m, unipc, ipndm or deis. None: the best of them.
    dpmpp_2m fits a grid for the DPMSolverMultistepScheduler of diffusers."""
    name: str | None = None
    """Name of the fitted sampler, as in --sampler tuned:NAME. None: the value of `fit`."""
    against: str | None = None
    """For features: SET of real images. Its train split is fitted to, its test split is used for the held-out scores."""
    extractor: str | None = None
    """For features: the extractor in whose features the distance is minimised: a path, or auto, that of the run."""
    heldout_extractor: str = "bundled"
    """For features: another extractor, not used in fitting, which scores the result: bundled, a path, or auto."""
    n: Annotated[int, Bounds(8, 10**6)] = 256
    """Starting noises of the fine trajectory, 8 or more."""
    n_heldout: Count = 2000
    """Images that the held-out extractor scores."""
    seed: Seed = SEED
    """Seed of the fit. The held-out images have the seed after it."""
    rounds: Annotated[int, Bounds(0, 1000)] = 3
    """Rounds of gradient descent, for images and features. The rate of each is 0.6 times that of the round before."""
    steps: Annotated[int, Bounds(1, 10**6)] = 14
    """Descent steps in a round."""
    batch: Batch = 512
    """Images in a descent step."""
    rate: Annotated[float, Bounds(0, 10, above=True)] = 0.02
    """Root mean square change of the images in the first descent step, for images in [-1, 1]."""
    eta: Share = 0.3
    """For features: initial share of fresh noise, as DDIM's eta. 0 fits a sampler without noise."""
    remember: Annotated[int, Bounds(2, 10**7)] = 2048
    """For features: images whose features are kept for the statistics. Each round draws them again."""
    bf16: bool = False
    """Multiply in bfloat16 during the descent."""
    call_batch: Batch = 64
    """Images in a network call where no gradient is needed."""
    init_from: Starts | None = None
    """Fitted samplers from which the descent starts: the name of samplers that this run has, with as many calls or fewer (they
    are extended to more calls), or the .json file of one, which may belong to another model, such as this run before further
    training. Use another --seed and a smaller --rate with it. In Python also a mapping from calls to `Tuned`."""

    @property
    def bases(self) -> tuple[str, ...]:
        """The samplers whose coefficients are tried."""
        return BASES if self.base is None else (self.base,)
