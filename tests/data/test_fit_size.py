"""Images of several sizes become one size, in their depth, with nothing else changed."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import alphabar
from alphabar.data.card import data_card
from alphabar.data.fit_size import Fit, fitted, parse_size
from alphabar.data.values import reading_of

SIZES = ((20, 30), (30, 20), (24, 24))  # height, width


def square(h: int, w: int, c: int = 1, top: int = 255, dtype: str = "uint8") -> np.ndarray:
    """Black, with a white square of a third of the short side in the middle."""
    image = np.zeros((h, w, c), dtype)
    half = min(h, w) // 6
    image[h // 2 - half : h // 2 + half, w // 2 - half : w // 2 + half] = top
    return image


def extent(image: np.ndarray) -> tuple[int, int]:
    """Height and width of what is brighter than half."""
    rows, columns = np.nonzero(image[..., 0] > image.max() // 2)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


@pytest.mark.parametrize(("fit", "expected"), [("crop", (20, 20)), ("pad", (10, 10)), ("stretch", (20, 10))])
def test_crop_and_pad_keep_the_ratio(fit: Fit, expected: tuple[int, int]) -> None:
    out = fitted(square(120, 240), (60, 60), fit)
    assert out.shape == (60, 60, 1)
    assert extent(out) == expected
    assert bool((out[:15] == 0).all()) and (fit != "pad" or not out[45:].any())


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_an_image_that_only_needs_cutting_or_padding_keeps_its_pixels(fit: Fit) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (41, 30, 3), dtype=np.uint16)
    if fit == "crop":
        np.testing.assert_array_equal(fitted(image, (30, 30), "crop"), image[6:36])
    else:
        np.testing.assert_array_equal(fitted(image, (41, 41), "pad")[:, 5:35], image)


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_the_type_and_the_ends_of_the_scale_stay(dtype: str, top: int) -> None:
    out = fitted(square(90, 130, 3, top, dtype), (31, 45), "crop")
    assert (out.dtype, out.min(), out.max()) == (dtype, 0, top)
    flat = np.full((50, 70, 1), top // 3 if top > 1 else 0.25, dtype)
    assert np.unique(fitted(flat, (17, 33), "stretch")).tolist() == [flat.flat[0]]


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    stripes = np.tile(np.array([0, 65535], np.uint16), (64, 64))[..., None]
    inner = fitted(stripes, (16, 16), "crop")[:, 2:-2]
    assert np.abs(inner / 65535 - 0.5).max() < 0.1


def test_hidden_colours_do_not_bleed() -> None:
    image = np.zeros((40, 40, 4), np.uint8)
    image[..., 1] = 255  # green, but transparent
    image[10:30, 10:30] = (255, 0, 0, 255)
    out = fitted(image, (20, 20), "stretch", alpha=True)
    assert not out[..., 1].any() and set(np.unique(out[..., 0])) <= {0, 255}
    assert out[10, 10].tolist() == [255, 0, 0, 255] and out[0, 0, 3] == 0


def test_padding_has_the_named_background() -> None:
    white = reading_of(alpha="white", size=20, fit="pad")
    assert white.fitted(np.zeros((1, 10, 20, 1), np.uint16))[0, 0, 0].tolist() == [65535]
    colour = reading_of(alpha="255,0,10", size=20, fit="pad")
    assert colour.fitted(np.zeros((1, 10, 20, 3), np.uint8))[0, 0, 0].tolist() == [255, 0, 10]
    with pytest.raises(ValueError, match="name white, black or a grey"):
        colour.fitted(np.zeros((1, 10, 20, 1), np.uint8))


@pytest.mark.parametrize("size", ["", "0", "64x", "-3", "5000", "64x64x3", "a", (1, 2, 3)])
def test_sizes_that_are_none(size: object) -> None:
    with pytest.raises(ValueError, match="give a side or HEIGHTxWIDTH"):
        parse_size(size)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k, (h, w) in enumerate([*SIZES, SIZES[0]]):
        Image.fromarray(square(h, w)[..., 0]).convert("RGB").save(folder / f"{k}.{('png', 'jpg', 'webp', 'tif')[k]}")
    return folder


def test_several_sizes_are_refused_with_the_command(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"3 sizes.*--size 20 --fit crop"):
        alphabar.load(photos)
    for k in range(4, 9):
        Image.fromarray(square(20, 30)[..., 0]).save(photos / f"{k}.png")
    with pytest.raises(ValueError, match="--size 20x30 --fit crop"):
        alphabar.load(photos)


def test_a_set_states_how_it_got_its_size(photos: Path) -> None:
    crop, pad = (alphabar.load(photos, size="18x20", fit=fit) for fit in ("crop", "pad"))
    assert crop.image_shape == (3, 18, 20) and crop.title == "photos:train, crop to 18x20" and crop.jpeg == 0.25
    assert data_card(pad)["fit"] == "pad to 18x20"
    assert crop.fingerprint != pad.fingerprint == alphabar.load(photos, size=(18, 20), fit="pad").fingerprint
    assert alphabar.load(photos, size="18x20").fingerprint == crop.fingerprint
    assert crop.subset([0, 1]).title == crop.title
    with pytest.raises(ValueError, match="without a size"):
        alphabar.load(photos, fit="pad")
    with pytest.raises(ValueError, match="did you mean 'crop'"):
        alphabar.load(photos, size=20, fit="corp")


def test_sixteen_bits_of_a_declared_range_stay(tmp_path: Path) -> None:
    for k, (h, w) in enumerate(SIZES):
        tifffile.imwrite(tmp_path / f"{k}.tif", square(h, w, 1, 4095, "uint16")[..., 0])
    images = alphabar.load(tmp_path, size=16, fit="pad", value_range=(0, 4095))
    assert (images.pixels.dtype, images.pixels.min(), images.pixels.max()) == ("uint16", 0, 65535)
    assert len(np.unique(images.pixels)) > 20


def test_arrays_get_the_size_that_files_get(tmp_path: Path) -> None:
    arrays = [square(h, w, 3) for h, w in SIZES]
    for k, image in enumerate(arrays):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    files = alphabar.load(tmp_path, size=16, fit="crop")
    assert alphabar.load(arrays, size=16, fit="crop").fingerprint == files.fingerprint
    assert alphabar.load([Image.fromarray(a) for a in arrays], size=16).fingerprint == files.fingerprint
    with pytest.raises(ValueError, match=r"3 sizes.*size='20'"):
        alphabar.load(arrays)
    np.save(tmp_path / "one.npy", np.stack([arrays[0]] * 2))
    assert alphabar.load(tmp_path / "one.npy", size=16).pixels[1].tolist() == files.pixels[0].tolist()
    floats = [np.linspace(-1, 3, h * w * 2, dtype=np.float32).reshape(h, w, 2) for h, w in SIZES]
    assert alphabar.load(floats, size=16, value_range=(-1, 3)).image_shape == (2, 16, 16)
