"""Where sampling starts in place of noise: at noisy images, or at noise that was computed from images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alphabar.core.types import Sampled
from alphabar.sampling.resolved import ResolvedOptions


@dataclass(frozen=True)
class Start:
    """A start of `sample`, as `start=`.

    Attributes:
        x: (indices of images, sigma) -> x of that level, float (b, c, h, w) of the model's own shape, padding included.
        steps: how many of the last steps of the grid are carried out; None: all.
        pixels: type of the finished images; None: that of the model's training images.
        record: what decides x, as plain data, for the record of the samples.
    """

    x: Callable[[Sequence[int], float], Sampled]
    steps: int | None = None
    pixels: str | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def resolved(self, options: ResolvedOptions) -> ResolvedOptions:
        """The options with the last steps of their grid alone. Raises ValueError for a fitted sampler, which is one whole."""
        if self.steps is None or self.steps >= options.steps:
            return options
        if options.fit is not None:
            raise ValueError(
                f"the fitted sampler {options.fit.name!r} has coefficients for all its {options.steps} steps, and {self.steps} "
                "are to be carried out: leave the sampler out, or name another one, as unipc"
            )
        return replace(options, sigmas=options.sigmas[-self.steps - 1 :])
