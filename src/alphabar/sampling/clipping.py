"""Clipping and dynamic thresholding of x0_hat."""

from dataclasses import dataclass

from alphabar.core.types import Denoiser, Images
from alphabar.denoiser.wrappers import ClipX0, ThresholdX0


@dataclass(frozen=True)
class Clipping:
    """How x0_hat is limited at every step: thresholded first, then clipped. As a function, it wraps a denoiser.

    Attributes:
        limit: x0_hat is clipped to [-limit, limit]; 0 is no clipping.
        threshold: share of pixels for dynamic thresholding (`ThresholdX0`); None is none.
        threshold_max: upper bound of that threshold; None is no bound.
    """

    limit: float = 0.0
    threshold: float | None = None
    threshold_max: float | None = None

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """Raises ValueError for a share or a bound out of range."""
        if self.threshold is not None:
            denoise = ThresholdX0(denoise, self.threshold, self.threshold_max)
        return ClipX0(denoise, -self.limit, self.limit) if self.limit else denoise

    def apply(self, x0_hat: Images) -> Images:
        """The limited x0_hat."""
        return self(lambda x, sigma: x)(x0_hat, x0_hat.new_zeros(len(x0_hat)))

    @property
    def active(self) -> bool:
        return bool(self.limit) or self.threshold is not None
