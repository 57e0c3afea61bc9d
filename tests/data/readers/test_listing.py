"""What lies in a folder is read, or counted and named: links, suffixes, splits in any spelling, label files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.data.card import data_card
from alphabar.data.image_set import ImageSet, load

from ..conftest import Array, Write, png


def counts(images: ImageSet) -> dict[str, int] | None:
    found: dict[str, int] | None = data_card(images)["classes"]
    return found


def test_linked_folders_are_read_and_dead_or_circular_links_are_named(
    cache: Path, pixels: Array, write_folder: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = write_folder({"1.png": png(pixels[0]), "2.png": png(pixels[1])}, "elsewhere")
    folder = write_folder({"dog/3.png": png(pixels[2])})
    os.symlink(elsewhere, folder / "cat")
    os.symlink(folder.parent / "nowhere.png", folder / "dog" / "4.png")
    os.symlink(folder, folder / "dog" / "loop")
    os.symlink(folder.parent.parent, folder / "dog" / "above")
    os.symlink(folder / "dog", folder / "twin")
    images = load(folder, cache=cache)
    assert counts(images) == {"cat": 2, "dog": 1}
    assert [name.split(" ")[0] for name in images.left_out] == ["dog/4.png", "dog/above", "dog/loop", "twin"]
    assert "left out: 4 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("jfif", "JPEG"), ("jpe", "JPEG"), ("apng", "PNG"), ("dib", "DIB"), ("j2k", "JPEG2000"), ("jp2", "JPEG2000"), ("", "PNG"),
     ("", "GIF"), ("", "WEBP"), ("", "BMP"), ("", "TIFF"), ("avif", "AVIF")],
)  # fmt: skip
def test_images_of_every_suffix_or_none(cache: Path, pixels: Array, write_folder: Write, suffix: str, kind: str) -> None:
    folder = write_folder({"a.png": png(np.zeros((16, 16, 3), np.uint8))})
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(folder / f"b.{suffix}".rstrip("."), kind)
    assert len(load(folder, cache=cache)) == 2


def test_other_files_are_named_and_hidden_ones_counted(
    cache: Path, pixels: Array, write_folder: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    one = png(pixels[0])
    folder = write_folder(
        {
            "a.png": one,
            "b.png.bak": one,
            "notes.txt": b"",
            ".DS_Store": b"",
            "Thumbs.db": b"",
            "__MACOSX/a.png": one,
            "x.npz": b"",
        }
    )
    images = load(folder, cache=cache)
    assert len(images) == 1 and images.hidden == 3
    assert images.left_out == ("b.png.bak (an image by its content: give it its suffix, such as .png)", "notes.txt", "x.npz")
    assert "left out: 3 files" in capsys.readouterr().err
    assert data_card(images)["left_out"] == list(images.left_out)


@pytest.mark.parametrize(
    ("train", "test"), [("Training", "Testing"), ("Train", "Test"), ("training_set", "test_set"), ("TRAIN", "test-images")]
)
def test_splits_in_any_spelling(cache: Path, pixels: Array, write_folder: Write, train: str, test: str) -> None:
    folder = write_folder(
        {f"{train}/a/1.png": png(pixels[0]), f"{train}/b/2.png": png(pixels[1]), f"{test}/b/3.png": png(pixels[2]),
         "Val/a/4.png": png(pixels[3])}
    )  # fmt: skip
    first, second = load(folder, cache=cache), load(folder, "test", cache=cache)
    assert counts(first) == {"a": 1, "b": 1} and counts(second) == {"a": 0, "b": 1}
    assert first.left_out == second.left_out == ("Val/a/4.png",)


@pytest.mark.parametrize(
    ("files", "words"),
    [(["train/a.png", "Training/b.png"], "both train images"), (["Training/a/1.png", "bus/2.png"], "splits or classes"),
     (["val/a/1.png"], "has no train images, only val: pass .*val")],
)  # fmt: skip
def test_unclear_splits_are_refused(cache: Path, pixels: Array, write_folder: Write, files: list[str], words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load(write_folder({f: png(pixels[0]) for f in files}), cache=cache)


def test_label_files(cache: Path, pixels: Array, write_folder: Write) -> None:
    shards = {"00000/1.png": png(pixels[0]), "00000/2.png": png(pixels[1]), "00001/3.png": png(pixels[2])}
    labels = [["00000/1.png", 1], ["00000/2.png", 0], ["00001/3.png", 1]]
    edm = write_folder(shards | {"dataset.json": json.dumps({"labels": labels}).encode()}, "edm")
    assert counts(load(edm, cache=cache)) == {"0": 1, "1": 2}
    assert counts(load(write_folder(shards | {"dataset.json": b'{"labels": null}'}, "none"), cache=cache)) is None
    table = b"file_name,label\n1.png,cat\n2.png,dog\n3.png,cat\n"
    flat = {f"{k + 1}.png": png(pixels[k]) for k in range(3)}
    assert counts(load(write_folder(flat | {"metadata.csv": table}, "csv"), cache=cache)) == {"cat": 2, "dog": 1}
    rows = b"".join(json.dumps({"file_name": f"{k}.png", "label": 10 - k}).encode() + b"\n" for k in (1, 2, 3))
    assert load(write_folder(flat | {"metadata.jsonl": rows}, "jsonl"), cache=cache).labels is not None


HOSTILE = {
    "dataset.json": [
        b"", b"[", b"null", b"1", b'{"labels": 3}', b'{"labels": [["1.png"]]}', b'{"labels": [["1.png", -1]]}', b"[" * 200_000,
        b'{"labels": [["1.png", 1e400]]}', b'{"labels": [["1.png", 1099511627776]]}', b'{"labels": [[1, 1]]}', b"\xff\xfe",
        b'{"labels": [["1.png", 1], ["1.png", 2]]}', b'{"labels": [["2.png", 1]]}', b'{"labels": [["1.png", [0, 1]]]}',
    ],
    "metadata.csv": [
        b"name,label\n1.png,2\n", b"file_name,label\n", b"file_name,label\n1.png\n", b"file_name,label\n2.png,1\n",
        b"\xff\xfe\0\0",
        b"file_name,label\n1.png,a\n1.png,b\n", b"file_name,label\n1.png,\0\n2.png," + b"x" * 200_000,
    ],
    "metadata.jsonl": [b"{", b"1\n", b'{"label": 1}\n', b'{"file_name": 1}\n', b'{"file_name": "1.png", "label": null}\n',
        b"[" * 200_000],
}  # fmt: skip
CASES = [(name, data) for name, many in HOSTILE.items() for data in many]


@pytest.mark.parametrize(("name", "data"), CASES, ids=[f"{n}-{k}" for k, (n, _) in enumerate(CASES)])
def test_hostile_label_files_are_named(cache: Path, pixels: Array, write_folder: Write, name: str, data: bytes) -> None:
    folder = write_folder({"1.png": png(pixels[0]), name: data})
    if data == b"file_name,label\n":  # a table without rows
        assert load(folder, cache=cache).left_out == (name,)
        return
    with pytest.raises((ValueError, OSError), match=name):
        load(folder, cache=cache)
