"""PSNR, SSIM and calibration against torchmetrics, hand calculation, and draws that are calibrated by construction."""

import numpy as np
import pytest
import torch

from alphabar.restoration.scores import inside, interval, psnr, ssim


def test_psnr_by_hand():
    images = np.zeros((2, 4, 4, 1), np.uint8)
    off = images.copy()
    off[1] = 51  # a fifth of the scale: 20 log10(5)
    assert psnr(off, images) == pytest.approx([120.0, 20 * np.log10(5)])
    assert psnr(off.astype(np.uint16) * 257, images.astype(np.uint16))[1] == pytest.approx(20 * np.log10(5))


@pytest.mark.slow(5)
@pytest.mark.parametrize("shape", [(3, 24, 20, 3), (2, 16, 16, 1)])
def test_ssim_is_that_of_torchmetrics(shape):
    from torchmetrics.functional.image import structural_similarity_index_measure

    rng = np.random.default_rng(0)
    a = rng.random(shape).astype(np.float32)
    b = np.clip(a + 0.2 * rng.standard_normal(shape), 0, 1).astype(np.float32)
    x, y = (torch.from_numpy(v).movedim(3, 1).double() for v in (a, b))
    _, full = structural_similarity_index_measure(x, y, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True)
    assert ssim(a, b) == pytest.approx(full[..., 5:-5, 5:-5].mean((1, 2, 3)).numpy())  # torchmetrics reflects the border
    assert ssim(a, a) == pytest.approx(np.ones(len(a)))


@pytest.mark.parametrize("k", [1, 4, 16, 40])
@pytest.mark.parametrize("levels", [2, 100_000])
def test_draws_of_the_same_distribution_hold_the_stated_share(k, levels):
    """Also where pixels have few levels, so that draws are equal to the original."""
    rng = np.random.default_rng(k)
    draws = rng.integers(0, levels, (k + 1, 2, 60, 60, 1))
    assert inside(draws[1:], draws[0]).mean() == pytest.approx(0.9, abs=0.015)


def test_draws_that_are_too_sure_hold_less():
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 1, (17, 1, 60, 60, 1))
    assert inside(draws[1:] * 0.5, draws[0]).mean() < 0.7
    assert inside(draws[1:] * 2.0, draws[0]).mean() > 0.96


def test_only_the_pixels_asked_for_count():
    draws = np.zeros((8, 2, 1, 2, 1))
    original = np.array([[[[0.0], [9.0]]], [[[9.0], [9.0]]]])
    where = np.array([[[[True], [False]]], [[[False], [False]]]])
    found = inside(draws, original, where)
    assert found[0] == pytest.approx(0.9) and np.isnan(found[1])


@pytest.mark.parametrize("k", [15, 16, 19, 60])
def test_the_interval_holds_one_more_draw(k):
    rng = np.random.default_rng(k)
    draws = rng.normal(0, 1, (k + 1, 20_000))
    low, high = interval(draws[1:])
    assert ((low <= draws[0]) & (draws[0] <= high)).mean() == pytest.approx(0.9, abs=0.015)
