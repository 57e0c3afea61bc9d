"""Oracles, a tiny network and grids for the samplers' tests."""

import pytest
import torch

from alphabar.data.toy import Gaussian, Mixture
from alphabar.denoiser.exact import GaussianDenoiser, MixtureDenoiser
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.unet import UNet
from alphabar.sampling.catalogue import SAMPLERS
from alphabar.schedule.vp import Cosine, LogSigma

# Every sampler as it comes, and every other value of its options: a new entry of the catalogue is found by itself.
VARIANTS = {"eta": [0.5, 1.0], "variance": ["beta"], "data_range": []}
CASES = {
    f"{name}{'' if key is None else f'-{key}={value}'}": (entry, {} if key is None else {key: value})
    for name, entry in SAMPLERS.items()
    for key, value in [(None, None), *((k, v) for k in entry.options for v in VARIANTS[k])]
}


def draws(entry, options):
    """Whether this case uses noise: the entry's word, unless eta is above 0."""
    return entry.stochastic or options.get("eta", 0) > 0


def smooth_grid(n, high=3.0):
    """n steps from `high` to 0, as smooth as a grid can be: what an order of convergence is measured on."""
    return high * (1 - torch.arange(n + 1, dtype=torch.float64) / n) ** 1.5


@pytest.fixture
def gaussian():
    mean = torch.tensor([0.3, -0.2, 0.0, 0.1], dtype=torch.float64).reshape(1, 2, 2)
    std = torch.tensor([0.5, 0.8, 0.3, 1.0], dtype=torch.float64).reshape(1, 2, 2)
    return GaussianDenoiser(Gaussian(mean, std), LogSigma(1e-3, 10.0))


@pytest.fixture(scope="session")
def mixture():
    means = torch.tensor([[-0.6, 0.2], [0.5, 0.5], [0.4, -0.7]], dtype=torch.float64).reshape(3, 1, 1, 2)
    weights, stds = torch.tensor([[0.2, 0.5, 0.3], [0.3, 0.4, 0.25]], dtype=torch.float64)
    return MixtureDenoiser(Mixture(weights, means, stds), LogSigma(1e-3, 10.0))


@pytest.fixture
def network():
    """A small random U-Net as a denoiser of 8x8 images: its answers mean nothing, but its arithmetic is a network's."""
    return tiny_network()


def tiny_network(shape=(1, 8, 8), seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    unet = UNet(in_channels=shape[0], channels=(8, 16), blocks=1, group_size=4, embedding=16)
    for p, k in zip(unet.parameters(), range(10**6), strict=False):
        p.data = torch.randn(p.shape, generator=generator) * (0.1 if k % 2 else 0.2)
    return Preconditioned(unet, Cosine(), options.pop("prediction", "v"), image_shape=shape, **options)
