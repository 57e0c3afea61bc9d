"""Folders of images: classes, splits, and every refusal names the files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.data.formats import png_16
from alphabar.data.image_set import load
from alphabar.data.images import to_model

from ..conftest import Array, Write, png


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


def test_several_sizes_are_refused(cache: Path, pixels: Array, write_folder: Write) -> None:
    folder = write_folder({"a.png": png(pixels[0]), "b.png": png(pixels[1]), "c.png": png(np.zeros((30, 10, 3), dtype=np.uint8))})
    with pytest.raises(ValueError, match=r"2 sizes.*2 of 5x6 \(as .*a.png\); 1 of 10x30 \(as .*c.png\).*--size 6x5 --fit crop"):
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
    """A 64x64 ramp of 16 bits becomes near-binary in other loaders, with a mean of 0.998."""
    ramp = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    images = load(write_folder({"scan.png": png_16(ramp[..., None])}), cache=cache)
    assert images.pixels.dtype == np.uint16
    np.testing.assert_array_equal(images.pixels[0, ..., 0], ramp)
    assert float(to_model(images.pixels).mean()) == pytest.approx(2 * ramp.mean() / 65535 - 1, abs=1e-6)


def test_several_types_are_refused_without_a_range(cache: Path, pixels: Array, write_folder: Write) -> None:
    deep = pixels[1].astype(np.uint16) * 257
    folder = write_folder({"a.png": png(pixels[0]), "b.png": png_16(deep)})
    with pytest.raises(ValueError, match=r"2 types: 1 of uint8 \(as .*a.png\); 1 of uint16 \(as .*b.png\)"):
        load(folder, cache=cache)
    images = load(folder, cache=cache, value_range=(0, 65535))  # declared to be the same quantity
    np.testing.assert_array_equal(images.pixels, np.stack([pixels[0].astype(np.uint16), deep]))


def test_transparency_is_kept_or_put_on_a_background(cache: Path, pixels: Array, write_folder: Write) -> None:
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
        assert not list((cache / "sets").iterdir())  # no incomplete entry is left
    for _ in range(2):  # decoded, then from the cache
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
    with pytest.raises(ValueError, match=r"4 of 9"):  # the two options have separate entries
        load(folder, cache=cache)
    for name in files:
        (folder / name).write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"9 of 9 images are broken"):
        load(folder, cache=cache, skip_broken=True)


def test_an_intact_image_of_another_size_is_not_skipped(cache: Path, pixels: Array, write_folder: Write) -> None:
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
        (["a.png", "b.heic"], "train", ValueError, "b.heic is of a format that is not read"),
    ],
)
def test_an_ambiguous_folder_is_refused(
    cache: Path, pixels: Array, write_folder: Write, files: list[str], split: str, error: type[Exception], words: str
) -> None:
    folder = write_folder({f: png(pixels[0]) for f in files})
    with pytest.raises(error, match=words):
        load(folder, split, cache=cache)
