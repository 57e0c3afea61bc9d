"""Values with standard errors and intervals, and the expansions that they are computed from. Every metric returns these."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.files import Record

LEVEL = 0.95  # of every interval, unless another level is asked for


def normal_quantile(level: float) -> float:
    """z with P(|N(0, 1)| < z) = level. Raises ValueError for a level outside 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: give a share between 0 and 1, as 0.95")
    return NormalDist().inv_cdf(0.5 + level / 2)


def student_quantile(level: float, freedom: int) -> float:
    """t with P(|T| < t) = level for Student's distribution with that many degrees of freedom (Student 1908).

    Raises ValueError for a level outside 0 < level < 1, or fewer than 1 degree of freedom.
    """
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"level {level} with {freedom} degrees of freedom: give a level between 0 and 1, and 1 or more degrees")
    from scipy.special import stdtrit  # imported here, as it costs half a second

    return float(stdtrit(freedom, 0.5 + level / 2))


def t95(draws: int) -> float:
    """Student's 95 % quantile for a mean over that many draws, to the three decimals that stored floors were computed with."""
    return round(student_quantile(0.95, draws - 1), 3)


@dataclass(frozen=True)
class Estimate(Record):
    """A value with its uncertainty.

    >>> print(Estimate.normal(2.0, 0.1))
    2 [1.804, 2.196]
    """

    value: float
    se: float | None = None  # standard error; None: unknown
    interval: tuple[float, float] | None = None  # (low, high) at `level`; None: unknown, and `note` says why
    level: float = LEVEL
    note: str | None = None  # why there is no interval, or a remark on how it was computed

    @classmethod
    def normal(cls, value: float, se: float, level: float = LEVEL, note: str | None = None) -> "Estimate":
        """value -+ z se, with the normal quantile z. Raises ValueError for an se that is negative or not finite."""
        if not (math.isfinite(se) and se >= 0):
            raise ValueError(f"se = {se}: a standard error is a number >= 0")
        half = normal_quantile(level) * se
        return cls(value, se, (value - half, value + half), level, note)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4g}"
        low, high = self.interval
        return f"{self.value:.4g} [{low:.4g}, {high:.4g}]"


def mean_of(values: Sequence[float] | NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """The mean of independent values, such as one for each image, with the interval of the normal distribution."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2:
        return Estimate(float(numbers.mean()), level=level, note="one value does not show how much they differ: give two or more")
    return Estimate.normal(float(numbers.mean()), float(numbers.std(ddof=1)) / math.sqrt(len(numbers)), level)


def over_seeds(
    values: Sequence[float], level: float = LEVEL,
    alone: str = "one seed does not show how much trainings differ: give two or more",
) -> Estimate:  # fmt: skip
    """Mean of one value per training seed (or per image, where they are few), with Student's interval.

    The interval covers the variation between trainings as well as that of sampling. One value gives no interval, and the note
    `alone`. Raises ValueError for no value.

    >>> print(over_seeds([1.2, 0.7, 1.9, 1.4]))
    1.3 [0.5097, 2.09]
    """
    if not values:
        raise ValueError("no values: give one value per seed")
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean, level=level, note=alone)
    se = stdev(values) / math.sqrt(len(values))
    half = student_quantile(level, len(values) - 1) * se
    return Estimate(mean, se, (mean - half, mean + half), level)


@dataclass(frozen=True, eq=False)
class Expansion(Record):
    """A statistic of two samples x and y, of n and m images, with its expansion at the samples.

    The first-order term is a mean of influences, the derivatives of the statistic towards each image (von Mises 1947; Serfling
    1980, "Approximation Theorems of Mathematical Statistics", ch. 6). The second-order term is a mean over pairs of images.
    """

    value: float
    n: int
    m: int
    influence_x: Float64[Tensor, " i"]  # centred, one entry per image of x, or of a random part of x
    influence_y: Float64[Tensor, " j"]  # the same for y
    second: float = 0.0  # variance of the second-order term
    second_x: float = 0.0  # the same without the pairs within y, which two statistics against one y share
    bias: float = 0.0  # expectation of the value minus the truth
    known_variance: float | None = None  # a better estimate of the variance than the one from the influences
    quadratic: float | None = None  # of a squared distance: its plug-in value; the first-order variance is proportional to it
    noise: float | None = None  # upward bias of the influences' variance, which is evaluated at the samples; None: 2 second
    steepness: float = 0.0  # variance per unit of distance along the samples' main directions (see `steepness`)
    trouble: str | None = None  # why there is no interval

    @property
    def first(self) -> float:
        """Variance of the first-order term, from the influences, with its upward bias."""
        return _variance(self.influence_x) / self.n + _variance(self.influence_y) / self.m

    @property
    def excess(self) -> float:
        """The upward bias of `first`."""
        return 2 * self.second if self.noise is None else self.noise

    @property
    def variance(self) -> float:
        """Variance of the value."""
        if self.known_variance is not None:
            return self.known_variance
        return max(self.first - self.excess, 0.0) + self.second

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value, with an interval for its expectation at n and m images."""
        found = self._estimate(self.bias, level)
        if self.bias > 0 and found.interval is not None:  # a plug-in distance, which includes its bias, is never below 0
            found = replace(found, interval=(max(found.interval[0], 0.0), found.interval[1]))
        return found

    def unbiased(self, level: float = LEVEL) -> Estimate:
        """The value minus its bias, with an interval for its limit as the numbers of images grow."""
        return self._estimate(0.0, level)

    def _estimate(self, add: float, level: float) -> Estimate:
        """Estimate of the truth + add.

        A score interval (Wilson 1927): it holds every true distance D that the data do not reject when the variance of a squared
        distance is taken at D, first * D / quadratic + second. At the samples, distance and standard error are correlated.
        """
        value = self.value - self.bias
        if self.trouble is not None:
            return Estimate(value + add, None, None, level, self.trouble)
        se = math.sqrt(self.variance)
        if self.quadratic is None or self.quadratic <= 0:
            return Estimate.normal(value + add, se, level)
        z = normal_quantile(level)
        # first-order variance per unit of distance; `steepness` takes over where the distance is below the second order's spread
        spread = math.sqrt(self.second)
        slope = (max(self.first - self.excess, 0.0) + self.steepness * spread) / (max(value, 0.0) + spread)
        middle = value + z**2 * slope / 2
        half = z * math.sqrt(max(slope * value + z**2 * slope**2 / 4, 0.0) + self.second)
        # no true distance is below 0: there the variance is the second order's, so that a negative value lies in its interval
        low = middle - half if value >= z * spread else value - z * spread
        return Estimate(value + add, se, (low + add, middle + half + add), level)

    def __float__(self) -> float:
        return self.value


def steepness(pairs: Float64[Tensor, "k k"], n: int, m: int) -> float:
    """4 (1/n + 1/m) lambda, with the mean eigenvalue lambda = sum l^3 / sum l^2 of the second-order kernel.

    A squared distance is a sum of squares (delta_k + noise_k)^2 with noise of variance l_k (1/n + 1/m), so its first-order
    variance is the sum of 4 l_k (1/n + 1/m) delta_k^2. pairs: the centred second-order kernel, whose eigenvalues are l, at all
    pairs of some images of both sides; its diagonal is not read.
    """
    k = len(pairs)
    off = pairs - torch.diag(pairs.diagonal())
    square = float(off.square().sum()) / (k * (k - 1))
    cube = float((off @ off * off).sum()) / (k * (k - 1) * (k - 2))
    if square <= 0:
        return 0.0
    return 4 * (1 / n + 1 / m) * min(max(cube / square, 0.0), math.sqrt(square))


def difference(a: Expansion, b: Expansion, *, paired: bool, unbiased: bool = False, level: float = LEVEL) -> Estimate:
    """a - b of one metric, both computed against the same images y, whose sampling variance then counts once.

    Args:
        a: Expansion of the first set of images.
        b: Expansion of the second set, against the same y.
        paired: Whether image k of both sets was made from the same noise; what the pair shares then cancels.
        unbiased: Whether to subtract each value's bias first.
        level: Level of the interval.

    Raises:
        ValueError: For different references, or paired sets of different sizes.
    """
    trouble = a.trouble or b.trouble  # influences may then be missing
    if a.m != b.m or (trouble is None and len(a.influence_y) != len(b.influence_y)):
        raise ValueError(f"scored against {a.m} and {b.m} images: score both against the same reference")
    if paired and (a.n != b.n or (trouble is None and len(a.influence_x) != len(b.influence_x))):
        raise ValueError(f"{a.n} and {b.n} images cannot be pairs: give as many of both, or paired=False")
    value = a.value - b.value - ((a.bias - b.bias) if unbiased else 0.0)
    if trouble is not None:
        return Estimate(value, None, None, level, trouble)
    return Estimate.normal(value, math.sqrt(sum(variance_parts(a, b, paired=paired))), level)


def variance_parts(a: Expansion, b: Expansion, *, paired: bool) -> tuple[float, float, float]:
    """The variance of a - b in three parts: of the images x, of the images y, and of the second order (of the images x)."""
    second = a.second_x + b.second_x
    if paired:
        own = _variance(a.influence_x - b.influence_x) / a.n
        # What a pair shares also cancels in the second order, and faster than in the first. The squared remaining share gives
        # intervals that are too wide where images are moderately similar, and correct where they are nearly equal.
        product = float((a.influence_x * b.influence_x).mean())
        correlation = product / max(_root_mean_square(a.influence_x) * _root_mean_square(b.influence_x), 1e-300)
        second *= max(1 - correlation**2, 0.0) ** 2
    else:
        own = _variance(a.influence_x) / a.n + _variance(b.influence_x) / b.n
    shared = _variance(a.influence_y - b.influence_y) / a.m
    # the upward bias of both, together twice the second order, is subtracted in proportion to their sizes
    left = max(own + shared - 2 * second, 0.0) / max(own + shared, 1e-300)
    return own * left, shared * left, second


def _root_mean_square(values: Tensor) -> float:
    return math.sqrt(float(values.square().mean()))


def _variance(values: Tensor) -> float:
    return float(values.var(correction=1)) if len(values) > 1 else 0.0
