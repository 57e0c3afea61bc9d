"""Extractors of labelled images: their training, their file and their fingerprint."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.features import simclr
from alphabar.features import train as supervised
from alphabar.features.classifier import Classifier
from alphabar.features.extractor import BUNDLED, Extractor, fingerprint
from alphabar.features.load import load_extractor
from alphabar.features.train import Epoch, augment, train_extractor
from tests.fixtures.sets import stripes


def test_training_reaches_its_accuracy_and_records_how(toy_extractor: Extractor) -> None:
    about = toy_extractor.training_record
    assert about["accuracy"] > 0.9  # chance is 0.5
    assert about["images"] + about["held_out_images"] == 600
    assert about["held_out_images"] > 50
    assert about["set_fingerprint"] == stripes(600, 0).fingerprint
    assert toy_extractor.classes == ("class 0", "class 1")
    pixels = stripes(50, 9)
    assert toy_extractor.features(pixels.pixels).shape == (50, 16)
    assert toy_extractor.logits(pixels.pixels).shape == (50, 2)
    assert bool((toy_extractor.logits(pixels.pixels).argmax(1).numpy() == pixels.labels).mean() > 0.8)


def test_features_do_not_depend_on_the_batch(toy_extractor: Extractor) -> None:
    pixels = stripes(70, 2).pixels
    whole = toy_extractor.features(pixels)
    np.testing.assert_allclose(toy_extractor.features(pixels, batch=7), whole, atol=1e-5)
    np.testing.assert_allclose(toy_extractor.features(pixels[::-1]).flip(0), whole, atol=1e-5)


def test_folding_the_batch_norms_keeps_the_function() -> None:
    network = Classifier(2, (4, 6), 8, 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):  # running statistics that are not 0 and 1
        network(torch.randn(8, 2, 10, 10, generator=generator) * 2 + 1)
    for p in network.parameters():
        p.data.add_(0.1)
    network.eval()
    x = torch.randn(4, 2, 10, 10, generator=generator)
    with torch.no_grad():
        before = network(x)
        network.fold()
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)
        network.train()
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)  # no batch norm is left
    assert not [name for name in network.state_dict() if "norm" in name]


def test_saved_and_loaded(toy_extractor: Extractor, tmp_path: Path) -> None:
    again = load_extractor(toy_extractor.save(tmp_path / "deep" / "x.safetensors"))
    assert again.fingerprint == toy_extractor.fingerprint
    assert (again.name, again.dim, again.image_shape, again.classes) == ("toy", 16, (3, 9, 12), ("class 0", "class 1"))
    assert again.training_record == toy_extractor.training_record
    pixels = stripes(20, 3).pixels
    assert bool((again.features(pixels) == toy_extractor.features(pixels)).all())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.safetensors"]


def test_the_fingerprint_covers_weights_and_preprocessing() -> None:
    weights = {"b": torch.ones(2), "a": torch.zeros(3)}
    base = fingerprint({"shape": [1]}, weights)
    assert len(base) == 16
    assert base == fingerprint({"shape": [1]}, dict(reversed(weights.items())))
    assert base != fingerprint({"shape": [2]}, weights)
    assert base != fingerprint({"shape": [1]}, weights | {"b": torch.tensor([1.0, 1.0000001])})
    assert base != fingerprint({"shape": [1]}, {"a": weights["b"], "b": weights["a"]})


def test_a_changed_file_is_refused(toy_extractor: Extractor, tmp_path: Path) -> None:
    path = toy_extractor.save(tmp_path / "x.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"says that its fingerprint is .* its content gives"):
        load_extractor(path)


def test_files_that_are_no_extractor_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="give 'bundled', or the path"):
        load_extractor(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights at all")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_extractor(tmp_path / "text.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds weights but no extractor"):
        load_extractor(tmp_path / "model.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"alphabar_extractor": json.dumps({"format": 99})})
    with pytest.raises(ValueError, match="update alphabar"):
        load_extractor(tmp_path / "new.safetensors")


def test_images_of_another_shape_are_refused(toy_extractor: Extractor) -> None:
    for shape in ((5, 12, 9, 3), (5, 9, 12, 1), (5, 28, 28, 1)):
        with pytest.raises(
            ValueError, match=r"wants uint8, uint16 or float32 of shape \(n, 9, 12, 3\).*alphabar extractor train"
        ):
            toy_extractor.features(np.zeros(shape, np.uint8))


def test_sets_that_cannot_train_an_extractor_are_refused() -> None:
    toy = stripes(100, 0)
    with pytest.raises(ValueError, match=r"has no labels.*one subfolder per class"):
        train_extractor(replace(toy, labels=None), progress=False)
    with pytest.raises(ValueError, match="at least two classes"):
        train_extractor(replace(toy, labels=np.zeros(100, np.int64), classes=("one",)), progress=False)
    with pytest.raises(ValueError, match="fewer than one batch of 128"):
        train_extractor(toy, progress=False)


@pytest.mark.parametrize(("epochs", "batch"), [(1, 24), (5, 24), (1, 4), (1, 5), (6, 24)])
def test_few_steps_train_an_extractor(epochs: int, batch: int) -> None:
    """The learning rate rises in a fifth of the steps, which is exactly one of five."""
    images = stripes(30, 0)  # of which 28 are trained on
    made = train_extractor(images, epochs=epochs, batch=batch, widths=(4, 4), dim=4, progress=False)
    assert torch.isfinite(made.features(images.pixels)).all()


def test_a_batch_of_one_image_that_ends_as_one_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch = 1: .*to one pixel.*--batch 2"):
        train_extractor(stripes(30, 0, (4, 4, 3)), epochs=1, batch=1, widths=(4, 4), dim=4, progress=False)
    train_extractor(stripes(30, 0, (5, 4, 3)), epochs=1, batch=1, widths=(4, 4), dim=4, progress=False)


def test_training_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    epochs: list[Epoch] = []
    torch.manual_seed(5)
    before = torch.get_rng_state()

    def train(seed: int) -> str:
        return train_extractor(
            stripes(120, 0), epochs=1, batch=32, widths=(4, 4), dim=4, seed=seed, progress=False, on_epoch=epochs.append
        ).fingerprint

    assert train(0) == train(0) != train(1)
    assert bool((torch.get_rng_state() == before).all())
    assert [e.epoch for e in epochs] == [1, 1, 1]
    assert epochs[0].accuracy is not None


@pytest.mark.parametrize(("module", "train"), [(supervised, train_extractor), (simclr, simclr.train_self_supervised)])
def test_a_training_that_was_stopped_continues_to_the_same_weights(
    module: Any, train: Callable[..., Extractor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the fifth step, the middle of the second epoch; the call after it begins with the sixth."""
    images, part, steps, to_model = stripes(120, 0), tmp_path / "x.part", list[int](), module.to_model

    def made(part: Path | None, epochs: int = 3) -> Extractor:
        return train(images, epochs=epochs, batch=32, widths=(4, 4), dim=4, holdout=0.05, progress=False, part=part)

    def counted(*arguments: Any) -> torch.Tensor:
        if len(arguments[0]) == 32:  # a step: simclr measures the contrast of all images first
            steps.append(32)
            if len(steps) == 5:
                os.kill(os.getpid(), signal.SIGINT)
        return to_model(*arguments)

    whole = made(None)
    monkeypatch.setattr(module, "to_model", counted)
    with pytest.raises(KeyboardInterrupt, match="stopped after 160 images"):
        made(part)
    with pytest.raises(ValueError, match=r"unfinished extractors that differ in epochs \(epochs was 3, is now 4\)"):
        made(part, epochs=4)
    rest = made(part)
    assert steps[:9] == [32] * 9 and not part.exists()
    assert rest.fingerprint == whole.fingerprint
    assert all(whole.training_record[k] == v for k, v in rest.training_record.items() if k != "seconds")


def test_augment_shifts_and_mirrors_whole_images() -> None:
    image = np.arange(30, dtype=np.uint8).reshape(1, 5, 6, 1)
    many = augment(np.repeat(image, 200, 0), np.random.default_rng(0), flip=True, shift=1)
    padded = np.pad(image[0, :, :, 0], 1, mode="edge")
    shifted = {padded[i : i + 5, j : j + 6].tobytes() for i in range(3) for j in range(3)}
    mirrored = {np.frombuffer(a, np.uint8).reshape(5, 6)[:, ::-1].tobytes() for a in shifted}
    assert {a.tobytes() for a in many} == shifted | mirrored
    still = augment(image, np.random.default_rng(0), flip=False, shift=0)
    assert still.tobytes() == image.tobytes()


def test_augment_erases_a_square_in_the_given_share_of_images() -> None:
    images = np.full((400, 24, 24, 1), 7, dtype=np.uint8)
    changed = (augment(images, np.random.default_rng(0), flip=True, shift=1, erase=0.25) != 7).mean((1, 2, 3))
    assert 60 < (changed > 0).sum() < 140
    assert changed.max() < 0.18


def test_the_bundled_extractor() -> None:
    extractor = load_extractor("bundled")
    assert BUNDLED.stat().st_size < 5.5e6
    assert extractor.dim == 512
    assert extractor.image_shape == (1, 28, 28)
    assert extractor.classes is not None
    assert len(extractor.classes) == 10
    assert extractor.training_record["accuracy"] >= 0.93  # of Fashion-MNIST's 10,000 test images
    assert extractor.training_record["test_images"] == 10_000


@pytest.mark.slow(5)
def test_the_bundled_extractor_is_as_accurate_as_its_record_states() -> None:
    from alphabar.data.image_set import load

    try:
        test = load("fashion_mnist", "test")
    except (FileNotFoundError, OSError, ImportError) as error:
        pytest.skip(f"Fashion-MNIST is not on this machine: {str(error)[:80]}")
    extractor = load_extractor("bundled")
    right = (extractor.logits(test.pixels[:2000]).argmax(1).numpy() == test.labels[:2000]).mean()
    assert abs(right - extractor.training_record["accuracy"]) < 0.02
