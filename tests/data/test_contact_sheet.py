"""Contact sheets: every image stands in its place, with the pixels that it has."""

from inspect import unwrap

import numpy as np
import pytest
from PIL import Image

from alphabar.data.contact_sheet import contact_sheet, levels_of, shown, shown_note


def test_a_note_under_the_sheet_names_what_was_converted(rng: np.random.Generator) -> None:
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


def test_low_contrast_is_stretched_alike_for_all_images_of_a_sheet_and_the_note_says_so(rng: np.random.Generator) -> None:
    deep = rng.integers(1000, 4001, (6, 24, 24, 1)).astype(np.uint16)
    low, high = levels_of(deep)
    assert (low * 65535, high * 65535) == pytest.approx((1003, 3997), abs=2)  # percentiles 0.1 and 99.9
    expected = np.rint((deep - low * 65535) / ((high - low) * 65535) * 255).clip(0, 255)
    np.testing.assert_array_equal(shown(deep), expected)
    np.testing.assert_array_equal(shown(deep[:1], (low, high)), expected[:1])
    assert shown_note(deep) == f"uint16, contrast stretched: {low * 65535:.4g}..{high * 65535:.4g} of 0..65535 shown as 0..255"
    darker = (deep // 2).astype(np.uint16)  # the other side of a comparison, by the levels of this one
    assert shown(darker, levels_of(deep)).mean() < 40 and shown(darker).mean() > 100
    assert levels_of(deep, darker)[0] < low and levels_of(deep, darker)[1] < high + 1e-3
    for unchanged in (
        deep.astype(np.uint8),
        deep * 16,
        np.full((2, 4, 4, 1), 7, np.uint16),
    ):  # 8 bits; wide; without any contrast
        assert levels_of(unchanged) == (0, 1)


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


def test_without_columns_the_sheet_is_about_square() -> None:
    assert contact_sheet(np.zeros((10, 4, 4, 1), dtype=np.uint8), pad=0).size == (16, 12)


def test_captions_are_written_to_the_left_of_their_rows() -> None:
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
def test_invalid_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        contact_sheet(np.zeros((4, 4, 4, 1), dtype=np.uint8), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float64"):
        unwrap(contact_sheet)(np.zeros((4, 4, 4, 1)))  # past the type checks of the tests, as a user is
