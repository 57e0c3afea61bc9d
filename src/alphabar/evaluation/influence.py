"""How sure an FID is: its standard error and its bias, from the expansion of the Fréchet distance at two samples.

Write a = tr((A B)^(1/2)) for the covariances A and B. With B = F F^T, N = F^T A F = V S^2 V^T, the images of the first
side become w = V^T F^T (x - mean), whose covariance is S^2; those of the second side, by way of G = A F V S^-1 (for which
G G^T = A and G^T B G = S^2), become w = G^T (y - mean), with the same covariance. In these coordinates, for an image:

- influence, the first derivative towards it:  2 (mean_a - mean_b) . (x - mean_a) + |x - mean_a|^2 - sum_k w_k^2 / s_k,
  less its mean; and with the first sign turned for the second side. Its variance over n is FID's (the delta method).
- with u = w w^T / sqrt(s s^T) - S, the covariances' part of the second order is 1/2 sum_kl (u_a - u_b)_kl^2 / (s_k + s_l),
  for u_a and u_b averaged over the images of either side. Its expectation is FID's bias, of order 1/n, which is why an
  FID falls when images are added.

The closed forms are those of the Bures-Wasserstein geometry (Bhatia, Jain & Lim 2019, arXiv:1712.01504); the influence
function is von Mises' (Serfling 1980, ch. 6).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from alphabar.evaluation.features import FeatureStats, same_extractor
from alphabar.evaluation.frechet import cholesky, frechet, roots_are_exact
from alphabar.types import Features

ROWS = 4096  # images a side that the variance is taken from: their standard error is then known to 1 or 2 %


@dataclass(frozen=True, eq=False)
class Expansion:
    """FID of two samples with its derivatives.

    value: FID at n and m images. bias: what it exceeds the distance of the two distributions by, to order 1/n. bias_a:
    the first side's part of that. influence_a, influence_b: centred, one for each row that was given. second: variance of
    the second-order part (for features of Gaussian fourth moments). second_a: its part without the images of b among
    themselves, which two expansions against one reference do not share.
    """

    value: float
    n: int
    m: int
    bias: float
    bias_a: float
    influence_a: Float64[Tensor, " i"]
    influence_b: Float64[Tensor, " j"]
    second: float
    second_a: float
    effective: float  # number of features that count: (sum s)^2 / sum s^2

    @property
    def variance(self) -> float:
        """Of value. The influences' own variance holds the second order twice, since they are taken at the samples."""
        first = _variance(self.influence_a) / self.n + _variance(self.influence_b) / self.m
        return max(first - 2 * self.second, 0.0) + self.second

    @property
    def trouble(self) -> str | None:
        """Why the expansion does not hold at this number of images, or None."""
        least = min(self.n, self.m)
        if self.effective > least / MARGIN:
            return (
                f"no interval: {least} images for {self.effective:.0f} effective features are too few for it; give at least "
                f"{math.ceil(MARGIN * self.effective)}"
            )
        return None


MARGIN = 8.0


def expand(a: FeatureStats, b: FeatureStats, rows_a: Features, rows_b: Float[Tensor, "m d"]) -> Expansion | None:
    """The expansion at statistics a and b; None where a covariance is singular, so that there is none.

    rows_a, rows_b: features [.., d] of a sample of either side's images (all of them at best, `ROWS` are plenty).
    Raises ValueError for different extractors.
    """
    same_extractor(a, b)
    cov_a, cov_b = a.cov, b.cov
    f = cholesky(cov_b)
    if f is None or cholesky(cov_a) is None:
        return None
    af = cov_a @ f
    values, v = torch.linalg.eigh(f.T @ af)
    s = values.clamp_min(0).sqrt()
    apart = a.mean - b.mean
    scale = float(apart.square().sum() + cov_a.trace() + cov_b.trace())
    value = scale - 2 * float(s.sum()) if roots_are_exact(values, scale) else frechet(a, b).value
    s = s.clamp_min(torch.finfo(torch.float32).eps * float(s[-1]))
    share = s * s[:, None] / (s + s[:, None])  # of every pair of directions
    own, other = _side(a, rows_a, f @ v, s, apart), _side(b, rows_b, (af @ v) / s, s, -apart)
    pairs = 0.5 * float(share.square().sum() + s.square().sum() / 4)
    aa = 2 / a.n**2 * (float(cov_a.square().sum()) + pairs)
    bb = 2 / b.n**2 * (float(cov_b.square().sum()) + pairs)
    ab = 4 / (a.n * b.n) * (float(values.clamp_min(0).sum()) + pairs)
    bias_a, bias_b = (float(cov_a.trace()) + own[1]) / a.n, (float(cov_b.trace()) + other[1]) / b.n
    return Expansion(
        max(value, 0.0), a.n, b.n, bias_a + bias_b, bias_a, own[0], other[0],
        aa + bb + ab, aa + ab, float(s.sum().square() / s.square().sum()),
    )  # fmt: skip


def _side(
    stats: FeatureStats, rows: Features, to_w: Float64[Tensor, "d d"], s: Float64[Tensor, " d"], apart: Float64[Tensor, " d"]
) -> tuple[Float64[Tensor, " n"], float]:
    """Influences of one side's rows, and n times its part of the covariances' bias. Products in float32: their rounding
    is far below the sampling error that they measure."""
    x = rows.to(torch.float64) - stats.mean
    z = x.float() @ (to_w / s.sqrt()).float()  # [n, d], of covariance S
    z.square_()
    influence = 2 * x @ apart + x.square().sum(1) - z.sum(1, dtype=torch.float64)
    between = (1 / (s + s[:, None])).float()
    curvature = ((z @ between) * z).sum(1, dtype=torch.float64).mean()
    return influence - influence.mean(), 0.5 * float(curvature - s.sum() / 2)


def _variance(values: Tensor) -> float:
    return float(values.var(correction=1))
