"""The data card and the contact sheet."""

import json
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alphabar.data.card as cards
from alphabar.data.augment import flip, shift
from alphabar.data.card import data_card, unused_depth
from alphabar.data.contact_sheet import contact_sheet, shown, shown_note
from alphabar.data.image_set import load


def test_the_card_counts_by_hand(tmp_path: Path, cache: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(3, 200, (5000, 4, 5, 3), dtype=np.uint8)  # more than one chunk
    pixels[[7, 4500]] = pixels[0]  # three of one
    pixels[9] = pixels[8]  # two of another
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


def test_unused_depth_is_told_before_training(tmp_path: Path, cache: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 8, 8, 1), 900, np.uint16))
    assert "--range 0 1023" in str(unused_depth(load(tmp_path / "a.npy", cache=cache)))
    np.save(tmp_path / "b.npy", np.linspace(0, 65535, 192).astype(np.uint16).reshape(3, 8, 8, 1))
    assert unused_depth(load(tmp_path / "b.npy", cache=cache)) is None


def test_what_a_screen_cannot_show_is_said_under_the_sheet(rng: np.random.Generator) -> None:
    deep = rng.integers(0, 65536, (2, 5, 4, 1), dtype=np.uint16)
    np.testing.assert_array_equal(shown(deep), np.rint(deep / 257))  # the whole scale: nothing is stretched
    many = rng.random((2, 5, 4, 6), dtype=np.float32)
    np.testing.assert_array_equal(shown(many)[1, :, 8:12, 0], np.rint(many[1, ..., 2].astype(float) * 255))
    assert shown(many).shape == (2, 5, 16, 1)
    for pixels in (deep, many):
        sheet, plain = contact_sheet(pixels), contact_sheet(shown(pixels))
        assert sheet.height > plain.height
        np.testing.assert_array_equal(np.asarray(sheet)[: plain.height, : plain.width], np.asarray(plain))
        assert np.asarray(sheet)[plain.height :].min() < 128  # there is text
        assert sheet.tobytes() == contact_sheet(pixels).tobytes()
    assert shown_note(many) == "float32, 0..1 shown as 0..255; 6 channels, the first 4 side by side"
    assert shown_note(shown(many)) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_where_it_belongs(rng: np.random.Generator, channels: int) -> None:
    pixels = rng.integers(0, 256, (7, 5, 4, channels), dtype=np.uint8)
    sheet = contact_sheet(pixels, columns=3, scale=2, pad=1)
    assert sheet.mode == ("L" if channels == 1 else "RGB")
    assert sheet.size == (3 * 9 + 1, 3 * 11 + 1)
    array = np.asarray(sheet).reshape(34, 28, channels)
    for i, image in enumerate(pixels):
        top, left = 1 + i // 3 * 11, 1 + i % 3 * 9
        np.testing.assert_array_equal(array[top : top + 10 : 2, left : left + 8 : 2], image)
    assert array[23:, 10:].min() == 255  # the empty places
    assert sheet.tobytes() == contact_sheet(pixels, columns=3, scale=2, pad=1).tobytes()


def test_columns_left_out_make_the_sheet_about_square() -> None:
    assert contact_sheet(np.zeros((10, 4, 4, 1), dtype=np.uint8), pad=0).size == (16, 12)


def test_captions_stand_left_of_their_rows() -> None:
    pixels = np.full((6, 28, 28, 3), 255, dtype=np.uint8)
    sheet = contact_sheet(pixels, captions=["DDPM", "", "DDIM, 10 calls"], pad=2)
    plain = contact_sheet(pixels, columns=2, pad=2)
    assert sheet.height == plain.height
    gutter = sheet.width - plain.width
    ink = np.asarray(sheet.convert("L"))[:, :gutter] < 128
    rows = [ink[2 + 30 * k : 32 + 30 * k].any() for k in range(3)]
    assert rows == [True, False, True]
    np.testing.assert_array_equal(np.asarray(sheet)[:, gutter:], np.asarray(plain))
    assert isinstance(sheet, Image.Image)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": 0}, "columns >= 1"),
        ({"scale": 0}, "scale >= 1"),
        ({"pad": -1}, "pad >= 0"),
        ({"columns": 2, "captions": ["one"]}, "1 captions for 2 rows"),
    ],
)
def test_a_sheet_that_cannot_be_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        contact_sheet(np.zeros((4, 4, 4, 1), dtype=np.uint8), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float64"):
        unwrap(contact_sheet)(np.zeros((4, 4, 4, 1)))  # past the type checks of the tests, as a user is


def test_flip_mirrors_some_and_only_that(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (200, 3, 4, 1), dtype=np.uint8)
    out = flip(pixels, np.random.default_rng(1))
    same = (out == pixels).all((1, 2, 3))
    mirrored = (out == pixels[:, :, ::-1]).all((1, 2, 3))
    assert (same | mirrored).all()
    assert 60 < mirrored.sum() < 140
    np.testing.assert_array_equal(flip(pixels, rng, 0.0), pixels)
    np.testing.assert_array_equal(flip(pixels, rng, 1.0), pixels[:, :, ::-1])


def test_shift_moves_and_fills(rng: np.random.Generator) -> None:
    pixels = np.zeros((300, 5, 5, 1), dtype=np.uint8)
    pixels[:, 2, 2] = 200
    out = shift(pixels, rng, most=2, fill=7)
    rows, columns = np.nonzero(out[..., 0] == 200)[1:]
    assert len(rows) == 300  # the dot is never lost and never doubled
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(y, x) for y in range(5) for x in range(5)}
    for image, y, x in zip(out[..., 0], rows, columns, strict=True):
        assert (image == 7).sum() == 25 - (5 - abs(y - 2)) * (5 - abs(x - 2))
    np.testing.assert_array_equal(shift(pixels, rng, most=0), pixels)
    deep = shift(pixels.astype(np.uint16) * 257, rng, most=2, fill=40000)
    assert (deep.dtype, set(np.unique(deep))) == (np.uint16, {0, 200 * 257, 40000})
    with pytest.raises(ValueError, match="0 to 255"):
        shift(pixels, rng, fill=256)
    with pytest.raises(ValueError, match="0 to 4 pixels"):
        shift(pixels, rng, most=5)
