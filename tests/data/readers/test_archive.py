"""Zip archives give the set that their files in a folder give."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from alphabar.data.image_set import load

from ..conftest import Array, png


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return path


def test_an_archive_is_read_as_its_folder_is(tmp_path: Path, cache: Path, pixels: Array) -> None:
    files = {f"photos/{split}/{'cat' if k % 2 else 'dog'}/{k}.png": png(image)
             for split, images in (("train", pixels), ("test", pixels[:3])) for k, image in enumerate(images)}  # fmt: skip
    files |= {"__MACOSX/photos/._0.png": b"x", "photos/train/.DS_Store": b"x", "photos/readme.txt": b"x"}
    path = archive(tmp_path / "pets.zip", files)
    for name, data in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    for split in ("train", "test"):
        zipped, plain = load(path, split, cache=cache), load(tmp_path / "folder" / "photos", split, cache=cache)
        assert zipped.fingerprint == plain.fingerprint and zipped.classes == plain.classes == ("cat", "dog")
        assert zipped.labels is not None and plain.labels is not None
        np.testing.assert_array_equal(zipped.labels, plain.labels)
        assert (zipped.name, zipped.source, zipped.left_out) == ("pets", str(path), ("readme.txt",))
        assert (zipped.hidden, plain.hidden) == (2, 1)
    kept = [p.stat().st_mtime_ns for p in cache.rglob("*.png")]
    load(path, cache=cache)
    assert [p.stat().st_mtime_ns for p in cache.rglob("*.png")] == kept and len(kept) == 13


def test_errors_name_the_archive(tmp_path: Path, cache: Path, pixels: Array) -> None:
    path = archive(tmp_path / "a.zip", {"a/1.png": png(pixels[0]), "a/2.png": png(pixels[1])[:-20]})
    with pytest.raises(ValueError, match=r"broken in .*a\.zip/a:\n  .*a\.zip/a/2\.png is damaged"):
        load(path, cache=cache)
    with pytest.raises(FileNotFoundError, match=r"a\.zip/a holds no test images"):
        load(path, "test", cache=cache)


def test_nothing_is_written_outside(tmp_path: Path, pixels: Array) -> None:
    here = tmp_path / "deep" / "deeper"
    here.mkdir(parents=True)
    path = archive(here / "a.zip", {"../../escaped.png": png(pixels[0])})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="lies outside"):
        load(path, cache=here / "cache")
    assert sorted(p for p in tmp_path.rglob("*") if "cache" not in p.parts) == before
    assert not [*tmp_path.rglob("escaped.png")]
