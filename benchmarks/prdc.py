"""Precision, recall, density and coverage: speed against torch-fidelity, and the coverage of the intervals.

    python benchmarks/prdc.py                          # 512 and 2048 wide, 10,000 images: some minutes on 2 cores
    python benchmarks/prdc.py --coverage               # hours on one core; --n 1000 --sets 200: some 12 minutes
    python benchmarks/prdc.py --coverage --paired      # the same for the difference of two models

Speed: torch-fidelity's environment is that of benchmarks/metrics.py; one process, one task after the other, round by round,
medians. torch-fidelity gives precision and recall, without intervals; its two ways are with and without save_cpu_ram. Peak
memory is measured in a separate process, minus its memory after the features are loaded.

Coverage: pairs of sets are drawn from known distributions, and an interval is correct if it contains the mean of the
values of all pairs, an estimate of their expectation at this number of images.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import metrics

OURS, THEIRS, THEIRS_PARTS = "alphabar", "torch-fidelity", "torch-fidelity, save_cpu_ram"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=None, help="images a side (10000; with --coverage 1000 3000 10000)")
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 2048], help="features an image")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median is printed")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--env", type=Path, default=None, help="the other libraries' environment (default: in the cache)")
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here as well")
    parser.add_argument("--coverage", action="store_true", help="simulate the intervals instead")
    parser.add_argument("--paired", action="store_true", help="of the difference of two models from the same noise")
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8, 32, 64])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sets", type=int, default=400, help="pairs of sets")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", default=None, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.coverage:
        rows = simulate(a.n or [1000, 3000, 10_000], a.dims, a.cases, a.sets, a.k, a.paired)
        if a.json is not None:
            a.json.write_text(json.dumps(rows, indent=1) + "\n")
    elif a.memory is not None:
        print(peak_memory(a.memory, (a.n or [10_000])[0], a.widths[0], a.k))
    elif a.inside:
        measure((a.n or [10_000])[0], a.widths, a.repeats, a.k, a.json)
    else:
        here = metrics.HERE
        path = os.pathsep.join([str(metrics.SOURCE), str(here), str(here.parent / "tests" / "references")])
        command = [metrics.environment(a.env), __file__, *sys.argv[1:], "--inside"]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


# --- speed -----------------------------------------------------------------------------------------------------------


def tasks(x: Any, y: Any, k: int) -> dict[str, Callable[[], dict[str, float]]]:
    """library -> what is timed: x real, y generated."""
    import tvshim  # noqa: F401  (before the other)
    from torch_fidelity.metric_prc import prc_features_to_metric

    from alphabar.evaluation.prdc import METRICS, prdc

    def ours() -> dict[str, float]:
        result = prdc(real=x, generated=y, k=k)
        return {name: float(getattr(result, name)) for name in METRICS}

    def theirs(save_cpu_ram: bool) -> dict[str, float]:
        options = {"prc_neighborhood": k, "prc_batch_size": 10_000, "save_cpu_ram": save_cpu_ram, "verbose": False}
        result: dict[str, float] = prc_features_to_metric(y, x, **options)
        return result

    return {OURS: ours, THEIRS: lambda: theirs(False), THEIRS_PARTS: lambda: theirs(True)}


def measure(n: int, widths: list[int], repeats: int, k: int, out: Path | None) -> None:
    import torch

    rows: list[dict[str, Any]] = []
    print(f"{torch.get_num_threads()} threads, {n} images on either side, k = {k}")
    for d in widths:
        x, y = metrics.features(n, d)
        every = tasks(x, y, k)
        took: dict[str, list[float]] = {name: [] for name in every}
        shares: list[float] = []
        values = {}
        for number in range(repeats):
            peak = metrics.product_rate(torch.float32)
            for name, task in every.items():
                start = time.perf_counter()
                values[name] = task()
                took[name].append(time.perf_counter() - start)
                print(f"d {d}, round {number + 1}: {name}: {took[name][-1]:.2f} s", file=sys.stderr, flush=True)
            # pairs within either side once, between the sides all
            shares.append(2 * d * (n * (n - 1) + n * n) / took[OURS][-1] / peak)
        for name in every:
            command = [sys.executable, __file__, "--memory", name, "--n", str(n), "--widths", str(d), "--k", str(k)]
            memory = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
            ratios = [own / other for own, other in zip(took[OURS], took[name], strict=True)]
            rows.append(
                {
                    "d": d, "library": name, "seconds": statistics.median(took[name]), "values": values[name],
                    "ours_over_theirs": statistics.median(ratios), "memory_MB": memory,
                    "share_of_peak": statistics.median(shares) if name == OURS else None,
                }
            )  # fmt: skip
    print(
        "\n| d | library | seconds | ours / theirs | share of peak | peak memory, MB | precision | recall |\n" + "|--" * 8 + "|"
    )
    for row in rows:
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        ratio = "" if row["library"] == OURS else f"{row['ours_over_theirs']:.2f}"
        p, r = row["values"]["precision"], row["values"]["recall"]
        cells = [f"{row['seconds']:.2f}", ratio, share, f"{row['memory_MB']:.0f}", f"{p:.6g}", f"{r:.6g}"]
        print(f"| {row['d']} | {row['library']} | " + " | ".join(cells) + " |")
    if out is not None:
        out.write_text(json.dumps({"n": n, "repeats": repeats, "k": k, "rows": rows}, indent=1) + "\n")


def peak_memory(name: str, n: int, d: int, k: int) -> float:
    """MB that one call takes beyond the features and the libraries."""
    import resource

    x, y = metrics.features(n, d)
    every = tasks(x, y, k)
    tasks(x[:500], y[:500], k)[name]()  # what the libraries take once
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    every[name]()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (float(peak.split()[1]) * 1024 - before) / 1e6


# --- intervals -------------------------------------------------------------------------------------------------------


def draw(kind: str, n: int, d: int, random: Any) -> Any:
    """n draws in d dimensions. normal S: of standard deviation S. modes M W: ten modes, weights W for those after the M-th."""
    import torch

    name, *numbers = kind.split()
    z = torch.from_numpy(random.standard_normal((n, d), dtype="float32"))
    if name == "normal":
        return z * float(numbers[0])
    weights = torch.ones(10, dtype=torch.float64)
    weights[int(numbers[0]) :] = float(numbers[1])
    mode = torch.from_numpy(random.choice(10, n, p=(weights / weights.sum()).numpy()))
    centres = torch.randn(10, d, generator=torch.Generator().manual_seed(5)) * (6 / d**0.5)
    return centres[mode] + 0.45 / d**0.25 * z


CASES = {  # real, generated
    "same": ("normal 1", "normal 1"),
    "narrow": ("normal 1", "normal 0.9"),
    "collapsed": ("modes 10 0", "modes 5 0"),
    "extra modes": ("modes 8 0", "modes 10 0"),
    "rare modes": ("modes 10 0", "modes 5 0.05"),
}


def simulate(numbers: list[int], dims: list[int], cases: list[str], sets: int, k: int, paired: bool) -> list[dict[str, Any]]:
    import numpy as np

    from alphabar.evaluation.estimate import difference
    from alphabar.evaluation.prdc import METRICS, prdc

    print("each cell: mean value / share of 95 % intervals that hold it / mean stated se over the true one\n")
    print("| n | d | case | " + " | ".join(METRICS) + " |\n" + "|--" * (3 + len(METRICS)) + "|", flush=True)
    rows = []
    for n in numbers:
        for case in cases:
            for d in dims:
                found = np.empty((len(METRICS), sets, 4))
                for s in range(sets):
                    random = np.random.default_rng([s, n, d])
                    real, generated = (draw(kind, n, d, random) for kind in CASES[case])
                    one = prdc(real=real, generated=generated, k=k, seed=s)
                    if paired:  # the second model: what the first made, moved a little
                        second = generated * 1.05 + 0.3 * draw("normal 0.3", n, d, random)
                        two = prdc(real=real, generated=second, k=k, seed=s)
                    for e, name in enumerate(METRICS):
                        if paired:
                            estimate = difference(one.expansion(name), two.expansion(name), paired=True)
                        else:
                            estimate = getattr(one, name)
                        found[e, s] = estimate.value, estimate.se or 0, *(estimate.interval or (math.nan, math.nan))
                cells = []
                for e, name in enumerate(METRICS):
                    value, se, low, high = found[e].T
                    mean, true = float(value.mean()), float(value.std(ddof=1))
                    covered = float(((low <= mean) & (mean <= high)).mean())
                    ratio = float(np.sqrt((se**2).mean()) / true) if true > 0 else math.nan
                    rows.append(
                        {
                            "n": n,
                            "d": d,
                            "case": case,
                            "metric": name,
                            "mean": mean,
                            "covered": covered,
                            "se_ratio": ratio,
                            "sets": sets,
                        }
                    )
                    cells.append(f"{mean:.4g} / {covered:.1%} / {ratio:.2f}")
                print(f"| {n} | {d} | {case} | " + " | ".join(cells) + " |", flush=True)
    return rows


if __name__ == "__main__":
    main()
