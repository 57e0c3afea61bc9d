"""Damaged and hostile autoencoders and folders of latents: a result, or an error that names the file."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from alphabar.data.image_set import load
from alphabar.data.latents import FILE
from alphabar.denoiser.autoencoder import CONFIG, MARK, WEIGHTS, read_autoencoder
from alphabar.verbs.autoencoder import check_autoencoder, encode
from tests.denoiser.test_autoencoder import KINDS, autoencoder
from tests.fixtures.mutations import faults, faults_of, tree_mutations

N = pytest.mark.parametrize("n", [30, pytest.param(300, marks=pytest.mark.slow(8))])
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    np.savez(tmp_path / "images.npz", images=PIXELS, labels=np.arange(12) % 2)
    path = autoencoder(channels=1, factor=2).save(tmp_path / "a.safetensors")
    encode(str(tmp_path / "images.npz"), path, tmp_path / "encoded", reading={"value_range": (0, 255)}, progress=False)
    return tmp_path / "encoded"


@N
def test_what_a_file_says_of_itself(n: int, tmp_path: Path) -> None:
    """Its record too, which the check of an autoencoder uses."""
    images, path = load(PIXELS), autoencoder(channels=1, factor=2).save(tmp_path / "a.safetensors")
    made, weights = read_autoencoder(path), {k: v.clone() for k, v in load_file(path).items()}  # the file is written over
    record = {"set": "x:train", "set_fingerprint": images.fingerprint, "images": 9, "options": {"holdout": 0.3, "factor": 2}}
    header = {**made.spec, "record": record, "fingerprint": made.fingerprint}

    def file(value: object) -> bytes:
        save_file(weights, path, metadata={MARK: json.dumps(value)})
        return path.read_bytes()

    def use() -> None:
        check_autoencoder(read_autoencoder(path), images, progress=False)

    cases = [(what, file(value)) for what, value in tree_mutations(header, n)]
    path.write_bytes(file(header))
    use()
    assert [f for f in faults_of(cases, path, use) if "trained on all images" not in f] == []


@N
def test_bytes_of_a_file(n: int, tmp_path: Path) -> None:
    path = autoencoder(channels=1, factor=2).save(tmp_path / "a.safetensors")
    assert faults(path.read_bytes(), path, lambda: read_autoencoder(path), n) == []


@N
@pytest.mark.parametrize(
    "name", [FILE, "private.json", "train/pixels.npy", "train/hashes.npy", "train/labels.npy", "train/meta.json"]
)
def test_a_folder_of_latents(name: str, n: int, latents: Path) -> None:
    """Any file of it may be damaged; the message names it, or the folder that it lies in."""
    file = next(latents.glob(f"{name.partition('.')[0]}*"))
    data = file.read_bytes()

    def use() -> None:
        found = load(latents)
        assert len(found.limited(4).pixels) <= 12
        found.originals()

    use()
    cases = [(what, json.dumps(value).encode()) for what, value in tree_mutations(json.loads(data), n)] if name == FILE else []
    found = [*faults(data, file, use, n), *faults_of(cases, file, use)]
    assert [f for f in found if "does not name" not in f or "/encoded" not in f.partition("Error: ")[2]] == []


@pytest.mark.slow(20)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_diffusers(kind: str, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    getattr(diffusers, kind)(**KINDS[kind]).save_pretrained(tmp_path)
    config, weights = (tmp_path / name for name in (CONFIG, WEIGHTS))
    plain = json.loads(config.read_text())

    def use() -> None:
        read_autoencoder(tmp_path).reconstruct(np.repeat(PIXELS, 3, axis=3)[:1])

    assert faults(weights.read_bytes(), weights, use, 60) == []
    cases = [(what, json.dumps(value).encode()) for what, value in tree_mutations(plain)]
    found = faults_of(cases, config, use)
    assert [f for f in found if WEIGHTS not in f and tmp_path.name not in f] == []
