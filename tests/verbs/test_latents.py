"""From a set to latents, a model of them, and its images: everything after training sees decoded images."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alphabar
from alphabar.data.image_set import load
from alphabar.data.latents import FILE
from alphabar.data.split import holdout
from alphabar.denoiser.autoencoder import Autoencoder, read_autoencoder
from alphabar.evaluation.image_eval import ImageEval
from alphabar.sampling.samples import Samples
from alphabar.verbs.autoencoder import check_autoencoder, encode
from alphabar.verbs.memorisation import loss, training_images
from alphabar.verbs.score import make_evaluator
from alphabar.verbs.train import train
from tests.denoiser.test_autoencoder import autoencoder
from tests.fixtures.sets import Linear, stripes

RECIPE = [
    "--train.images=64", "--train.batch=16", "--model.channels=8", "--model.groups=8", "--model.patch=1", "--model.conditional",
    "--watch.preview-every=32", "--watch.preview-n=4", "--watch.preview-steps=2",
]  # fmt: skip


@dataclass(frozen=True)
class Made:
    folder: Path
    images: str
    latents: str
    run: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """9x12 images of two channels, 16 bits, in a declared range; an untrained autoencoder; a model trained on its latents."""
    folder = tmp_path_factory.mktemp("latents")
    (folder / "stripes").mkdir()
    for split, n, seed in (("train", 80, 0), ("test", 40, 1)):
        found = stripes(n, seed, (9, 12, 2))
        np.savez(folder / "stripes" / f"{split}.npz", images=found.pixels.astype(np.uint16) * 16, labels=found.labels)
    autoencoder(factor=2).save(folder / "a.safetensors")
    names = Made(folder, str(folder / "stripes"), str(folder / "latents"), str(folder / "run"))
    encode(names.images, folder / "a.safetensors", names.latents, reading={"value_range": (0, 4095)}, progress=False)
    train(alphabar.resolve("garments", ["--data.set", names.latents, *RECIPE]), names.run, progress=False)
    return names


def test_latents_are_a_set_with_the_images_splits_labels_and_held_out_images(made: Made) -> None:
    for split, n in (("train", 80), ("test", 40)):
        images, latents = load(made.images, split, value_range=(0, 4095)), load(made.latents, split)
        assert len(latents) == n
        assert latents.image_shape == (3, 5, 6)
        assert latents.labels is not None
        assert np.array_equal(latents.labels, images.labels)
        assert np.array_equal(holdout(latents.pixels, hashes=latents.hashes)[1], holdout(images.pixels, hashes=images.hashes)[1])
        assert latents.fingerprint != images.fingerprint == latents.fingerprint_of_images
        assert latents.limited(20).originals().fingerprint == images.limited(20).fingerprint
    z = (load(made.latents).pixels - 0.5) * 2 * load(made.latents).latents.limit  # type: ignore[union-attr]
    assert np.allclose(z.std((0, 1, 2)), 1, atol=1e-3)
    assert np.allclose(z.mean((0, 1, 2)), 0, atol=1e-3)


def test_latents_decode_to_what_the_autoencoder_restores(made: Made) -> None:
    images, latents, model = load(made.images, value_range=(0, 4095)), load(made.latents), alphabar.load_model(made.run)
    x = torch.from_numpy(np.array(latents.pixels[:8])).permute(0, 3, 1, 2) * 2 - 1
    restored = read_autoencoder(made.folder / "a.safetensors").reconstruct(images.pixels[:8])
    decoded = alphabar.sampling.model.to_images(model, x)  # type: ignore[attr-defined]
    assert decoded.dtype == np.uint16
    assert np.abs(decoded.astype(int) - restored).max() <= 2


def test_samples_previews_and_scores_are_of_images(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = alphabar.load_model(made.run)
    samples = alphabar.sample(model, 6, steps=3, classes=(0, 1), keep_x0=True, out=tmp_path / "s.npz", progress=False)
    assert samples.images.shape == (6, 9, 12, 2)
    assert samples.images.dtype == np.uint16
    assert samples.x0 is not None
    assert np.array_equal(samples.x0[-1], samples.images)
    assert samples.record["image_shape"] == [2, 9, 12]
    assert samples.record["value_range"] == [0, 4095]
    preview = Samples.load(Path(made.run) / "samples" / "trajectory.npz")
    assert preview.images.shape == (4, 9, 12, 2)
    real = load(made.images, "test", value_range=(0, 4095))
    assert ImageEval(Linear(), real, cache=False).kid(samples).n == 6
    monkeypatch.setattr("alphabar.verbs.extractor.load_extractor", lambda name: Linear())
    _, found = make_evaluator(f"{made.latents}:test", "linear", progress=False)  # the images behind the latents
    assert found.fingerprint == real.fingerprint


def test_a_run_holds_its_autoencoder_and_a_file_elsewhere_says_that_it_is_missing(made: Made, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(made.run, run)
    for path in (run, run / "checkpoints" / "last", run / "checkpoints" / "last" / "ema.safetensors"):
        model = alphabar.load_model(path)
        assert model.fingerprint == alphabar.load_model(made.run).fingerprint
        alphabar.sample(model, 1, steps=1, progress=False)
    alone = shutil.copy(run / "checkpoints" / "last" / "ema.safetensors", tmp_path / "ema.safetensors")
    with pytest.raises(ValueError, match="autoencoder is not with it"):
        alphabar.sample(alphabar.load_model(alone), 1, steps=1, progress=False)


def test_memorisation_knows_the_images_and_the_loss_the_latents(made: Made) -> None:
    found = training_images(Path(made.run), made.images, {"value_range": (0, 4095)})
    assert found.images.latents is None
    assert len(found.heldout) == len(training_images(Path(made.run), made.latents, None).heldout)
    assert loss(made.run, made.latents, n=8, progress=False).overall.value > 0
    with pytest.raises(ValueError, match=r"was trained on latents, and .*stripes holds images: name the folder of latents"):
        loss(made.run, made.images, n=8, progress=False)


@pytest.mark.parametrize("key", ["--train.augment", "--data.pad"])
def test_what_transforms_images_is_refused_by_name(made: Made, key: str, tmp_path: Path) -> None:
    tokens = ["--data.set", made.latents, *RECIPE, key, "1"]
    with pytest.raises(ValueError, match=f"{key[2:]} is for images"):
        train(alphabar.resolve("garments", tokens), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_scores_while_training_are_of_decoded_images(made: Made, tmp_path: Path, toy_extractor: Any) -> None:
    path = tmp_path / "stripes.safetensors"
    shutil.copytree(made.folder / "stripes", tmp_path / "rgb")
    for split, seed in (("train", 2), ("test", 3)):
        found = stripes(80, seed)
        np.savez(tmp_path / "rgb" / f"{split}.npz", images=found.pixels, labels=found.labels)
    toy_extractor.save(path)
    autoencoder(channels=3).save(tmp_path / "a.safetensors")
    encode(str(tmp_path / "rgb"), tmp_path / "a.safetensors", tmp_path / "latents", progress=False)
    watch = ["--watch.extractor", str(path), "--watch.score-every", "64", "--watch.score-n", "24"]
    recipe = alphabar.resolve("garments", ["--data.set", str(tmp_path / "latents"), *RECIPE, *watch])
    train(recipe, tmp_path / "run", progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert {row["metric"] for row in rows} == {"fid", "kid"}
    shutil.rmtree(tmp_path / "rgb")
    with pytest.raises(FileNotFoundError, match=r"there is no set .*rgb"):
        train(recipe, tmp_path / "again", progress=False)


def test_the_check_takes_held_out_images_and_scores_restored_ones(made: Made) -> None:
    images, tested = load(made.images, value_range=(0, 4095)), read_autoencoder(made.folder / "a.safetensors")
    whole = check_autoencoder(tested, images, Linear(), progress=False)
    assert whole.n == 80
    assert {s.metric for s in whole.scores} == {"fid", "kid"}
    assert whole.scores[0].value > whole.scores[0].floor  # an untrained one restores badly
    tested.record = {"set_fingerprint": images.fingerprint, "options": {"holdout": 0.3}}
    part = check_autoencoder(tested, images, progress=False)
    assert part.n == len(holdout(images.pixels, 0.3, hashes=images.hashes)[1])
    off = np.abs(part.restored.astype(float) - part.pixels)
    assert part.error.value == pytest.approx(float(off.mean()))
    assert part.psnr.interval is not None


def test_what_cannot_be_encoded_is_refused(made: Made, tmp_path: Path) -> None:
    path = made.folder / "a.safetensors"
    with pytest.raises(FileExistsError, match="holds files"):
        encode(made.images, path, made.latents, progress=False)
    with pytest.raises(ValueError, match="holds latents already"):
        encode(made.latents, path, tmp_path / "x", progress=False)
    with pytest.raises(ValueError, match="leave --range"):
        load(made.latents, value_range=(0, 1))
    with pytest.raises(FileNotFoundError, match="there is no autoencoder at"):
        encode(made.images, tmp_path / "none", tmp_path / "x", progress=False)
    assert not (tmp_path / "x").exists()


def test_damaged_latents_are_named(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    shutil.copytree(made.latents, folder)
    about = json.loads((folder / FILE).read_text())
    for change in ({"std": [1, 0, 1]}, {"mean": [0]}, {"limit": -1}, {"pixels": "int64"}, {"image_shape": [1]}):
        (folder / FILE).write_text(json.dumps({**about, "latents": about["latents"] | change}))
        with pytest.raises(ValueError, match=FILE):
            load(folder)
    (folder / FILE).write_text(json.dumps(about))
    (folder / "train" / "hashes.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="train is damaged: encode the images again"):
        load(folder)


def test_latents_that_are_no_numbers_are_refused_and_nothing_is_written(made: Made, tmp_path: Path) -> None:
    broken = autoencoder(factor=2)
    for p in broken.network.parameters():
        p.fill_(3e38)
    path, reading = Autoencoder(broken.spec, broken.network).save(tmp_path / "a.safetensors"), {"value_range": (0, 4095)}
    with pytest.raises(ValueError, match="latents of images 0 to 63 are NaN or infinite: train another"):
        encode(made.images, path, tmp_path / "x", reading=reading, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
