"""The training of an autoencoder: it learns, continues exactly after an interruption, and refuses what it cannot train on."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.data.image_set import load
from alphabar.denoiser.autoencoder import Autoencoder
from alphabar.training import autoencoder as training
from alphabar.training.autoencoder import difference, train_autoencoder

SMALL = {"factor": 2, "width": 8, "blocks": 1, "batch": 8, "images": 160, "crop": 16}


def trained(image_set: Any, part: Path, **changes: Any) -> Autoencoder:
    return train_autoencoder(image_set, part=part, progress=False, device="cpu", **(SMALL | changes))


def test_it_learns_images_of_low_contrast_in_sixteen_bits(pixels: Any, tmp_path: Path) -> None:
    """12-bit images in 16 bits, of two channels: the error falls far below the contrast of the images."""
    deep = np.repeat(pixels.astype(np.uint16) * 16, 2, axis=3)
    images = load(deep)
    made = trained(images, tmp_path / "a.part", images=800, lr=5e-3)
    restored = made.reconstruct(deep[:40])
    assert restored.dtype == np.uint16
    off = np.abs(restored.astype(float) - deep[:40]).mean()
    assert off < 0.6 * np.abs(deep[:40] - deep.mean()).mean()
    z = made.encode(deep)
    assert 0.6 < float(z.std((0, 2, 3)).mean()) < 1.5  # the batch norm keeps latents at a standard deviation of 1
    assert not (tmp_path / "a.part").exists()


def test_an_interrupted_training_continues_to_the_same_weights(
    pixels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, part, step = load(pixels), tmp_path / "a.part", training._step

    def stopping(*arguments: Any) -> float:
        if arguments[-1] == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(training, "_step", stopping)
    with pytest.raises(KeyboardInterrupt, match="stopped after 64 images"):
        trained(images, part)
    monkeypatch.setattr(training, "_step", step)
    with pytest.raises(ValueError, match=r"differ in lr .*, choose another place, or delete the folder"):
        trained(images, part, lr=1e-3)
    assert trained(images, part).fingerprint == trained(images, tmp_path / "b.part").fingerprint


def test_the_loss_is_zero_for_the_image_and_sees_edges() -> None:
    x = torch.rand(2, 1, 16, 16)
    assert float(difference(x, x)) == 0
    step = torch.zeros(1, 1, 16, 16)
    step[..., 8:] = 0.1
    grey = torch.full_like(step, 0.05)
    assert float(difference(step, torch.zeros_like(step))) > float(
        difference(grey, torch.zeros_like(step))
    )  # the same mean error


def test_images_that_are_smaller_than_a_latent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images of 8x8 to train on: wanted 1 or more, each side at least 16"):
        trained(
            load(np.zeros((20, 8, 8, 1), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]),
            tmp_path / "a",
            factor=16,
        )
