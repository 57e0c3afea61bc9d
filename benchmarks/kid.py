"""How precise KID is at n images: subsets, as in other libraries, against all pairs with an interval.

    alphabar sample bundled --n 10000 --steps 50 --out ddim50.npz
    python benchmarks/kid.py ddim50.npz --against fashion_mnist:test --n 1000 2000 10000       # two minutes on 2 cores

"subsets" is torchmetrics' KID on the same features (100 subsets of at most 1,000; its standard deviation is the spread of the
subsets), at `--seeds` seeds, since each run draws other subsets. "all pairs" has no random choice. "spread over disjoint sets"
is the true value that an error bar should estimate: the standard deviation of the all-pairs KID over disjoint sets of n
samples, root mean square over --shuffles random partitions. All sets share the reference, so this is slightly lower than the
standard error, which includes the variance of the reference.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.data.image_set import load, parse_set
from alphabar.evaluation.kid import kid, within
from alphabar.features.extract import extract
from alphabar.features.load import load_extractor
from alphabar.sampling.sample_set import load_samples


def by_subsets(x: Tensor, y: Tensor, seed: int) -> tuple[float, float]:
    from torchmetrics.image.kid import KernelInceptionDistance

    class Given(torch.nn.Module):  # the "images" are features already
        num_features = x.shape[1]

        def forward(self, features: Any) -> Any:
            return features

    metric = KernelInceptionDistance(feature=Given(), subsets=100, subset_size=min(1000, len(x)))
    metric.update(y, real=True)
    metric.update(x, real=False)
    torch.manual_seed(seed)
    mean, spread = metric.compute()
    return float(mean), float(spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--against", default="fashion_mnist:test")
    parser.add_argument("--extractor", default="bundled")
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 2000, 10_000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shuffles", type=int, default=10)
    arguments = parser.parse_args()
    began = time.time()
    extractor = load_extractor(arguments.extractor)
    x = extract(load_samples(arguments.samples)[0], extractor).all()
    y = extract(load(*parse_set(arguments.against)), extractor).all()
    reference = within(y)
    print("| n | subsets: mean over seeds, range | printed spread | all pairs [95 %] | standard error | over disjoint sets |")
    print("|--|--|--|--|--|--|")
    for n in arguments.n:
        means, spreads = zip(*(by_subsets(x[:n], y, seed) for seed in range(arguments.seeds)), strict=True)
        found = kid(x[:n], reference).estimate()
        sets, spread = len(x) // n, ""
        if sets > 2:
            dealt = (x[torch.randperm(len(x), generator=torch.Generator().manual_seed(k))] for k in range(arguments.shuffles))
            each = [[kid(part, reference).value for part in some[: sets * n].split(n)] for some in dealt]
            spread = f"{statistics.fmean(map(statistics.variance, each)) ** 0.5:.5f} ({arguments.shuffles} x {sets} sets)"
        low, high = found.interval or (float("nan"), float("nan"))
        print(
            f"| {n:,} | {statistics.mean(means):.5f}, {min(means):.5f} to {max(means):.5f} | {statistics.mean(spreads):.5f} "
            f"| {found.value:.5f} [{low:.5f}, {high:.5f}] | {found.se:.5f} | {spread} |",
            flush=True,
        )
    print(f"{(time.time() - began) / 60:.1f} minutes, {len(y):,} real images")


if __name__ == "__main__":
    main()
