"""Sets by name: where they are searched, and the ways to get one that is missing."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from alphabar.data.image_set import load
from alphabar.data.named_sets import NAMED, Named
from alphabar.evaluation.floor import real_images

from .conftest import Array, idx_bytes

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def test_fashion_mnist_under_the_data_root(garments: tuple[Path, Array, Array], cache: Path) -> None:
    root, train, test = garments
    for split, pixels in (("train", train), ("test", test)):
        images = load("fashion_mnist", split, root=root, cache=cache)
        np.testing.assert_array_equal(images.pixels[..., 0], pixels)
        assert isinstance(images.pixels, np.memmap)
        assert not images.pixels.flags.writeable
        assert images.image_shape == (1, 28, 28)
        assert len(images) == len(pixels)
        assert images.labels is not None
        assert images.classes is not None
        np.testing.assert_array_equal(images.labels, np.arange(len(pixels)) % 10)
        assert images.classes[9] == "Ankle boot"
        assert images.source == str(root / "fashion-mnist")


def test_the_data_root_and_cache_come_from_the_environment(
    garments: tuple[Path, Array, Array], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, train, _ = garments
    monkeypatch.setenv("ALPHABAR_DATA", str(root))
    monkeypatch.setenv("ALPHABAR_CACHE", str(cache))
    assert len(load("fashion_mnist")) == len(train)
    assert len(list((cache / "sets").iterdir())) == 1


def test_the_cache_is_searched_after_the_system(
    garments: tuple[Path, Array, Array], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, train, _ = garments
    monkeypatch.delenv("ALPHABAR_DATA", raising=False)
    known = NAMED["fashion_mnist"]
    monkeypatch.setitem(NAMED, "fashion_mnist", Named(known.folders, known.repo, known.classes, ("/nowhere",)))
    cache.mkdir()
    (root / "fashion-mnist").rename(cache / "fashion_mnist")
    assert len(load("fashion_mnist", cache=cache)) == len(train)


def test_a_missing_set_names_the_ways_to_get_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, no_hub: None
) -> None:
    known = NAMED["fashion_mnist"]
    monkeypatch.setitem(
        NAMED, "fashion_mnist", Named(known.folders, known.repo, known.classes, ("/nowhere/garments",), known.package)
    )
    with pytest.raises(FileNotFoundError) as caught:
        load("fashion_mnist", root=tmp_path, cache=cache)
    for words in (
        "apt-get install dataset-fashion-mnist",
        "ALPHABAR_DATA",
        "hf download zalando-datasets/fashion_mnist",
        "/nowhere/garments",
        str(tmp_path / "fashion-mnist"),
        "no network in this test",
    ):
        assert words in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"hf download uoft-cs/cifar10"):
        load("cifar10", root=tmp_path, cache=cache)


def test_labels_that_do_not_fit_are_refused(garments: tuple[Path, Array, Array], cache: Path) -> None:
    root, _, _ = garments
    labels = root / "fashion-mnist" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.full(40, 10, dtype=np.uint8))))
    with pytest.raises(ValueError, match=r"train-labels.*from 10 to 10, wanted 0\.\.9"):
        load("fashion_mnist", root=root, cache=cache)
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(39, dtype=np.uint8))))
    with pytest.raises(ValueError, match=r"one whole number or one name for each of 40 images"):
        load("fashion_mnist", root=root, cache=cache)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHABAR_DATA", raising=False)
    images = load("fashion_mnist", "test", cache=cache)
    assert images.pixels.shape == (10_000, 28, 28, 1)
    assert images.labels is not None
    np.testing.assert_array_equal(np.bincount(images.labels), np.full(10, 1000))
    assert images.classes is not None
    assert images.classes[images.labels[0]] == "Ankle boot"
    # published for the training images: 0.2860 and 0.3530; the mean of the test images is close
    assert float(images.pixels.mean()) / 255 == pytest.approx(0.2868, abs=5e-4)


def test_the_real_cifar10(cifar_root: Path, cache: Path) -> None:
    images = load("cifar10", "test", root=cifar_root, cache=cache)
    assert images.pixels.shape == (10_000, 32, 32, 3)
    assert images.labels is not None
    np.testing.assert_array_equal(np.bincount(images.labels), np.full(10, 1000))
    assert images.classes == NAMED["cifar10"].classes


def test_a_named_set_is_fetched_once(hub: list[str], cache: Path, tmp_path: Path, pixels: Array) -> None:
    for _ in range(2):
        images = load("cifar10", root=tmp_path, cache=cache)
    assert hub == ["uoft-cs/cifar10:train"]  # the second time it comes from the cache
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.classes == NAMED["cifar10"].classes


def test_the_floor_of_a_named_set_has_the_size_of_its_reference(
    garments: tuple[Path, Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _, _ = garments
    monkeypatch.setenv("ALPHABAR_DATA", str(root))
    real = real_images(load("fashion_mnist", "test", size="18x20", fit="pad"))
    assert real.pool.shape[1:] == (18, 20, 1) and not real.halved
    assert real.pool_source.startswith("fashion_mnist:train") and real.reference_name == "fashion_mnist:test, pad to 18x20"
    assert real_images(load(root / "fashion-mnist", "test")).halved
