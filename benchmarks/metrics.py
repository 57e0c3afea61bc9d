"""FID, KID, precision and recall against torch-fidelity, clean-fid and torchmetrics, from the same features, in one run.

    python benchmarks/metrics.py                           # 512 and 2048 wide, 10,000 images: some minutes on 2 cores
    python benchmarks/metrics.py --n 500 --widths 64 --repeats 1

The first run builds an environment for the other libraries in alphabar's cache folder (about 2 GB), since they import
torchvision, and everything is timed inside it: one process, one task after the other, round by round. Times are medians.
KID: alphabar's is the statistic over all pairs of images, theirs the mean of 100 subsets of 1,000, their default. Ours have their
95 % intervals in the time; theirs have none. Precision and recall of ours come with density and coverage, theirs without.
The bootstrap of FID (1,000 replicates, 2,000 images, the first width) checks the interval; no other library has it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
PLAIN = ("torch==2.13.0", "numpy", "scipy<1.18", "tqdm", "requests", "pillow", "packaging", "jaxtyping", "safetensors")
BARE = (  # with --no-deps: what they ask for would replace the torch above
    "torchvision==0.28.0",
    "torch-fidelity==0.4.0",
    "clean-fid==0.1.35",
    "torchmetrics==1.9.0",
    "lightning-utilities",
)
OURS = "alphabar"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="images on either side")
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 2048], help="features an image")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median is printed")
    parser.add_argument("--env", type=Path, default=None, help="the other libraries' environment (default: in the cache)")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here as well")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        measure(arguments.n, arguments.widths, arguments.repeats, arguments.json)
        return
    python = environment(arguments.env)
    subprocess.run(
        [python, __file__, *sys.argv[1:], "--inside"],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(HERE.parent / "tests" / "references")])},
    )


def environment(place: Path | None) -> Path:
    """The Python of an environment that holds the other libraries; built where it is missing."""
    if place is None:
        cache = os.environ.get("ALPHABAR_CACHE")
        place = (Path(cache) if cache else Path.home() / ".cache" / "alphabar") / "bench-env"
    python = place / "bin" / "python"
    ready = place / "ready.json"
    wanted = json.dumps([PLAIN, BARE])
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"building {place} (some minutes, once)", file=sys.stderr)
    venv.create(place, with_pip=True)
    for packages in (PLAIN, ("--no-deps", *BARE)):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
    ready.write_text(wanted)
    return python


Task = Callable[[], float]


def tasks(x: Any, y: Any) -> dict[str, dict[str, Task]]:
    """metric -> library -> what is timed. All are given the same float32 features, as torch tensors."""
    import numpy as np
    import torch
    import tvshim  # noqa: F401  (before the others)
    from cleanfid import fid as cleanfid
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    from alphabar.evaluation.fid import frechet
    from alphabar.evaluation.fid_uncertainty import ROWS, expand
    from alphabar.evaluation.kid import kid
    from alphabar.evaluation.prdc import prdc
    from alphabar.features.stats import FeatureStats

    class Given(torch.nn.Module):  # torchmetrics wants a network: here the "images" are features already
        num_features = x.shape[1]

        def forward(self, features: Any) -> Any:
            return features

    def torchmetrics(metric: Any) -> Any:
        metric.update(x, real=True)
        metric.update(y, real=False)
        return metric.compute()

    def clean_statistics(f: Any) -> tuple[Any, Any]:
        a = f.numpy()
        return np.mean(a, axis=0), np.cov(a, rowvar=False)

    a, b = FeatureStats.of(x, "e"), FeatureStats.of(y, "e")
    ta, tb = fid_features_to_statistics(x), fid_features_to_statistics(y)
    subset = min(1000, len(x))
    kid_options = {"kid_subsets": 100, "kid_subset_size": subset, "verbose": False, "rng_seed": 0}
    return {
        "FID, statistics of both sets": {
            OURS: lambda: len([FeatureStats.of(x, "e"), FeatureStats.of(y, "e")]),
            "torch-fidelity": lambda: len([fid_features_to_statistics(x), fid_features_to_statistics(y)]),
        },
        "FID, distance": {
            OURS: lambda: float(frechet(a, b)),
            "torch-fidelity": lambda: fid_statistics_to_metric(ta, tb, False)["frechet_inception_distance"],
        },
        "FID, whole": {
            OURS: lambda: spread_of(expand(FeatureStats.of(x, "e"), FeatureStats.of(y, "e"), x[:ROWS], y[:ROWS])),
            "alphabar, no interval": lambda: float(frechet(FeatureStats.of(x, "e"), FeatureStats.of(y, "e"))),
            "torch-fidelity": lambda: fid_statistics_to_metric(
                fid_features_to_statistics(x), fid_features_to_statistics(y), False
            )["frechet_inception_distance"],
            "clean-fid": lambda: float(cleanfid.frechet_distance(*clean_statistics(x), *clean_statistics(y))),
            "torchmetrics": lambda: float(torchmetrics(FrechetInceptionDistance(feature=Given()))),
        },
        "KID": {
            OURS: lambda: spread_of(kid(x, y)),
            "torch-fidelity": lambda: kid_features_to_metric(x, y, **kid_options)["kernel_inception_distance_mean"],
            "clean-fid": lambda: cleanfid.kernel_distance(x.numpy(), y.numpy(), max_subset_size=subset),
            "torchmetrics": lambda: float(
                torchmetrics(KernelInceptionDistance(feature=Given(), subsets=100, subset_size=subset))[0]
            ),
        },
        "precision and recall": {
            OURS: lambda: prdc(real=y, generated=x, k=3).recall.value,
            "torch-fidelity": lambda: prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=10_000, verbose=False)[
                "recall"
            ],
        },
    }


def spread_of(found: Any) -> float:
    """The value, after its interval was worked out."""
    found.estimate()
    return float(found.value)


def measure(n: int, widths: list[int], repeats: int, out: Path | None) -> None:
    import warnings
    from importlib.metadata import version

    import torch

    warnings.simplefilter("ignore")  # the other libraries', on memory and on precision
    rows: list[dict[str, Any]] = []
    names = [package.split("=")[0] for package in ("torch", *BARE[1:4])]
    print(", ".join(f"{name} {version(name)}" for name in names), f"; {torch.get_num_threads()} threads, {n} images")
    for d in widths:
        x, y = features(n, d)
        peak = {dtype: product_rate(dtype) for dtype in (torch.float32, torch.float64)}
        every = tasks(x, y)
        took: dict[tuple[str, str], list[float]] = {}
        values: dict[tuple[str, str], float] = {}
        for number in range(repeats):
            for metric, libraries in every.items():
                turns = deque(libraries.items())
                turns.rotate(-number)  # the threads and memory that one task leaves behind meet another library each time
                for library, task in turns:
                    start = time.perf_counter()
                    values[metric, library] = task()
                    seconds = time.perf_counter() - start
                    took.setdefault((metric, library), []).append(seconds)
                    print(f"d {d}, round {number + 1}: {metric}, {library}: {seconds:.2f} s", file=sys.stderr, flush=True)
        for (metric, library), seconds in took.items():
            own = took[metric, OURS]
            rows.append(
                {
                    "d": d,
                    "metric": metric,
                    "library": library,
                    "seconds": statistics.median(seconds),
                    "ours_over_theirs": statistics.median(own) / statistics.median(seconds),
                    "value": values[metric, library],
                    "share_of_peak": share_of_peak(metric, n, d, statistics.median(own), peak) if library == OURS else None,
                }
            )
    table(rows)
    from alphabar.evaluation.fid_uncertainty import bootstrap

    x, y = features(min(n, 2000), widths[0])
    start = time.perf_counter()
    bootstrap(x, y, 1000)
    took_bootstrap = time.perf_counter() - start
    print(f"\n1,000 bootstrap replicates of FID, {len(x)} images, {widths[0]} features: {took_bootstrap:.1f} s")
    if out is not None:
        out.write_text(json.dumps({"n": n, "repeats": repeats, "rows": rows, "bootstrap": took_bootstrap}, indent=1) + "\n")


def features(n: int, d: int) -> tuple[Any, Any]:
    """Rectified features whose covariance falls over four decades, as a trained network's does."""
    import torch

    generator = torch.Generator().manual_seed(0)
    mix = torch.linalg.qr(torch.randn(d, d, generator=generator))[0] * torch.logspace(0, -2, d)
    return tuple(torch.relu(torch.randn(n, d, generator=generator) @ mix * s + 0.05) for s in (1.0, 1.03))  # type: ignore[return-value]


def product_rate(dtype: Any, size: int = 2048) -> float:
    """FLOP a second of the best of five matrix products: what the machine gives right now."""
    import torch

    a = torch.randn(size, size, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def share_of_peak(metric: str, n: int, d: int, seconds: float, peak: dict[Any, float]) -> float | None:
    """The least number of operations that the metric takes, over what the machine could do in that time."""
    import torch

    if metric == "precision and recall":  # the same pairs
        return 2 * d * (n * (n - 1) + n * n) / seconds / peak[torch.float32]
    if metric == "KID":  # pairs within either side once, between the sides all
        return 2 * d * (n * (n - 1) + n * n) / seconds / peak[torch.float32]
    if "statistics" in metric:  # a symmetric product a side
        return 2 * n * d * (d + 1) / seconds / peak[torch.float64]
    return None


def table(rows: list[dict[str, Any]]) -> None:
    print("\n| d | metric | library | seconds | ours / theirs | share of peak | value |\n|--|--|--|--|--|--|--|")
    for row in rows:
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        value = "" if "statistics" in row["metric"] else f"{row['value']:.7g}"
        ratio = "" if row["library"] == OURS else f"{row['ours_over_theirs']:.2f}"
        print(f"| {row['d']} | {row['metric']} | {row['library']} | {row['seconds']:.2f} | {ratio} | {share} | {value} |")


if __name__ == "__main__":
    main()
