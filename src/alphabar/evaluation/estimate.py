"""A number with its standard error and interval, and where both come from: what every metric of this project gives back."""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

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

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the note."""
        interval = None if self.interval is None else list(self.interval)
        return {"value": self.value, "se": self.se, "interval": interval, "level": self.level}

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4g}"
        low, high = self.interval
        return f"{self.value:.4g} [{low:.4g}, {high:.4g}]"


@dataclass(frozen=True, eq=False)
class Expansion:
    """A statistic of two samples, of n and m images, with what every image does to it: its expansion at the samples
    (von Mises 1947; Serfling 1980, "Approximation Theorems of Mathematical Statistics", ch. 6).

    influence_x, influence_y: the first derivative towards each image, centred; one a row, of all images or of a random part
    of them. second: variance of the second-order part, over pairs of images; second_x: what is left of it without the pairs
    within y, which two statistics against one y share. bias: expectation of the value less the truth.
    known_variance: where the metric has a better estimate than the one from influences. quadratic: for a squared
    distance, its plain value with all bias in it, a sum of squares to which the first order's variance is proportional.
    noise: what the influences' variance has too much, since they are taken at the samples; None: twice the second order.
    steepness: variance that a unit of distance has along the directions in which the samples vary most (see `steepness`),
    which decides where the distance found is lost in the second order. trouble: why there is no interval.
    """

    value: float
    n: int
    m: int
    influence_x: Float64[Tensor, " i"]
    influence_y: Float64[Tensor, " j"]
    second: float = 0.0
    second_x: float = 0.0
    bias: float = 0.0
    known_variance: float | None = None
    quadratic: float | None = None
    noise: float | None = None
    steepness: float = 0.0
    trouble: str | None = None

    @property
    def first(self) -> float:
        """Variance of the first-order part, as the influences have it."""
        return _variance(self.influence_x) / self.n + _variance(self.influence_y) / self.m

    @property
    def variance(self) -> float:
        """Of value."""
        if self.known_variance is not None:
            return self.known_variance
        return max(self.first - self.excess, 0.0) + self.second

    @property
    def excess(self) -> float:
        """`noise`, filled in."""
        return 2 * self.second if self.noise is None else self.noise

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The value, with an interval for its expectation at n and m images."""
        found = self._estimate(self.bias, level)
        if self.bias > 0 and found.interval is not None:  # a plain distance, with its bias in it, is never below 0
            found = replace(found, interval=(max(found.interval[0], 0.0), found.interval[1]))
        return found

    def unbiased(self, level: float = LEVEL) -> Estimate:
        """The value less its bias, with an interval for the truth, which as many images as one likes would give."""
        return self._estimate(0.0, level)

    def _estimate(self, add: float, level: float) -> Estimate:
        """Of the truth + add. The interval holds every truth D that the data do not reject when a squared distance's
        variance is taken at D, first * D / quadratic + second, rather than at the samples, whose distance is large or
        small by chance together with its standard error (a score interval, after Wilson 1927)."""
        value = self.value - self.bias
        if self.trouble is not None:
            return Estimate(value + add, None, None, level, self.trouble)
        se = math.sqrt(self.variance)
        if self.quadratic is None or self.quadratic <= 0:
            return Estimate.normal(value + add, se, level)
        z = quantile(level)
        # variance for a unit of distance: as found, and, where the distance is lost in the second order, as it must be
        spread = math.sqrt(self.second)
        slope = (max(self.first - self.excess, 0.0) + self.steepness * spread) / (max(value, 0.0) + spread)
        middle = value + z**2 * slope / 2
        half = z * math.sqrt(max(slope * value + z**2 * slope**2 / 4, 0.0) + self.second)
        # below 0, where no distance lies, the second order is all the variance there is: so a negative value is in its interval
        low = middle - half if value >= z * spread else value - z * spread
        return Estimate(value + add, se, (low + add, middle + half + add), level)

    def __float__(self) -> float:
        return self.value


def steepness(pairs: Float64[Tensor, "k k"], n: int, m: int) -> float:
    """4 (1/n + 1/m) lambda, where lambda is the eigenvalue that weighs most in the second order, sum l^3 / sum l^2.

    A squared distance is a sum of squares (delta_k + noise_k)^2 with noise of variance l_k (1/n + 1/m): the first order's
    variance is the sum of 4 l_k (1/n + 1/m) delta_k^2. pairs: the centred kernel of the second order, whose eigenvalues these
    are, at all pairs of some images of both sides; its diagonal is not read.
    """
    k = len(pairs)
    off = pairs - torch.diag(pairs.diagonal())
    square = float(off.square().sum()) / (k * (k - 1))
    cube = float((off @ off * off).sum()) / (k * (k - 1) * (k - 2))
    if square <= 0:
        return 0.0
    return 4 * (1 / n + 1 / m) * min(max(cube / square, 0.0), math.sqrt(square))


def difference(a: Expansion, b: Expansion, *, paired: bool, unbiased: bool = False, level: float = LEVEL) -> Estimate:
    """a - b of one metric against one and the same y, whose images count once and not twice.

    paired: image k of both was made from the same noise, so that what both share drops out. unbiased: of the values less
    their biases. Raises ValueError for unlike numbers of images where they are paired, or unlike references.
    """
    trouble = a.trouble or b.trouble  # then influences may be missing
    if a.m != b.m or (trouble is None and len(a.influence_y) != len(b.influence_y)):
        raise ValueError(f"scored against {a.m} and {b.m} images: score both against the same reference")
    if paired and (a.n != b.n or (trouble is None and len(a.influence_x) != len(b.influence_x))):
        raise ValueError(f"{a.n} and {b.n} images cannot be pairs: give as many of both, or paired=False")
    value = a.value - b.value - ((a.bias - b.bias) if unbiased else 0.0)
    if trouble is not None:
        return Estimate(value, None, None, level, trouble)
    own, shared, second = variances(a, b, paired=paired)
    return Estimate.normal(value, math.sqrt(own + shared + second), level)


def variances(a: Expansion, b: Expansion, *, paired: bool) -> tuple[float, float, float]:
    """Three parts of the variance of a - b: of both sides' own images, of y, and of the second order (which own images have)."""
    second = a.second_x + b.second_x
    if paired:
        own = _variance(a.influence_x - b.influence_x) / a.n
        # What both have in common drops out of the second order, too, and faster than out of the first: the square of the
        # share that is left errs towards a wider interval where images are half alike, and holds where they are nearly the same.
        together = float((a.influence_x * b.influence_x).mean()) / max(_spread(a) * _spread(b), 1e-300)
        second *= max(1 - together**2, 0.0) ** 2
    else:
        own = _variance(a.influence_x) / a.n + _variance(b.influence_x) / b.n
    shared = _variance(a.influence_y - b.influence_y) / a.m
    # taken at the samples, both hold noise: of the second order twice, shared out as the two are large
    left = max(own + shared - 2 * second, 0.0) / max(own + shared, 1e-300)
    return own * left, shared * left, second


def _spread(e: Expansion) -> float:
    return math.sqrt(float(e.influence_x.square().mean()))


def _variance(values: Tensor) -> float:
    return float(values.var(correction=1)) if len(values) > 1 else 0.0


def quantile(level: float) -> float:
    """z with P(|N(0, 1)| < z) = level. Raises ValueError for a level outside 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: give a share between 0 and 1, as 0.95")
    return NormalDist().inv_cdf(0.5 + level / 2)
