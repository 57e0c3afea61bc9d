"""The data card: its numbers are those of numpy over all pixels."""

import json
from pathlib import Path

import numpy as np
import pytest

import alphabar.data.card as cards
from alphabar.data.card import data_card, unused_depth
from alphabar.data.image_set import load


def test_the_card_counts_by_hand(tmp_path: Path, cache: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(3, 200, (5000, 4, 5, 3), dtype=np.uint8)  # more than one chunk
    pixels[[7, 4500]] = pixels[0]  # three equal images
    pixels[9] = pixels[8]  # and two others
    labels = np.repeat([0, 2], 2500)
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels, classes=np.array(["cat", "dog", "owl"]))
    images = load(tmp_path / "a.npz", cache=cache)
    card = data_card(images)
    assert card["duplicates"] == 5
    assert card["distinct"] == 5000 - 3
    assert card["classes"] == {"cat": 2500, "dog": 0, "owl": 2500}
    assert (card["count"], card["image_shape"], card["dtype"]) == (5000, [3, 4, 5], "uint8")
    assert (card["min"], card["max"], card["levels"]) == (3, 199, 197)
    assert card["mean"] == pytest.approx(pixels.mean(), rel=1e-12)
    assert card["std"] == pytest.approx(pixels.std(), rel=1e-12)
    assert card["sigma_data"] == pytest.approx((pixels / 127.5 - 1).std(), rel=1e-12)
    assert card["channel_mean"] == pytest.approx(pixels.mean((0, 1, 2)), rel=1e-12)
    assert card["channel_std"] == pytest.approx(pixels.std((0, 1, 2)), rel=1e-12)
    assert card["source"] == str(tmp_path / "a.npz")
    assert json.loads(json.dumps(card)) == card


def test_the_card_of_unlabelled_images(tmp_path: Path, cache: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4, 1), dtype=np.uint8))
    card = data_card(load(tmp_path / "a.npy", cache=cache))
    assert card["classes"] is None
    assert (card["std"], card["duplicates"], card["distinct"]) == (0.0, 3, 1)


def test_the_card_of_16_bit_and_of_floats(
    tmp_path: Path, cache: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = rng.integers(100, 4096, (50, 8, 7, 2), dtype=np.uint16)
    deep[0, 0, 0] = 100, 4095
    np.save(tmp_path / "deep.npy", deep)
    card = data_card(load(tmp_path / "deep.npy", cache=cache))
    assert (card["dtype"], card["scale"], card["min"], card["max"]) == ("uint16", 65535, 100, 4095)
    assert card["std"] == pytest.approx(deep.std(), rel=1e-12)
    assert card["channel_mean"] == pytest.approx(deep.mean((0, 1, 2)), rel=1e-12)
    assert card["used"] == pytest.approx(3995 / 65535)
    assert "6.10%" in card["note"] and "--range 0 4095" in card["note"]
    images = load(tmp_path / "deep.npy", cache=cache, value_range=(0, 4095))
    card = data_card(images)
    assert (card["note"], card["value_range"], unused_depth(images)) == (None, [0.0, 4095.0], None)
    assert np.rint(card["values"]).tolist() == [100, 4095]
    monkeypatch.setattr(cards, "_CHUNK_BYTES", 7 * 8 * 7 * 3 * 4)  # seven images at a time
    floats = (rng.normal(0, 1, (50, 8, 7, 3)) + np.linspace(-2, 2, 50)[:, None, None, None]).clip(-5, 5)
    np.save(tmp_path / "floats.npy", floats)
    card = data_card(load(tmp_path / "floats.npy", cache=cache, value_range=(-5, 5)))
    assert (card["dtype"], card["levels"], card["scale"]) == ("float32", None, 1)
    assert card["sigma_data"] == pytest.approx(floats.std() / 5, rel=1e-6)
    assert card["channel_std"] == pytest.approx(floats.std((0, 1, 2)) / 10, rel=1e-6)
    assert json.loads(json.dumps(card)) == card


def test_unused_depth_is_reported_before_training(tmp_path: Path, cache: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 8, 8, 1), 900, np.uint16))
    assert "--range 0 1023" in str(unused_depth(load(tmp_path / "a.npy", cache=cache)))
    np.save(tmp_path / "b.npy", np.linspace(0, 65535, 192).astype(np.uint16).reshape(3, 8, 8, 1))
    assert unused_depth(load(tmp_path / "b.npy", cache=cache)) is None
