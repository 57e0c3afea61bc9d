"""The standard error, bias and limit of FID, from the expansion of the Fréchet distance at two samples.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import processes, seeds
from alphabar.core.progress import track
from alphabar.core.types import Features
from alphabar.evaluation.estimate import Expansion, steepness
from alphabar.evaluation.fid import Matrix, Values, cholesky, frechet, roots, roots_are_exact, times_lower
from alphabar.features.stats import FeatureStats, same_extractor

ROWS = 1536  # images per side from which the variance is computed: a standard error is then known to 2 or 3 %
FEW = 96  # images per side whose pairs give the size of the second order
PARTS = 4  # the smallest sets of the regression are a quarter of all images
NEAR = 1.75  # images for every feature, below which sample covariances are nearly singular in some directions
LEAST = 50  # images per side, below which there is no interval
MARGIN = 8.0  # images for every feature that counts, below which the expansion is not trusted

Rows = Float64[NDArray[np.floating], "_ _"]
Small = Float32[NDArray[np.floating], "_ _"]  # its rounding is far below the sampling error that it measures


def expand(a: FeatureStats, b: FeatureStats, rows_a: Features, rows_b: Float[Tensor, "m d"]) -> Expansion:
    """FID of two samples with its influences, its bias and the size of its second order.

    Args:
        a: Statistics of all images of the first side.
        b: The same of the second side, by the same extractor.
        rows_a: Features [k, d] of some images of the first side (`ROWS` are enough), or of all.
        rows_b: The same of the second side.

    Returns:
        The expansion; `trouble` says where a covariance is singular, or there are too few images for the features that count.

    Raises:
        ValueError: For different extractors.
    """
    same_extractor(a, b)
    cov_a, cov_b = a.cov.numpy(), b.cov.numpy()  # in NumPy to the end, as in `FeatureStats.of`
    # a feature that is constant on one side has no part in the root of the product, as in `frechet`
    live = (cov_a.diagonal() > 0) & (cov_b.diagonal() > 0)
    own_a, own_b = (cov if live.all() else cov[live][:, live] for cov in (cov_a, cov_b))
    e, f = (cholesky(cov) if live.any() else None for cov in (own_a, own_b))
    if e is None or f is None:
        few = min(a.n, b.n) <= a.dim
        why = f"{min(a.n, b.n)} images for {a.dim} features" if few else "features that repeat each other, or all constant"
        empty = torch.empty(0, dtype=torch.float64)
        singular = f"no interval: a covariance is singular ({why})"
        return Expansion(frechet(a, b), a.n, b.n, empty, empty, trouble=singular)
    ef = times_lower(e.T, f)
    values, v = np.linalg.eigh(ef.T @ ef)  # F^T A F, from A = E E^T
    s = roots(values)
    apart = (a.mean - b.mean).numpy()
    scale = float(np.square(apart).sum() + cov_a.trace() + cov_b.trace())
    value = scale - 2 * float(s.sum()) if roots_are_exact(values, scale) else frechet(a, b)
    s = np.maximum(s, float(np.finfo(np.float32).eps * s[-1]))
    half_inverse, fv = inverse_sums(s), f.astype(np.float32) @ v.astype(np.float32)
    own, other = (
        _Side.of(side, rows.cpu().numpy(), live, to_w, s, half_inverse, towards)
        for side, rows, to_w, towards in (
            (a, rows_a, fv, apart),
            (b, rows_b, np.divide(own_a.astype(np.float32) @ fv, s.astype(np.float32)), -apart),
        )
    )
    close, k = _pairs(np.concatenate([own.x, other.x]), np.concatenate([own.z, other.z]), s, half_inverse), len(own.x)
    square = close**2
    aa, bb = (
        2 / side.n**2 * float(block.sum() - block.trace()) / (len(block) * (len(block) - 1))
        for side, block in ((a, square[:k, :k]), (b, square[k:, k:]))
    )
    ab = 4 / (a.n * b.n) * float(square[:k, k:].mean())
    effective, least = float(s.sum() ** 2 / np.square(s).sum()), min(a.n, b.n)
    # Evaluated at the samples, whose spectra are wider than the true ones, the bias is too small by about this factor, and the
    # next order adds to it (for Gaussians of one spectrum: -c/4 and +c/8 a side at c = d / n; both sides c/2, by simulation).
    bias_a, bias_b = (
        (float(cov.trace()) + of_side.curvature) / side.n * (1 + effective / (2 * side.n))
        for side, cov, of_side in ((a, cov_a, own), (b, cov_b, other))
    )
    wanted = max(math.ceil(NEAR * a.dim), math.ceil(MARGIN * effective), LEAST)
    trouble = None
    if least < wanted:
        trouble = (
            f"no interval: {least} images for {a.dim} features ({effective:.0f} effective ones) are too few for it; give at "
            f"least {wanted}"
        )
    return Expansion(
        max(value, 0.0), a.n, b.n, torch.from_numpy(own.influence), torch.from_numpy(other.influence), second=aa + bb + ab,
        second_x=aa + ab, bias=bias_a + bias_b, quadratic=max(value, 0.0),
        steepness=steepness(torch.from_numpy(close), a.n, b.n), trouble=trouble,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Side:
    """One side's influences, its part of the covariances' bias times n, and a few of its images for the second order.

    x: centred. z: w / sqrt(s), of covariance S.
    """

    influence: Values
    curvature: float
    x: Rows
    z: Small

    @staticmethod
    def of(
        stats: FeatureStats, rows: Float[NDArray[np.floating], "n d"], live: Bool[NDArray[np.bool_], " d"], to_w: Small,
        s: Values, half_inverse: Small, apart: Values,
    ) -> "_Side":  # fmt: skip
        x = rows - stats.mean.numpy()
        z = (x if live.all() else x[:, live]).astype(np.float32) @ (to_w / np.sqrt(s).astype(np.float32))
        few = seeds.evenly(len(x), FEW)
        x_few, z_few = x[few], z[few]
        np.square(z, out=z)
        influence = 2 * x @ apart + np.einsum("ij,ij->i", x, x) - z.sum(1, dtype=np.float64)
        curvature = np.square(z @ half_inverse).sum(1, dtype=np.float64).mean()
        return _Side(influence - influence.mean(), 0.5 * float(curvature - s.sum() / 2), x_few, z_few)


def _pairs(x: Rows, z: Small, s: Values, half_inverse: Small) -> Matrix:
    """g(x, y) = x . y + 1/2 sum_kl u_kl(x) u_kl(y) / (s_k + s_l) of all pairs: the kernel of the second order."""
    together = np.zeros((len(z), len(z)), dtype=np.float32)
    for column in half_inverse.T:  # sum_kl z_k z_l z'_k z'_l / (s_k + s_l), one step of the quadrature at a time
        together += np.square((z * column) @ z.T)
    own = np.square(z).sum(1, dtype=np.float64)
    kernel: Matrix = x @ x.T + 0.5 * (together - 0.5 * (own + own[:, None]) + 0.5 * s.sum())
    return kernel


def inverse_sums(s: Values) -> Small:
    """C with C C^T = 1 / (s_k + s_l) to about 1e-3: 1 / x is the integral of exp(t - x e^t) over all t, here a sum at unit
    steps, which for this integrand is far better than its step (Trefethen & Weideman 2014, "The exponentially convergent
    trapezoidal rule")."""
    low, high = math.log(float(s[-1])), math.log(float(s[0]))
    t = np.arange(math.floor(-low - 11), math.ceil(-high + 4), dtype=np.float64)
    return np.exp(t / 2 - s[:, None] * np.exp(t)).astype(np.float32)


def parts(chunks: Iterable[Tensor], n: int, extractor: str, seed: int = 0) -> list[FeatureStats]:
    """Statistics of PARTS disjoint random parts of n images, as equal in size as can be, in one pass over their features.

    The part of an image follows from (seed, n), whatever the chunks. Raises ValueError for fewer than 2 images a part.
    """
    if n < 2 * PARTS:
        raise ValueError(f"{n} images cannot be split into {PARTS} parts of 2 and more: give at least {2 * PARTS}")
    part = seeds.generator(seed, draw=n, stream=seeds.SUBSET).permutation(np.arange(n) % PARTS)
    found: list[FeatureStats | None] = [None] * PARTS
    at = 0
    for chunk in chunks:
        of_rows = torch.from_numpy(part[at : at + len(chunk)])
        at += len(chunk)
        for k in range(PARTS):
            if len(own := chunk[of_rows == k]):
                stats, before = FeatureStats.of(own, extractor), found[k]
                found[k] = stats if before is None else before + stats
    return [stats for stats in found if stats is not None]


def infinity(whole: Expansion, a: Sequence[FeatureStats], b: Sequence[FeatureStats]) -> Expansion:
    """FID-infinity (Chong & Forsyth 2020, arXiv:1911.07023): FID regressed on 1/n, read off at 1/n = 0; both sides shrink.

    whole: the expansion at all images. a, b: `parts` of the same images. The regression's three points are FID of all
    images, the mean over two disjoint halves, and over four disjoint quarters, at 1, 2 and 4 times 1/n. Every image counts
    as often as any other, so to first order the intercept varies as FID does; its second order is 3/2 of FID's.
    """
    quarters = [frechet(x, y) for x, y in zip(a, b, strict=True)]
    halves = [frechet(a[k] + a[k + 1], b[k] + b[k + 1]) for k in range(0, PARTS, 2)]
    # The least-squares intercept of three values at 1, 2 and 4 has these weights; pairs of images that share a quarter, a half
    # or only the whole are counted 4, 2 and 1 times in the three, which gives sum_kl w_k w_l min(k, l) = 3/2.
    value = whole.value + 0.5 * float(np.mean(halves)) - 0.5 * float(np.mean(quarters))
    second, second_x = 1.5 * whole.second, 1.5 * whole.second_x
    return replace(whole, value=value, bias=0.0, second=second, second_x=second_x, noise=whole.excess)


def bootstrap(
    x: Features, y: Float[Tensor, "m d"], replicates: int = 1000, *, seed: int = 0, progress: bool = False
) -> Float64[Tensor, " r"]:
    """FID of resampled x and y (with replacement), `replicates` times (Efron 1979).

    Its standard deviation is the check of `expand`'s standard error (it is larger where the second order is not small: drawn
    again, that part is there three times). Replicate k depends on (seed, k) alone, and under torchrun the replicates are
    distributed over the processes. Raises ValueError for fewer than 2 replicates.
    """
    if replicates < 2:
        raise ValueError(f"replicates = {replicates}: give at least 2, as in 1000")
    sides = [(f.to(torch.float64) - f.to(torch.float64).mean(0)).cpu().numpy() for f in (x, y)]
    apart = x.to(torch.float64).mean(0) - y.to(torch.float64).mean(0)
    found = torch.zeros(replicates, dtype=torch.float64)
    with track(replicates, "bootstrap", "replicates", show=progress and processes.world()[0] == 0) as advance:
        for k in processes.share(replicates):
            rng = seeds.generator(seed, draw=k, stream=seeds.SUBSET)
            a, b = (_drawn_again(f, rng) for f in sides)
            a = replace(a, mean=a.mean + apart)
            found[k] = frechet(a, b)
            advance(processes.world()[1])
    return processes.total(found)


def _drawn_again(centred: Rows, rng: np.random.Generator) -> FeatureStats:
    n = len(centred)
    times = np.bincount(rng.integers(0, n, n), minlength=n)
    rows = np.flatnonzero(times)  # 63 % of them
    weight = times[rows].astype(np.float64)
    own = centred[rows]
    mean = weight @ own / n
    own = (own - mean) * np.sqrt(weight)[:, None]
    return FeatureStats("bootstrap", n, torch.from_numpy(mean), torch.from_numpy(own.T @ own))
