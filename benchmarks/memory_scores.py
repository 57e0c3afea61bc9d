"""Peak memory of features and statistics against the number of images; it must not grow.

    python benchmarks/memory_scores.py                     # 20,000, 100,000 and 1,000,000 images: about a minute
    python benchmarks/memory_scores.py --n 2000 4000

The images are random, 16 x 16, grey; the extractor computes 64 fixed linear features. There are two methods: `stream` takes
arrays one at a time and stores nothing; `extract` reads a memory-mapped file, writes the features into a cache and takes
their statistics from there. `read again` reads that cache. Each runs in a separate process, whose peak includes
mapped pages (VmHWM, Linux only); the last column is the size of all pixels and features.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("stream", "extract", "read again")
SHAPE, DIM = (16, 16, 1), 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[20_000, 100_000, 1_000_000], help="numbers of images")
    parser.add_argument("--folder", type=Path, default=None, help="folder for files of several GB (default: the system's)")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here as well")
    parser.add_argument("--inside", nargs=3, metavar=("WAY", "N", "FOLDER"), default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        way, n, folder = arguments.inside
        print(json.dumps(measure(way, int(n), Path(folder))))
        return
    rows: list[dict[str, Any]] = []
    print(f"{'way':<12}{'images':>10}{'peak MiB':>10}{'before MiB':>12}{'pixels MiB':>12}{'features MiB':>14}")
    for way in WAYS:
        for n in arguments.n:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                if way != "stream":
                    write(Path(folder) / "pixels.npy", n)
                if way == "read again":
                    child("extract", n, folder)
                row = {"way": way, "n": n, **child("stream" if way == "stream" else "extract", n, folder)}
            rows.append(row)
            mib = [row[key] / 2**20 for key in ("peak", "before", "pixels", "features")]
            print(f"{way:<12}{n:>10,}{mib[0]:>10.0f}{mib[1]:>12.0f}{mib[2]:>12.0f}{mib[3]:>14.0f}", flush=True)
    for way in WAYS:
        own = [row for row in rows if row["way"] == way]
        first, last = own[0], own[-1]
        grew = (last["peak"] - first["peak"]) / 2**20
        print(f"{way}: {grew:+.1f} MiB from {first['n']:,} to {last['n']:,} images")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def child(way: str, n: int, folder: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--inside", way, str(n), folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def made_up(first: int, count: int) -> Any:
    rng = np.random.default_rng(first)
    return rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def write(path: Path, n: int) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, *SHAPE)})
        for first in range(0, n, 4096):
            file.write(made_up(first, min(4096, n - first)).tobytes())


class Linear:
    """An extractor with negligible cost."""

    name, dim, fingerprint = "linear", DIM, "linear-64"
    preprocessing: Mapping[str, Any] = {}

    def __init__(self) -> None:
        import torch

        self.matrix = torch.randn(int(np.prod(SHAPE)), DIM, generator=torch.Generator().manual_seed(0))

    def features(self, pixels: Any) -> Any:
        import torch

        return torch.from_numpy(pixels).flatten(1).float() / 255 @ self.matrix


def measure(way: str, n: int, folder: Path) -> dict[str, Any]:
    from alphabar.features.extract import extract
    from alphabar.features.stats import stream

    def peak() -> int:  # not ru_maxrss, which includes the peak of the parent process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    extractor, before = Linear(), peak()
    if way == "stream":
        stats, _ = stream((made_up(first, min(4096, n - first)) for first in range(0, n, 4096)), extractor)
    else:
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        stats = extract(pixels, extractor, cache=folder / "cache").stats()
    if stats.n != n:
        raise RuntimeError(f"{stats.n} images were counted, of {n}")
    return {"peak": peak(), "before": before, "pixels": n * int(np.prod(SHAPE)), "features": n * DIM * 4}


if __name__ == "__main__":
    main()
