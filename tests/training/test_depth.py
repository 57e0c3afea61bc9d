"""Types of images from the file to the sample: a model trained on 16 bits, floats or five channels generates the same."""

import json
import warnings
from inspect import unwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.cli.main import app
from alphabar.data.formats import png_16
from alphabar.data.image_set import ImageSet, load
from alphabar.data.images import to_model
from alphabar.data.values import to_depth, to_values
from alphabar.denoiser.model import Model, load_weights, save_weights
from alphabar.features.train import augment, train_extractor
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import load_model
from alphabar.training.config import Recipe, resolve
from alphabar.training.initial_model import new_model
from alphabar.training.stream import Stream
from alphabar.verbs.score import score
from alphabar.verbs.train import train

SMALL = ["--train.images", "64", "--train.batch", "32", "--model.channels", "16", "16", "--model.embedding", "16"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))


def recipe(path: Path, *more: str) -> Recipe:
    quiet = ["--train.warmup", "0", "--watch.preview-every", "0", "--watch.score-every", "0"]
    return resolve("garments", ["--data.set", str(path), *SMALL, *quiet, *more])


def scans(rng: np.random.Generator, n: int = 60, channels: int = 1) -> Any:
    """12-bit images of 8x8 that use the whole range."""
    values = rng.integers(0, 4096, (n, 8, 8, channels), dtype=np.uint16)
    values[0, 0, :2, 0] = 0, 4095
    return values


def test_16_bit_in_16_bit_out(tmp_path: Path) -> None:
    values = scans(np.random.default_rng(0))
    folder = tmp_path / "scans"
    folder.mkdir()
    for i, image in enumerate(values):
        (folder / f"{i:02}.png").write_bytes(png_16(image))
    wanted = recipe(folder, "--data.range", "0", "4095", "--data.pad", "4")
    model = train(wanted, tmp_path / "run", progress=False)
    about = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (about["pixels"], about["value_range"], about["skipped"]) == ("uint16", [0.0, 4095.0], [])
    stored = load_model(tmp_path / "run")
    assert (stored.pixels, stored.value_range, stored.fingerprint) == ("uint16", (0.0, 4095.0), model.fingerprint)

    samples = sample(stored, 4, steps=3, keep_x0=True, out=tmp_path / "s.npz", progress=False)
    assert samples.images.dtype == np.uint16 and samples.images.shape == (4, 8, 8, 1)
    assert samples.x0 is not None and samples.x0[0].dtype == np.uint16
    assert (samples.images % 257 != 0).any()  # not 8 bits stretched to 16
    back = Samples.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(back.images, samples.images)
    physical = to_values(back.images, back.record["value_range"])
    np.testing.assert_allclose(physical, samples.images / 65535 * 4095)

    sample(stored, 4, steps=3, out=f"{tmp_path}/pngs/", progress=False)
    with Image.open(tmp_path / "pngs" / "000000.png") as image:
        assert image.mode == "I;16"
    np.testing.assert_array_equal(Samples.load(f"{tmp_path}/pngs/").images, samples.images)


def test_floats_of_five_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 300, (60, 8, 8, 5)).clip(-1000, 3000)
    np.save(tmp_path / "stack.npy", values)
    wanted = recipe(tmp_path / "stack.npy", "--data.range", "-1000", "3000")
    assert resolve_again(wanted, tmp_path) == wanted
    model = train(wanted, tmp_path / "run", progress=False)
    samples = sample(model, 4, steps=3, out=tmp_path / "s.npz", progress=False)
    assert samples.images.dtype == np.float32 and samples.images.shape == (4, 8, 8, 5)
    assert samples.record["value_range"] == [-1000.0, 3000.0]
    samples.sheet()
    with pytest.raises(ValueError, match=r"5 channels do not fit PNG.*npz"):
        sample(model, 4, steps=3, out=f"{tmp_path}/pngs/", progress=False)


def resolve_again(wanted: Recipe, folder: Path) -> Recipe:
    (folder / "again.toml").write_text(wanted.toml())
    return resolve(folder / "again.toml")


def test_training_uses_the_stored_pixels_unchanged(tmp_path: Path) -> None:
    values = scans(np.random.default_rng(0), channels=3)
    np.save(tmp_path / "a.npy", values)
    images = load(tmp_path / "a.npy", value_range=(0, 4095))
    wanted = recipe(tmp_path / "a.npy")
    model = new_model(wanted, images.image_shape, "uint16", images.value_range)
    stream = Stream(images.pixels, np.arange(60), wanted.train, model)
    batch = stream.batch(0, 32)
    assert batch.pixels.dtype == np.uint16
    assert {b.tobytes() for b in batch.pixels} <= {b.tobytes() for b in images.pixels}
    samples = sample(model, 2, steps=2, out=f"{tmp_path}/colour/", progress=False)
    np.testing.assert_array_equal(Samples.load(f"{tmp_path}/colour/").images, samples.images)  # PNG, 16 bits in colour
    save_weights(tmp_path / "m.safetensors", model)
    assert load_weights(tmp_path / "m.safetensors").value_range == (0.0, 4095.0)


def test_specifications_of_8_bit_models_keep_their_first_format(tmp_path: Path) -> None:
    plain = new_model(recipe(tmp_path), (1, 8, 8))
    assert plain.spec["format"] == 1 and "pixels" not in plain.spec
    deep = new_model(recipe(tmp_path), (1, 8, 8), "uint16")
    assert deep.spec["format"] == 2  # so that an older release, which would write 8 bits, refuses it
    with pytest.raises(ValueError, match=r"int32"):
        Model({**deep.spec, "pixels": "int32"})
    assert recipe(tmp_path, "--data.range", "0", "9").fingerprint("x") != recipe(tmp_path).fingerprint("x")


def test_images_that_use_little_of_their_scale_give_a_warning_and_are_not_rescaled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", scans(np.random.default_rng(0)))
    with pytest.warns(UserWarning, match=r"use 6.25% of the scale 0..65535.*--range 0 4095"):
        train(recipe(tmp_path / "a.npy"), tmp_path / "run", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(recipe(tmp_path / "a.npy", "--data.range", "0", "4095"), tmp_path / "other", progress=False)


def labelled(images: ImageSet, tmp_path: Path) -> ImageSet:
    np.savez(tmp_path / "labelled.npz", images=images.pixels, labels=np.arange(len(images)) % 2)
    return load(tmp_path / "labelled.npz")


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_an_extractor_takes_every_depth(tmp_path: Path, dtype: str) -> None:
    eight = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 2), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=to_depth(eight, dtype), labels=np.arange(64) % 2)
    made = train_extractor(
        load(tmp_path / "a.npz", axes="nhwc"),
        epochs=1,
        batch=16,
        widths=(8, 8, 8),
        dim=16,
        erase=0.5,
        holdout=0.0,
        progress=False,
    )
    features = [made.features(to_depth(eight, kind)) for kind in ("uint8", "uint16", "float32")]
    for other in features[1:]:
        torch.testing.assert_close(other, features[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"int32 images"):
        unwrap(type(made)._run)(made, eight.astype(np.int32), logits=False, batch=8)  # without the type checks of the tests


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_erased_squares_are_noise_over_the_whole_scale(dtype: str) -> None:
    plain = np.zeros((200, 16, 16, 1), dtype)
    out = augment(plain, np.random.default_rng(0), flip=True, shift=0, erase=1.0)
    assert out.dtype == plain.dtype
    noise = to_model(out).numpy()[out.transpose(0, 3, 1, 2) > 0]
    assert len(noise) > 1000
    # uniform over [-1, 1]: mean 0, variance 1/3; ten standard errors
    assert abs(noise.mean()) < 10 * (1 / 3 / len(noise)) ** 0.5
    assert abs(noise.var() - 1 / 3) < 10 * (4 / 45 / len(noise)) ** 0.5


# --- the commands ---


def command(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        app(list(words))
    assert end.value.code in (0, None)


def test_the_commands_take_a_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).normal(0, 300, (60, 8, 8)).clip(-1000, 3000)
    np.save(tmp_path / "ct.npy", values)
    command("data", str(tmp_path / "ct.npy"), "--range", "-1000", "3000", "--sheet", str(tmp_path / "a.png"), "--json")
    card = json.loads(capsys.readouterr().out)
    assert card["value_range"] == [-1000, 3000]
    assert card["values"][0] == pytest.approx(values.min(), abs=3e-4)
    assert "float32" in card["sheet_note"]
    words = ["--range", "-1000", "3000", "--dry-run", *SMALL]
    command("train", str(tmp_path / "ct.npy"), "--out", str(tmp_path / "run"), *words)
    assert "-1000.0,\n    3000.0," in capsys.readouterr().out


def test_samples_of_another_range_are_not_scored(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", scans(np.random.default_rng(0)))
    model = new_model(recipe(tmp_path / "a.npy"), (1, 8, 8), "uint16", (0.0, 1023.0))
    sample(model, 4, steps=2, out=tmp_path / "s.npz", progress=False)
    save_weights(tmp_path / "m.safetensors", model)
    np.savez(tmp_path / "l.npz", images=scans(np.random.default_rng(1), 64), labels=np.arange(64) % 2)
    made = train_extractor(
        load(tmp_path / "l.npz"), epochs=1, batch=16, widths=(8, 8, 8), dim=16, holdout=0.0, progress=False
    ).save(tmp_path / "e.safetensors")
    options: dict[str, Any] = {
        "extractor": str(made),
        "n": 4,
        "steps": 2,
        "metrics": ("kid",),
        "reading": {"value_range": (0, 4095)},
    }
    for what in ("s.npz", "m.safetensors"):
        with pytest.raises(ValueError, match=r"samples' range is \(0.0, 1023.0\).*--range 0 1023"):
            score(tmp_path / what, str(tmp_path / "a.npy"), progress=False, **options)
