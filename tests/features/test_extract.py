"""Features of sets: cached under both fingerprints, resumed, verified, evicted, and read in pieces."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.data.cache import fingerprint_of
from alphabar.data.split import image_hashes
from alphabar.features.cache import evict_features
from alphabar.features.extract import FeatureStore, extract, sample_rows
from alphabar.features.stats import FeatureStats
from tests.fixtures.sets import Linear, image_set, stripes

HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPHABAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALPHABAR_FEATURES_GB", raising=False)
    return tmp_path / "cache"


class Stops(Linear):
    """Raises KeyboardInterrupt after `after` images."""

    after = 0

    def features(self, pixels: NDArray[np.uint8]) -> Tensor:
        if self.seen >= self.after:
            raise KeyboardInterrupt
        return super().features(pixels)


def entries(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "features").iterdir())


@pytest.mark.parametrize("cached", [True, False])
def test_the_features_are_those_of_the_extractor(cached: bool) -> None:
    pixels = stripes(230, 0).pixels
    expected = Linear().features(pixels)
    store = extract(pixels, Linear(), cache=cached, chunk=64)
    assert (store.n, store.dim, store.extractor, len(store)) == (230, 4, "linear-4-0", 230)
    assert (store.path is not None) == cached
    assert torch.equal(store.all(), expected)
    assert torch.equal(torch.cat(list(store.chunks(100))), expected)
    assert [len(c) for c in store.chunks(100)] == [100, 100, 30]
    for which in (slice(10, 20), slice(None, None, -7), [5, 3, 3, -1], [], np.random.default_rng(0).permutation(230)):
        wanted = expected[torch.from_numpy(np.arange(230)[which].astype(np.int64))]
        assert torch.equal(store.rows(which), wanted)
    plain = FeatureStats.of(expected, "linear-4-0")
    assert store.stats().n == 230
    assert torch.equal(store.stats().mean, plain.mean)  # one block: the same sum
    assert torch.equal(store.stats().scatter, plain.scatter)


def test_rows_out_of_range_and_masks_are_refused() -> None:
    store = extract(stripes(30, 0).pixels, Linear())
    with pytest.raises(IndexError, match=r"rows 3 to 30 of 30"):
        store.rows([3, 30])
    with pytest.raises(ValueError, match=r"flatnonzero\(mask\)"):
        store.rows(np.zeros(30, dtype=np.bool_))


def test_a_second_extraction_reads_and_the_extractor_is_not_called(cache: Path) -> None:
    images = stripes(230, 0)
    first, second = Linear(), Linear()
    store = extract(images, first, chunk=100)
    stats = store.stats()
    again = extract(images.pixels.copy(), second, chunk=64)  # an array of the same images, found by their content
    assert (first.seen, second.seen) == (230, 0)
    assert torch.equal(store.all(), again.all())
    assert entries(cache) == [f"{images.fingerprint}-linear-4-0"]
    assert again.images == images.fingerprint == fingerprint_of(images.pixels.shape[1:], image_hashes(images.pixels))
    kept = again.stats()
    assert torch.equal(kept.mean, stats.mean)
    assert torch.equal(kept.scatter, stats.scatter)
    meta = json.loads((again.path / "meta.json").read_text())  # type: ignore[operator]
    assert meta["preprocessing"] == {"input": "uint8 NHWC", "dim": 4}
    assert meta["versions"]["torch"] == torch.__version__
    assert np.array_equal(np.load(again.path / "features.npy"), store.all())  # type: ignore[operator]


def test_other_images_or_another_extractor_are_other_entries(cache: Path) -> None:
    images = stripes(50, 0)
    extract(images, Linear(seed=0))
    other = Linear(seed=1)
    extract(images, other)
    assert other.seen == 50
    changed = images.pixels.copy()
    changed[7, 0, 0, 0] ^= 1
    new = Linear(seed=0)
    extract(changed, new)
    assert new.seen == 50
    assert len(entries(cache)) == 3
    with pytest.raises(ValueError, match=r"belongs to 50 images in the cache, but 49 came"):
        extract(images.pixels[1:], Linear(), fingerprint=images.fingerprint)


def test_a_fingerprint_that_is_no_file_name_stays_inside_the_cache(cache: Path) -> None:
    class Named(Linear):
        fingerprint = "../hub/vit:b 14"  # type: ignore[assignment]

    extract(stripes(20, 0), Named())
    store = extract(stripes(20, 0), Named())
    assert store.extractor == "../hub/vit:b 14"
    assert store.path is not None
    assert store.path.parent == cache / "features"


def test_stored_statistics_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    images = stripes(50, 0)
    expected = extract(images, Linear()).stats()

    def never(*args: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(FeatureStats, "of", never)
    assert torch.equal(extract(images, Linear()).stats().scatter, expected.scatter)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b""])
def test_damaged_statistics_are_computed_again(damage) -> None:  # type: ignore[no-untyped-def]
    images = stripes(50, 0)
    store = extract(images, Linear())
    expected = store.stats().scatter
    file = store.path / "stats.npz"  # type: ignore[operator]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(extract(images, Linear()).stats().scatter, expected)
    assert len(file.read_bytes()) == len(whole)


@pytest.mark.parametrize("where", ["short", "long", "first", "last", "header", "meta", "no file"])
def test_a_damaged_entry_is_built_again(cache: Path, where: str) -> None:
    images = stripes(230, 0)
    expected = extract(images, Linear(), chunk=64).all().clone()
    (place,) = (cache / "features").iterdir()
    file, meta = place / "features.npy", place / "meta.json"
    data = bytearray(file.read_bytes())
    at = {"first": 128, "last": len(data) - 1, "header": 60}.get(where)
    if at is not None:
        data[at] ^= 1
    if where == "meta":
        meta.write_text(meta.read_text()[:-20])
    elif where == "no file":
        file.unlink()
    else:
        file.write_bytes({"short": data[:-4], "long": data + b"\0"}.get(where, data))
    again = Linear()
    assert torch.equal(extract(images, again).all(), expected)
    assert again.seen == 230
    assert entries(cache) == [place.name]
    third = Linear()
    extract(images, third)
    assert third.seen == 0


@pytest.mark.parametrize("harm", ["nothing", "truncated chunk", "damaged chunk", "another chunk", "of an older version"])
def test_an_interrupted_extraction_continues_where_it_stopped(cache: Path, harm: str) -> None:
    images = stripes(230, 0)
    broken = Stops()
    broken.after = 120
    with pytest.raises(KeyboardInterrupt) as kept:  # its traceback keeps the frames alive, as a notebook does
        extract(images, broken, chunk=40)
    assert broken.seen == 120
    assert kept.value is not None
    (part,) = entries(cache)
    assert part.startswith(".part-")
    chunks = cache / "features" / part / "chunks"
    if harm == "truncated chunk":
        (chunks / "00000002.npz").write_bytes((chunks / "00000002.npz").read_bytes()[:-5])
    elif harm == "damaged chunk":
        data = bytearray((chunks / "00000001.npz").read_bytes())
        data[300] ^= 1
        (chunks / "00000001.npz").write_bytes(data)
    elif harm == "of an older version":  # which kept the rows in one file, and their checksums in another
        shutil.rmtree(chunks)
        for name in ("features.npy", "sums.txt"):
            (chunks.parent / name).write_text("{}")
    rest = Linear()
    store = extract(images, rest, chunk=50 if harm == "another chunk" else 40)
    assert rest.seen == {"nothing": 110, "truncated chunk": 150, "damaged chunk": 190}.get(harm, 230)
    assert torch.equal(store.all(), Linear().features(images.pixels))
    assert entries(cache) == [part.removeprefix(".part-")]


def test_two_extractions_of_one_entry_in_one_process(cache: Path) -> None:
    images = stripes(120, 0)
    seen = []

    class Meanwhile(Linear):
        def features(self, pixels: NDArray[np.uint8]) -> Tensor:
            if self.seen == 60:  # another one begins and ends while this one is at work
                other = Linear()
                seen.append((extract(images, other, chunk=30), other.seen))
            return super().features(pixels)

    mine = extract(images, Meanwhile(), chunk=30)
    (other, count), expected = seen[0], Linear().features(images.pixels)
    assert count == 120
    assert torch.equal(mine.all(), expected)
    assert torch.equal(other.all(), expected)
    assert entries(cache) == [f"{images.fingerprint}-linear-4-0"]


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from alphabar.features.extract import extract
from tests.fixtures.sets import Linear, stripes
class Waits(Linear):
    def features(self, pixels):
        if self.seen == 0:
            print("ready", flush=True)
            sys.stdin.readline()
        return super().features(pixels)
print(float(extract(stripes(200, 0), Waits(), chunk=50).all().double().sum()))
"""


@pytest.mark.slow(5)
def test_two_processes_that_build_one_entry_at_once(cache: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(HERE.parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        mine = Linear()
        store = extract(stripes(200, 0), mine, chunk=50)  # the child has locked its folder and waits
        assert mine.seen == 200
        assert any(name.startswith(".part-") for name in entries(cache))
        out, _ = child.communicate("go\n", timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0
    assert float(out) == float(store.all().double().sum())
    assert entries(cache) == [store.path.name]  # type: ignore[union-attr]


@pytest.mark.parametrize("cached", [True, False])
def test_nan_and_infinite_features_are_refused_with_the_number_of_the_image(cached: bool, cache: Path) -> None:
    class Bad(Linear):
        def features(self, pixels: NDArray[np.uint8]) -> Tensor:
            f = super().features(pixels)
            if self.seen > 150:
                f[7, 2] = float("inf")
            return f

    with pytest.raises(ValueError, match=r"features of image 157 \(the first is image 0\)"):
        extract(stripes(230, 0), Bad(), chunk=50, cache=cached)


def test_wrong_shapes_empty_sets_and_unwritable_caches_are_refused(tmp_path: Path) -> None:
    class Wrong(Linear):
        def features(self, pixels: NDArray[np.uint8]) -> Tensor:
            return super().features(pixels)[:, :3]

    pixels = stripes(10, 0).pixels
    with pytest.raises(ValueError, match=r"'linear' gave features of shape \(10, 3\) for 10 images; its dim says \(10, 4\)"):
        extract(pixels, Wrong())
    with pytest.raises(ValueError, match="no images came"):
        extract(pixels[:0], Linear())
    with pytest.raises(ValueError, match="chunk = 0"):
        extract(pixels, Linear(), chunk=0)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written .*ALPHABAR_CACHE.*cache=False"):
        extract(pixels, Linear(), cache=tmp_path / "file")


def test_a_mapped_file_is_never_written_to(tmp_path: Path) -> None:
    images = stripes(50, 0)
    np.save(tmp_path / "pixels.npy", images.pixels)
    store = extract(np.load(tmp_path / "pixels.npy", mmap_mode="r"), Linear(), chunk=20)
    expected = Linear().features(images.pixels)
    f = store.all()
    f[:] = 0
    assert torch.equal(store.all(), expected)
    assert store.images == images.fingerprint


def test_the_longest_unused_entry_is_evicted_first_and_one_in_use_never(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def age(store: FeatureStore, seconds: float) -> str:
        assert store.path is not None
        for path in [store.path, *store.path.iterdir()]:
            os.utime(path, (1e9 - seconds, 1e9 - seconds))
        return store.path.name

    names = [age(extract(stripes(100, k), Linear()), 10 * (3 - k)) for k in range(3)]  # 0 is the oldest
    size = sum(f.stat().st_size for f in (cache / "features").rglob("*") if f.is_file())
    assert evict_features(size) == []
    extract(stripes(100, 0), Linear())  # used again: now 1 is the oldest
    assert evict_features(size - 1) == [names[1]]
    in_use = extract(stripes(100, 0), Linear())
    age(in_use, 100)
    expected = in_use.all().clone()
    assert evict_features(0) == [names[2]]
    assert entries(cache) == [names[0]]
    assert torch.equal(in_use.rows(slice(None)), expected)
    monkeypatch.setenv("ALPHABAR_FEATURES_GB", "0")
    extract(stripes(100, 3), Linear())  # evicts nothing: both entries are in use until this line
    del in_use
    extract(stripes(100, 4), Linear())
    assert len(entries(cache)) == 1
    assert evict_features() != []
    assert entries(cache) == []
    monkeypatch.setenv("ALPHABAR_FEATURES_GB", "much")
    with pytest.raises(ValueError, match=r"ALPHABAR_FEATURES_GB = 'much'"):
        evict_features()


def test_an_entry_under_construction_is_not_evicted() -> None:
    evicted: list[str] = []

    class Evicts(Linear):
        def features(self, pixels: NDArray[np.uint8]) -> Tensor:
            evicted.extend(evict_features(0))
            return super().features(pixels)

    store = extract(stripes(100, 0), Evicts(), chunk=30)
    assert evicted == []
    assert store.n == 100


def test_a_random_sample_of_rows_is_fair_and_repeatable() -> None:
    assert sample_rows(5, 5).tolist() == [0, 1, 2, 3, 4]
    rows = sample_rows(10_000, 100, seed=3)
    assert np.array_equal(rows, sample_rows(10_000, 100, seed=3))
    assert np.array_equal(rows, np.unique(rows))
    assert len(rows) == 100
    assert not np.array_equal(rows, sample_rows(10_000, 100, seed=4))
    assert not np.isin(sample_rows(9_999, 100, seed=3), rows).all()
    counts = sum(np.bincount(sample_rows(20, 5, seed=s), minlength=20) for s in range(2000))
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)  # five standard deviations of a fair draw
    with pytest.raises(ValueError, match="limit of at least 1"):
        sample_rows(5, 0)


PEAK = """
import re, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from alphabar.features.extract import extract
from alphabar.features.stats import stream
from tests.fixtures.sets import Linear

def peak(way, n, path):
    if way == "file":
        f = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 16, 16, 1))
        f.flush()
        del f
        store = extract(np.load(path, mmap_mode="r"), Linear(64))
        assert store.stats().n == n
    else:
        stats, _ = stream((np.zeros((1000, 16, 16, 1), np.uint8) for _ in range(n // 1000)), Linear(64))
        assert stats.n == n
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024  # ru_maxrss starts at the parent's

# both in one process: the memory of the imports varies by 16 MiB from run to run
few = peak(sys.argv[2], 10_000, sys.argv[3] + "/few.npy")
print(peak(sys.argv[2], 90_000, sys.argv[3] + "/many.npy") - few)
"""


def test_numpy_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """The fast sibling of the next test, which measures the whole process."""

    def peak(n: int) -> int:
        file = tmp_path / f"{n}.npy"
        np.save(file, np.zeros((n, 16, 16, 1), np.uint8))
        tracemalloc.start()
        extract(np.load(file, mmap_mode="r"), Linear(64), chunk=500).stats()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2_000)  # imports and first calls allocate too
    assert peak(20_000) < peak(5_000) + 2**20  # 15,000 more images are 3.7 MiB of pixels and 3.7 MiB of features


@pytest.mark.slow(8)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("way", ["file", "stream"])
def test_memory_does_not_grow_with_the_number_of_images(way: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PEAK, str(HERE.parents[1]), way, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    # 80,000 more images of 256 bytes and 64 features take 20 MiB of pixels and 20 MiB of features
    assert float(done.stdout) < 8


def test_an_array_gets_the_same_fingerprint_as_its_set(monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_set(stripes(20, 0).pixels)
    monkeypatch.setattr("alphabar.features.extract.BLOCK", 7)  # hashed in three blocks
    assert extract(images.pixels, Linear()).images == fingerprint_of(images.pixels.shape[1:], images.hashes)
    store = extract(images, Linear())
    assert store.images == images.fingerprint
    assert extract(images, Linear(), cache=False).images == images.fingerprint
    assert extract(images.pixels, Linear(), cache=False).images is None
