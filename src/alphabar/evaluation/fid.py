"""FID: the Fréchet distance of two Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500)."""

import math

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from alphabar.features.stats import FeatureStats, check_stats, same_extractor

Values = Float64[NDArray[np.floating], " _"]
Matrix = Float64[NDArray[np.floating], "d d"]
_EPS = float(np.finfo(np.float64).eps)


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

    >>> import torch
    >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> round(frechet(FeatureStats.of(x, "e"), FeatureStats.of(x + 0.5, "e")), 6)  # 4 means differ by 0.5
    1.0
    """
    check_stats(a)
    check_stats(b)
    same_extractor(a, b)
    cov_a, cov_b = a.cov.numpy(), b.cov.numpy()
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


def roots_are_exact(values: Values, scale: float) -> bool:
    """Whether the roots of these eigenvalues of F^T B F give the distance to rounding; scale: sum of its positive terms."""
    return _root_errors(values) <= _tolerance(scale - 2 * float(roots(values).sum()), scale)


def cholesky(cov: Matrix) -> Matrix | None:
    """The Cholesky factor, or None where the covariance is singular to rounding."""
    try:
        lower = np.linalg.cholesky(cov.T)  # symmetric: LAPACK's order of columns, which NumPy copies faster
    except np.linalg.LinAlgError:
        return None
    # a pivot of the size of rounding means that the factor is rounding, too
    return None if float((lower.diagonal() ** 2 / cov.diagonal()).min()) <= len(cov) * _EPS else lower


def times_lower(m: Matrix, lower: Matrix, width: int = 256) -> Matrix:
    """m @ lower, `width` columns at a time, for which nothing above the diagonal is multiplied."""
    return np.concatenate([m[:, k:] @ lower[k:, k : k + width] for k in range(0, len(lower), width)], axis=1)


def roots(values: Values) -> Values:
    """Square roots of values that may be below 0 by rounding."""
    return np.sqrt(np.maximum(values, 0))


def _trace_sqrt(a: Matrix, b: Matrix, rank_a: int, rank_b: int, scale: float) -> float:
    """tr((a b)^(1/2)) for covariances of at most the given ranks; scale: the sum that the trace is subtracted from."""
    least = min(float(a.diagonal().min()), float(b.diagonal().min()))
    if least < 0:
        raise ValueError(f"a covariance has the variance {least:.3g}, below 0: make statistics with FeatureStats.of")
    # a feature that is constant on one side has a zero row there, and adds nothing to the product's eigenvalues
    live = (a.diagonal() > 0) & (b.diagonal() > 0)
    if not live.all():
        a, b = a[live][:, live], b[live][:, live]
    d = len(a)
    if d == 0:
        return 0.0
    if min(rank_a, d) < min(rank_b, d):  # factor the side of higher rank: it is the one that may have a Cholesky factor
        a, b, rank_a, rank_b = b, a, rank_b, rank_a
    f = _factor(a, rank_a)
    values = np.linalg.eigvalsh(_symmetric(f.T @ b @ f))
    _check_positive(values, "the product of the covariances")
    values = values[-min(rank_a, rank_b, d) :]  # the others are 0 up to rounding
    if not roots_are_exact(values, scale):
        # the singular values of the factors' product are the roots themselves: their error is rounding, not its root
        return float(np.linalg.svd(f.T @ _factor(b, rank_b), compute_uv=False).sum())
    return float(roots(values).sum())


def _root_errors(values: Values) -> float:
    """Likely error of twice the sum of the roots of ascending eigenvalues, each with the rounding error of the largest."""
    rounding = 4 * _EPS * max(float(values[-1]), 0.0)
    found = roots(values)
    # An error of `rounding` in a value is one of rounding / (2 root) in its root, and at most sqrt(rounding) near zero.
    # A root's error has either sign, so the errors' squares add.
    errors = np.minimum(rounding / np.maximum(2 * found, 1e-300), math.sqrt(rounding))
    return 2 * float(np.linalg.norm(errors))


def _tolerance(distance: float, scale: float) -> float:
    return max(1e-7 * abs(distance), 1e-13 * scale)


def _factor(cov: Matrix, rank: int) -> Float64[NDArray[np.floating], "d r"]:
    """F with F F^T = cov: the Cholesky factor, or, for a singular covariance, one from its eigenvectors."""
    if rank >= len(cov) and (lower := cholesky(cov)) is not None:
        return lower
    values, vectors = np.linalg.eigh(_symmetric(cov))
    _check_positive(values, "a covariance")
    keep = min(rank, len(cov))
    return vectors[:, -keep:] * roots(values[-keep:])


def _check_positive(values: Values, what: str) -> None:
    smallest, largest = float(values[0]), float(values[-1])
    if smallest < -len(values) * 4 * _EPS * max(largest, 0.0):
        raise ValueError(
            f"{what} has the eigenvalue {smallest:.3g}, where the largest is {largest:.3g}: covariances must be positive "
            "semi-definite; make statistics with FeatureStats.of"
        )


def _symmetric(m: Matrix) -> Matrix:
    return (m + m.T) / 2
