"""`restore` of small models: what is refused, what the record says, and that batch, depth and channels change nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar import restore
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.report.restore_page import draw_sheet, panels, write_restore_page
from alphabar.restoration.operators import BoxAverage, Pair
from alphabar.restoration.tasks import estimated_noise, make_mask, rounding_noise
from alphabar.sampling.samples import Samples
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.toy import Gaussian

QUICK = {"calls": 4, "draws": 3, "progress": False}


def model(c=1, **more):
    recipe = ModelRecipe(channels=(8,), groups=4, embedding=8, conditional=bool(more.get("classes")))
    return build(recipe, {"kind": "cosine"}, (c, 8, 8), 0, **more)


def images(n=3, c=1, h=8, w=8, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (n, h, w, c), dtype, endpoint=True)


@pytest.mark.parametrize("task", ["inpaint", "super-resolution", "deblur", "denoise"])
@pytest.mark.parametrize("method", ["mmps", "ddrm", "diffpir", "dps", "daps", "gibbs"])
def test_every_task_and_method_gives_draws_of_the_originals_shape(task, method):
    found = restore(model(), images(), task=task, method=method, degrade=True, sigma=0.1, **QUICK)
    assert found.draws.shape == (3, 3, 8, 8, 1) and found.draws.dtype == np.uint8
    assert found.record["nfe"] <= 4 and found.record["method"] == method
    assert set(found.scores) == {"psnr", "ssim", "psnr_draw", "ssim_draw", "inside"}


@pytest.mark.parametrize("batch", [1, 4])
def test_the_batch_and_the_number_of_images_change_nothing(batch):
    options = {"task": "inpaint", "mask": "random", "degrade": True, "sigma": 0.05, **QUICK}
    whole = restore(model(), images(), **options)
    parts = restore(model(), images()[:2], batch=batch, **options)
    assert np.abs(whole.draws[:, :2].astype(int) - parts.draws).max() <= 1
    assert np.array_equal(whole.unmeasured[:2], parts.unmeasured)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_known_pixels_come_back_in_the_depth_of_the_images(dtype):
    made, original = model(pixels=np.dtype(dtype).name), images(dtype=dtype)
    found = restore(made, original, task="inpaint", mask="half", degrade=True, method="ddrm", **QUICK)
    assert found.draws.dtype == dtype
    assert (found.draws[..., :4, :] == original[:, :, :4]).all()
    assert found.unmeasured[..., 4:, :].all() and not found.unmeasured[..., :4, :].any()


@pytest.mark.parametrize("c", [2, 3, 7])
def test_channels_and_color(c, tmp_path):
    grey = images(2, 1)
    found = restore(model(c), grey, task="color", **QUICK)
    assert found.draws.shape == (3, 2, 8, 8, c) and found.originals is None and not found.scores
    assert found.measurement.shape == (2, 8, 8, 1)
    draw_sheet(found, tmp_path / "sheet.png")
    assert "uncertainty" in write_restore_page(found, tmp_path / "page.html").read_text()


def test_measurements_of_another_size_are_enlarged():
    found = restore(model(), images(h=4, w=4), task="super-resolution", factor=2, method="gibbs", **QUICK)
    assert found.mean.shape == (3, 8, 8, 1)
    assert panels(found)["measurement"].shape == (3, 8, 8, 1)


def test_a_border_of_training_is_not_in_the_images():
    recipe = ModelRecipe(channels=(8,), groups=4, embedding=8)
    found = restore(build(recipe, {"kind": "cosine"}, (1, 12, 12), 0, crop=2), images(), degrade=True, **QUICK)
    assert found.mean.shape == (3, 8, 8, 1)


def test_your_own_operator():
    halves = BoxAverage(2)
    own = Pair(halves.forward, halves.adjoint, (1, 8, 8))
    found = restore(model(), images(h=4, w=4), task=own, **QUICK)
    assert found.mean.shape == (3, 8, 8, 1) and found.record["task"] == "own operator"
    with pytest.raises(ValueError, match="ddrm needs the singular values"):
        restore(model(), images(h=4, w=4), task=own, method="ddrm", **QUICK)


def test_exact_denoising_is_calibrated():
    """Pixels of a Gaussian, and noise: PSNR of the mean is that of the closed form, and nine of ten lie within."""
    std = torch.full((1, 8, 8), 0.25, dtype=torch.float64)
    data = Gaussian(torch.zeros_like(std), std)
    originals = np.rint((data.sample(30, seed=1).movedim(1, 3).numpy().clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    found = restore(
        GaussianDenoiser(data), originals, task="denoise", sigma=0.25, degrade=True, draws=20, calls=24, progress=False
    )
    assert found.scores["inside"].value == pytest.approx(0.9, abs=0.02)
    variance = 0.25**2 / 2 * (1 + 1 / 20)  # of the posterior, and of a mean of 20 draws
    assert found.scores["psnr"].value == pytest.approx(10 * np.log10(4 / variance), abs=0.3)
    assert found.interval is not None


def test_the_noise_is_estimated_where_it_is_not_given():
    flat = np.full((4, 32, 32, 1), 128.0) + np.random.default_rng(0).normal(0, 25.5, (4, 32, 32, 1))
    assert estimated_noise(torch.from_numpy(flat / 127.5 - 1).movedim(3, 1).float()) == pytest.approx(0.2, rel=0.1)
    found = restore(model(), images(), task="denoise", **QUICK)
    assert restore(model(), np.zeros_like(images()), task="denoise", **QUICK).record["sigma_y"] == rounding_noise("uint8")
    assert found.record["sigma_y"] > 0.1
    assert restore(model(), images(), task="inpaint", **QUICK).record["sigma_y"] == rounding_noise("uint8")


def test_what_is_saved_is_read_as_samples(tmp_path):
    found = restore(model(), images(), degrade=True, out=tmp_path / "made", calls=4, draws=15, progress=False)
    samples = Samples.load(tmp_path / "made.npz")
    assert np.array_equal(samples.images, found.draws[0]) and samples.record["nfe"] == found.record["nfe"]
    with np.load(tmp_path / "made.npz") as file:
        assert {"draws", "mean", "std", "low", "high", "measurement", "originals"} <= set(file)
    (tmp_path / "mine.npz").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="no samples that alphabar wrote"):
        restore(model(), images(), out=tmp_path / "mine", **QUICK)


def test_models_that_cannot_restore_are_refused():
    with pytest.raises(ValueError, match="this model was distilled"):
        restore(model(consistency=True), images(), **QUICK)
    animals = model(classes=("cat", "dog"))
    assert restore(animals, images(), **QUICK).record["classes"] is None
    animals.null_class = False
    with pytest.raises(ValueError, match=r"needs a class for every image: give classes"):
        restore(animals, images(), **QUICK)
    found = restore(model(classes=("cat", "dog")), images(), classes="dog", guidance=2.0, **QUICK)
    assert found.record["nfe"] == 8  # guidance pays twice
    with pytest.raises(ValueError, match="grey: the task color"):
        restore(model(), images(), task="color", **QUICK)


def test_images_and_masks_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images of 9x8 pixels, and inpaint needs 8x8: give --size 8 "):
        restore(model(), images(h=9), **QUICK)
    with pytest.raises(ValueError, match=r"images of 1 channel\(s\), and the model makes 3"):
        restore(model(3), images(), degrade=True, **QUICK)
    with pytest.raises(ValueError, match="3 images, 4 were asked for"):
        restore(model(), images(), n=4, **QUICK)
    with pytest.raises(ValueError, match="trained on uint8"):
        restore(model(), images(dtype=np.uint16), **QUICK)
    with pytest.raises(ValueError, match=r"factor 3 for images of 8 x 8: give one of 2, 4, 8"):
        restore(model(), images(), task="super-resolution", factor=3, degrade=True, **QUICK)
    with pytest.raises(ValueError, match="name the noise that is added"):
        restore(model(), images(), task="denoise", degrade=True, **QUICK)
    with pytest.raises(FileNotFoundError, match=r"there is no mask nowhere\.png"):
        restore(model(), images(), mask="nowhere.png", **QUICK)
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"has 4 x 8 pixels, and the images of the model have 8 x 8"):
        restore(model(), images(), mask=str(tmp_path / "small.png"), **QUICK)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="black everywhere, so nothing would be restored"):
        restore(model(), images(), mask=str(tmp_path / "black.png"), **QUICK)
    with pytest.raises(ValueError, match="task 'sharpen': give one of"):
        restore(model(), images(), task="sharpen", **QUICK)


def test_a_mask_is_read_from_a_picture(tmp_path: Path):
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[2:4, 5] = 255
    Image.fromarray(picture).save(tmp_path / "mask.png")
    keep = make_mask(tmp_path / "mask.png", (3, 8, 8)).keep
    assert np.array_equal(keep[0, 0].numpy() == 0, picture[..., 0] == 255)


def test_a_stopped_restoration_continues_with_the_batches_that_are_left(tmp_path):
    """Stopped at the first step of the third of five batches; the rest gives the bytes of an undisturbed run."""
    options = {"task": "inpaint", "mask": "random", "degrade": True, "batch": 2, **QUICK}
    whole = restore(model(), images(), out=tmp_path / "whole.npz", **options)

    def stop(done, of):
        if done > 2 * of // 5:
            raise KeyboardInterrupt

    out, part = tmp_path / "made.npz", tmp_path / "made.part"
    with pytest.raises(KeyboardInterrupt):
        restore(model(), images(), out=out, on_step=stop, **options)
    assert not out.exists() and len([*part.glob("0*.npz")]) == 2
    with pytest.raises(ValueError, match=r"made\.part holds unfinished draws that differ in measured"):
        restore(model(), 255 - images(), out=out, **options)

    steps = []
    found = restore(model(), images(), out=out, on_step=lambda *step: steps.append(step), **options)
    assert np.array_equal(found.draws, whole.draws) and found.record["nfe"] == whole.record["nfe"]
    assert len(steps) == steps[-1][1] == 3 * whole.record["steps"]
    assert not part.exists() and np.array_equal(Samples.load(out).images, whole.draws[0])


def test_unfinished_draws_of_another_operator_are_kept(tmp_path):
    """Operators from outside have no name; what they make of noise tells them apart."""

    def scaled(a):
        return Pair(lambda x: a * x, lambda y: a * y, (1, 8, 8))

    def stop(done, of):
        if done > of // 2:
            raise KeyboardInterrupt

    options = {"degrade": True, "batch": 2, **QUICK, "draws": 2}
    with pytest.raises(KeyboardInterrupt):
        restore(model(), images(2), task=scaled(1.0), out=tmp_path / "made", on_step=stop, **options)
    with pytest.raises(ValueError, match="differ in measured"):
        restore(model(), images(2), task=scaled(0.5), out=tmp_path / "made", **options)
