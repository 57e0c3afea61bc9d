"""Pixels become the model's range and come back; a user's images are taken or refused with the reason."""

from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.data.images import check_images, to_model, to_pixels
from alphabar.data.values import stored_dtype, to_depth, to_stored, to_values


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
    with pytest.raises(ValueError, match=r"wanted \[0, 1\]"):
        to_model(np.full((1, 2, 2, 1), -0.5, np.float32))
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
        (np.full((2, 8, 8, 1), 40000, dtype=np.int32), r"int32 images from 40000.*astype\(np.uint16\).*--range LOW HIGH"),
        (np.full((2, 8, 8, 1), 70000, dtype=np.uint32), r"uint32 images.*declare what they are"),
        (np.full((2, 8, 8, 1), 1 + 1j), "complex128"),
        (np.full((2, 8, 8, 1), 7, dtype=np.int64), r"astype\(np.uint8\)"),
        (np.full((2, 8, 8, 1), -7, dtype=np.int64), "from -7 to -7"),
        (np.ones((2, 8, 8, 1), dtype=bool), r"np.uint8\) \* 255"),
        (np.full((2, 8, 8, 1), np.nan), "NaN"),
        (np.zeros((0, 8, 8, 1), dtype=np.uint8), "no images"),
        (np.zeros((2, 8, 8, 8), dtype=np.uint8), "which axis holds the channels.*axes='nhwc'"),
        (np.zeros((2, 8, 8, 32), dtype=np.uint8), "axes='nhwc'.*--axes nhwc"),
        (np.zeros((2, 99, 98, 97), dtype=np.uint8), "1 to 64"),
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


# --- depth ---


def test_every_level_of_16_bit_survives_the_round_trip() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256, 1)
    x = to_model(levels)
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_pixels(x, np.uint16), levels)
    np.testing.assert_array_equal(to_pixels(to_model(torch.from_numpy(levels)).double(), np.uint16), levels)
    np.testing.assert_allclose(x.double().numpy().ravel(), levels.ravel() / 32767.5 - 1, atol=6.1e-8)


def test_floats_come_back_to_their_precision_and_are_clamped() -> None:
    pixels = np.random.default_rng(0).random((2, 5, 4, 7), dtype=np.float32)
    back = to_pixels(to_model(pixels), np.float32)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, pixels, atol=6e-8, rtol=0)
    for dtype, top in (("uint8", 255), ("uint16", 65535), ("float32", 1)):
        ends = to_pixels(torch.tensor([-1.3, 1.0004]).reshape(1, 1, 1, 2), dtype)
        assert (ends.dtype, ends.ravel().tolist()) == (np.dtype(dtype), [0, top])  # S6: 1.004 does not wrap round


def test_images_keep_their_type() -> None:
    rng = np.random.default_rng(0)
    for pixels in (rng.integers(0, 65536, (2, 8, 9, 1), dtype=np.uint16), rng.random((2, 8, 9, 5), dtype=np.float32)):
        for images in (pixels, torch.from_numpy(pixels), pixels.astype(pixels.dtype.newbyteorder(">"))):
            found = check_images(images)
            assert found.dtype == pixels.dtype and found.dtype.isnative
            np.testing.assert_array_equal(found, pixels)
    twelve = rng.random((2, 8, 9, 5))
    np.testing.assert_allclose(check_images(twelve), twelve, atol=3e-8)


def test_channels_in_either_place_up_to_64() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 70, 5), dtype=np.uint8)
    np.testing.assert_array_equal(check_images(pixels), pixels)
    np.testing.assert_array_equal(check_images(np.moveaxis(pixels, 3, 1)), pixels)
    small = pixels[:, :4, :4]
    np.testing.assert_array_equal(check_images(small, axes="nhwc"), small)
    np.testing.assert_array_equal(check_images(np.moveaxis(small, 3, 1), axes="nchw"), small)
    with pytest.raises(ValueError, match=r"which axis holds the channels"):
        check_images(small)


@given(
    st.integers(-(10**6), 10**6), st.integers(1, 65535), st.sampled_from([np.int32, np.int64, np.float64]), st.integers(0, 2**32)
)
def test_a_declared_range_is_undone_exactly(low: int, span: int, kind: type, seed: int) -> None:
    """No two whole numbers of a range share a level; floats come back to 6e-8 of the span."""
    values = np.unique(np.append(np.random.default_rng(seed).integers(low, low + span + 1, 50), [low, low + span])).astype(kind)
    declared = (float(low), float(low + span))
    pixels = to_stored(values, declared)
    assert pixels.dtype == stored_dtype(kind, declared)
    back = to_values(pixels, declared)
    assert (pixels[0], pixels[-1]) == (0, {"uint8": 255, "uint16": 65535, "float32": 1}[pixels.dtype.name])
    if np.issubdtype(kind, np.integer):
        assert pixels.dtype == (np.uint8 if 255 % span == 0 else np.uint16)
        np.testing.assert_array_equal(np.rint(back), values)
    else:
        np.testing.assert_allclose(back, values, atol=6e-8 * span)


def test_12_bit_in_16_is_spread_over_the_scale() -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64, 1)
    pixels = check_images(values, value_range=(0, 4095))
    np.testing.assert_array_equal(pixels, np.rint(values * (65535 / 4095)))
    np.testing.assert_array_equal(np.rint(to_values(pixels, (0, 4095))), values)
    assert float(to_model(pixels).max()) == 1.0


@pytest.mark.parametrize("kind", [np.uint16, np.int64, np.float32])
def test_values_outside_the_declared_range_are_counted_never_clipped(kind: type) -> None:
    values = np.arange(100, dtype=kind).reshape(1, 10, 10, 1)
    words = r"from 0 to 99: 12 of 100 values lie outside the declared range 5 to 92, .*--range 0 99"
    with pytest.raises(ValueError, match=words):
        check_images(values, value_range=(5, 92))


def test_depths_are_matched_by_rounding_never_by_truncating() -> None:
    """Generated floats are compared at the depth of the real images."""
    floats = np.array([0.0, 0.4990 / 255, 0.502 / 255, 1.0], np.float32).reshape(1, 2, 2, 1)
    assert to_depth(floats, np.uint8).ravel().tolist() == [0, 0, 1, 255]
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    wide = to_depth(levels, np.uint16)
    assert (wide.dtype, int(wide.max())) == (np.uint16, 65535)
    np.testing.assert_array_equal(to_depth(wide, np.uint8), levels)
    np.testing.assert_array_equal(to_depth(to_depth(wide, np.float32), np.uint8), levels)
    torch.testing.assert_close(to_model(wide), to_model(levels), rtol=0, atol=1.2e-7)
    with pytest.raises(ValueError, match=r"16-bit images that 8 bits cannot hold"):
        to_depth(wide + np.uint16(1), np.uint8)
