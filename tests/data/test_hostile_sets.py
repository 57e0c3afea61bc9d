"""Damaged and hostile files of image sets: each is read, or ends in one error that names it, in bounded time and memory."""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alphabar.data import image_set
from tests.fixtures.mutations import faults, faults_of

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
    if kind == "arrow":
        return folder / "a.arrow", arrow(image=[png(image) for image in PIXELS], label=["a", "b", "a", "b", "a"])
    if kind == "zip":
        return folder / "a.zip", zipped({f"photos/{k % 2}/{k}.png": png(image) for k, image in enumerate(PIXELS)})
    if kind == "IDX":
        return folder / "train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(PIXELS[..., 0]))
    for k, image in enumerate(PIXELS):
        (folder / f"{k}.png").write_bytes(png(image))
    if kind == "dataset.json":
        return folder / kind, json.dumps({"labels": [*map(list, LABELS.items())]}).encode()
    return folder / kind, ("file_name,label\n" + "".join(f"{k},{v}\n" for k, v in LABELS.items())).encode()


KINDS = (*PICTURES, "npz", "npy", "parquet", "arrow", "zip", "IDX", "dataset.json", "metadata.csv")


@pytest.mark.parametrize("n", [20, pytest.param(300, marks=pytest.mark.slow(2))])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_mutations_are_read_or_named(kind: str, n: int, tmp_path: Path) -> None:
    path, data = sample(kind, tmp_path)
    name = path if kind in ("npz", "npy", "parquet", "arrow", "zip") else tmp_path

    def read() -> None:
        image_set.load(name, cache=tmp_path.with_name(f"{tmp_path.name}-cache"))

    assert faults(data, path, read, n) == []


def npy_header(text: str, version: bytes = b"\x01\x00") -> bytes:
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode()


def of(shape: object, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def zipped(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def table(**columns: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def arrow(**columns: object) -> bytes:
    out, rows = io.BytesIO(), pa.table(columns)
    with pa.ipc.new_stream(out, rows.schema) as stream:
        stream.write_table(rows)
    return out.getvalue()


def claiming(size: int) -> bytes:
    """A zip file whose only member says that it has `size` bytes."""
    data = bytearray(zipped({"a.png": bytes(1000)}))
    for at, field in ((data.find(b"PK\x03\x04"), 22), (data.find(b"PK\x01\x02"), 24)):
        data[at + field : at + field + 4] = size.to_bytes(4, "little")
    return bytes(data)


def twice(name: bytes, other: bytes) -> bytes:
    """A zip file with two members of one name: zipfile would not write it without a warning."""
    return zipped({name.decode(): PNG, other.decode(): PNG}).replace(other, name)


def png_of(w: int, h: int, data: bytes = b"") -> bytes:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


PNG, NPY = png(PIXELS[0]), saved(np.save, PIXELS)
OBJECTS = saved(np.save, np.array([{"a": 1}], dtype=object), allow_pickle=True)
BITS = saved(np.savez, images=PIXELS)
CELLS = [png(image) for image in PIXELS]
HUGE = 1 << 40
HOSTILE = {
    "npy": {
        "zero bytes": b"", "a PNG": PNG, "a zip": BITS, "header only": NPY[:128], "cut": NPY[:-1], "objects": OBJECTS,
        "2^40 images": npy_header(of((HUGE, 8, 8, 3))), "2^30 images": npy_header(of((1 << 30, 8, 8, 3))),
        "negative": npy_header(of((-5, 8, 8, 3))) + PIXELS.tobytes(), "shape of text": npy_header(of("('a', 8)")),
        "shape of floats": npy_header(of((5.0, 8, 8, 3))), "shape is a number": npy_header(of(5)), "no header": npy_header(""),
        "code": npy_header("__import__('os').abort()"), "deep": npy_header("(" * 9000),
        "odd version": npy_header("{}", b"\x09\x00"),
        "4 GB header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "structured": npy_header(of((5,), "[('a', '|u1')]")) + bytes(5),
        "NaN": saved(np.save, np.full((5, 8, 8, 3), np.nan)), "complex": saved(np.save, np.ones((5, 8, 8, 3), complex)),
        "text": saved(np.save, np.array([["a"]])), "no images": saved(np.save, PIXELS[:0]), "a number": saved(np.save, 3),
    },
    "npz": {
        "zero bytes": b"", "a PNG": PNG, "an npy": NPY, "cut": BITS[:-40], "no members": zipped({}),
        "no array": zipped({"a.txt": b"x"}),
        "objects": zipped({"images.npy": OBJECTS}), "a pickle": zipped({"images.npy": pickle.dumps({"a": 1})}),
        "2^40 images": zipped({"images.npy": npy_header(of((HUGE, 8, 8, 3)))}),
        "zip bomb": zipped({"images.npy": npy_header(of((1 << 30, 8, 8, 3))) + bytes(1 << 22)}),
        "2^33 labels": zipped({"images.npy": NPY, "labels.npy": npy_header(of((1 << 33,)))}),
        "pickled labels": zipped({"images.npy": NPY, "labels.npy": OBJECTS}),
        "labels NaN": saved(np.savez, images=PIXELS, labels=np.full(5, np.nan)),
        "labels negative": saved(np.savez, images=PIXELS, labels=np.full(5, -1)),
        "few labels": saved(np.savez, images=PIXELS, labels=np.zeros(4, int)),
        "a label too many": saved(np.savez, images=PIXELS, labels=np.arange(5), classes=np.array(["a", "b"])),
        "Fortran of 2^36": zipped({"images.npy": npy_header(of((1 << 28, 8, 8, 3)).replace("False", "True"))}),
    },
    "parquet": {
        "zero bytes": b"", "a PNG": PNG, "magic only": b"PAR1PAR1", "cut": table(image=CELLS)[:-9],
        "footer of 4 GB": b"PAR1" + b"\xff" * 4 + b"PAR1",
        "no images": table(image=pa.array([], pa.binary())), "numbers": table(image=[1, 2]), "text": table(image=["a.png"]),
        "empty cells": table(image=pa.array([None, None], pa.binary())), "no picture": table(image=[b"x", b"y"]),
        "missing labels": table(image=CELLS, label=[0, None, 1, 0, 1]),
        "labels NaN": table(image=CELLS, label=[float("nan")] * 5),
        "labels are lists": table(image=CELLS, label=[[0], [0, 1], [1], [0], [1]]),
        "labels are tables": table(image=CELLS, label=[{"a": 1}] * 5),
        "labels -2^63": table(image=CELLS, label=[-(2**63)] * 5),
        "two sizes": table(image=[CELLS[0], png(PIXELS[0, :4])]),
    },
    "arrow": {
        "zero bytes": b"", "a PNG": PNG, "cut": arrow(image=CELLS)[:200], "numbers": arrow(image=[1, 2]),
        "a parquet": table(image=CELLS),
        "no rows": arrow(image=pa.array([], pa.binary())), "labels are lists": arrow(image=CELLS, label=[[0]] * 4 + [[1, 2]]),
    },
    "zip": {
        "zero bytes": b"", "a PNG": PNG, "cut": zipped({"a.png": PNG})[:-9], "no files": zipped({}),
        "no images": zipped({"a.txt": b"x"}),
        "outside": zipped({"../../a.png": PNG}), "from the root": zipped({"/tmp/a.png": PNG}),
        "a drive": zipped({"C:\\a.png": PNG}), "backslashes": zipped({"..\\..\\a.png": PNG}),
        "a bomb": claiming(2**32 - 2), "more than it holds": claiming(900_000), "twice": twice(b"a.png", b"b.png"),
        "file and folder": zipped({"a": b"", "a/b.png": PNG}), "a damaged image": zipped({"a.png": PNG[:-20]}),
        "a zip in a zip": zipped({"b.zip": zipped({"a.png": PNG})}),
    },
    "png": {
        "zero bytes": b"", "text": b"<html>", "10^9 x 10^9": png_of(10**9, 10**9), "bomb": png_of(30000, 30000, bytes(1 << 20)),
        "0 x 0": png_of(0, 0),
        "2^32 x 1": png_of(2**32 - 1, 1), "no data": png_of(8, 8), "cut": PNG[:-20], "magic only": PNG[:8], "npy": NPY,
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "what"), [(kind, what) for kind, rows in HOSTILE.items() for what in rows])
def test_a_hostile_file_is_refused_by_name(kind: str, what: str, tmp_path: Path) -> None:
    path, cache = tmp_path / f"a.{kind}", tmp_path.with_name(f"{tmp_path.name}-cache")
    name = tmp_path if kind == "png" else path
    assert not faults_of([(what, HOSTILE[kind][what])], path, lambda: image_set.load(name, cache=cache))
    with pytest.raises((ValueError, FileNotFoundError), match=r"a\."):
        image_set.load(name, cache=cache)
