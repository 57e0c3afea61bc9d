"""FID: the Fréchet distance of two Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500)."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from alphabar.features.stats import FeatureStats, check_stats, same_extractor

Matrix = Float64[Tensor, "d d"]
_EPS = torch.finfo(torch.float64).eps


def frechet(a: FeatureStats, b: FeatureStats) -> float:
    """Squared Fréchet distance |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)) for covariances A and B, in float64.

    The last trace needs no square root of a matrix: with any factor A = F F^T, the eigenvalues of A B other than 0 are those of
    the symmetric F^T B F, and the trace is the sum of their square roots. The result is exact to rounding for covariances of any
    rank. With fewer images than features it is defined, but far above the value of more images (`ImageEval` refuses it).

    Args:
        a: Mean and covariance of the features of one set of images.
        b: The same of another set, from the same extractor.

    Returns:
        The distance, >= 0.

    Raises:
        ValueError: For different extractors, fewer than 2 images, or a "covariance" with negative eigenvalues.

    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> round(frechet(FeatureStats.of(x, "e"), FeatureStats.of(x + 0.5, "e")), 6)  # 4 means differ by 0.5
    1.0
    """
    check_stats(a)
    check_stats(b)
    same_extractor(a, b)
    cov_a, cov_b = a.cov, b.cov
    apart = float((a.mean - b.mean).square().sum())
    spread = float(cov_a.trace() + cov_b.trace())
    trace = _trace_sqrt(cov_a, cov_b, a.n - 1, b.n - 1, apart + spread)
    value = apart + spread - 2 * trace
    # the terms cancel for similar sets; rounding leaves far less than this, so anything above it is a mistake
    if not value >= -1e-6 * (apart + spread):
        raise ArithmeticError(
            f"the Fréchet distance is {value:.6g}, below 0 by more than rounding: {apart:.6g} (means) + {spread:.6g} "
            f"(covariances) - 2 * {trace:.6g}; check that both scatter matrices are symmetric and positive semi-definite"
        )
    return max(value, 0.0)


def roots_are_exact(values: Float64[Tensor, " d"], scale: float) -> bool:
    """Whether the roots of these eigenvalues of F^T B F give the distance to rounding; scale: sum of its positive terms."""
    return _root_errors(values) <= _tolerance(scale - 2 * float(values.clamp_min(0).sqrt().sum()), scale)


def cholesky(cov: Matrix) -> Matrix | None:
    """The Cholesky factor, or None where the covariance is singular to rounding."""
    lower, info = torch.linalg.cholesky_ex(cov)
    # a pivot of the size of rounding means that the factor is rounding, too
    if int(info) or float((lower.diagonal().square() / cov.diagonal()).min()) <= len(cov) * _EPS:
        return None
    factor: Matrix = lower
    return factor


def _trace_sqrt(a: Matrix, b: Matrix, rank_a: int, rank_b: int, scale: float) -> float:
    """tr((a b)^(1/2)) for covariances of at most the given ranks; scale: the sum that the trace is subtracted from."""
    least = min(float(a.diagonal().min()), float(b.diagonal().min()))
    if least < 0:
        raise ValueError(f"a covariance has the variance {least:.3g}, below 0: make statistics with FeatureStats.of")
    # a feature that is constant on one side has a zero row there, and adds nothing to the product's eigenvalues
    live = (a.diagonal() > 0) & (b.diagonal() > 0)
    if not bool(live.all()):
        a, b = a[live][:, live], b[live][:, live]
    d = len(a)
    if d == 0:
        return 0.0
    if min(rank_a, d) < min(rank_b, d):  # factor the side of higher rank: it is the one that may have a Cholesky factor
        a, b, rank_a, rank_b = b, a, rank_b, rank_a
    f = _factor(a, rank_a)
    values = torch.linalg.eigvalsh(_symmetric(f.T @ b @ f))
    _check_positive(values, "the product of the covariances")
    values = values[-min(rank_a, rank_b, d) :].clamp_min(0.0)  # the others are 0 up to rounding
    if _root_errors(values) > _tolerance(scale - 2 * float(values.sqrt().sum()), scale):
        # the singular values of the factors' product are the roots themselves: their error is rounding, not its root
        return float(torch.linalg.svdvals(f.T @ _factor(b, rank_b)).sum())
    return float(values.sqrt().sum())


def _root_errors(values: Float64[Tensor, " r"]) -> float:
    """Likely error of twice the sum of the roots of ascending eigenvalues, each with the rounding error of the largest."""
    rounding = 4 * _EPS * max(float(values[-1]), 0.0)
    roots = values.clamp_min(0.0).sqrt()
    # An error of `rounding` in a value is one of rounding / (2 root) in its root, and at most sqrt(rounding) near zero.
    # A root's error has either sign, so the errors' squares add.
    errors = torch.minimum(rounding / (2 * roots).clamp_min(1e-300), torch.full_like(roots, math.sqrt(rounding)))
    return 2 * float(errors.square().sum().sqrt())


def _tolerance(distance: float, scale: float) -> float:
    return max(1e-7 * abs(distance), 1e-13 * scale)


def _factor(cov: Matrix, rank: int) -> Float64[Tensor, "d r"]:
    """F with F F^T = cov: the Cholesky factor, or, for a singular covariance, one from its eigenvectors."""
    if rank >= len(cov) and (lower := cholesky(cov)) is not None:
        return lower
    values, vectors = torch.linalg.eigh(_symmetric(cov))
    _check_positive(values, "a covariance")
    keep = min(rank, len(cov))
    root: Tensor = vectors[:, -keep:] * values[-keep:].clamp_min(0.0).sqrt()
    return root


def _check_positive(values: Float64[Tensor, " d"], what: str) -> None:
    smallest, largest = float(values[0]), float(values[-1])
    if smallest < -len(values) * 4 * _EPS * max(largest, 0.0):
        raise ValueError(
            f"{what} has the eigenvalue {smallest:.3g}, where the largest is {largest:.3g}: covariances must be positive "
            "semi-definite; make statistics with FeatureStats.of"
        )


def _symmetric(m: Tensor) -> Tensor:
    return (m + m.T) / 2
