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
VARIANTS = {
    "eta": [0.0, 0.5, 1.0], "variance": ["beta"], "data_range": [], "s_churn": [20.0], "s_tmin": [], "s_tmax": [],
    "s_noise": [], "order": [1, 2, 3], "bh": [2], "coefficients": ["exact"], "variable": ["log_sigma"],
}  # fmt: skip
CASES = {
    f"{name}{'' if key is None else f'-{key}={value}'}": (entry, {} if key is None else {key: value})
    for name, entry in SAMPLERS.items()
    for key, value in [(None, None), *((k, v) for k in entry.options for v in VARIANTS[k] if v != entry.defaults[k])]
}


def draws(entry, options):
    """Whether this case uses noise."""
    asked = entry.defaults | options
    return asked["eta"] > 0 if "eta" in asked else entry.stochastic or asked.get("s_churn", 0) > 0


def order(entry, options):
    """The order that this case should measure: the entry's, or that of the option."""
    if options.get("coefficients") == "exact":
        return 4
    if entry.name.startswith("dpmpp_3m") and options.get("eta") == 0:
        return 3
    if "order" not in options:
        return entry.order
    p = options["order"] + (entry.name == "unipc")  # the corrector is worth one
    return p if entry.name != "ipndm" and not draws(entry, options) else min(p, entry.order)


def smooth_grid(n, high=3.0):
    """n steps from `high` to 0, as smooth as a grid can be."""
    return high * (1 - torch.arange(n + 1, dtype=torch.float64) / n) ** 1.5


def gentle_grid(n, high=3.0):
    """n steps from `high` to 0, small at both ends: what an order of convergence is measured on.

    Methods that look back take their first step with order 1 and their second with order 2, which costs order 3 unless
    those steps are small: here 4 / n^2 and 12 / n^2 in log sigma. The last step, to level 0, is off by sigma^2.
    """
    return high * (1 - (torch.arange(n + 1, dtype=torch.float64) / n) ** 2) ** 4


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
