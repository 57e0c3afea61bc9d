"""Coverage of the 95 % intervals of FID, FID-infinity, KID and differences, on data with a known true value.

    python benchmarks/coverage.py                          # Gaussians and mixtures: about 4 minutes on 2 cores
    python benchmarks/coverage.py --sets 60 --dims 8 --n 1000
    python benchmarks/coverage.py --real fashion_mnist     # features of real images, drawn again

`--sets` pairs of samples are drawn; a row gives how often each interval contained the true value. The true value of
FID-infinity and of FID minus its bias is the Fréchet distance of the two distributions, in closed form; that of plain FID is
its expectation at this n (the mean over the sets); KID's follows from the distributions' first three moments. "plain, normal"
is the coverage of the value +- 1.96 standard errors for the true distance; "refused" is how often no interval was given.

With --real the distributions are sets of features, the extractor's of all training images: of the classes in equal shares, and of
the same images with half of four classes left out. Drawn with replacement, their distance is known exactly.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.evaluation.estimate import Estimate, Expansion, difference
from alphabar.evaluation.fid import frechet
from alphabar.evaluation.fid_uncertainty import ROWS, expand, infinity, parts
from alphabar.evaluation.kid import kid
from alphabar.features.stats import FeatureStats

CASES = ("equal", "shifted", "mixtures", "flat")


@dataclass(frozen=True)
class Mixture:
    """Gaussians with weights: float64 means (k, d) and covariances (k, d, d)."""

    weights: np.ndarray
    means: np.ndarray
    covs: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.weights @ self.means

    @property
    def cov(self) -> np.ndarray:
        off = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covs) + np.einsum("k,ki,kj->ij", self.weights, off, off)

    def third(self) -> np.ndarray:
        """E x_i x_j x_k."""
        out = np.zeros((len(self.mean),) * 3)
        for w, m, c in zip(self.weights, self.means, self.covs, strict=True):
            mc = np.einsum("i,jk->ijk", m, c)
            out += w * (np.einsum("i,j,k->ijk", m, m, m) + mc + mc.transpose(1, 0, 2) + mc.transpose(2, 1, 0))
        return out

    def draw(self, n: int, rng: np.random.Generator, noise: np.ndarray | None = None) -> Tensor:
        z = rng.standard_normal((n, len(self.mean))) if noise is None else noise
        which = rng.choice(len(self.weights), n, p=self.weights)
        out = np.empty_like(z)
        for k, (m, c) in enumerate(zip(self.means, self.covs, strict=True)):
            out[which == k] = m + z[which == k] @ np.linalg.cholesky(c).T
        return torch.from_numpy(out).float()

    def stats(self, n: int = 10**9) -> FeatureStats:
        mean, cov = torch.from_numpy(self.mean), torch.from_numpy(self.cov)
        return FeatureStats("truth", n, mean, cov * (n - 1))


def one(mean: np.ndarray, cov: np.ndarray) -> Mixture:
    return Mixture(np.ones(1), mean[None], cov[None])


def case(name: str, d: int) -> tuple[Mixture, Mixture]:
    """(model, real) in d dimensions; scales fall over two decades, but for "flat"."""
    rng = np.random.default_rng(d)
    q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    cov = (q * np.logspace(0, -2, d)) @ q.T
    middle = np.full(d, 0.3)
    if name == "equal":
        return one(middle, cov), one(middle, cov)
    if name == "shifted":
        return one(middle + 0.1 * rng.standard_normal(d) * np.sqrt(np.diag(cov)), 1.1 * cov), one(middle, cov)
    if name == "flat":
        return one(np.zeros(d), 1.05 * np.eye(d)), one(np.zeros(d), np.eye(d))
    covs = np.stack([cov, 0.5 * cov])
    return (
        Mixture(np.array([0.3, 0.7]), np.stack([1.5 * q[:, 0], -q[:, 1]]), covs),
        Mixture(np.array([0.4, 0.6]), np.stack([1.4 * q[:, 0], -1.1 * q[:, 1]]), covs),
    )


def true_kid(p: Mixture, q: Mixture) -> float:
    """Of the moments' tensors: E (x . y / d + 1)^3 is 1 + 3/d |m1|^2 + 3/d^2 |m2|^2 + 1/d^3 |m3|^2, and so of differences."""
    d = len(p.mean)
    second = [s.cov + np.outer(s.mean, s.mean) for s in (p, q)]
    gaps = p.mean - q.mean, second[0] - second[1], p.third() - q.third()
    return float(sum(c / d**k * (g**2).sum() for k, (c, g) in enumerate(zip((3, 3, 1), gaps, strict=True), 1)))


def plain(e: Expansion) -> Estimate:
    return Estimate.normal(e.value, math.sqrt(e.variance))


def measured(x: Tensor, y: Tensor, pairs: bool) -> dict[str, Any]:
    a, b = FeatureStats.of(x, "e"), FeatureStats.of(y, "e")
    e = expand(a, b, x[:ROWS], y[:ROWS])
    limit = infinity(e, parts([x], len(x), "e"), parts([y], len(y), "e"))
    out = {"FID": e.estimate(), "FID less bias": e.unbiased(), "FID-infinity": limit.estimate(), "plain, normal": plain(e)}
    if pairs:
        out["KID"] = kid(x, y).estimate()
    return out


def row(name: str, n: int, m: int, d: int, sets: list[dict[str, Estimate]], fid: float, true: float | None) -> dict[str, Any]:
    truths = {"FID": float(np.mean([s["FID"].value for s in sets])), "KID": true}
    found: dict[str, Any] = {"case": name, "d": d, "n": n, "m": m, "sets": len(sets), "distance": fid}
    found["mean FID"] = truths["FID"]
    for metric in sets[0]:
        truth = truths.get(metric, fid)
        given = [s[metric].interval for s in sets if s[metric].interval is not None]
        found[metric] = float(np.mean([low <= truth <= high for low, high in given])) if given and truth is not None else None
        found["refused"] = 1 - len(given) / len(sets) if metric == "FID" else found["refused"]
    return found


def simulate(name: str, d: int, n: int, m: int, sets: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    p, q = case(name, d)
    rng = np.random.default_rng([d, n, m, CASES.index(name)])
    found = [measured(p.draw(n, rng), q.draw(m, rng), n * m <= 5_000_000) for _ in range(sets)]
    return row(name, n, m, d, found, frechet(p.stats(), q.stats()), true_kid(p, q))


def simulate_difference(d: int, n: int, sets: int) -> dict[str, Any]:
    """Two models against one reference, from the same noise and not: differences of FID and of KID."""
    torch.set_num_threads(1)
    p, q = case("shifted", d)
    other = one(p.mean * 1.02, p.cov * 1.02)
    rng = np.random.default_rng([d, n])
    estimates: dict[str, list[Estimate]] = {}
    for _ in range(sets):
        noise = rng.standard_normal((n, d))
        y, x = q.draw(n, rng), p.draw(n, rng, noise)
        for kind, z in (("same noise", other.draw(n, rng, noise)), ("unlike noise", other.draw(n, rng))):
            for metric, of in (
                ("FID", lambda f, y=y: expand(FeatureStats.of(f, "e"), FeatureStats.of(y, "e"), f, y)),
                ("KID", lambda f, y=y: kid(f, y)),
            ):
                estimates.setdefault(f"{metric}, {kind}", []).append(difference(of(x), of(z), paired=kind == "same noise"))
    found: dict[str, Any] = {"case": "difference", "d": d, "n": n, "m": n, "sets": sets}
    for key, values in estimates.items():
        truth = np.mean([e.value for e in values])  # of FID its expectation at this n
        found[key] = float(np.mean([e.interval is not None and e.interval[0] <= truth <= e.interval[1] for e in values]))
        found[f"{key}, se"] = float(np.median([e.se for e in values if e.se is not None]))
    return found


def simulate_real(image_set: str, extractor: str, n: int, sets: int) -> dict[str, Any]:
    from alphabar.data.image_set import load
    from alphabar.features.extract import extract
    from alphabar.features.load import load_extractor

    torch.set_num_threads(1)
    images = load(image_set)
    f = extract(images, load_extractor(extractor)).all()
    labels = images.labels
    if labels is None:
        raise SystemExit(f"{image_set} has no labels: --real takes a set with classes")
    weight = np.where(labels < 4, 0.5, 1.0)
    truth = frechet(*(_population(f, w) for w in (weight, np.ones(len(f)))))
    rng = np.random.default_rng(n)
    found = [
        measured(f[rng.choice(len(f), n, p=weight / weight.sum())], f[rng.integers(0, len(f), n)], False) for _ in range(sets)
    ]
    return row(f"features of {image_set}", n, n, f.shape[1], found, truth, None)


def _population(f: Tensor, weight: np.ndarray) -> FeatureStats:
    w = torch.from_numpy(weight / weight.sum())
    x = f.double()
    mean = w @ x
    x = x - mean
    n = 10**9
    return FeatureStats("truth", n, mean, (x.T * w) @ x * (n - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500, help="draws of both samples, a row")
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 2000, 10_000], help="images on either side")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--real", default=None, metavar="SET", help="real features instead")
    parser.add_argument("--extractor", default="bundled", help="for --real")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here as well")
    arguments = parser.parse_args()
    began = time.time()
    jobs: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]]
    if arguments.real:
        jobs = [(simulate_real, (arguments.real, arguments.extractor, n, arguments.sets)) for n in arguments.n]
    else:
        jobs = [(simulate, (c, d, n, n, arguments.sets)) for d in arguments.dims for n in arguments.n for c in arguments.cases]
        jobs += [(simulate_difference, (d, min(arguments.n), arguments.sets)) for d in arguments.dims]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = []
        for future in [pool.submit(job, *given) for job, given in jobs]:
            rows.append(future.result())
            print(rows[-1], flush=True)
    table([r for r in rows if r["case"] != "difference"])
    table([r for r in rows if r["case"] == "difference"])
    print(
        f"\n{(time.time() - began) / 60:.1f} minutes; a share over {arguments.sets} sets is known to "
        f"{math.sqrt(0.95 * 0.05 / arguments.sets):.1%} (one standard error)"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    columns = list(dict.fromkeys(key for r in rows for key in r))
    print("\n| " + " | ".join(columns) + " |\n|" + "--|" * len(columns))
    for r in rows:
        print("| " + " | ".join(_cell(key, r.get(key)) for key in columns) + " |")


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if key in ("distance", "mean FID") or key.endswith(", se") else f"{value:.1%}"
    return str(value)


if __name__ == "__main__":
    main()
