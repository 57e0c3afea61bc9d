"""Extractors trained without labels (SimCLR)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from alphabar.data.image_set import ImageSet
from alphabar.evaluation.corruptions import CORRUPTIONS
from alphabar.evaluation.fid import frechet
from alphabar.features.classifier import Classifier
from alphabar.features.extractor import Extractor, read_extractor
from alphabar.features.simclr import BLUR, METHOD, degraded, nt_xent, strengths, train_self_supervised, views
from alphabar.features.stats import FeatureStats
from alphabar.features.train import Epoch, train_extractor
from tests.fixtures.sets import image_set, stripes

SMALL = {"batch": 64, "widths": (8, 12), "dim": 16, "projection": 16, "progress": False}


def noisy(n: int, seed: int) -> ImageSet:
    """Stripes under so much noise that a network with random weights can hardly tell their direction."""
    clean = stripes(n, seed)
    noise = np.random.default_rng(seed + 99).normal(0, 60, clean.pixels.shape)
    return image_set((clean.pixels + noise).clip(0, 255).astype(np.uint8), clean.labels)


def unlabelled(n: int, seed: int) -> ImageSet:
    return replace(noisy(n, seed), labels=None, classes=None)


@pytest.fixture(scope="module")
def trained() -> Extractor:
    return train_self_supervised(unlabelled(1200, 0), epochs=6, **SMALL)  # type: ignore[arg-type]


def nearest_neighbour_accuracy(extractor: Extractor) -> float:
    """Share of images with the label of their nearest neighbour (cosine of features) in another set."""
    known, new = noisy(300, 1), noisy(300, 2)
    assert known.labels is not None and new.labels is not None
    a, b = (nn.functional.normalize(extractor.features(images.pixels), dim=1) for images in (known, new))
    return float((known.labels[(b @ a.T).argmax(1).numpy()] == new.labels).mean())


def test_features_separate_the_classes_without_labels(trained: Extractor) -> None:
    record = trained.training_record
    assert record["method"] == METHOD
    assert record["loss"] < record["chance_loss"] - 0.5
    assert record["images"] + record["held_out_images"] == 1200
    assert nearest_neighbour_accuracy(trained) > 0.9  # chance is 0.5
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(3, (8, 12), 16, 0)
    network.eval()
    network.fold()
    untrained = Extractor("untrained", trained.architecture, network.state_dict(), image_shape=(3, 9, 12))
    assert nearest_neighbour_accuracy(trained) > nearest_neighbour_accuracy(untrained) + 0.1


def test_saved_and_loaded(trained: Extractor, tmp_path: Path) -> None:
    again = read_extractor(trained.save(tmp_path / "x.safetensors"))
    assert again.fingerprint == trained.fingerprint
    assert again.classes is None
    assert again.training_record == trained.training_record
    pixels = stripes(20, 3).pixels
    assert again.features(pixels).shape == (20, 16)
    assert bool((again.features(pixels) == trained.features(pixels)).all())
    assert not [key for key in again.network.state_dict() if "norm" in key or "head" in key]
    with pytest.raises(ValueError, match="trained without labels"):
        again.logits(pixels)


def test_training_is_repeatable_and_keeps_the_global_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    epochs: list[Epoch] = []

    def train(seed: int) -> str:
        made = train_self_supervised(unlabelled(150, 0), epochs=2, seed=seed, on_epoch=epochs.append, **SMALL)  # type: ignore[arg-type]
        return made.fingerprint

    assert train(0) == train(0) != train(1)
    assert bool((torch.get_rng_state() == before).all())
    assert [e.epoch for e in epochs] == [1, 2] * 3
    assert epochs[0] == replace(epochs[2], seconds=epochs[0].seconds, seconds_left=epochs[0].seconds_left)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_pixel_types_and_channels(dtype: str) -> None:
    toy = unlabelled(120, 0)
    wide = np.concatenate([toy.pixels, toy.pixels[..., :1]], 3)  # four channels
    pixels = wide.astype(np.uint16) * np.uint16(257) if dtype == "uint16" else wide.astype(np.float32) / np.float32(255)
    made = train_self_supervised(replace(toy, pixels=pixels), epochs=1, **SMALL)  # type: ignore[arg-type]
    assert made.image_shape == (4, 9, 12)
    assert made.features(pixels[:3]).shape == (3, 16)


def loss_by_hand(a: NDArray[np.float64], b: NDArray[np.float64], temperature: float) -> float:
    """Equation 1 of the SimCLR paper, written out."""
    z = np.concatenate([a, b])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    s, n, total = z @ z.T / temperature, len(a), 0.0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        total -= s[i, (i + n) % (2 * n)] - np.log(np.exp(s[i, others]).sum())
    return total / (2 * n)


def test_the_loss_is_that_of_the_paper() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 7, 5))
    got = nt_xent(torch.from_numpy(np.concatenate([a, b])), 0.5)
    assert float(got) == pytest.approx(loss_by_hand(a, b, 0.5), rel=1e-6)


def test_views_crop_mirror_and_scale_the_contrast() -> None:
    x = torch.linspace(-1, 1, 48).reshape(1, 1, 6, 8).expand(400, 1, 6, 8).contiguous()
    rng = np.random.default_rng(0)
    torch.testing.assert_close(views(x, rng, crop=1.0, flip=False, contrast=0.0), x, atol=1e-5, rtol=0)
    mirrored = views(x, rng, crop=1.0, flip=True, contrast=0.0)
    same = (mirrored - x).abs().amax((1, 2, 3)) < 1e-5
    turned = (mirrored - x.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((same ^ turned).all())
    assert 150 < int(same.sum()) < 250
    factor = (views(x, rng, crop=1.0, flip=False, contrast=0.4) + 1)[:, 0, -1, -1] / 2
    assert 0.6 <= float(factor.min()) < 0.65
    assert 1.35 < float(factor.max()) <= 1.4
    # a crop of a ramp is a ramp with a fraction of its slope
    cropped = views(x, rng, crop=0.25, flip=False, contrast=0.0)[:, 0]
    slope = (cropped[:, 3, 4] - cropped[:, 3, 3]) / (x[0, 0, 3, 4] - x[0, 0, 3, 3])
    assert 0.49 < float(slope.min()) < 0.55
    assert 0.95 < float(slope.max()) < 1.01
    assert float(cropped.min()) >= -1
    assert float(cropped.max()) <= 1


def test_degraded_images_have_the_blur_and_noise_of_their_strengths() -> None:
    x = torch.rand(4, 2, 40, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    amounts = np.array([[0, 0], [0, 0.5], [0.8, 0], [0.6, 1]], np.float32)
    got = degraded(x, amounts, 0.4, np.random.default_rng(0))
    assert torch.equal(got[0], x[0])
    blurred = CORRUPTIONS["blur"]((x[1:2].permute(0, 2, 3, 1).numpy() + 1) / 2, BLUR / 2)[0] * 2 - 1
    np.testing.assert_allclose(got[1].permute(1, 2, 0), blurred, atol=1e-3)  # truncated at 6 and at 4 standard deviations
    noise = got[2] - x[2]
    assert float(noise.std()) == pytest.approx(0.64 * 0.4, rel=0.05)
    assert abs(float(noise.mean())) < 0.02 and float(got.abs().max()) > 1
    counted = strengths(6000, 0.5, np.random.default_rng(1))
    for found, share in (((counted > 0).any(1), 0.5), (counted[:, 0] > 0, 1 / 3), ((counted > 0).all(1), 1 / 6)):
        assert abs(found.mean() - share) < 4 * np.sqrt(share * (1 - share) / 6000)


def blobs(n: int, seed: int) -> NDArray[np.uint8]:
    """One smooth spot an image, without any noise."""
    rng, t = np.random.default_rng(seed), np.arange(16)
    y, x = rng.uniform(3, 13, (2, n, 1, 1))
    width = rng.uniform(2, 4, (n, 1, 1))
    spot = np.exp(-((t[:, None] - y) ** 2 + (t - x) ** 2) / (2 * width**2))
    pixels: NDArray[np.uint8] = np.rint(220 * spot[..., None]).astype(np.uint8)
    return pixels


def test_features_tell_noise_where_no_training_image_has_any() -> None:
    new, shift = blobs(600, 1), {}
    for share in (0.0, 0.5):
        made = train_self_supervised(image_set(blobs(1000, 0)), epochs=8, degrade=share, **SMALL)
        clean = FeatureStats.of(made.features(new), made.fingerprint)
        noisy = FeatureStats.of(made.features(CORRUPTIONS["noise"](new, 18)), made.fingerprint)
        shift[share] = frechet(noisy, clean) / float(clean.cov.trace())
    assert shift[0.5] > 10 * shift[0.0]


def test_errors_say_what_to_type() -> None:
    toy = unlabelled(100, 0)
    with pytest.raises(ValueError, match=r"no labels.*--self-supervised"):
        train_extractor(toy, progress=False)
    with pytest.raises(ValueError, match="fewer than one batch of 256"):
        train_self_supervised(toy, progress=False)
    for wrong in ({"crop": 0.0}, {"contrast": 1.0}, {"temperature": 0.0}, {"epochs": 0}):
        with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} = [01](\.0)?: give "):
            train_self_supervised(toy, **wrong)  # type: ignore[arg-type]


def test_a_network_without_classes_has_no_head() -> None:
    network = Classifier(1, (4, 4), 6, 0)
    assert isinstance(network.head, nn.Identity)
