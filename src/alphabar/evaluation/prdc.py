"""Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
arXiv:2002.09797) of generated images, with intervals."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alphabar.evaluation.estimate import LEVEL, Estimate, Expansion, normal_quantile
from alphabar.evaluation.prdc_intervals import Splits, coverage, density, share_in_any_ball
from alphabar.evaluation.prdc_membership import memberships
from alphabar.evaluation.prdc_neighbours import Balls, balls
from alphabar.features.stats import as_features

METRICS = ("precision", "recall", "density", "coverage")
_NO_INTERVAL = "no interval: a quarter of the images must be more than 2 k"


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
    compare values of equal numbers of images only. The sampling variance of both sets is included (see `prdc_intervals`).

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
