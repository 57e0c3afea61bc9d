"""Arrays in .npy and .npz files: any layout, in blocks, and damage is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alphabar.data import cache as image_cache
from alphabar.data.image_set import load
from alphabar.data.values import to_values

from ..conftest import Array


def test_npz_with_labels_and_classes(tmp_path: Path, cache: Path, pixels: Array) -> None:
    labels = np.arange(9) % 2
    np.savez(tmp_path / "set.npz", images=pixels / 255, labels=labels, classes=np.array(["cat", "dog"]))
    images = load(tmp_path / "set.npz", cache=cache)
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.labels is not None
    np.testing.assert_array_equal(images.labels, labels)
    assert images.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda p: np.savez(p, a=np.zeros((2, 4, 4, 1)), b=np.zeros(3)), "it holds a, b: name the images"),
        (lambda p: np.savez(p, images=np.full((2, 4, 4, 1), -1.0)), "from -1 to -1"),
        (lambda p: np.savez(p, images=np.array([{"a": 1}], dtype=object)), "cannot be read"),
        (lambda p: np.savez(p, images=np.zeros((2, 4, 4, 1)), labels=np.zeros(3, dtype=int)), "each of 2 images"),
        (lambda p: np.savez(p, images=np.zeros((2, 4, 4, 1)), labels=np.zeros(2)), "float64"),
        (lambda p: p.write_bytes(b"PK\x03\x04 and no more"), "cannot be read"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
    ],
)
def test_errors_name_the_npz(tmp_path: Path, cache: Path, save: Callable[[Path], None], words: str) -> None:
    file = tmp_path / "bad.npz"
    save(file)
    with pytest.raises(ValueError, match=words) as caught:
        load(file, cache=cache)
    assert str(file) in str(caught.value)


def test_a_pickled_npy_is_never_opened(tmp_path: Path, cache: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"bad.npy cannot be read"):
        load(tmp_path / "bad.npy", cache=cache)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_floats_of_many_channels_and_their_axes(
    tmp_path: Path, cache: Path, rng: np.random.Generator, order: str, save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "BLOCK", 2)  # several blocks, the last one short
    values = rng.normal(0, 500, (5, 8, 9, 6)).clip(-1000, 3000)
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, np.asarray(np.moveaxis(values, 3, 1), order=order))
    images = load(path, cache=cache, value_range=(-1000, 3000))
    assert images.pixels.dtype == np.float32
    assert images.image_shape == (6, 8, 9)
    np.testing.assert_allclose(to_values(images.pixels, images.value_range), values, atol=4000 * 6e-8)
    save(path, values[:, :4, :4])
    with pytest.raises(ValueError, match=r"--axes nhwc"):
        load(path, cache=cache, value_range=(-1000, 3000))
    small = load(path, cache=cache, value_range=(-1000, 3000), axes="nhwc")
    np.testing.assert_allclose(to_values(small.pixels, small.value_range), values[:, :4, :4], atol=4000 * 6e-8)


def test_a_truncated_array_is_reported(tmp_path: Path, cache: Path, pixels: Array) -> None:
    np.save(tmp_path / "a.npy", pixels)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"a.npy cannot be read to its end \(its data end within image 7 of 9"):
        load(tmp_path / "a.npy", cache=cache)
    np.savez(tmp_path / "b.npz", images=pixels)
    data = bytearray((tmp_path / "b.npz").read_bytes())
    data[500] ^= 1  # one pixel, which only the checksum shows
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"b.npz cannot be read.*CRC"):
        load(tmp_path / "b.npz", cache=cache)
