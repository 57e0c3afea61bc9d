"""Two real processes over gloo end with the numbers of one, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphabar.core import processes
from alphabar.features.stats import FeatureStats, reduce_stats

HERE = Path(__file__).resolve().parent

CHILD = """
import hashlib, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
import torch
from alphabar.features import extract as module
from alphabar.core import processes
from alphabar.features.extract import extract
from alphabar.features.stats import FeatureStats
from alphabar.evaluation.fid import frechet
from tests.fixtures.sets import Linear, stripes

out = Path(sys.argv[2])
module.BLOCK = 32  # blocks of the statistics
torch.set_num_threads(1)
rank, size = processes.world()
results = {"size": size}

def digest(*tensors):
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()

real = extract(stripes(101, 1), Linear(), cache=False, chunk=10)
for n in (230, 65, 10, 1):  # no multiple of the chunk or of the blocks, or of the processes; one chunk alone
    for cached in (True, False):
        extractor = Linear()
        store = extract(stripes(n, 0), extractor, cache=str(out / "cache") if cached else False, chunk=10)
        stats = store.stats()
        results[f"{n} {cached}"] = [digest(store.all()), digest(stats.mean, stats.scatter), stats.n]
        results[f"{n} {cached} seen"] = [int(r[0, 0]) for r in processes.gather_rows(torch.tensor([[extractor.seen]]))]
        if n > 4:
            results[f"{n} {cached} fid"] = frechet(stats, real.stats())
again = Linear()
extract(stripes(230, 0), again, cache=str(out / "cache"))
results["again"] = again.seen
results["entries"] = sorted(p.name for p in (out / "cache" / "features").iterdir())
processes.everyone(True)  # both have listed the folder

# work that one process started is resumed by all of them
class Stops(Linear):
    def features(self, pixels):
        if self.seen >= 40:
            raise KeyboardInterrupt
        return super().features(pixels)
if rank == 0:
    try:
        with processes.alone():
            extract(stripes(230, 5), Stops(), cache=str(out / "cache"), chunk=10)
    except KeyboardInterrupt:
        pass
processes.everyone(True)
rest = Linear()
store = extract(stripes(230, 5), rest, cache=str(out / "cache"), chunk=10)
results["resumed"] = digest(store.all())
results["resumed seen"] = int(processes.total(torch.tensor(rest.seen)))

class Bad(Linear):
    def features(self, pixels):
        f = super().features(pixels)
        if self.seen == len(pixels) and rank == size - 1:  # the first chunk of the last process
            f[3, 1] = float("nan")
        return f
for name, images, extractor in (("other", stripes(50, 7 + rank), Linear()), ("bad", stripes(50, 7), Bad())):
    try:
        extract(images, extractor, cache=False, chunk=10)
        results[name] = "went through"
    except ValueError as error:
        results[name] = str(error)

# the pure functions
results["share"] = list(processes.share(5))
results["deal"] = processes.deal("abcde")
results["total"] = processes.total(torch.tensor([1.5 + rank, 2.0])).tolist()
results["from first"] = processes.from_first(10 + rank)
results["everyone"] = [processes.everyone(True), processes.everyone(rank == 0)]
results["everyone"] += [processes.alike("a"), processes.alike("a" * (1 + rank))]
with processes.rank_zero_first():
    marker = out / f"{size}-marker"
    results["marker"] = marker.exists()
    marker.touch()
(out / f"{size}-{rank}.json").write_text(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The results of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("spread")
    script = folder / "child.py"
    script.write_text(CHILD)
    env = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    env.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    for name, command in (
        ("1", [sys.executable]),
        ("2", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]),
    ):
        out = folder / name
        out.mkdir()
        done = subprocess.run(
            [*command, str(script), str(HERE.parents[1]), str(out)], env=env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return {f.stem: json.loads(f.read_text()) for f in folder.glob("*/*.json")}


@pytest.mark.slow  # torchrun
def test_two_processes_end_with_the_bits_of_one(results: dict[str, dict[str, Any]]) -> None:
    one, *two = results["1-0"], results["2-0"], results["2-1"]
    assert [s["size"] for s in (one, *two)] == [1, 2, 2]
    keys = [f"{n} {cached}" for n in (230, 65, 10, 1) for cached in (True, False)]
    for key in [*keys, *(f"{k} fid" for k in keys if not k.startswith("1 ")), "resumed", "entries"]:
        assert one[key] == two[0][key] == two[1][key], key
    assert one["230 True"] == one["230 False"]
    assert one["230 True"] != one["65 True"]


@pytest.mark.slow  # torchrun
def test_no_image_is_counted_twice_and_both_work(results: dict[str, dict[str, Any]]) -> None:
    for cached in (True, False):
        assert results["1-0"][f"230 {cached} seen"] == [230]
        assert results["2-1"][f"230 {cached} seen"] == [120, 110]
        assert results["2-1"][f"65 {cached} seen"] == [35, 30]
        assert results["2-1"][f"1 {cached} seen"] == [1, 0]
    assert results["1-0"]["again"] == results["2-0"]["again"] == results["2-1"]["again"] == 0
    assert results["1-0"]["resumed seen"] == results["2-0"]["resumed seen"] == results["2-1"]["resumed seen"] == 190
    assert len(results["2-0"]["entries"]) == 4


@pytest.mark.slow  # torchrun
def test_both_refuse_together(results: dict[str, dict[str, Any]]) -> None:
    assert results["1-0"]["other"] == "went through"
    assert results["2-0"]["other"] == results["2-1"]["other"]
    assert "the processes were given different images" in results["2-0"]["other"]
    assert "features of image 3 " in results["1-0"]["bad"]
    assert "features of image 13 " in results["2-0"]["bad"]
    assert results["2-0"]["bad"] == results["2-1"]["bad"]


@pytest.mark.slow  # torchrun
def test_the_pure_functions(results: dict[str, dict[str, Any]]) -> None:
    assert [results[k]["share"] for k in ("1-0", "2-0", "2-1")] == [[0, 1, 2, 3, 4], [0, 2, 4], [1, 3]]
    assert [results[k]["deal"] for k in ("1-0", "2-0", "2-1")] == [list("abcde"), list("ace"), list("bd")]
    assert [results[k]["total"] for k in ("1-0", "2-0", "2-1")] == [[1.5, 2.0], [4.0, 4.0], [4.0, 4.0]]
    assert [results[k]["from first"] for k in ("1-0", "2-0", "2-1")] == [10, 10, 10]
    assert results["1-0"]["everyone"] == [True, True, True, True]
    assert results["2-0"]["everyone"] == results["2-1"]["everyone"] == [True, False, True, False]
    assert [results[k]["marker"] for k in ("1-0", "2-0", "2-1")] == [False, False, True]


def test_one_process_starts_nothing() -> None:
    assert processes.world() == (0, 1)
    assert not torch.distributed.is_initialized()
    f = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    assert processes.gather_rows(f)[0] is f
    parts = [FeatureStats.of(part, "e") for part in f.split(6)]
    total = reduce_stats(parts, 4, 3, "e")
    np.testing.assert_allclose(total.cov, np.cov(f.double().numpy(), rowvar=False), rtol=1e-12)
    assert total.n == 20
    with pytest.raises(ValueError, match="no statistics"):
        reduce_stats([], 0, 3, "e")


def test_the_second_runs_when_the_first_fails() -> None:
    with pytest.raises(OSError, match="disk"), processes.rank_zero_first():
        raise OSError("disk")
