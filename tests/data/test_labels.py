"""Labels of every kind that files hold: numbers of any width, names, categories, in columns and members of many names."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as HubImage
from PIL import Image

import alphabar
from alphabar.data.labels import numbered, ordered

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
NUMBERS, WORDS = [0, 1, 2, 0, 1, 2], [*"abcabc"]


def encoded(k: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[k]).save(buffer, "PNG")
    return buffer.getvalue()


def images(kind: str = "struct") -> pa.Array:
    if kind in ("binary", "large_binary"):
        return pa.array([encoded(k) for k in range(6)], pa.binary() if kind == "binary" else pa.large_binary())
    binary, text = (pa.binary(), pa.string()) if kind == "struct" else (pa.large_binary(), pa.large_string())
    return pa.array([{"bytes": encoded(k), "path": None} for k in range(6)], pa.struct([("bytes", binary), ("path", text)]))


LABELS: dict[str, Any] = {
    **{kind: pa.array(NUMBERS, getattr(pa, kind)()) for kind in ("int8", "int16", "int32", "int64", "uint8", "uint64")},
    "string": pa.array(WORDS),
    "large_string": pa.array(WORDS, pa.large_string()),
    "dictionary": pa.array(WORDS).dictionary_encode(),
    "binary": pa.array([w.encode() for w in WORDS]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_type_in_a_parquet_file_are_read(kind: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": images(), "label": LABELS[kind]}), tmp_path / "set.parquet")
    found = alphabar.load(tmp_path / "set.parquet", cache=tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == NUMBERS
    assert found.classes == (("a", "b", "c") if kind in ("string", "large_string", "dictionary", "binary") else None)


@pytest.mark.parametrize("name", ["labels", "Label", "class", "category", "target", "y", "fine_label"])
def test_columns_of_labels_have_many_names(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": images(), "width": pa.array([9] * 6), name: pa.array(NUMBERS)}), tmp_path / "set.parquet")
    found = alphabar.load(tmp_path / "set.parquet", cache=tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == NUMBERS


@pytest.mark.parametrize("kind", ["struct", "large struct", "binary", "large_binary"])
def test_images_in_columns_of_every_binary_type_are_read(kind: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": images(kind), "label": pa.array(NUMBERS)}), tmp_path / "set.parquet")
    assert np.array_equal(alphabar.load(tmp_path / "set.parquet", cache=tmp_path).pixels, PIXELS)


@pytest.mark.parametrize("feature", [Value("int64"), Value("string"), ClassLabel(names=["a", "b", "c"])])
def test_labels_of_a_repository_of_the_hub_are_read(feature: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    values = WORDS if feature == Value("string") else NUMBERS
    rows = {"image": [Image.fromarray(i) for i in PIXELS], "category": values}
    (tmp_path / "hub").mkdir()
    table = Dataset.from_dict(rows, features=Features({"image": HubImage(), "category": feature}))
    table.to_parquet(str(tmp_path / "hub/train-00000-of-00001.parquet"))
    found = alphabar.load(f"hf:{tmp_path / 'hub'}", cache=tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == NUMBERS
    assert found.classes == (None if feature == Value("int64") else ("a", "b", "c"))


NPZ = {
    "label": ({"images": PIXELS, "label": NUMBERS}, None),
    "x, y": ({"x": PIXELS, "y": NUMBERS}, None),
    "names": ({"images": PIXELS, "labels": WORDS}, ("a", "b", "c")),
    "arr_0, arr_1": ({"arr_0": PIXELS, "arr_1": NUMBERS}, None),
    "EDM": ({"arr_0": PIXELS, "arr_1": np.asarray(NUMBERS, np.int32)}, None),
    "any name of a single array": ({"cells": PIXELS, "y": NUMBERS}, None),
}


@pytest.mark.parametrize("kind", NPZ)
def test_members_of_an_npz_file_have_many_names(kind: str, tmp_path: Path) -> None:
    members, classes = NPZ[kind]
    np.savez(tmp_path / "set.npz", **members)  # type: ignore[arg-type]
    found = alphabar.load(tmp_path / "set.npz", cache=tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == NUMBERS
    assert found.classes == classes
    assert np.array_equal(found.pixels, PIXELS)


@pytest.mark.parametrize(
    "names", [("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test")]
)
def test_both_splits_of_medmnist_and_keras_files_are_read(names: tuple[str, ...], tmp_path: Path) -> None:
    column = np.asarray(NUMBERS)[:, None]  # as MedMNIST stores them
    np.savez(tmp_path / "set.npz", **dict(zip(names, (PIXELS, column, PIXELS[:2], column[:2]), strict=True)))
    train, test = (alphabar.load(tmp_path / "set.npz", split, cache=tmp_path) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 2)
    assert test.labels is not None
    assert test.labels.tolist() == NUMBERS[:2]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (pa.array([0.0, 1.5, 0, 0, 0, 0]), "wanted one whole number or one name"),
        (pa.array([0, 1, None, 0, 1, 2]), "no label for 1 of 6 images"),
        (pa.array(["a", None, None, "a", "b", "c"]), "no label for 2 of 6 images"),
        (pa.array([[0], [1, 2], [0], [0], [0], [0]]), "several labels for an image"),
        (pa.array([-1, 0, 1, 2, 0, 1]), "labels from -1 to 2"),
        (pa.array([{"a": 1}] * 6), "neither numbers nor names"),
    ],
)
def test_labels_that_are_none_are_refused_by_name(labels: Any, words: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": images(), "label": labels}), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match=words):
        alphabar.load(tmp_path / "set.parquet", cache=tmp_path)


def test_names_that_are_numbers_are_in_the_order_of_numbers() -> None:
    assert ordered(["10", "2", "1"]) == ("1", "2", "10")
    assert ordered(["10", "2", "b"]) == ("10", "2", "b")
    labels, classes = numbered(["10", "2", "1"], 3, None, "here")
    assert (labels.tolist(), classes) == ([2, 1, 0], ("1", "2", "10"))


def test_images_of_an_npz_that_no_split_reads_are_named(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    medmnist = {f"{split}_{what}": PIXELS if what == "images" else np.zeros((len(PIXELS), 1), np.uint8)
                for split in ("train", "val", "test") for what in ("images", "labels")}  # fmt: skip
    np.savez(tmp_path / "a.npz", **medmnist)
    for split in ("train", "test"):
        assert alphabar.load(tmp_path / "a.npz", split, cache=cache).left_out == ("val_images.npy", "val_labels.npy")
    assert "left out: 2 files: val_images.npy, val_labels.npy" in capsys.readouterr().err
    np.savez(tmp_path / "b.npz", PIXELS, np.zeros(len(PIXELS), int))
    assert alphabar.load(tmp_path / "b.npz", cache=cache).left_out == ()
