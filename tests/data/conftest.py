"""Small synthetic sets in the formats that users have."""

import gzip
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.uint8]
Write = Callable[..., Path]


def idx_bytes(array: Array, kind: int = 0x08, shape: tuple[int, ...] | None = None) -> bytes:
    dims = array.shape if shape is None else shape
    return struct.pack(f">BBBB{len(dims)}I", 0, 0, kind, len(dims), *dims) + array.tobytes()


def png(array: Array, mode: str | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    (image.convert(mode) if mode else image).save(out, "PNG", **options)
    return out.getvalue()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def garments(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Array, Array]:
    """A data root with an IDX set of Fashion-MNIST's layout: 40 train images, zipped; 12 test images, raw."""
    folder = tmp_path / "root" / "fashion-mnist"
    folder.mkdir(parents=True)
    train = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    test = rng.integers(0, 256, (12, 28, 28), dtype=np.uint8)
    for prefix, images in (("train", train), ("t10k", test)):
        labels = (np.arange(len(images)) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            if prefix == "train":
                (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
            else:
                (folder / f"{prefix}-{kind}-ubyte").write_bytes(data)
    return tmp_path / "root", train, test


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub fails as it does without a network."""
    import datasets

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network in this test")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    def write(files: dict[str, bytes], name: str = "pictures") -> Path:
        for path, data in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
        return tmp_path / name

    return write


@pytest.fixture
def cifar_root() -> Path:
    root = os.environ.get("ALPHABAR_DATA")
    if not root or not (Path(root) / "cifar10" / "train.parquet").is_file():
        pytest.skip("CIFAR-10 is absent: set ALPHABAR_DATA to a folder that holds cifar10/train.parquet")
    return Path(root)


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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, pixels: Array) -> list[str]:
    """datasets.load_dataset returns a real Dataset of synthetic images; the list records the requests."""
    import datasets

    asked: list[str] = []

    def give(repo: str, *, split: str) -> datasets.Dataset:
        asked.append(f"{repo}:{split}")
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        cells = [{"bytes": png(p), "path": None} for p in pixels]
        return datasets.Dataset.from_dict({"img": cells, "label": [0, 1] * 4 + [0]}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", give)
    return asked
