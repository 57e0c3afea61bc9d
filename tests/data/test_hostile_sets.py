"""Damaged and hostile files of image sets: each is read, or ends in one error that names it, in bounded time and memory."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.data import image_set
from tests.fixtures.mutations import faults

from .conftest import idx_bytes, png, write_parquet

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
PICTURES = {"jpg": "JPEG", "jp2": "JPEG2000"} | {kind: kind.upper() for kind in ("png", "tiff", "webp", "gif", "bmp", "avif")}
LABELS = {f"{k}.png": k % 2 for k in range(5)}


def saved(save: Callable[..., None], *arrays: object, **named: object) -> bytes:
    out = io.BytesIO()
    save(out, *arrays, **named)
    return out.getvalue()


def sample(kind: str, folder: Path) -> tuple[Path, bytes]:
    """A valid file of a kind, in a set that lies in `folder`."""
    if kind in PICTURES:
        return folder / f"a.{kind}", saved(lambda out: Image.fromarray(PIXELS[0]).save(out, PICTURES[kind]))
    if kind == "npz":
        return folder / "a.npz", saved(np.savez, images=PIXELS, labels=np.arange(5) % 2, classes=np.array(["cat", "dog"]))
    if kind == "npy":
        return folder / "a.npy", saved(np.save, PIXELS)
    if kind == "parquet":
        write_parquet(folder / "a.parquet", PIXELS, ["cat", "dog"])
        return folder / "a.parquet", (folder / "a.parquet").read_bytes()
    if kind == "IDX":
        return folder / "train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(PIXELS[..., 0]))
    for k, image in enumerate(PIXELS):
        (folder / f"{k}.png").write_bytes(png(image))
    if kind == "dataset.json":
        return folder / kind, json.dumps({"labels": [*map(list, LABELS.items())]}).encode()
    return folder / kind, ("file_name,label\n" + "".join(f"{k},{v}\n" for k, v in LABELS.items())).encode()


KINDS = (*PICTURES, "npz", "npy", "parquet", "IDX", "dataset.json", "metadata.csv")


@pytest.mark.parametrize("n", [20, pytest.param(300, marks=pytest.mark.slow(2))])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_mutations_are_read_or_named(kind: str, n: int, tmp_path: Path) -> None:
    path, data = sample(kind, tmp_path)
    name = path if kind in ("npz", "npy", "parquet") else tmp_path

    def read() -> None:
        image_set.load(name, cache=tmp_path.with_name(f"{tmp_path.name}-cache"))

    assert faults(data, path, read, n) == []
