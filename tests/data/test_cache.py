"""The cache: entries are complete or absent, decoded once, and safe when two processes build at once."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from alphabar.data.cache import Decoded, blob_key, cache_folder, content_key, open_or_build
from alphabar.data.split import image_hashes

from .conftest import Array


@pytest.fixture
def pixels(rng: np.random.Generator) -> Array:
    return rng.integers(0, 256, (7, 4, 4, 1), dtype=np.uint8)


def decoded(pixels: Array, n: int | None = None) -> Decoded:
    def blocks() -> Iterator[Array]:
        yield pixels[:3]
        yield pixels[3:]

    return Decoded(n or len(pixels), (4, 4, 1), blocks(), np.arange(len(pixels)), tuple("abcdefg"))


def never() -> Decoded:
    raise RuntimeError("decoded again")


def test_an_entry_is_built_once_and_keeps_everything(cache: Path, pixels: Array) -> None:
    first = open_or_build("k", lambda: decoded(pixels), cache)
    again = open_or_build("k", never, cache)
    for entry in (first, again):
        np.testing.assert_array_equal(entry.pixels, pixels)
        np.testing.assert_array_equal(entry.hashes, image_hashes(pixels))
        assert entry.classes == tuple("abcdefg")
        assert entry.labels is not None
        assert entry.labels.tolist() == list(range(7))
    assert isinstance(again.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.pixels[0] = 0


def test_a_failed_build_leaves_nothing(cache: Path, pixels: Array) -> None:
    with pytest.raises(ValueError, match="7 images were decoded where 9 were announced"):
        open_or_build("k", lambda: decoded(pixels, 9), cache)
    assert not list((cache / "sets").iterdir())


@pytest.mark.parametrize("damage", ["pixels.npy", "hashes.npy", "labels.npy", "meta.json"])
@pytest.mark.parametrize("how", ["gone", "cut", "empty"])
def test_a_damaged_entry_is_built_again(cache: Path, pixels: Array, damage: str, how: str) -> None:
    open_or_build("k", lambda: decoded(pixels), cache)
    file = cache / "sets" / "k" / damage
    data = file.read_bytes()
    file.unlink()
    if how != "gone":
        file.write_bytes(data[: len(data) // 2] if how == "cut" else b"")
    np.testing.assert_array_equal(open_or_build("k", lambda: decoded(pixels), cache).pixels, pixels)
    open_or_build("k", never, cache)
    assert [p.name for p in (cache / "sets").iterdir()] == ["k"]


def test_the_key_is_the_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"12")
    b.write_bytes(b"3")
    key = content_key("folder", [("a", a), ("b", b)], ["x"])
    others = [
        content_key("idx", [("a", a), ("b", b)], ["x"]),
        content_key("folder", [("b", b), ("a", a)], ["x"]),
        content_key("folder", [("a", a), ("c", b)], ["x"]),
        content_key("folder", [("a", a), ("b", b)], ["y"]),
    ]
    assert content_key("folder", [], ["ab", "c"]) != content_key("folder", [], ["a", "bc"])
    assert blob_key("hub", [b"ab", b"c"]) != blob_key("hub", [b"a", b"bc"])
    a.write_bytes(b"1")
    b.write_bytes(b"23")  # the same bytes, divided differently
    others.append(content_key("folder", [("a", a), ("b", b)], ["x"]))
    assert len({key, *others}) == 6
    a.write_bytes(b"12")
    b.write_bytes(b"3")
    os.utime(a, (1, 1))
    assert content_key("folder", [("a", a), ("b", b)], ["x"]) == key


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHABAR_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "alphabar"
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(tmp_path / "other") == tmp_path / "other"


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path, pixels: Array) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="set ALPHABAR_CACHE"):
        open_or_build("k", lambda: decoded(pixels), tmp_path / "file")


def test_two_builders_at_once_end_with_one_entry(cache: Path, pixels: Array) -> None:
    """Both find no entry, write their own, and rename it to the same place; the second uses the first one's."""
    barrier = Barrier(2, timeout=60)

    def build() -> Decoded:
        def blocks() -> Iterator[Array]:
            yield pixels
            barrier.wait()

        return Decoded(len(pixels), (4, 4, 1), blocks())

    with ThreadPoolExecutor(2) as pool:
        entries = [job.result() for job in [pool.submit(open_or_build, "k", build, cache) for _ in range(2)]]
    for entry in entries:
        np.testing.assert_array_equal(entry.pixels, pixels)
    assert [p.name for p in (cache / "sets").iterdir()] == ["k"]  # no temporary folder is left
