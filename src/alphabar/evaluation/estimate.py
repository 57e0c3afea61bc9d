"""A number with its standard error and interval: what every metric of this project gives back."""

import math
from dataclasses import dataclass
from statistics import NormalDist

LEVEL = 0.95  # of every interval, unless it is asked for otherwise


@dataclass(frozen=True)
class Estimate:
    """A value with its uncertainty.

    se: standard error, or None where none can be given. interval: (low, high) at `level`, or None. note: why there is no
    interval, or what it covers beyond the usual.
    """

    value: float
    se: float | None = None
    interval: tuple[float, float] | None = None
    level: float = LEVEL
    note: str | None = None

    @classmethod
    def normal(cls, value: float, se: float, level: float = LEVEL, note: str | None = None) -> "Estimate":
        """value -+ z se with z of the standard normal. Raises ValueError for a negative or unknown se or a level outside 0..1."""
        if not (math.isfinite(se) and se >= 0):
            raise ValueError(f"se = {se}: a standard error is a number >= 0")
        half = quantile(level) * se
        return cls(value, se, (value - half, value + half), level, note)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4g}"
        low, high = self.interval
        return f"{self.value:.4g} [{low:.4g}, {high:.4g}]"


def quantile(level: float) -> float:
    """z with P(|N(0, 1)| < z) = level. Raises ValueError for a level outside 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: give a share between 0 and 1, as 0.95")
    return NormalDist().inv_cdf(0.5 + level / 2)
