"""Distributions over images with known denoisers: Gaussians and mixtures of Gaussians, in the model's coordinate."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alphabar.core.seeds import generator

_PICK, _NORMAL = 0, 1  # separate draws, so that the first images of a seed do not depend on how many follow


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Independent pixels: x0 ~ N(mean, std^2). mean and std: float64 (c, h, w), std >= 0 (0 is a fixed pixel)."""

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        _check("mean", self.mean, 3)
        _check("std", self.std, 3)
        if self.mean.shape != self.std.shape:
            raise ValueError(f"mean has shape {tuple(self.mean.shape)}, std {tuple(self.std.shape)}: give one std per pixel")
        if bool((self.std < 0).any()):
            raise ValueError(f"std goes down to {float(self.std.min()):.4g}: give standard deviations >= 0")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        c, h, w = self.mean.shape
        return c, h, w

    @property
    def cov(self) -> Tensor:
        """Covariance of the flattened pixels, float64 (chw, chw)."""
        return torch.diag(self.std.flatten() ** 2)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images, float64 (n, c, h, w). The first images of a seed are the same for every n."""
        return self.mean + self.std * _normal(n, self.image_shape, seed)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Isotropic Gaussians: x0 ~ sum_k weights[k] N(means[k], stds[k]^2 I), all float64: weights (k,) > 0 that add up to 1,
    means (k, c, h, w), stds (k,) >= 0."""

    weights: Tensor
    means: Tensor
    stds: Tensor

    def __post_init__(self) -> None:
        _check("weights", self.weights, 1)
        _check("means", self.means, 4)
        _check("stds", self.stds, 1)
        sizes = len(self.weights), len(self.means), len(self.stds)
        if not sizes[0] == sizes[1] == sizes[2] > 0:
            raise ValueError("{} weights, {} means, {} stds: give one of each per component".format(*sizes))
        total = float(self.weights.sum())
        if bool((self.weights <= 0).any()) or abs(total - 1) > 1e-9:
            raise ValueError(f"weights add up to {total:.9g}: give weights > 0 that add up to 1, weights / weights.sum()")
        if bool((self.stds < 0).any()):
            raise ValueError(f"stds go down to {float(self.stds.min()):.4g}: give standard deviations >= 0")

    @classmethod
    def grid(
        cls, image_shape: tuple[int, int, int] = (1, 1, 2), side: int = 3, spread: float = 0.8, std: float = 0.05
    ) -> "Mixture":
        """side x side equal components: the left half of an image has one level, the right half another, evenly spaced in
        [-spread, spread]. With image_shape (1, 1, 2) an image is a point of the plane."""
        if side < 1 or image_shape[2] < 2:
            raise ValueError(f"side = {side}, image_shape = {image_shape}: give side >= 1 and images at least 2 wide")
        levels = torch.linspace(-spread, spread, side, dtype=torch.float64) if side > 1 else torch.zeros(1, dtype=torch.float64)
        left, right = torch.meshgrid(levels, levels, indexing="ij")
        k, half = side**2, image_shape[2] // 2
        means = torch.empty((k, *image_shape), dtype=torch.float64)
        means[..., :half] = left.reshape(-1, 1, 1, 1)
        means[..., half:] = right.reshape(-1, 1, 1, 1)
        return cls(torch.full((k,), 1 / k, dtype=torch.float64), means, torch.full((k,), std, dtype=torch.float64))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, c, h, w = self.means.shape
        return c, h, w

    @property
    def mean(self) -> Tensor:
        """Mean image, float64 (c, h, w)."""
        return torch.einsum("k,kchw->chw", self.weights, self.means)

    @property
    def cov(self) -> Tensor:
        """Covariance of the flattened pixels, float64 (chw, chw): within the components plus between them."""
        off = (self.means - self.mean).flatten(1)
        within = (self.weights * self.stds**2).sum() * torch.eye(off.shape[1], dtype=torch.float64)
        return within + torch.einsum("k,ki,kj->ij", self.weights, off, off)

    def components(self, n: int, seed: int = 0) -> Tensor:
        """Which component each of n images is drawn from, int64 (n,)."""
        edges = self.weights.cumsum(0).numpy()[:-1]
        return torch.from_numpy(np.searchsorted(edges, generator(seed, draw=_PICK).random(n), side="right"))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images, float64 (n, c, h, w). The first images of a seed are the same for every n."""
        k = self.components(n, seed)
        return self.means[k] + self.stds[k].reshape(-1, 1, 1, 1) * _normal(n, self.image_shape, seed)


def _normal(n: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    return torch.from_numpy(generator(seed, draw=_NORMAL).standard_normal((n, *shape)))


def _check(name: str, value: Tensor, axes: int) -> None:
    if value.dtype != torch.float64 or value.ndim != axes:
        shape = tuple(value.shape)
        raise ValueError(f"{name} is {value.dtype} of shape {shape}: wanted float64 with {axes} axes, {name}.double()")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} holds NaN or infinity: give finite numbers")
