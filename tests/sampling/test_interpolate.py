"""The way between two images: its ends, its noise, and what is refused."""

import numpy as np
import pytest
import torch

from alphabar.core.seeds import starting_noise
from alphabar.sampling.interpolate import interpolate, slerp
from alphabar.sampling.sample import sample
from tests.fixtures.exact import GaussianDenoiser


def test_slerp_keeps_the_length_and_turns_evenly() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    assert torch.allclose(slerp(a, b, 1 / 3), 3 * torch.tensor([np.cos(np.pi / 6), np.sin(np.pi / 6)], dtype=torch.float32))
    noise = starting_noise(0, [0, 1], (3, 32, 32))
    half = slerp(noise[0], noise[1], 0.5)
    assert float(half.std()) == pytest.approx(1, abs=0.03)  # that of the straight line is 0.71
    assert torch.equal(slerp(a, a, 0.3), a) and torch.equal(slerp(a, 2 * a, 0.5), 1.5 * a)


def test_the_ends_are_the_images_of_the_seeds(gaussian: GaussianDenoiser) -> None:
    options = {"steps": 5, "sampler": "unipc", "progress": False}
    made = interpolate(gaussian, 3, "7:2", 5, **options)
    assert np.array_equal(made.images[0], sample(gaussian, 1, seed=3, **options).images[0])
    assert np.array_equal(made.images[-1], sample(gaussian, 1, seed=7, indices=[2], **options).images[0])
    assert made.record["start"] == {"from": "interpolation", "a": "3:0", "b": "7:2"} and made.record["nfe"] == 5


def test_the_ends_are_the_given_images_in_their_depth(gaussian: GaussianDenoiser) -> None:
    pixels = (np.random.default_rng(0).random((2, 2, 2, 1)) * 65535).astype(np.uint16)
    made = interpolate(gaussian, pixels[:1], pixels[1:], 3, steps=20, iterations=50, progress=False)
    assert made.images.dtype == np.uint16 and made.record["grid_name"] == "karras"
    assert np.abs(made.images[[0, 2]].astype(int) - pixels).max() < 50
    mixed = interpolate(gaussian, pixels[:1], 0, 2, steps=20, iterations=50, progress=False)
    assert np.array_equal(mixed.images[0], made.images[0])


def test_what_would_not_be_a_way_is_refused(gaussian: GaussianDenoiser) -> None:
    one = np.zeros((1, 2, 2, 1), np.uint8)
    for options in ({"eta": 1.0}, {"sampler": "ddpm"}, {"sampler": "heun", "options": {"s_churn": 4.0}}):
        with pytest.raises(ValueError, match="adds noise at its steps"):
            interpolate(gaussian, 0, 1, steps=4, **options)
    with pytest.raises(ValueError, match="sampler 'unipc': the noise of images is found for ddim"):
        interpolate(gaussian, one, 1, sampler="unipc", steps=4)
    with pytest.raises(ValueError, match="clip = True: the noise of images is found without it"):
        interpolate(gaussian, one, 1, clip=True, steps=4)
    with pytest.raises(ValueError, match="holds 2 images: name one"):
        interpolate(gaussian, np.zeros((2, 2, 2, 1), np.uint8), 1, steps=4)
    with pytest.raises(ValueError, match="n = 1: give a whole number from 2"):
        interpolate(gaussian, 0, 1, 1)
    gaussian.classes, gaussian.class_names = 2, ("a", "b")
    with pytest.raises(ValueError, match="classes: give one"):
        interpolate(gaussian, 0, 1, classes=["a", "b"], steps=4)
