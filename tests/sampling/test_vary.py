"""Variations of images: the distribution against the closed form, the addresses of their noise, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.sampling.fitted import Tuned
from alphabar.sampling.given_images import given_images, to_coordinate
from alphabar.sampling.options import SampleOptions
from alphabar.sampling.resolved import resolve_options
from alphabar.sampling.vary import vary
from alphabar.schedule.continuous import LogSigma
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.oracles import tiny_network
from tests.fixtures.toy import Gaussian


@pytest.fixture
def narrow() -> GaussianDenoiser:
    """Images so near to 0 that none is clamped."""
    mean = torch.zeros(1, 2, 2, dtype=torch.float64)
    return GaussianDenoiser(Gaussian(mean, mean + 0.1), LogSigma(1e-3, 1.0))


def grey(n: int, level: float = 0.55) -> np.ndarray:
    return np.full((n, 2, 2, 1), level, np.float32)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_variations_have_the_mean_and_the_spread_of_the_closed_form(narrow: GaussianDenoiser, strength: float) -> None:
    made = vary(narrow, grey(1), strength=strength, draws=4000, steps=40, grid="log_sigma", batch=4000, progress=False)
    sigma = made.record["grid"][0]
    assert len(made.record["grid"]) == round(40 * strength) + 1 and made.record["nfe"] == round(40 * strength)
    x = 2 * made.images.astype(np.float64) - 1  # of x0 = 0.1, by the ODE: (0.1 + sigma z) sqrt(v / (v + sigma^2))
    share = 0.1 / np.hypot(0.1, sigma)
    assert x.mean() == pytest.approx(0.1 * share, abs=0.003 + 0.05 * share * 0.1)
    assert x.std() == pytest.approx(sigma * share, rel=0.12)


def test_a_variation_does_not_depend_on_the_other_images_draws_or_the_batch(narrow: GaussianDenoiser) -> None:
    pixels = (np.random.default_rng(0).random((3, 2, 2, 1)) * 65535).astype(np.uint16)
    options = {"strength": 0.5, "steps": 6, "eta": 1.0, "progress": False}
    whole = vary(narrow, pixels, draws=3, **options).images.reshape(3, 3, 2, 2, 1)
    assert whole.dtype == np.uint16
    assert np.array_equal(vary(narrow, pixels[:2], draws=2, batch=3, **options).images.reshape(2, 2, 2, 2, 1), whole[:2, :2])
    assert len(np.unique(whole.reshape(9, -1), axis=0)) == 9
    assert not np.array_equal(vary(narrow, pixels, draws=3, seed=1, **options).images.reshape(whole.shape), whole)


def test_the_class_of_an_image_holds_for_all_its_variations() -> None:
    class Conditional:
        schedule, image_shape, classes, class_names = LogSigma(1e-3, 1.0), (1, 2, 2), 3, ("a", "b", "c")

        def __call__(self, x, sigma, labels):
            return (labels[:, None, None, None] / 2 - 0.5).to(x).expand_as(x)

    made = vary(Conditional(), grey(3), draws=4, steps=4, classes=["a", "b", "c"], progress=False)
    assert np.allclose(made.images.reshape(4, 3, -1).mean((0, 2)), [0.25, 0.5, 0.75])


def test_a_padded_model_takes_images_without_padding() -> None:
    network = tiny_network()
    network.crop = 2
    made = vary(network, np.zeros((2, 4, 4, 1), np.uint8), steps=3, progress=False)
    assert made.images.shape == (2, 4, 4, 1)
    assert tuple(to_coordinate(network, np.zeros((2, 4, 4, 1), np.uint8)).shape) == (2, 1, 8, 8)


def test_one_image_and_parts_of_sets_are_read(narrow: GaussianDenoiser, tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
    np.savez(tmp_path / "six.npz", images=pixels)
    Image.fromarray(pixels[1, ..., 0]).save(tmp_path / "one.png")
    cache = {"cache": str(tmp_path / "cache")}
    for name, rows in {"six.npz[4]": [4], "six.npz[1:3]": [1, 2], "six.npz[4:]": [4, 5], "one.png": [1]}.items():
        assert np.array_equal(given_images(narrow, tmp_path / name, reading=cache).pixels, pixels[rows])
    assert len(given_images(narrow, tmp_path / "six.npz", 2, cache)) == 2
    for name in ("six.npz[6]", "six.npz[3:3]", "six.npz[]", "six.npz[2:9]"):
        with pytest.raises(ValueError, match=r"six.npz holds 6 images, numbered from 0"):
            given_images(narrow, tmp_path / name, reading=cache)
    with pytest.raises(ValueError, match="holds 6 images, 7 were asked for"):
        given_images(narrow, tmp_path / "six.npz", 7, cache)


def test_images_of_another_size_channels_or_range_are_refused(narrow: GaussianDenoiser) -> None:
    with pytest.raises(ValueError, match=r"images of 3x4 pixels, and the model makes 2x2: give --size 2 "):
        vary(narrow, np.zeros((1, 3, 4, 1), np.uint8))
    assert vary(narrow, np.zeros((1, 3, 4, 1), np.uint8), reading={"size": 2}, steps=2, progress=False).images.shape == (
        1,
        2,
        2,
        1,
    )
    with pytest.raises(ValueError, match="3 channel"):
        vary(narrow, np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="leave --range out"):
        vary(narrow, np.zeros((1, 2, 2, 1), np.uint16), reading={"value_range": (0, 4095)})
    narrow.value_range = (0.0, 4095.0)
    with pytest.raises(ValueError, match=r"5000"):  # outside of the range of the model
        vary(narrow, np.full((1, 2, 2, 1), 5000, np.uint16))


def test_strength_is_above_0_and_a_fitted_sampler_is_one_whole(narrow: GaussianDenoiser) -> None:
    with pytest.raises(ValueError, match="strength = 0: give a number above 0 and at most 1"):
        vary(narrow, grey(1), strength=0)
    resolved = resolve_options(narrow, SampleOptions(steps=4))
    object.__setattr__(resolved, "fit", type("Fit", (Tuned,), {"__init__": lambda self: None, "name": "features"})())
    from alphabar.sampling.start import Start

    with pytest.raises(ValueError, match="has coefficients for all its 4 steps, and 2 are"):
        Start(lambda indices, sigma: torch.zeros(1), 2).resolved(resolved)
