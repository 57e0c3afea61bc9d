"""Linear measurements of Gaussian and mixture data, whose posteriors are closed forms, and the errors of a method on them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.core.types import Images, Levels
from alphabar.restoration.catalogue import METHODS, plan
from alphabar.restoration.operators import Blur, BoxAverage, Mask, Operator
from alphabar.schedule.continuous import LogSigma

SHAPE = (1, 4, 4)
LEVELS = LogSigma(0.002, 80.0)


class Smooth:
    """x0 ~ N(mean, cov) with neighbours that are alike: cov = 0.25 exp(-distance^2 / 4.5) + 0.01 I; E[x0 | x] in closed form."""

    def __init__(self) -> None:
        self.schedule, self.image_shape = LEVELS, SHAPE
        _, h, w = SHAPE
        places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()
        self.cov = 0.25 * torch.exp(-(torch.cdist(places, places) ** 2) / 4.5) + 0.01 * torch.eye(h * w, dtype=torch.float64)
        self.mean = 0.3 * torch.sin(places[:, 0])
        self.values, self.vectors = torch.linalg.eigh(self.cov)

    def __call__(self, x: Images, sigma: Levels) -> Images:
        gain = self.values / (self.values + sigma.double()[:, None] ** 2)
        off = (x.double().flatten(1) - self.mean) @ self.vectors
        return ((off * gain) @ self.vectors.T + self.mean).reshape(x.shape).to(x.dtype)

    def sample(self, seed: int) -> Tensor:
        draw = torch.randn(len(self.mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        root = self.vectors * self.values.sqrt() @ self.vectors.T  # the signs of eigenvectors depend on the machine
        return (self.mean + root @ draw).reshape(1, *SHAPE)


def operators() -> dict[str, Mask | BoxAverage | Blur]:
    """One of each kind, on images of SHAPE."""
    _, h, w = SHAPE
    keep = torch.ones(1, 1, h, w)
    keep[..., w // 2 :] = 0
    return {"half": Mask(keep), "all": Mask(torch.ones(1, 1, h, w)), "averages": BoxAverage(2), "blur": Blur(0.8, (h, w))}


def matrix(operator: Operator, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """A, float64 (pixels of y, pixels of x)."""
    d = shape[0] * shape[1] * shape[2]
    return operator.forward(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).flatten(1).T


@dataclass(frozen=True)
class Errors:
    """mean: root mean square over pixels of the error of the mean, in standard deviations of the posterior. cov: error of the
    covariance by the Frobenius norm, relative. variance: mean over pixels of variance over that of the posterior."""

    mean: float
    cov: float
    variance: float


def measured(name: str, operator: Operator, calls: int, *, sigma_y: float = 0.1, n: int = 600, **options: Any) -> Errors:
    """The errors of n draws of a method for one measurement of `Smooth` data."""
    data, method = Smooth(), METHODS[name]
    a = matrix(operator)
    y = operator.forward(data.sample(3))
    y = y + sigma_y * torch.randn(y.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    cov = torch.linalg.inv(torch.linalg.inv(data.cov) + a.T @ a / sigma_y**2)
    mean = cov @ (a.T @ y.flatten() / sigma_y**2 + torch.linalg.solve(data.cov, data.mean))
    sigmas, arguments = plan(method, LEVELS, operator, sigma_y, calls, options)
    x = starting_noise(0, range(n), SHAPE) * float(sigmas[0])
    rows = y.float().expand(n, -1, -1, -1)
    draws = method.fn(data, rows, operator, sigma_y, sigmas, SeededNoise(0, range(n)), x, **arguments).double().flatten(1)
    off = (draws.mean(0) - mean) / cov.diag().sqrt()
    return Errors(
        float(off.square().mean().sqrt()), float((torch.cov(draws.T) - cov).norm() / cov.norm()),
        float((draws.var(0) / cov.diag()).mean()),
    )  # fmt: skip
