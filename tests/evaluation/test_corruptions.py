"""Corruptions against closed forms, scipy and Pillow."""

import io
from itertools import pairwise

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from alphabar.evaluation.corruptions import CORRUPTIONS, clusters, copies, without_classes

TYPES = {"uint8": 255, "uint16": 65535, "float32": 1}


def pictures(dtype: str, n: int = 6, shape: tuple[int, int, int] = (14, 11, 3)) -> NDArray[np.generic]:
    """Smooth images, 0.2..0.8 of the scale."""
    rng = np.random.default_rng(0)
    x = scipy.ndimage.gaussian_filter(rng.random((n, *shape)), (0, 1, 1, 0))
    x = 0.2 + 0.6 * (x - x.min()) / (x.max() - x.min())
    return (x * TYPES[dtype]).round().astype(dtype) if dtype != "float32" else x.astype(dtype)


def levels(pixels: NDArray[np.generic]) -> NDArray[np.float64]:
    return pixels.astype(np.float64) / TYPES[pixels.dtype.name]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "jpeg"])
def test_type_shape_and_repetition(name: str, dtype: str) -> None:
    images, corruption = pictures(dtype), CORRUPTIONS[name]
    kept = images.copy()
    assert corruption(images, 0).tobytes() == images.tobytes()
    corrupted = [corruption(images, s, seed=3) for s in corruption.severities]
    assert [(h.dtype, h.shape) for h in corrupted] == [(images.dtype, images.shape)] * 5
    assert images.tobytes() == kept.tobytes()
    assert 0 <= levels(corrupted[-1]).min() <= levels(corrupted[-1]).max() <= 1
    assert corruption(images, corruption.severities[2], seed=3).tobytes() == corrupted[2].tobytes()
    # the corruption of an image does not depend on its batch
    some = corruption(images[2:4], corruption.severities[3], seed=3, numbers=[2, 3])
    assert some.tobytes() == corrupted[3][2:4].tobytes()
    error = [np.abs(levels(h) - levels(images)).mean() for h in corrupted]
    assert error[0] > 0 or name == "inverted"  # of six images 5 % may be none
    assert error == sorted(error) or name == "shift"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sigma", [0.7, 2.2])
def test_blur_is_scipys(dtype: str, sigma: float) -> None:
    images = pictures(dtype)
    want = scipy.ndimage.gaussian_filter(levels(images), (0, sigma, sigma, 0), mode="nearest", truncate=4.0)
    got = levels(CORRUPTIONS["blur"](images, sigma))
    assert np.abs(got - want).max() <= 0.5 / TYPES[dtype] + 1e-6 if dtype != "float32" else np.abs(got - want).max() < 1e-6


@pytest.mark.parametrize("dtype", TYPES)
def test_noise_has_its_variance_and_grows(dtype: str) -> None:
    images = np.full((40, 25, 25, 1), TYPES[dtype] / 2).astype(dtype)
    quiet, loud = (levels(CORRUPTIONS["noise"](images, sd, seed=1)) - levels(images) for sd in (8, 16))
    n = quiet.size
    rounding = (1 / TYPES[dtype]) ** 2 / 12 if dtype != "float32" else 0.0
    for error, sd in ((quiet, 8), (loud, 16)):
        variance = (sd / 255) ** 2 + rounding
        assert abs(error.mean()) < 4 * np.sqrt(variance / n)
        assert abs(error.var() / variance - 1) < 4 * np.sqrt(2 / n)
    assert np.corrcoef(quiet.ravel(), loud.ravel())[0, 1] > 0.999  # the same noise
    other = levels(CORRUPTIONS["noise"](images, 8, seed=2)) - levels(images)
    assert abs(np.corrcoef(quiet.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(n)


def test_contrast_and_range_scale_the_levels() -> None:
    images = pictures("float32")
    x = levels(images)
    mean = x.mean((1, 2, 3), keepdims=True)
    got = levels(CORRUPTIONS["contrast"](images, 0.35))
    np.testing.assert_allclose(got - mean, 0.65 * (x - mean), atol=1e-6)
    np.testing.assert_allclose(levels(CORRUPTIONS["range"](images, 0.5)), 0.25 + x / 2, atol=1e-6)
    black_and_white = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
    # -0.5..0.5 written as if it were -1..1: a quarter and three quarters of 255
    assert CORRUPTIONS["range"](black_and_white, 0.5).ravel().tolist() == [64, 191]
    assert CORRUPTIONS["inverted"](black_and_white, 1).ravel().tolist() == [255, 0]


def test_the_share_that_is_inverted_is_nested() -> None:
    images = np.zeros((2000, 2, 2, 1), np.uint8)
    some, more = (CORRUPTIONS["inverted"](images, share)[:, 0, 0, 0] == 255 for share in (0.15, 0.3))
    assert abs(some.mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 2000)
    assert not (some & ~more).any()


def test_shift_repeats_the_edge() -> None:
    images = pictures("uint16")
    want = np.pad(images, ((0, 0), (3, 0), (3, 0), (0, 0)), mode="edge")[:, :14, :11]
    assert CORRUPTIONS["shift"](images, 3).tobytes() == want.tobytes()
    with pytest.raises(ValueError, match="whole pixels"):
        CORRUPTIONS["shift"](images, 1.5)


def test_cutout_hides_one_square() -> None:
    images = np.zeros((3000, 20, 30, 1), np.uint8)
    hit = CORRUPTIONS["cutout"](images, 0.35)[..., 0] == 128
    assert (hit.sum((1, 2)) == 49).all()
    assert {(int(np.ptp(np.flatnonzero(h.any(1)))), int(np.ptp(np.flatnonzero(h.any(0))))) for h in hit} == {(6, 6)}
    assert hit.any(0).all()  # it may be anywhere


def test_jpeg_is_pillows() -> None:
    for shape in ((16, 16, 1), (16, 16, 3)):
        images = pictures("uint8", 2, shape)
        got = CORRUPTIONS["jpeg"](images, 80)
        for before, after in zip(images, got, strict=True):
            file = io.BytesIO()
            Image.fromarray(before.squeeze()).save(file, "JPEG", quality=20)
            assert (np.asarray(Image.open(file)).reshape(shape) == after).all()


def test_images_that_a_corruption_does_not_apply_to_are_refused() -> None:
    with pytest.raises(ValueError, match="8-bit images of 1 or 3 channels"):
        CORRUPTIONS["jpeg"](pictures("uint16"), 70)
    with pytest.raises(ValueError, match="8-bit images of 1 or 3 channels"):
        CORRUPTIONS["jpeg"](np.zeros((1, 8, 8, 2), np.uint8), 70)
    with pytest.raises(ValueError, match="give one >= 0"):
        CORRUPTIONS["blur"](pictures("uint8"), -1)
    with pytest.raises(ValueError, match="wanted uint8, uint16, float32"):
        CORRUPTIONS["blur"](np.zeros((1, 8, 8, 1)), 1)
    with pytest.raises(ValueError, match="one per image"):
        CORRUPTIONS["noise"](pictures("uint8"), 8, numbers=[1])


def test_copies_are_of_few_images() -> None:
    chosen = copies(1000, 200, 20, seed=0)
    values, counts = np.unique(chosen, return_counts=True)
    assert len(chosen) == 200
    assert counts.tolist() == [20] * 10
    assert set(values) < set(copies(1000, 200, 2, seed=0))  # nested
    assert set(values) != set(copies(1000, 200, 20, seed=0, draw=1))
    assert len(np.unique(copies(200, 200, 1, seed=0))) == 200
    with pytest.raises(ValueError, match="200 distinct images of 100"):
        copies(100, 200, 1, seed=0)


def test_missing_classes_are_nested_and_gone() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 500)
    left = [set(labels[without_classes(labels, k, seed=1)]) for k in range(10)]
    assert [len(classes) for classes in left] == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert all(few < many for many, few in pairwise(left))
    assert sorted(without_classes(labels, 0, seed=1)) == list(range(500))


def test_clusters_find_groups_that_are_there() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 120)
    images = (np.array([20, 120, 220])[truth][:, None, None, None] + rng.integers(-15, 16, (120, 9, 9, 1))).astype(np.uint8)
    found = clusters(images, 3, seed=0)
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 3
    with pytest.raises(ValueError, match="cannot make 200 clusters"):
        clusters(images, 200)
