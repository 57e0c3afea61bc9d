"""The Fréchet distance between two Gaussians that are fitted to features (Dowson & Landau 1982; Heusel et al. 2017,
arXiv:1706.08500): |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), for covariances A and B.

The last trace needs no square root of a matrix. With any factor A = F F^T, the eigenvalues of A B other than 0 are
those of the symmetric F^T B F, and the trace is the sum of their square roots. A Cholesky factor is the cheapest.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from alphabar.features.stats import FeatureStats, same_extractor

Matrix = Float64[Tensor, "d d"]
METHODS = ("eigh", "newton_schulz")
_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class FrechetResult:
    """value: the distance (the squared one, as FID is), >= 0. residual and iterations: of Newton-Schulz alone."""

    value: float
    method: str
    residual: float | None = None
    iterations: int | None = None

    def __float__(self) -> float:
        return self.value


class NotConvergedError(ArithmeticError):
    """Newton-Schulz has not converged; carries residual, tolerance and iterations."""

    def __init__(self, residual: float, tolerance: float, iterations: int) -> None:
        super().__init__(
            f"the Newton-Schulz square root stands at a residual of {residual:.3g} after {iterations} iterations, "
            f"wanted at most {tolerance:.3g}: a covariance is singular or nearly so (fewer images than features, or "
            "features that are constant or repeat each other); use method='eigh'"
        )
        self.residual, self.tolerance, self.iterations = residual, tolerance, iterations


def frechet(
    a: FeatureStats, b: FeatureStats, method: str = "eigh", *, tolerance: float = 1e-6, iterations: int = 100
) -> FrechetResult:
    """Fréchet distance between two sets of features (FID's formula), float64.

    method: "eigh" sums the roots of symmetric eigenvalues, exact to rounding for covariances of any rank;
    "newton_schulz" iterates to the root of A B and reports how far it came. tolerance and iterations: of the latter.
    With no more images than features the value is defined, but far above the one that more images give (`ImageEval`
    refuses it).

    Raises ValueError for different extractors, an unknown method, fewer than 2 images, or a "covariance" with negative
    eigenvalues; NotConvergedError when Newton-Schulz misses its tolerance.
    """
    same_extractor(a, b)
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")
    cov_a, cov_b = a.cov, b.cov
    apart = float((a.mean - b.mean).square().sum())
    spread = float(cov_a.trace() + cov_b.trace())
    residual: float | None = None
    done: int | None = None
    if method == "newton_schulz":
        root, residual, done = newton_schulz(cov_a @ cov_b, tolerance=tolerance, iterations=iterations)
        trace = float(root.trace())
    else:
        trace = trace_sqrt(cov_a, cov_b, a.n - 1, b.n - 1, scale=apart + spread)
    value = apart + spread - 2 * trace
    # the terms cancel when the sets are alike; what rounding leaves is far below this, anything above it is a mistake
    if not value >= -1e-6 * (apart + spread):
        raise ArithmeticError(
            f"the Fréchet distance came out as {value:.6g}, below 0 by more than rounding: {apart:.6g} (means) + "
            f"{spread:.6g} (covariances) - 2 * {trace:.6g}; check that both scatter matrices are symmetric and not negative"
        )
    return FrechetResult(max(value, 0.0), method, residual, done)


def trace_sqrt(a: Matrix, b: Matrix, rank_a: int, rank_b: int, *, scale: float) -> float:
    """tr((a b)^(1/2)) for covariances of at most the given ranks (images - 1).

    scale: the size of the terms that the trace is subtracted from; decides when the quick way is too coarse.
    """
    least = min(float(a.diagonal().min()), float(b.diagonal().min()))
    if least < 0:
        raise ValueError(f"a covariance has the variance {least:.3g}, below 0: make statistics with FeatureStats.of")
    # A feature that is constant on one side has a zero row there, and adds nothing to the product's eigenvalues.
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
    if float(values[0]) < -d * 4 * _EPS * max(float(values[-1]), 0.0):
        raise ValueError(
            f"the product of the covariances has the eigenvalue {float(values[0]):.3g} beside {float(values[-1]):.3g}: a "
            "covariance is not positive semi-definite; make statistics with FeatureStats.of"
        )
    values = values[-min(rank_a, rank_b, d) :].clamp_min(0.0)  # the rest is 0 but for rounding
    if _root_errors(values) > _tolerance(scale - 2 * float(values.sqrt().sum()), scale):
        # Singular values of the factors' product are those roots themselves: their error is rounding, not its root.
        return float(torch.linalg.svdvals(f.T @ _factor(b, rank_b)).sum())
    return float(values.sqrt().sum())


def _root_errors(values: Float64[Tensor, " r"]) -> float:
    """Likely error of twice the sum of the roots of ascending eigenvalues, each wrong by rounding of the largest."""
    rounding = 4 * _EPS * max(float(values[-1]), 0.0)
    roots = values.clamp_min(0.0).sqrt()
    # An error of `rounding` in a value is one of rounding / (2 root) in its root, and at most sqrt(rounding) near zero.
    # A root's error has either sign, so the errors' squares add.
    errors = torch.minimum(rounding / (2 * roots).clamp_min(1e-300), torch.full_like(roots, math.sqrt(rounding)))
    return 2 * float(errors.square().sum().sqrt())


def _tolerance(distance: float, scale: float) -> float:
    return max(1e-7 * abs(distance), 1e-13 * scale)


def roots_are_exact(values: Float64[Tensor, " d"], scale: float) -> bool:
    """Whether the roots of these eigenvalues of F^T B F give the distance to rounding; `scale` as in `trace_sqrt`."""
    return _root_errors(values) <= _tolerance(scale - 2 * float(values.clamp_min(0).sqrt().sum()), scale)


def cholesky(cov: Matrix) -> Matrix | None:
    """The Cholesky factor, or None where the covariance is singular to rounding."""
    lower, info = torch.linalg.cholesky_ex(cov)
    # a pivot of the size of rounding means that the factor is rounding, too
    if int(info) or float((lower.diagonal().square() / cov.diagonal()).min()) <= len(cov) * _EPS:
        return None
    factor: Matrix = lower
    return factor


def _factor(cov: Matrix, rank: int) -> Float64[Tensor, "d r"]:
    """F with F F^T = cov: the Cholesky factor, or, for a singular covariance, from its eigenvectors."""
    if rank >= len(cov) and (lower := cholesky(cov)) is not None:
        return lower
    values, vectors = torch.linalg.eigh(_symmetric(cov))
    if float(values[0]) < -len(cov) * 4 * _EPS * float(values[-1]):
        raise ValueError(
            f"a covariance has the eigenvalue {float(values[0]):.3g} beside {float(values[-1]):.3g}, so it is not "
            "positive semi-definite: make statistics with FeatureStats.of"
        )
    keep = min(rank, len(cov))
    root: Tensor = vectors[:, -keep:] * values[-keep:].clamp_min(0.0).sqrt()
    return root


def _symmetric(m: Tensor) -> Tensor:
    return (m + m.T) / 2


def newton_schulz(m: Matrix, *, tolerance: float = 1e-6, iterations: int = 100) -> tuple[Matrix, float, int]:
    """Square root of a matrix with positive eigenvalues, by matrix products alone: (root, residual, iterations made).

    The coupled iteration (Higham 2008, "Functions of Matrices", eq. 6.35): with y = m / |m| and z = 1, both are
    multiplied by t = (3 - z y) / 2 until z y = 1; then y is the root and z its inverse.
    residual: the larger of |z y - 1| / sqrt(d) and |root^2 - m| / |m| (Frobenius norms): the first sees singular
    matrices, which the second alone lets pass.

    Raises NotConvergedError when the residual stays above the tolerance.
    """
    d = len(m)
    norm = m.norm()
    one = torch.eye(d, dtype=m.dtype, device=m.device)
    y, z = m / norm, one
    best, best_y, last, done = math.inf, y, math.inf, 0
    while done < iterations:
        done += 1
        zy = z @ y
        gap = float((zy - one).norm()) / math.sqrt(d)
        if gap < best:
            best, best_y = gap, y
        # once close it squares the gap at each step; when it grows again there, rounding has won
        if not math.isfinite(gap) or gap < 1e-14 or (gap >= last and gap < 0.1) or gap > 1e3:
            break
        last = gap
        t = 1.5 * one - 0.5 * zy
        y, z = y @ t, t @ z
    root = best_y * norm.sqrt()
    residual = max(best, float((root @ root - m).norm() / norm))
    if not residual <= tolerance:
        raise NotConvergedError(residual, tolerance, done)
    return root, residual, done
