"""`load` gives the same images, labels and fingerprint from every source; errors name what to type."""

import os
from pathlib import Path

import numpy as np
import pytest

from alphabar.data import cache as image_cache
from alphabar.data.formats import png_16
from alphabar.data.image_set import load, parse_set
from alphabar.data.readers import find
from alphabar.data.readers.arrays import read_npy
from alphabar.data.values import to_values

from .conftest import Array, Write, png, write_parquet


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("fashion_mnist", ("fashion_mnist", "train")),
        ("fashion_mnist:test", ("fashion_mnist", "test")),
        ("fashion_mnist:train", ("fashion_mnist", "train")),
        ("hf:owner/name", ("hf:owner/name", "train")),
        ("hf:owner/name:test", ("hf:owner/name", "test")),
        (r"C:\pictures", (r"C:\pictures", "train")),
        ("a:b/test", ("a:b/test", "train")),
        (":test", (":test", "train")),
    ],
)
def test_parse_set(text: str, want: tuple[str, str]) -> None:
    assert parse_set(text) == want


def test_parse_set_refuses_an_empty_name() -> None:
    with pytest.raises(ValueError, match=r"no name"):
        parse_set("")


def test_an_unknown_name_and_split_are_refused(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no set fashion: pass fashion_mnist, cifar10, the path"):
        load("fashion", cache=cache)
    with pytest.raises(ValueError, match=r"split 'valid'.*train or test"):
        load("fashion_mnist", "valid", cache=cache)


def test_every_source_gives_the_same_images(tmp_path: Path, cache: Path, pixels: Array, write_folder: Write) -> None:
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "b.npz", images=pixels, record=np.array("{}"))
    np.savez_compressed(tmp_path / "c.npz", pixels)
    write_parquet(tmp_path / "d.parquet", pixels)
    folder = write_folder({f"{i}.png": png(image) for i, image in enumerate(pixels)})
    found = [load(p, cache=cache) for p in (*(tmp_path / f for f in ("a.npy", "b.npz", "c.npz", "d.parquet")), folder)]
    for images in found:
        np.testing.assert_array_equal(images.pixels, pixels)
        assert images.labels is None
        assert images.classes is None
    assert len({images.fingerprint for images in found}) == 1
    assert found[0].fingerprint != load_reversed(tmp_path, cache, pixels)


def load_reversed(tmp_path: Path, cache: Path, pixels: Array) -> str:
    np.save(tmp_path / "reversed.npy", pixels[::-1])
    return load(tmp_path / "reversed.npy", cache=cache).fingerprint


def test_a_single_file_has_no_test_split(tmp_path: Path, cache: Path, pixels: Array) -> None:
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(FileNotFoundError, match=r"has no test split.*test\.npy"):
        load(tmp_path / "a.npy", "test", cache=cache)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"ends in '\.txt'"):
        load(tmp_path / "notes.txt", cache=cache)


def test_a_declared_range_maps_values_to_the_scale(
    cache: Path, tmp_path: Path, write_folder: Write, rng: np.random.Generator
) -> None:
    scans = rng.integers(0, 4096, (3, 8, 9, 1), dtype=np.uint16)
    scans[0, 0, :2, 0] = 0, 4095
    folder = write_folder({f"{i}.png": png_16(s) for i, s in enumerate(scans)})
    np.savez_compressed(tmp_path / "a.npz", scans.astype(np.int32))
    plain = load(folder, cache=cache)
    declared = [load(p, cache=cache, value_range=(0, 4095)) for p in (folder, tmp_path / "a.npz")]
    for images in declared:
        assert (images.value_range, images.pixels.dtype) == ((0.0, 4095.0), np.uint16)
        assert (images.pixels.min(), images.pixels.max()) == (0, 65535)
        np.testing.assert_array_equal(np.rint(to_values(images.pixels, images.value_range)), scans)
    assert declared[0].fingerprint == declared[1].fingerprint != plain.fingerprint
    assert declared[0].subset([1]).value_range == (0.0, 4095.0)
    np.testing.assert_array_equal(plain.pixels, scans)  # no range is guessed
    for place in (folder, tmp_path / "a.npz"):
        with pytest.raises(ValueError, match=r"from 0 to 4095: \d+ of 216 values lie outside.*--range 0 4095"):
            load(place, cache=cache, value_range=(0, 1000))
    with pytest.raises(ValueError, match=r"the lower first"):
        load(folder, cache=cache, value_range=(5, 5))
    with pytest.raises(ValueError, match=r"int32 images from 0 to 4095.*declare"):
        load(tmp_path / "a.npz", cache=cache)


@pytest.mark.parametrize("kind", ["npy", "npz", "folder"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, cache: Path, kind: str, write_folder: Write) -> None:
    """Peak allocation while loading n images: blocks and a few numbers per image, not the images."""
    import tracemalloc

    peaks = []
    small, large = (20, 200) if kind == "folder" else (2_000, 20_000)
    side = 128 if kind == "folder" else 16
    for n in (small, large):
        values = np.random.default_rng(0).integers(0, 4096, (n, side, side, 1), dtype=np.uint16)
        values[:, :2, :2] = np.arange(4 * n).reshape(n, 2, 2, 1) % 4096
        path = tmp_path / f"{n}.{kind}"
        if kind == "npz":
            np.savez_compressed(path, values)
        elif kind == "npy":
            np.save(path, values)
        else:
            path = write_folder({f"{k}.png": png_16(v) for k, v in enumerate(values)}, f"{n}")
        size, block = values[0].nbytes, 10
        del values
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(image_cache, "BLOCK", block if kind == "folder" else 500)
            tracemalloc.start()
            load(path, cache=cache, value_range=(0, 4095))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.15 * (large - small) * size  # the images themselves would make it 1


def test_a_subset_has_the_fingerprint_of_its_content(tmp_path: Path, cache: Path, pixels: Array) -> None:
    np.savez(tmp_path / "all.npz", images=pixels, labels=np.arange(9))
    np.save(tmp_path / "part.npy", pixels[[4, 2]])
    part = load(tmp_path / "all.npz", cache=cache).subset([4, 2])
    assert part.fingerprint == load(tmp_path / "part.npy", cache=cache).fingerprint
    np.testing.assert_array_equal(part.pixels, pixels[[4, 2]])
    assert part.labels is not None
    assert part.labels.tolist() == [4, 2]


def test_the_cache_depends_on_content_and_not_on_dates(
    tmp_path: Path, cache: Path, pixels: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.npy"
    np.save(file, pixels)
    built: list[Path] = []
    monkeypatch.setitem(find._FILES, ".npy", lambda *args: built.append(args[0][0]) or read_npy(*args))
    first = load(file, cache=cache)
    os.utime(file, (1, 1))
    file.rename(tmp_path / "b.npy")
    assert load(tmp_path / "b.npy", cache=cache).fingerprint == first.fingerprint
    assert len(built) == 1  # a new date and a new name: nothing was decoded again
    pixels[3, 1, 1, 1] ^= 1
    np.save(file, pixels)
    os.utime(file, (1, 1))  # same name, size and date, another pixel
    assert load(file, cache=cache).fingerprint != first.fingerprint
    assert len(built) == 2


def test_a_limit_misses_no_class_of_sorted_or_of_periodic_labels(cache: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (200, 4, 4, 1), dtype=np.uint8)
    for labels in (np.arange(200) // 50, np.arange(200) % 4):
        images = load(pixels, labels=labels, cache=cache)
        few = images.limited(50)  # with an even stride, of 4, all would be of one class of the periodic labels
        assert few.labels is not None
        assert (np.bincount(few.labels, minlength=4) > 3).all()
        assert few.fingerprint == images.limited(50).fingerprint
    assert images.limited(0) is images.limited(200) is images
