"""Pixels become the model's range and come back; a user's images are taken or refused with the reason."""

from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.data.images import check_images, to_model, to_pixels


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_model(levels)
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_pixels(x), levels)
    np.testing.assert_array_equal(to_pixels(x.double()), levels)


def test_axes_move_and_colours_stay_together() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    x = to_model(pixels)
    assert x.shape == (3, 3, 4, 5)
    assert x.is_contiguous()
    assert float(x[1, 2, 3, 4]) == pytest.approx(pixels[1, 3, 4, 2] / 127.5 - 1, abs=1e-6)
    np.testing.assert_array_equal(to_pixels(x), pixels)
    torch.testing.assert_close(to_model(torch.from_numpy(pixels)), x, rtol=0, atol=0)


def test_a_read_only_array_needs_no_warning() -> None:
    pixels = np.zeros((2, 4, 4, 1), dtype=np.uint8)
    pixels.flags.writeable = False
    x = to_model(pixels)
    x += 1  # and the array is not written through it
    assert pixels.max() == 0


@given(st.floats(-3, 3, width=32))
def test_to_pixels_rounds_and_clamps(value: float) -> None:
    got = int(to_pixels(torch.full((1, 1, 1, 1), value))[0, 0, 0, 0])
    exact = (min(max(value, -1.0), 1.0) + 1) * 127.5
    assert abs(got - exact) <= 0.5 + 1e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_to_pixels_refuses_what_is_no_number(bad: float) -> None:
    x = torch.zeros(5, 1, 2, 2)
    x[3, 0, 1, 1] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 5 images"):
        to_pixels(x)


def test_to_model_refuses_floats_and_flat_shapes() -> None:
    with pytest.raises(ValueError, match=r"float64.*check_images"):
        unwrap(to_model)(np.zeros((1, 2, 2, 1)))  # past the type checks of the tests, as a user is
    with pytest.raises(ValueError, match=r"\(n, h, w, c\)"):
        to_model(torch.zeros(2, 2, dtype=torch.uint8))


# The last row pins the fault of S6 in torchmetrics, where 1.004 wraps round to 0.
@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-1.0, 1.0, r"from -1 to 1:.*\(images \+ 1\) / 2"),
        (0.0, 255.0, r"from 0 to 255:.*astype\(np.uint8\)"),
        (-0.5, 0.5, r"from -0.5 to 0.5"),
        (-40.0, 900.0, r"from -40 to 900.*scale them"),
        (0.0, 1.004, r"from 0 to 1.004.*clip\(0, 1\)"),
    ],
)
def test_float_ranges_are_refused_by_name(low: float, high: float, words: str) -> None:
    images = np.linspace(low, high, 4 * 8 * 8).reshape(4, 8, 8, 1)
    with pytest.raises(ValueError, match=words):
        check_images(images)
    with pytest.raises(ValueError, match=words):
        check_images(torch.from_numpy(images).float())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unit_floats_are_rounded_not_cut(dtype: type) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(check_images((levels / 255).astype(dtype)), levels)


def test_half_precision_tensors_are_taken() -> None:
    assert check_images(torch.ones(2, 8, 8, 3, dtype=torch.bfloat16)).min() == 255


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((2, 8, 8, 1), 40000, dtype=np.uint16), "uint16.*8 bit cannot hold.*65535"),
        (np.full((2, 8, 8, 1), 4000, dtype=np.uint16), "4095"),
        (np.full((2, 8, 8, 1), 7, dtype=np.int64), r"astype\(np.uint8\)"),
        (np.full((2, 8, 8, 1), -7, dtype=np.int64), "from -7 to -7"),
        (np.ones((2, 8, 8, 1), dtype=bool), r"np.uint8\) \* 255"),
        (np.full((2, 8, 8, 1), np.nan), "NaN"),
        (np.zeros((0, 8, 8, 1), dtype=np.uint8), "no images"),
        (np.zeros((2, 8, 8, 4), dtype=np.uint8), "alpha"),
        (np.zeros((2, 8, 8, 7), dtype=np.uint8), "1 or 3 channels"),
        (np.zeros((8, 8), dtype=np.uint8), "wanted"),
        (np.zeros((28, 28, 3), dtype=np.uint8), r"images\[None\]"),
        (torch.zeros((3, 28, 28), dtype=torch.uint8), r"images\[None\]"),
        (torch.zeros((2, 3, 28, 3), dtype=torch.uint8), "permute"),
        ([[1, 2]], "list"),
    ],
)
def test_what_cannot_be_taken_is_refused(images: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_images(images)


def test_channels_first_is_recognised() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 3), dtype=np.uint8)
    for other in (torch.from_numpy(pixels).permute(0, 3, 1, 2), np.moveaxis(pixels, 3, 1), torch.from_numpy(pixels)):
        np.testing.assert_array_equal(check_images(other), pixels)
    np.testing.assert_array_equal(check_images(pixels[..., 0]), pixels[..., :1])
