"""Closed-form denoisers of toy data: the output of a perfectly trained network, against which samplers are tested.

They compute in float64 and return the type of the images. Each has a schedule and an image_shape, so `sample` accepts it as a
model.
"""

import torch
from torch import Tensor

from alphabar.core.types import Images, Levels
from alphabar.data.toy import Gaussian, Mixture
from alphabar.schedule.base import Schedule
from alphabar.schedule.continuous import LogSigma
from alphabar.schedule.noising import per_image

EDM_LEVELS = LogSigma(0.002, 80.0)  # Karras et al. 2022 (arXiv:2206.00364), table 1


class GaussianDenoiser:
    """x0 ~ N(mean, std^2), so E[x0 | x] = mean + std^2 / (std^2 + sigma^2) (x - mean), pixel by pixel.

    >>> data = Gaussian(torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double())
    >>> float(GaussianDenoiser(data)(torch.full((1, 1, 1, 1), 2.0), torch.ones(1)))
    1.0
    """

    def __init__(self, data: Gaussian, schedule: Schedule = EDM_LEVELS) -> None:
        self.data, self.schedule, self.image_shape = data, schedule, data.image_shape

    def __call__(self, x: Images, sigma: Levels) -> Images:
        mean, var = self.data.mean.to(x.device), self.data.std.to(x.device) ** 2
        noisy = var + _column(sigma, x) ** 2
        share = torch.where(noisy > 0, var / noisy, 0.0)  # a constant pixel at sigma = 0: 0 / 0
        return (mean + share * (x.double() - mean)).to(x.dtype)

    def flow(self, x: Images, sigma: float, to: float) -> Images:
        """The solution of the probability-flow ODE dx/ds = (x - E[x0 | x]) / s from level `sigma` to level `to`, starting at x.

        Here dx/ds = s (x - mean) / (std^2 + s^2), so x - mean is proportional to sqrt(std^2 + s^2).
        """
        mean, var = self.data.mean.to(x.device), self.data.std.to(x.device) ** 2
        return (mean + (x.double() - mean) * ((var + to**2) / (var + sigma**2)).sqrt()).to(x.dtype)


class MixtureDenoiser:
    """x0 ~ sum_k w_k N(m_k, c_k^2 I): each component's estimate, weighted by the probability that x came from it.

    E[x0 | x] = sum_k r_k (m_k + c_k^2 / (c_k^2 + sigma^2) (x - m_k)), r_k ~ w_k N(x; m_k, (c_k^2 + sigma^2) I).
    Raises ValueError at sigma = 0 if some c_k = 0: the component has no density there.
    """

    def __init__(self, data: Mixture, schedule: Schedule = EDM_LEVELS) -> None:
        self.data, self.schedule, self.image_shape = data, schedule, data.image_shape

    def responsibilities(self, x: Images, sigma: Levels) -> Tensor:
        """The probability that each image came from each component, float64 (b, k); rows sum to 1."""
        return self._components(x, sigma)[0]

    def _components(self, x: Images, sigma: Levels) -> tuple[Tensor, Tensor, Tensor]:
        """(b, k): probability r_k and factor c_k^2 / (c_k^2 + sigma^2) of each component; (b, k, chw): x minus its mean."""
        means = self.data.means.to(x.device).flatten(1)
        var = self.data.stds.to(x.device) ** 2
        noisy = var + _column(sigma, x).flatten(1) ** 2
        if not bool((noisy > 0).all()):
            raise ValueError("components of std 0 have no density at sigma = 0: give a level above 0")
        off = x.double().flatten(1)[:, None] - means
        log_density = -0.5 * (off.square().sum(-1) / noisy + means.shape[1] * noisy.log())
        weights = self.data.weights.to(x.device)
        return torch.softmax(weights.log() + log_density, dim=1), var / noisy, off

    def __call__(self, x: Images, sigma: Levels) -> Images:
        r, share, off = self._components(x, sigma)
        means = self.data.means.to(x.device).flatten(1)
        out = r @ means + torch.einsum("bk,bkd->bd", r * share, off)
        return out.reshape(x.shape).to(x.dtype)


class FiniteDenoiser:
    """x0 is one of n images with equal probability: the denoiser that has memorised its training images and samples only them.

    E[x0 | x] = sum_i r_i x_i, r_i ~ exp(-|x - x_i|^2 / (2 sigma^2)); at sigma = 0 the nearest image (the mean of several at
    equal distance). images: finite, (n, c, h, w) in [-1, 1], n >= 1.
    """

    def __init__(self, images: Images, schedule: Schedule = EDM_LEVELS) -> None:
        if images.ndim != 4 or len(images) == 0 or not bool(torch.isfinite(images).all()):
            raise ValueError(f"images of shape {tuple(images.shape)}: wanted finite (n, c, h, w) in [-1, 1], n >= 1")
        self.images, self.schedule = images.detach().double(), schedule
        self.image_shape: tuple[int, ...] = tuple(images.shape[1:])

    def __call__(self, x: Images, sigma: Levels) -> Images:
        images = self.images.to(x.device).flatten(1)
        flat = x.double().flatten(1)
        near = flat @ images.T - images.square().sum(1) / 2  # -|x - x_i|^2 / 2 up to a constant
        near -= near.max(1, keepdim=True).values
        var = _column(sigma, x).flatten(1) ** 2
        r = torch.where(var > 0, near / var, torch.where(near == 0, 0.0, -torch.inf)).softmax(1)
        return (r @ images).reshape(x.shape).to(x.dtype)


def _column(sigma: Levels, x: Images) -> Tensor:
    return per_image(sigma, x.double())
