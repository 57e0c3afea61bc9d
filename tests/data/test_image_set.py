"""Every source gives the same images, labels and fingerprint; faults are named with what to type."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.data.image_set import load, parse_set
from alphabar.data.images import to_model
from alphabar.data.named_sets import NAMED, Named
from alphabar.data.png import png_16
from alphabar.data.readers import find, source
from alphabar.data.readers.arrays import read_npy
from alphabar.data.values import to_values

from .conftest import Array, idx_bytes, png

Write = Callable[..., Path]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


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


def test_parse_set_refuses_nothing() -> None:
    with pytest.raises(ValueError, match=r"no name"):
        parse_set("")


# --- by name ---


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


def test_the_users_cache_is_the_place_after_the_system(
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
        NAMED,
        "fashion_mnist",
        Named(known.folders, known.repo, known.classes, ("/nowhere/garments",), known.package),
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


def test_an_unknown_name_and_split_are_refused(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no set fashion: pass fashion_mnist, cifar10, the path"):
        load("fashion", cache=cache)
    with pytest.raises(ValueError, match=r"split 'valid'.*train or test"):
        load("fashion_mnist", "valid", cache=cache)


def test_labels_that_do_not_fit_are_refused(garments: tuple[Path, Array, Array], cache: Path) -> None:
    root, _, _ = garments
    labels = root / "fashion-mnist" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.full(40, 10, dtype=np.uint8))))
    with pytest.raises(ValueError, match=r"train-labels.*from 10 to 10, wanted 0\.\.9"):
        load("fashion_mnist", root=root, cache=cache)
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(39, dtype=np.uint8))))
    with pytest.raises(ValueError, match=r"one whole number for each of 40 images"):
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
    # published: 0.2860 and 0.3530 for the training images; the test images' mean lies beside it
    assert float(images.pixels.mean()) / 255 == pytest.approx(0.2868, abs=5e-4)


def test_the_real_cifar10(cifar_root: Path, cache: Path) -> None:
    images = load("cifar10", "test", root=cifar_root, cache=cache)
    assert images.pixels.shape == (10_000, 32, 32, 3)
    assert images.labels is not None
    np.testing.assert_array_equal(np.bincount(images.labels), np.full(10, 1000))
    assert images.classes == NAMED["cifar10"].classes


# --- files ---


@pytest.fixture
def pixels(rng: np.random.Generator) -> Array:
    return rng.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)


def write_parquet(path: Path, pixels: Array, names: list[str] | None = None, column: str = "img") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(pixels)]
    columns = {column: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    features: dict[str, object] = {column: {"_type": "Image"}}
    if names:
        columns["label"] = pa.array(np.arange(len(pixels)) % len(names))
        features["label"] = {"names": names, "_type": "ClassLabel"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


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
def test_a_bad_npz_is_named(tmp_path: Path, cache: Path, save: Callable[[Path], None], words: str) -> None:
    file = tmp_path / "bad.npz"
    save(file)
    with pytest.raises(ValueError, match=words) as caught:
        load(file, cache=cache)
    assert str(file) in str(caught.value)


def test_a_pickled_npy_is_never_opened(tmp_path: Path, cache: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"bad.npy cannot be read"):
        load(tmp_path / "bad.npy", cache=cache)


def test_parquet_splits_shards_and_class_names(tmp_path: Path, cache: Path, pixels: Array) -> None:
    folder = tmp_path / "cats"
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", pixels[:5], ["cat", "dog"], "image")
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", pixels[5:], ["cat", "dog"], "image")
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", pixels[:2], ["cat", "dog"], "image")
    train = load(folder, cache=cache)
    np.testing.assert_array_equal(train.pixels, pixels)
    assert train.classes == ("cat", "dog")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1]
    assert len(load(folder, "test", cache=cache)) == 2


def test_a_bad_parquet_is_named(tmp_path: Path, cache: Path, pixels: Array) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "bad.parquet"
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"bad.parquet cannot be read as parquet"):
        load(file, cache=cache)
    pq.write_table(pa.table({"x": [1, 2]}), file)
    with pytest.raises(ValueError, match=r"no column of images, only x"):
        load(file, cache=cache)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}], kind)}), file)
    with pytest.raises(ValueError, match=r"row 0 holds no image, only its path a.png"):
        load(file, cache=cache)
    pq.write_table(pa.table({"image": pa.array([], kind), "label": pa.array([], pa.int64())}), file)
    with pytest.raises(ValueError, match=r"bad.parquet holds no images"):
        load(file, cache=cache)
    cells = [{"bytes": png(pixels[0]), "path": None}, {"bytes": png(pixels[1])[:50], "path": None}]
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), file)
    with pytest.raises(ValueError, match=r"bad.parquet, row 1"):
        load(file, cache=cache)


def test_one_file_has_no_test_split(tmp_path: Path, cache: Path, pixels: Array) -> None:
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(FileNotFoundError, match=r"has no test split.*test\.npy"):
        load(tmp_path / "a.npy", "test", cache=cache)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"ends in '\.txt'"):
        load(tmp_path / "notes.txt", cache=cache)


# --- folders ---


def test_class_folders_give_labels_that_agree_between_splits(cache: Path, pixels: Array, write_folder: Write) -> None:
    folder = write_folder(
        {
            "train/shoe/1.png": png(pixels[0]),
            "train/bag/2.png": png(pixels[1]),
            "train/coat/x/3.png": png(pixels[2]),
            "test/shoe/4.png": png(pixels[3]),
            "train/bag/._2.png": b"a Mac wrote this",
            "train/.DS_Store": b"and this",
            "train/notes.txt": b"and I wrote this",
        }
    )
    train, test = load(folder, cache=cache), load(folder, "test", cache=cache)
    assert train.classes == test.classes == ("bag", "coat", "shoe")
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2], [2])
    np.testing.assert_array_equal(train.pixels, pixels[[1, 2, 0]])
    assert train.name == "pictures"


def test_unlike_sizes_are_refused_never_squashed(cache: Path, pixels: Array, write_folder: Write) -> None:
    folder = write_folder({"a.png": png(pixels[0]), "b.png": png(pixels[1]), "c.png": png(np.zeros((30, 10, 3), dtype=np.uint8))})
    with pytest.raises(ValueError, match=r"2 sizes.*2 of 5x6 \(as .*a.png\); 1 of 10x30 \(as .*c.png\).*ImageOps.fit"):
        load(folder, cache=cache)
    assert not list((cache / "sets").glob("*")) if (cache / "sets").exists() else True


def test_grey_and_colour_make_a_colour_set_and_rotation_counts_in_the_size(
    cache: Path, pixels: Array, write_folder: Write
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = write_folder(
        {
            "a.png": png(pixels[0]),
            "d.png": png(pixels[1, ..., :1]),
            "c.png": png(np.ascontiguousarray(np.rot90(pixels[2])), exif=exif),
        }
    )
    images = load(folder, cache=cache)
    np.testing.assert_array_equal(images.pixels[0], pixels[0])
    np.testing.assert_array_equal(images.pixels[2], pixels[1, ..., :1].repeat(3, -1))
    np.testing.assert_array_equal(images.pixels[1], pixels[2])


def test_a_folder_of_16_bit_images_keeps_its_depth(cache: Path, write_folder: Write) -> None:
    """S1: a 64x64 ramp of 16 bits becomes near-binary in other loaders, with a mean of 0.998."""
    ramp = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    images = load(write_folder({"scan.png": png_16(ramp[..., None])}), cache=cache)
    assert images.pixels.dtype == np.uint16
    np.testing.assert_array_equal(images.pixels[0, ..., 0], ramp)
    assert float(to_model(images.pixels).mean()) == pytest.approx(2 * ramp.mean() / 65535 - 1, abs=1e-6)


def test_a_declared_range_is_that_of_the_values(
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
    np.testing.assert_array_equal(plain.pixels, scans)  # nothing is guessed
    for place in (folder, tmp_path / "a.npz"):
        with pytest.raises(ValueError, match=r"from 0 to 4095: \d+ of 216 values lie outside.*--range 0 4095"):
            load(place, cache=cache, value_range=(0, 1000))
    with pytest.raises(ValueError, match=r"the lower first"):
        load(folder, cache=cache, value_range=(5, 5))
    with pytest.raises(ValueError, match=r"int32 images from 0 to 4095.*declare"):
        load(tmp_path / "a.npz", cache=cache)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_floats_of_many_channels_and_their_axes(
    tmp_path: Path, cache: Path, rng: np.random.Generator, order: str, save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "BLOCK", 2)  # several blocks, the last one short
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


def test_a_cut_array_is_named(tmp_path: Path, cache: Path, pixels: Array) -> None:
    np.save(tmp_path / "a.npy", pixels)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"a.npy cannot be read to its end \(its data end within image 7 of 9"):
        load(tmp_path / "a.npy", cache=cache)
    np.savez(tmp_path / "b.npz", images=pixels)
    data = bytearray((tmp_path / "b.npz").read_bytes())
    data[500] ^= 1  # a pixel: the checksum tells
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"b.npz cannot be read.*CRC"):
        load(tmp_path / "b.npz", cache=cache)


@pytest.mark.parametrize("kind", ["npy", "npz", "folder"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, cache: Path, kind: str, write_folder: Write) -> None:
    """What is allocated at the peak of loading n images: blocks, and a few numbers an image; never the images."""
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
            patch.setattr(source, "BLOCK", block if kind == "folder" else 500)
            tracemalloc.start()
            load(path, cache=cache, value_range=(0, 4095))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 0.15 * (large - small) * size  # the images themselves would make it 1


def test_unlike_types_and_channels_are_refused(cache: Path, pixels: Array, write_folder: Write) -> None:
    deep = pixels[1].astype(np.uint16) * 257
    folder = write_folder({"a.png": png(pixels[0]), "b.png": png_16(deep)})
    with pytest.raises(ValueError, match=r"2 types: 1 of uint8 \(as .*a.png\); 1 of uint16 \(as .*b.png\)"):
        load(folder, cache=cache)
    images = load(folder, cache=cache, value_range=(0, 65535))  # the same quantity in both, says the user
    np.testing.assert_array_equal(images.pixels, np.stack([pixels[0].astype(np.uint16), deep]))


def test_transparency_is_kept_or_painted_when_asked(cache: Path, pixels: Array, write_folder: Write) -> None:
    clear = np.concatenate([pixels[0], np.full((6, 5, 1), 51, np.uint8)], -1)
    folder = write_folder({"a.png": png(clear), "b.png": png(pixels[1]), "c.png": png(pixels[2, ..., :1])})
    with pytest.raises(ValueError, match=r"a.png is transparent in 100.0%"):
        load(folder, cache=cache)
    kept = load(folder, cache=cache, alpha="keep")
    np.testing.assert_array_equal(kept.pixels[0], clear)
    np.testing.assert_array_equal(kept.pixels[1], np.concatenate([pixels[1], np.full((6, 5, 1), 255, np.uint8)], -1))
    black = load(folder, cache=cache, alpha="black")
    np.testing.assert_array_equal(black.pixels[0], np.rint(pixels[0] / 5))
    np.testing.assert_array_equal(black.pixels[2], pixels[2, ..., :1].repeat(3, -1))


def test_every_broken_image_is_listed_and_left_out_only_when_asked(
    cache: Path, pixels: Array, write_folder: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [png(p) for p in pixels]
    files = {f"{'cat' if i % 2 else 'dog'}/{i}.png": data for i, data in enumerate(good)}
    files |= {"cat/3.png": good[3][:-40], "dog/6.png": good[6][:10], "cat/7.png": b"", "dog/8.png": b"no image"}
    folder = write_folder(files)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"4 of 9 images are broken") as caught:
            load(folder, cache=cache)
        for name in ("cat/3.png", "dog/6.png", "cat/7.png", "dog/8.png", "--skip-broken"):
            assert name in str(caught.value)
        assert not list((cache / "sets").iterdir())  # nothing half made is left
    for _ in range(2):  # decoded, and out of the cache
        images = load(folder, cache=cache, skip_broken=True)
        assert "4 of 9 images" in capsys.readouterr().err
        np.testing.assert_array_equal(images.pixels, pixels[[1, 5, 0, 2, 4]])
        assert images.labels is not None
        assert images.labels.tolist() == [0, 0, 1, 1, 1]
        assert [next(n for n in files if n in text) for text in images.skipped] == [
            "cat/3.png",
            "cat/7.png",
            "dog/6.png",
            "dog/8.png",
        ]
        assert len(images.hashes) == 5
    with pytest.raises(ValueError, match=r"4 of 9"):  # the cache of one is not that of the other
        load(folder, cache=cache)
    for name in files:
        (folder / name).write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"9 of 9 images are broken"):
        load(folder, cache=cache, skip_broken=True)


def test_a_whole_image_that_cannot_be_read_is_refused_and_not_skipped(cache: Path, pixels: Array, write_folder: Write) -> None:
    folder = write_folder({"a.png": png(pixels[0]), "b.png": png(np.zeros((9, 5, 3), np.uint8))})
    with pytest.raises(ValueError, match=r"2 sizes"):
        load(folder, cache=cache, skip_broken=True)


def test_a_long_list_of_broken_images_is_cut(cache: Path, write_folder: Write) -> None:
    folder = write_folder({f"{i:02}.png": b"no" for i in range(30)} | {"zz.png": png(np.zeros((4, 4, 1), np.uint8))})
    with pytest.raises(ValueError, match=r"(?s)30 of 31.*19.png.*and 10 more") as caught:
        load(folder, cache=cache)
    assert "20.png" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "split", "error", "words"),
    [
        (["notes.txt"], "train", FileNotFoundError, "holds no train images"),
        (["a.png"], "test", FileNotFoundError, "holds no test images"),
        (["train/a.png"], "test", FileNotFoundError, "only train: pass"),
        (["a.png", "bag/b.png"], "train", ValueError, "1 images next to subfolders"),
        (["train/a.png", "bus/b.png"], "train", ValueError, "splits or classes"),
        (["a.png", "b.avif"], "train", ValueError, "b.avif is of a format that is not read"),
    ],
)
def test_an_unclear_folder_is_refused(
    cache: Path, pixels: Array, write_folder: Write, files: list[str], split: str, error: type[Exception], words: str
) -> None:
    folder = write_folder({f: png(pixels[0]) for f in files})
    with pytest.raises(error, match=words):
        load(folder, split, cache=cache)


# --- the hub, without a network ---


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, pixels: Array) -> list[str]:
    """datasets.load_dataset gives a real Dataset of made-up images; the list keeps what was asked for."""
    import datasets

    asked: list[str] = []

    def give(repo: str, *, split: str) -> datasets.Dataset:
        asked.append(f"{repo}:{split}")
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        cells = [{"bytes": png(p), "path": None} for p in pixels]
        return datasets.Dataset.from_dict({"img": cells, "label": [0, 1] * 4 + [0]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", give)
    return asked


def test_any_set_of_the_hub(hub: list[str], cache: Path, pixels: Array) -> None:
    images = load("hf:someone/pets", "test", cache=cache)
    assert hub == ["someone/pets:test"]
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.classes == ("cat", "dog")
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1] * 4 + [0]
    assert images.source == "hf:someone/pets"


def test_a_named_set_is_fetched_once(hub: list[str], cache: Path, tmp_path: Path, pixels: Array) -> None:
    for _ in range(2):
        images = load("cifar10", root=tmp_path, cache=cache)
    assert hub == ["uoft-cs/cifar10:train"]  # the second time the cache knows it by name
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.classes == NAMED["cifar10"].classes


def test_a_hub_that_does_not_answer(no_hub: None, cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"hf:someone/pets \(train\) could not be fetched: ConnectionError"):
        load("hf:someone/pets", cache=cache)


# --- subsets ---


def test_a_subset_has_the_fingerprint_of_its_content(tmp_path: Path, cache: Path, pixels: Array) -> None:
    np.savez(tmp_path / "all.npz", images=pixels, labels=np.arange(9))
    np.save(tmp_path / "part.npy", pixels[[4, 2]])
    part = load(tmp_path / "all.npz", cache=cache).subset([4, 2])
    assert part.fingerprint == load(tmp_path / "part.npy", cache=cache).fingerprint
    np.testing.assert_array_equal(part.pixels, pixels[[4, 2]])
    assert part.labels is not None
    assert part.labels.tolist() == [4, 2]


def test_dates_do_not_matter_and_content_does(
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
