"""Inversion against closed forms: the probability-flow ODE of Gaussian data, and the way back of any data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.wrappers import CountCalls, Labelled
from alphabar.sampling.invert import Inversion, ddim_inverse, invert
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.continuous import LogSigma
from alphabar.schedule.grid import make_grid
from tests.fixtures.exact import GaussianDenoiser, MixtureDenoiser
from tests.fixtures.oracles import tiny_network


def images_of(model, n=5):
    return model.data.sample(n)


def grid(steps, low=0.01, high=10.0):
    return make_grid(LogSigma(low, high), steps, "log_sigma")


def errors(steps, model, iterations):
    """Largest difference from the ODE's solution, and of the way back from the images."""
    x0, levels = images_of(model), grid(steps, low=1e-3)
    x = ddim_inverse(model, x0, levels, iterations=iterations, tolerance=0)
    off = float((x - model.flow(x0, 0.0, 10.0)).abs().max())
    return off, float((ddim(model, x, levels) - x0).abs().max())


def order(coarse, fine, factor=2):
    return float(np.log(coarse / fine) / np.log(factor))


def test_inversion_follows_the_ode_with_order_1_and_its_way_back_with_order_2(gaussian: GaussianDenoiser) -> None:
    (far, back), (far2, back2) = errors(200, gaussian, 1), errors(400, gaussian, 1)
    assert order(far, far2) == pytest.approx(1, abs=0.15)
    assert order(back, back2) == pytest.approx(2, abs=0.25)


def test_the_way_back_of_the_fixed_point_is_the_image_at_any_number_of_steps(gaussian: GaussianDenoiser) -> None:
    levels = grid(6)
    x0 = images_of(gaussian)
    once, often = (ddim(gaussian, ddim_inverse(gaussian, x0, levels, iterations=k, tolerance=0), levels) for k in (1, 300))
    assert float((often - x0).abs().max()) < 1e-9 < 1e-2 < float((once - x0).abs().max())


@pytest.mark.slow
def test_the_way_back_is_exact_for_a_mixture_and_for_a_network(mixture: MixtureDenoiser) -> None:
    x0, levels = images_of(mixture), grid(40)
    back = ddim(mixture, ddim_inverse(mixture, x0, levels, iterations=300, tolerance=0), levels)
    assert float((back - x0).abs().max()) < 1e-6
    network = tiny_network().double()
    x0 = torch.linspace(-1, 1, 128, dtype=torch.float64).reshape(2, 1, 8, 8)
    levels = grid(20, low=0.05, high=5.0)
    back = ddim(network, ddim_inverse(network, x0, levels, iterations=60, tolerance=1e-7), levels)
    assert float((back - x0).abs().max()) < 1e-5


def test_an_image_that_has_converged_costs_no_more_calls_and_does_not_depend_on_the_batch(mixture: MixtureDenoiser) -> None:
    x0, levels = images_of(mixture, 6), grid(10)
    count = CountCalls(mixture)
    together = ddim_inverse(count, x0, levels, iterations=40, tolerance=1e-4)
    calls = 0
    for k in range(6):
        own = CountCalls(mixture)
        alone = ddim_inverse(own, x0[k : k + 1], levels, iterations=40, tolerance=1e-4)
        assert torch.allclose(alone, together[k : k + 1], atol=1e-9)
        calls += own.images
    assert count.images == calls < 6 * 10 * 40


def test_labels_go_with_the_images_that_have_not_converged() -> None:
    def denoise(x, sigma, labels):  # class 0 converges at once
        return torch.where(labels[:, None, None, None] == 0, x, 0.5 * x)

    x0 = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    x = ddim_inverse(Labelled(denoise, torch.tensor([0, 1])), x0, grid(5), iterations=50, tolerance=0)
    assert torch.equal(x[0], x0[0]) and float(x[1, 0, 0, 0]) > 2


def test_invert_records_its_calls_and_the_error_and_sample_goes_the_way_back(gaussian: GaussianDenoiser, tmp_path: Path) -> None:
    pixels = (np.random.default_rng(0).random((5, 2, 2, 1)) * 65535).astype(np.uint16)
    found = invert(gaussian, pixels, steps=8, iterations=30, batch=2, out=tmp_path / "i.npz", progress=False)
    assert found.back.dtype == np.uint16 and found.record["nfe_back"] == 8 and 8 < found.record["nfe"] <= 240
    assert np.abs(found.back.astype(int) - pixels).max() <= 40 and found.rmse.max() < 1e-3
    again = sample(gaussian, 5, steps=8, grid="karras", start=found.start(), progress=False)
    assert np.array_equal(again.images, found.back)
    assert again.record["start"]["from"] == "inversion" and again.record["start"]["images"] == found.record["images"]
    with np.load(tmp_path / "i.npz") as stored:
        assert {*stored} == {"noise", "originals", "images", "rmse", "record"} and np.array_equal(stored["originals"], pixels)
    with pytest.raises(ValueError, match="image 5 is to start from the noise of 5 images"):
        sample(gaussian, 6, steps=8, start=found.start(), progress=False)


def test_noise_of_the_model_itself_is_found_again(gaussian: GaussianDenoiser) -> None:
    noise, levels = starting_noise(0, range(4), (1, 2, 2)).double(), grid(50)
    x0 = ddim(gaussian, 10 * noise, levels)
    x = ddim_inverse(gaussian, x0, levels, iterations=200, tolerance=0)
    assert float((x / 10 - noise).abs().max()) < 1e-6


def test_a_distilled_model_is_refused_by_name(gaussian: GaussianDenoiser) -> None:
    gaussian.consistency = True
    with pytest.raises(ValueError, match=r"inversion needs E\[x0 \| x\], and this model was distilled"):
        invert(gaussian, np.zeros((1, 2, 2, 1), np.uint8))


def test_inversion_is_a_value_with_unit_noise(gaussian: GaussianDenoiser) -> None:
    found = invert(gaussian, np.full((1, 2, 2, 1), 128, np.uint8), steps=3, progress=False)
    assert isinstance(found, Inversion) and tuple(found.noise.shape) == (1, 1, 2, 2) and float(found.noise.abs().max()) < 1
