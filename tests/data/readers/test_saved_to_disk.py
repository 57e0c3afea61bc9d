"""What `datasets.save_to_disk` writes, and tables of plain bytes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as HubImage
from PIL import Image

from alphabar.data.image_set import load

from ..conftest import Array, png


def hub(pixels: Array, names: list[str]) -> Dataset:
    features = Features({"image": HubImage(), "label": ClassLabel(names=["dog", "cat"])})
    return Dataset.from_dict({"image": [Image.fromarray(p) for p in pixels], "label": names}, features=features)


def test_a_dataset_and_its_splits(tmp_path: Path, cache: Path, pixels: Array) -> None:
    names = ["cat", "dog", "dog"] * 3
    train, test = hub(pixels, names), hub(pixels[:2], names[:2])
    DatasetDict(train=train, test=test).save_to_disk(tmp_path / "both")
    train.save_to_disk(tmp_path / "one", num_shards=2)
    for place in (tmp_path / "both", tmp_path / "one", tmp_path / "both" / "train"):
        images = load(place, cache=cache)
        np.testing.assert_array_equal(images.pixels, pixels)
        assert images.classes == ("dog", "cat") and images.labels is not None
        assert images.labels.tolist() == [1, 0, 0] * 3 and images.left_out == ()
    assert len(load(tmp_path / "both", "test", cache=cache)) == 2
    with pytest.raises(FileNotFoundError, match="no test"):
        load(tmp_path / "one", "test", cache=cache)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_a_column_of_plain_bytes(kind: pa.DataType, tmp_path: Path, cache: Path, pixels: Array) -> None:
    cells = pa.array([png(p) for p in pixels], kind)
    pq.write_table(pa.table({"jpg": cells, "label": ["b", "a", "b"] * 3}), tmp_path / "a.parquet")
    images = load(tmp_path / "a.parquet", cache=cache)
    np.testing.assert_array_equal(images.pixels, pixels)
    assert images.classes == ("a", "b")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "npz", "one npz"])
def test_names_that_a_split_lacks_do_not_shift_the_others(kind: str, tmp_path: Path, cache: Path, pixels: Array) -> None:
    labels = {"train": ["cat", "owl", "cat"] * 3, "test": ["dog", "owl", "dog"] * 3}
    folder = tmp_path / "pets"
    folder.mkdir()
    if kind == "arrow":
        DatasetDict(
            {s: Dataset.from_dict({"image": [png(p) for p in pixels], "label": v}) for s, v in labels.items()}
        ).save_to_disk(folder)
    elif kind == "one npz":
        folder = tmp_path / "pets.npz"
        np.savez(folder, **{f"{s}_images": pixels for s in labels}, **{f"{s}_labels": np.array(v) for s, v in labels.items()})
    else:
        for split, names in labels.items():
            if kind == "npz":
                np.savez(folder / f"{split}.npz", images=pixels, labels=np.array(names))
            else:
                pq.write_table(pa.table({"image": [png(p) for p in pixels], "label": names}), folder / f"{split}.parquet")
    for split, expected in (("train", [0, 2, 0]), ("test", [1, 2, 1])):
        images = load(folder, split, cache=cache)
        assert images.classes == ("cat", "dog", "owl") and images.labels is not None
        assert images.labels.tolist() == expected * 3
