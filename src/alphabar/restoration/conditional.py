"""The Gaussian N(mean, rho^2 I), conditioned on a measurement: its mean, or a draw from it."""

import torch
from torch import Tensor

from alphabar.core.types import Images, Measured
from alphabar.restoration.operators import Operator, Spectral

_TOLERANCE = 1e-5  # of conjugate gradients, relative to the right-hand side
_MOST = 200  # iterations


def condition(
    mean: Images,
    rho: float,
    y: Measured,
    operator: Operator,
    sigma_y: float | Tensor,
    noise: tuple[Images, Measured] | None = None,
) -> Images:
    """Mean of p(x | y) ~ N(x; mean, rho^2 I) N(y; A x, sigma_y^2 I), or a draw from it.

    With `noise`, the problem is perturbed and its mean is a draw: mean + rho * n1 in place of mean, and y + sigma_y * n2 in place
    of y (Papandreou & Yuille 2010). By the singular values where they are known, else by conjugate gradients.

    Args:
        mean: (b, c, h, w).
        rho: standard deviation around it, above 0.
        y: the measurement.
        operator: A.
        sigma_y: standard deviation of its noise; of a `Spectral` operator also one for each singular value, 0 or more.
        noise: standard normal (n1, n2) in the shapes of mean and y.
    """
    if noise is not None:
        mean = mean + rho * noise[0]
    if isinstance(operator, Spectral):
        u, s, var = operator.rotate(y), operator.s.to(mean), torch.as_tensor(sigma_y).to(mean) ** 2
        if noise is not None:
            u = u + var.sqrt() * operator.rotate(noise[1])
        total = (rho * s) ** 2 + var
        gain = torch.where(total > 0, rho**2 * s / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
        return mean + operator.synthesise(gain * (u - s * operator.analyse(mean)))
    if noise is not None:
        y = y + sigma_y * noise[1]
    share = (sigma_y / rho) ** 2

    def normal(x: Images) -> Images:
        return operator.adjoint(operator.forward(x)) + share * x

    return mean + _conjugate_gradients(normal, operator.adjoint(y - operator.forward(mean)))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every image, (b, 1, 1, 1)."""
    return (a * b).sum((1, 2, 3), keepdim=True)


def _conjugate_gradients(apply, b: Images) -> Images:  # type: ignore[no-untyped-def]
    """The solution of apply(x) = b for every image, apply symmetric and positive definite."""
    x, r = torch.zeros_like(b), b
    p, size = r, dot(r, r)
    enough = _TOLERANCE**2 * size
    for _ in range(_MOST):
        if bool((size <= enough).all()):
            break
        q = apply(p)
        step = size / dot(p, q).clamp_min(torch.finfo(b.dtype).tiny)
        x, r = x + step * p, r - step * q
        size, last = dot(r, r), size
        p = r + size / last.clamp_min(torch.finfo(b.dtype).tiny) * p
    return x
