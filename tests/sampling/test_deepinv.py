"""Runs as denoisers of deepinv, whose base class is a stub where its torchvision does not load."""

import sys
from types import ModuleType

import pytest
import torch

from alphabar import deepinv_denoiser
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.oracles import tiny_network


class Base(torch.nn.Module):
    """`deepinv.models.base.Denoiser` of deepinv 0.5.0, as far as a subclass uses it."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.to(device)


@pytest.fixture(autouse=True)
def deepinv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deepinv", "deepinv.models", "deepinv.models.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["deepinv.models.base"].Denoiser = Base


@pytest.mark.parametrize("sigma", [0.2, torch.tensor(0.2), [0.2, 0.2, 0.2], torch.full((3,), 0.2)])
def test_it_is_the_posterior_mean_in_the_range_of_deepinv(gaussian: GaussianDenoiser, sigma) -> None:
    mean, var = (gaussian.data.mean + 1) / 2, (gaussian.data.std / 2) ** 2  # of images in [0, 1]
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    wanted = mean + var / (var + 0.2**2) * (x - mean)
    assert torch.allclose(deepinv_denoiser(gaussian)(x, sigma), wanted)


def test_a_network_can_be_differentiated_and_moved_and_a_padded_one_cropped() -> None:
    network = tiny_network()
    network.crop = 2
    denoise = deepinv_denoiser(network)
    assert isinstance(denoise, Base) and len(list(denoise.parameters())) == len(list(network.parameters()))
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    denoise(x, 0.1).sum().backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_what_it_cannot_do_is_refused(gaussian: GaussianDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    denoise = deepinv_denoiser(gaussian)
    with pytest.raises(ValueError, match=r"images of shape \(3, 2, 2\), and the model takes \(1, 2, 2\)"):
        denoise(torch.rand(1, 3, 2, 2), 0.1)
    with pytest.raises(ValueError, match="2 levels for 3 images"):
        denoise(torch.rand(3, 1, 2, 2), [0.1, 0.2])
    with pytest.raises(ValueError, match="trained without classes"):
        deepinv_denoiser(gaussian, 1)
    gaussian.consistency = True
    with pytest.raises(ValueError, match="this model was distilled"):
        deepinv_denoiser(gaussian)
    gaussian.consistency, gaussian.latents = False, "some"
    with pytest.raises(ValueError, match="makes latents"):
        deepinv_denoiser(gaussian)
    gaussian.latents = None
    monkeypatch.setitem(sys.modules, "deepinv.models.base", None)
    with pytest.raises(ImportError, match=r"deepinv cannot be imported .*alphabar\[deepinv\]"):
        deepinv_denoiser(gaussian)


def test_the_class_of_a_conditional_model(gaussian: GaussianDenoiser) -> None:
    class Conditional:
        schedule, image_shape, classes, class_names = gaussian.schedule, (1, 2, 2), 2, ("a", "b")

        def __call__(self, x, sigma, labels):
            return (2 * labels[:, None, None, None] - 1).to(x).expand_as(x)

    assert float(deepinv_denoiser(Conditional(), "b")(torch.zeros(1, 1, 2, 2), 0.1).mean()) == 1
    with pytest.raises(ValueError, match="give one class"):
        deepinv_denoiser(Conditional(), "all")
