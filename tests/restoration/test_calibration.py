"""Calibrated intervals hold what they state, whatever the draws are: in the mean over draws of images, as the theorem says."""

import numpy as np
import pytest
import torch

from alphabar import restore
from alphabar.report.restore_page import write_restore_page
from alphabar.report.words import sig
from alphabar.restoration.calibration import widened, widening
from alphabar.restoration.result import Restoration
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.toy import Gaussian

DENOISE = {"task": "denoise", "sigma": 0.25, "degrade": True, "draws": 16, "calls": 8, "progress": False}


def problem(n: int, seed: int, sure: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Draws (16, n, 4, 4, 1) whose spread is `sure` of the right one, of originals that vary from image to image."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.05, 0.2, (n, 1, 1, 1))
    draws, known = sure * spread * rng.normal(0, 1, (16, n, 4, 4, 1)), spread * rng.normal(0, 1, (n, 4, 4, 1))
    return (0.5 + draws).astype(np.float32), (0.5 + known).astype(np.float32)


def gaussian(std: float) -> Gaussian:
    return Gaussian(torch.zeros(1, 4, 4, dtype=torch.float64), torch.full((1, 4, 4), std, dtype=torch.float64))


def originals(n: int, seed: int) -> np.ndarray:
    """Images of twice the standard deviation that the model believes in."""
    drawn = Gaussian(torch.zeros(1, 4, 4, dtype=torch.float64), torch.full((1, 4, 4), 0.4, dtype=torch.float64)).sample(
        n, seed=seed
    )
    return np.rint((drawn.movedim(1, 3).numpy().clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def believer() -> GaussianDenoiser:
    return GaussianDenoiser(gaussian(0.2))


@pytest.mark.parametrize("sure", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("n", [20, 100])
def test_one_more_image_holds_the_stated_share(n, sure):
    """Between 0.9 and 0.9 + 2 / (n + 1), the bounds of the theorem, for draws that are too sure, right, and too unsure."""
    held = []
    for seed in range(150):
        draws, known = problem(n + 10, seed, sure)
        low, high = widened(draws[:, n:], widening(draws[:, :n], known[:n]))
        held.append(((low <= known[n:]) & (known[n:] <= high)).mean())
    error = 3 * np.std(held) / np.sqrt(len(held))
    assert 0.9 - error < np.mean(held) < 0.9 + 2 / (n + 1) + error


def test_only_the_pixels_asked_for_count():
    draws, known = problem(40, 0)
    where = np.zeros(known.shape, bool)
    where[:30, :2] = True
    spoilt = known.copy()
    spoilt[~where] = 1e3
    assert widening(draws, spoilt, where) == pytest.approx(widening(draws[:, :30, :2], known[:30, :2]))
    with pytest.raises(ValueError, match="19 images with known originals: intervals are calibrated on at least 20"):
        widening(draws, known, where & (np.arange(40) < 19)[:, None, None, None])


def test_a_model_that_is_too_sure_is_widened(tmp_path):
    restore(believer(), originals(200, 1), out=tmp_path / "known", seed=1, **DENOISE)
    raw = restore(believer(), originals(60, 2), **DENOISE)
    found = restore(believer(), originals(60, 2), calibrate=tmp_path / "known.npz", out=tmp_path / "new", **DENOISE)
    assert np.array_equal(raw.draws, found.draws)
    assert raw.scores["inside"].value < 0.8 and found.scores["inside"].value == pytest.approx(0.9, abs=0.02)
    assert found.record["calibrated_on"] == 200 and found.factor > 1
    assert f"made {sig(found.factor)} times as wide" in write_restore_page(found, tmp_path / "page.html").read_text()
    again = Restoration.load(tmp_path / "new.npz")
    assert again.factor == found.factor and again.each["inside"] == pytest.approx(found.each["inside"])


def test_a_calibration_of_something_else_is_refused(tmp_path):
    known, made, images = tmp_path / "known.npz", believer(), originals(60, 1)
    restore(made, images, out=known, **DENOISE)
    with pytest.raises(
        ValueError, match=r"was restored with .*method 'gibbs' \(here 'ddrm'\).*make it with --degrade and these settings"
    ):
        restore(made, originals(2, 2), calibrate=known, method="ddrm", **DENOISE)
    with pytest.raises(ValueError, match="holds images that are to be restored here"):
        restore(made, images[3:5], calibrate=known, **DENOISE)
    with pytest.raises(ValueError, match="4 draws have no interval to calibrate: give --draws 15 or more"):
        restore(made, originals(2, 2), calibrate=known, **{**DENOISE, "draws": 4})
    with pytest.raises(FileNotFoundError):
        restore(made, originals(2, 2), calibrate=tmp_path / "nowhere.npz", **DENOISE)
    restore(made, images, out=tmp_path / "measured", **{**DENOISE, "degrade": False})
    with pytest.raises(ValueError, match="was restored without originals"):
        restore(made, originals(2, 2), calibrate=tmp_path / "measured.npz", **DENOISE)


@pytest.mark.parametrize("name", ["originals", "unmeasured", "draws"])
def test_arrays_that_do_not_fit_are_refused(tmp_path, name):
    file = restore(believer(), originals(3, 1), **DENOISE).save(tmp_path / "made")
    with np.load(file) as stored:
        arrays = {**stored, "unmeasured": np.ones((3, 4, 4, 1), bool)}
    Restoration.load(file)
    np.savez(file, **{**arrays, name: arrays[name][..., 0]})
    with pytest.raises(ValueError, match=r"made\.npz(: | holds samples, and no draws)"):
        Restoration.load(file)
