"""Parquet files as Hugging Face stores them."""

from pathlib import Path

import numpy as np
import pytest

from alphabar.data.image_set import load

from ..conftest import Array, png, write_parquet


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


def test_errors_name_the_parquet_file(tmp_path: Path, cache: Path, pixels: Array) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "bad.parquet"
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"bad.parquet cannot be read"):
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
