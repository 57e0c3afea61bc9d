"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797) of generated images, with intervals from random half samples.

Given the real images, precision and density are means over independent generated images, so that this part of the variance is
read off. The rest is due to the balls, and there the delta method, the jackknife and the bootstrap fail: a nearest neighbour is
no smooth function of the sample, the jackknife counts joint effects of r images r times, and a bootstrap sample has images
twice. But a sample can be split into halves (McCarthy 1969, "Pseudo-replication: half samples"): the mean squared difference of
a statistic between two halves is twice its variance at half the images, without bias and whatever the statistic. Quarters give
the variance at a quarter of the images, and so its trend in n. All of that is computed from lists of near neighbours which are
long enough for quarters, for 64 random splits at a time: one bit of a machine word per split.
"""

import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.seeds import generator
from alphabar.evaluation.estimate import LEVEL, Estimate, Expansion, normal_quantile
from alphabar.evaluation.prdc_neighbours import Balls, Membership, Ranked, balls, memberships
from alphabar.features.stats import as_features

METRICS = ("precision", "recall", "density", "coverage")
WORDS = 2  # of 64 splits each: the standard error of a standard error is then 6 %
_NO_INTERVAL = "no interval: a quarter of the images must be more than 2 k"

Words = NDArray[np.uint64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class PRDC:
    """The four metrics with their intervals, and what a comparison of two models needs (`expansion`)."""

    precision: Estimate  # 0..1: share of the generated images that look real
    recall: Estimate  # 0..1: share of the real images that the model could have generated
    density: Estimate  # >= 0, about 1 for equal distributions: like precision, but the large ball of an outlier counts once
    coverage: Estimate  # 0..1: share of the real images that have a generated one nearby
    k: int
    n_real: int
    n_generated: int
    expansions: dict[str, Expansion]  # by name of the metric

    def expansion(self, metric: str) -> Expansion:
        """The expansion of one metric, for `estimate.difference(a, b, paired=...)` of two models.

        Both models must be scored against the same real images in the same order. influence_x has one entry per generated
        image, influence_y one per real image, both centred; var(influence_x) / m + var(influence_y) / n is the variance. The
        entries are influences of single images where the metric is a mean over such images (the generated ones of precision and
        density, the real ones of recall). The others are made from the differences between half samples: only variances and
        covariances across entries are meaningful.
        """
        if metric not in self.expansions:
            raise ValueError(f"metric {metric!r} is unknown: use one of {', '.join(METRICS)}")
        return self.expansions[metric]


def prdc(
    *, real: "Float[Tensor, 'n dr'] | NDArray[np.floating] | Balls", generated: Float[Tensor, "m dg"] | NDArray[np.floating],
    k: int = 5, block: int = 2048, seed: int = 0, level: float = LEVEL,
) -> PRDC:  # fmt: skip
    """Precision, recall, density and coverage of generated images, each with an interval.

    A ball around every image of a set reaches to the k-th nearest other image of that set. With B(x_i) the balls of the n real
    images x_i, and B(y_j) those of the m generated images y_j:

        precision = mean_j [y_j lies in any B(x_i)]      density  = sum_ij [y_j lies in B(x_i)] / (k m)
        recall    = mean_i [x_i lies in any B(y_j)]      coverage = mean_i [any y_j lies in B(x_i)]

    (Kynkäänniemi et al. 2019, eqs. 1 and 2; Naeem et al. 2020, eqs. 3 and 4.) Balls are closed: a distance equal to the radius
    is inside, so that two equal sets have precision = recall = coverage = 1. An image that occurs more than k times in its set
    has a ball of radius 0, which contains only its copies.

    The intervals are for the expectation of the value at these n, m and k, not for a limit: all four metrics move with n, so
    compare values of equal numbers of images only. The sampling variance of both sets is included.

    Cost is O(n m d + (n^2 + m^2) d / 2); memory is two float32 copies of the features, some hundred numbers per image, and a few
    tiles of block x block. Of very many images pass a random part on both sides (`sample_rows`). Under torchrun the tiles are
    distributed over the processes, which all hold the same features.

    Args:
        real: Features of the real images, one row per image, or their `balls`, which can be used for many generated sets.
        generated: Features of the generated images, from the same extractor.
        k: Which neighbour a ball reaches to, 1 <= k < n, m. Naeem et al. use 5, Kynkäänniemi et al. 3; values of different k
            cannot be compared.
        block: Rows and columns of a tile.
        seed: Of the random half samples that the intervals are computed from; values do not depend on it.
        level: Of the intervals.

    Returns:
        The metrics. There is no interval where a quarter of a set has fewer than 2 k + 1 images.

    Raises:
        ValueError: For features of different widths, n or m <= k, k < 1, or features that are not finite.

    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> print(prdc(real=x, generated=x[:100]).precision)
    1 [0.9551, 1]
    """
    x, y = real.features if isinstance(real, Balls) else as_features(real), as_features(generated)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features {x.shape[1]} and {y.shape[1]} wide: extract both sets with the same extractor")
    if k < 1 or k != int(k):
        raise ValueError(f"k = {k}: give a whole number >= 1 (5, or 3 as in the paper on precision and recall)")
    if block < 1:
        raise ValueError(f"block = {block}: give a whole number >= 1, as 1024")
    normal_quantile(level)  # raises for an invalid level
    if isinstance(real, Balls) and real.k != k:
        raise ValueError(f"balls to neighbour {real.k} of the real images, and k = {k}: make them with balls(real, k={k})")
    balls_x = real if isinstance(real, Balls) else balls(x, k, block=block, what="real")
    balls_y = balls(y.to(x.device), k, block=block, what="generated")
    in_x, in_y = memberships(balls_x, balls_y, k, block)
    n, m = len(x), len(y)
    splits_x, splits_y = Splits.of(n, seed, 0), Splits.of(m, seed, 1)
    recall = share_in_any_ball(in_y, balls_y.near, splits_y, k)
    found = {
        "precision": share_in_any_ball(in_x, balls_x.near, splits_x, k),
        "recall": replace(recall, own=recall.other, other=recall.own),  # its mean goes over the real images
        "density": density(in_x, balls_x.near, splits_x, k),
        "coverage": coverage(in_x, balls_x.near, splits_x, splits_y, k),
    }
    trouble = None if min(n, m) // 4 > 2 * k else _NO_INTERVAL
    expansions = {
        name: Expansion(v.value, m, n, torch.from_numpy(v.own), torch.from_numpy(v.other), trouble=trouble)
        for name, v in found.items()
    }
    estimates = {
        name: v.estimate(level) if trouble is None else Estimate(v.value, None, None, level, trouble) for name, v in found.items()
    }
    return PRDC(**estimates, k=k, n_real=n, n_generated=m, expansions=expansions)


@dataclass(frozen=True, eq=False)
class Splits:
    """64 * WORDS random splits of a set into four quarters: bit s of word w says which images are in a part at split 64 w + s."""

    quarters: Words  # [WORDS, 4, n]
    halves: Words  # [WORDS, 2, n]: two quarters each
    part: float  # share of the images that are in either half

    @staticmethod
    def of(n: int, seed: int, side: int) -> "Splits":
        random = generator(seed, side)
        quarters, size = np.zeros((WORDS, 4, n), dtype=np.uint64), n // 4
        for split in range(64 * WORDS):
            order, bit = random.permutation(n), np.uint64(1 << split % 64)
            for q in range(4):
                quarters[split // 64, q, order[q * size : (q + 1) * size]] |= bit
        return Splits(quarters, quarters[:, ::2] | quarters[:, 1::2], 2 * size / n)

    def influences(self, effects: Values, variance: float) -> Values:
        """One number per image, with the given variance / n, and with the effects' covariances with those of another statistic.

        effects: of each split, the statistic at the first half minus that at the second. An image's number is the sum of the
        effects, each with the sign of the half that the image was in.
        """
        out = np.zeros(self.halves.shape[2])
        for (a, b), part in zip(self.halves, effects.reshape(WORDS, 64), strict=True):
            out += (_bits(a).astype(np.float32) - _bits(b)) @ part
        out -= out.mean()
        scale = out.var(ddof=1)
        return out * math.sqrt(variance * len(out) / scale) if scale > 0 else np.zeros_like(out)


@dataclass(frozen=True, eq=False)
class MetricValue:
    """A metric's value with the influences of the images that its mean goes over (of density: generated), and of the others."""

    value: float
    own: Values
    other: Values
    relative: float  # variance / (value (1 - value)) of a share, variance / value of a density
    is_share: bool
    informative: bool = True  # False: all splits gave the same value

    def estimate(self, level: float) -> Estimate:
        """Score interval (Wilson 1927): all true values within z of their standard errors of this value.

        It stays in the metric's range, and has a width where the value is 0 or 1.
        """
        z2 = normal_quantile(level) ** 2 * self.relative
        p = self.value
        if self.is_share:
            middle, half = (p + z2 / 2) / (1 + z2), math.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
            se = math.sqrt(self.relative * p * (1 - p))
            interval = (0.0 if p == 0 else max(middle - half, 0.0), 1.0 if p == 1 else min(middle + half, 1.0))
        else:
            middle, half = p + z2 / 2, math.sqrt(z2 * (p + z2 / 4))
            se = math.sqrt(self.relative * p)
            interval = (0.0 if p == 0 else max(middle - half, 0.0), middle + half)
        if se > 0 and self.informative:
            return Estimate(p, se, interval, level)
        note = f"all images count alike: the interval is that of {1 / self.relative:.0f} independent ones"
        return Estimate(p, se or None, interval, level, note)


def share_in_any_ball(inside: Membership, near: Tensor, splits: Splits, k: int) -> MetricValue:
    """Precision or recall: the share of the points that lie in any ball. near, splits: of the balls' centres."""
    n, m = len(near), len(inside.hits)
    lies = (inside.hits > 0).astype(np.float64)
    value = float(lies.mean())
    lists = near.cpu().numpy()
    places = _places(inside.by_point, lists.shape)

    def at(parts: Words) -> tuple[Values, float, float]:
        """Values at all parts and splits; their mean; the variance of their expectation over points."""
        values, squares = [], []
        for of_word in parts:
            words = [_lookup_any(_kept_below_k(lists, part, k), places) for part in of_word]
            counts = [_count(w) for w in words]
            values.append(np.array(counts) / m)
            for a, b in combinations(range(len(words)), 2):  # over pairs of different points, free of the points' own variance
                squares.append(((counts[a] - counts[b]) ** 2 - _count(words[a] ^ words[b])) / (m * (m - 1)))
        found = np.array(values)
        return found, float(found.mean()), max(float(np.mean(squares)), 0.0) / 2

    halves, at_half, by_halves = at(splits.halves)
    _, at_quarter, by_quarters = at(splits.quarters)
    informative = 0 < at_half < 1
    relative = 1 / n
    if informative:
        spread = (at_half * (1 - at_half), at_quarter * (1 - at_quarter))
        relative = _relative_variance(by_halves, by_quarters, *spread) * splits.part
    other = splits.influences((halves[:, 0] - halves[:, 1]).ravel(), relative * value * (1 - value))
    return MetricValue(value, lies - value, other, 1 / (m - 1) + relative, True, informative)


def density(inside: Membership, near: Tensor, splits: Splits, k: int) -> MetricValue:
    """Mean over the points of the number of balls that hold it, over k. near, splits: of the balls' centres."""
    n, m = len(near), len(inside.hits)
    own = inside.hits / k
    value = float(own.mean())
    lists = near.cpu().numpy()
    ranks = (inside.ranks / (k * np.array([(m + 1) // 2, m // 2]))).astype(np.float32)  # means over even and over odd points

    def at(parts: Words) -> tuple[Values, float, float]:
        """Values at all parts and splits; their mean; the variance of their expectation over points."""
        values = np.zeros((*parts.shape[:2], 2, 64))  # of even points, and of odd ones
        for w, of_word in enumerate(parts):
            for p, part in enumerate(of_word):
                words = _kept_below_k(lists, part, k)
                for s in range(0, n, 2048):
                    rows = slice(s, s + 2048)
                    values[w, p] += ranks[rows].reshape(-1, 2).T @ _bits(words[rows].ravel()).astype(np.float32)
        # even and odd points are independent, so the mean of the product is a squared difference of expectations
        pairs = [(values[:, a] - values[:, b]).prod(1).mean() for a, b in combinations(range(parts.shape[1]), 2)]
        return values.mean(2), float(values.mean()), max(float(np.mean(pairs)), 0.0) / 2

    halves, at_half, by_halves = at(splits.halves)
    _, at_quarter, by_quarters = at(splits.quarters)
    informative = at_half > 0
    relative = _relative_variance(by_halves, by_quarters, at_half, at_quarter) * splits.part if informative else 1 / n
    other = splits.influences((halves[:, 0] - halves[:, 1]).ravel(), relative * value)
    of_points = float(own.var(ddof=1)) / m / value if value > 0 else 1 / m
    if of_points + relative < 1e-10:  # copies of one image: parts differ by float32 rounding alone
        return MetricValue(value, own - value, other, 1 / m + 1 / n, False, False)
    return MetricValue(value, own - value, other, of_points + relative, False, informative)


def coverage(inside: Membership, near: Tensor, splits: Splits, point_splits: Splits, k: int) -> MetricValue:
    """The share of the balls that hold any point.

    Both sets are split, which makes four statistics per split. Their differences give the effects of the centres and of the
    points, and each of the two is assigned half of the joint effect.
    """
    lists = near.cpu().numpy()
    n, m = len(lists), point_splits.halves.shape[2]
    value = float((inside.points_inside > 0).mean())
    places, points = _places(inside.by_ball, lists.shape, rows_are_balls=True), inside.by_ball[1]

    def at(centres: Words, parts: list[Words]) -> list[Values]:
        """Values for these centres and several parts of the points."""
        words = np.append(_kept_below_k(lists, centres, k), np.uint64(0))
        out = np.zeros((len(parts), n), dtype=np.uint64)
        for place, point in zip(places.T, points.T, strict=True):
            found = words[place]
            for row, part in zip(out, parts, strict=True):
                row |= found & part[point]
        return [_count(row) / _count(centres) for row in out]

    halves = np.array([[at(c, list(point_splits.halves[w])) for c in splits.halves[w]] for w in range(WORDS)])
    both = [zip(splits.quarters[w], point_splits.quarters[w], strict=True) for w in range(WORDS)]
    quarters = np.array([[at(c, [p])[0] for c, p in pairs] for pairs in both])
    centre_effects = (halves[:, 0].mean(1) - halves[:, 1].mean(1)).ravel()
    point_effects = (halves[:, :, 0].mean(1) - halves[:, :, 1].mean(1)).ravel()
    of_centres, of_points = float((centre_effects**2).mean()) / 2, float((point_effects**2).mean()) / 2
    at_half, at_quarter = float(halves.mean()), float(quarters.mean())
    variance = of_centres + of_points
    if not 0 < at_half < 1 or variance == 0:
        return MetricValue(value, np.zeros(m), np.zeros(n), 1 / n + 1 / m, True, False)
    by_quarters = float(quarters.var(axis=1, ddof=1).mean())
    scale = _relative_variance(variance, by_quarters, at_half * (1 - at_half), at_quarter * (1 - at_quarter)) / variance
    of_centres, of_points = scale * of_centres * splits.part, scale * of_points * point_splits.part
    own = point_splits.influences(point_effects, of_points * (value * (1 - value)))
    other = splits.influences(centre_effects, of_centres * (value * (1 - value)))
    return MetricValue(value, own, other, of_centres + of_points, True)


def _relative_variance(at_half: float, at_quarter: float, by_half: float, by_quarter: float) -> float:
    """Twice the relative variance at all images, from the variances at halves and quarters and what these are relative to.

    It equals the one at halves, unless that is more than half of the one at quarters: then the trend is continued. A few images
    that are far from all others have large balls, and the variance they cause falls more slowly than 1 / n.
    """
    half, quarter = at_half / by_half, at_quarter / by_quarter if by_quarter > 0 else 0.0
    return half * min(max(2 * half / quarter, 1.0), 2.0) if quarter > 0 else half


def _bits(words: Words) -> NDArray[np.uint8]:
    """[..., 64], bit s at place s."""
    little = np.ascontiguousarray(words.astype("<u8", copy=False))
    return np.unpackbits(little.view(np.uint8).reshape(*words.shape, 8), axis=-1, bitorder="little")


def _count(words: Words) -> Values:
    """How many words have each bit."""
    out = np.zeros(64)
    for s in range(0, len(words), 1 << 14):
        out += _bits(words[s : s + (1 << 14)]).sum(0, dtype=np.int32)
    return out


def _kept_below_k(near: NDArray[np.int64], kept: Words, k: int) -> Words:
    """[n, l]: the bits of the splits whose part contains the centre, and fewer than k of the centre's first l neighbours."""
    found = np.zeros((k, len(near)), dtype=np.uint64)  # found[c]: more than c of them
    out = np.empty(near.shape, dtype=np.uint64)
    for place in range(near.shape[1]):
        out[:, place] = kept & ~found[k - 1]
        new = kept[near[:, place]]
        for c in range(k - 1, 0, -1):
            found[c] |= found[c - 1] & new
        found[0] |= new
    return out


def _places(pairs: Ranked, shape: tuple[int, ...], *, rows_are_balls: bool = False) -> NDArray[np.int64]:
    """Where the words of pairs (rank, ball) are in a flat table [balls, l]; its end for missing pairs."""
    ranks, partners = pairs
    balls = np.arange(len(ranks))[:, None] if rows_are_balls else partners
    return np.where(ranks >= 0, balls * shape[1] + ranks, shape[0] * shape[1])


def _lookup_any(words: Words, places: NDArray[np.int64]) -> Words:
    """Of each row of places, the bits that any of the words there has."""
    flat = np.append(words, np.uint64(0))
    out = np.zeros(len(places), dtype=np.uint64)
    for place in places.T:
        out |= flat[place]
    return out
