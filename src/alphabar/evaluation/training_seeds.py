"""What several trainings say together: means and paired differences over seeds, with Student's intervals."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, stdev

import numpy as np

from alphabar.evaluation.estimate import LEVEL, Estimate


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of one value a seed with Student's interval: what another training would have given is in it, chance of drawing
    too. With one seed there is no interval, and the note says so. Raises ValueError for no value."""
    if not values:
        raise ValueError("no seed, no value: give one value a seed")
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean, level=level, note="one seed says nothing of another: give two or more")
    se = stdev(values) / math.sqrt(len(values))
    half = student(level, len(values) - 1) * se
    return Estimate(mean, se, (mean - half, mean + half), level)


@cache
def student(level: float, freedom: int) -> float:
    """t with P(|T| <= t) = level for Student's distribution of so many degrees of freedom (Student 1908).

    With T = sqrt(freedom) tan(a) the density of a is proportional to cos(a)^(freedom - 1), a smooth function of a bounded angle.
    Raises ValueError for a level outside (0, 1) or freedom < 1.
    """
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"level {level} with {freedom} degrees of freedom: give a level between 0 and 1, and 1 or more degrees")
    nodes, weights = np.polynomial.legendre.leggauss(200)

    def mass(angle: float) -> float:
        """Integral of cos^(freedom - 1) from 0 to the angle."""
        return float(angle / 2 * (weights * np.cos(angle / 2 * (nodes + 1)) ** (freedom - 1)).sum())

    low, high, whole = 0.0, math.pi / 2, mass(math.pi / 2)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < level * whole else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)
