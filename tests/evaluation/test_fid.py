"""FID against closed forms, scipy, torchmetrics, and stored values of torch-fidelity and clean-fid."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.evaluation.fid import frechet
from alphabar.features.stats import FeatureStats
from tests.references.features import CASES, features

PEERS = json.loads((Path(__file__).parents[1] / "references" / "peers.json").read_text())


def both(case: str) -> tuple[FeatureStats, FeatureStats]:
    x, y = features(case)
    return FeatureStats.of(x, "e"), FeatureStats.of(y, "e")


def gaussian(mean: torch.Tensor, cov: torch.Tensor, n: int = 1001) -> FeatureStats:
    return FeatureStats("e", n, mean.double(), cov.double() * (n - 1))


def test_diagonal_gaussians() -> None:
    g = torch.Generator().manual_seed(0)
    m1, m2 = torch.randn(2, 12, generator=g)
    s1, s2 = torch.rand(2, 12, generator=g) + 0.2
    found = frechet(gaussian(m1, torch.diag(s1**2)), gaussian(m2, torch.diag(s2**2)))
    want = (m1.double() - m2.double()).square().sum() + ((s1**2).double().sqrt() - (s2**2).double().sqrt()).square().sum()
    assert float(found) == pytest.approx(float(want), rel=1e-10)


def test_commuting_and_scaled_covariances() -> None:
    # for cov and k^2 cov: tr(cov) (1 - k)^2, in any basis
    a = torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cov = a @ a.T
    zero = torch.zeros(9)
    for k in (1.0, 2.5, 1e3):
        want = float(cov.trace()) * (1 - k) ** 2
        assert float(frechet(gaussian(zero, cov), gaussian(zero, k**2 * cov))) == pytest.approx(want, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_scipy(case: str) -> None:
    scipy_linalg = pytest.importorskip("scipy.linalg")
    a, b = both(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns that a product is singular; its result is correct to 1e-8
        root = scipy_linalg.sqrtm((a.cov @ b.cov).numpy())
    want = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * np.trace(root).real
    assert float(frechet(a, b)) == pytest.approx(float(want), rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_torchmetrics(case: str) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = both(case)
    assert float(frechet(a, b)) == pytest.approx(float(fid._compute_fid(a.mean, a.cov, b.mean, b.cov)), rel=1e-6)


@pytest.mark.parametrize("peer", ["torch-fidelity fid", "clean-fid fid"])
@pytest.mark.parametrize("case", CASES)
def test_stored_values_of_other_libraries(case: str, peer: str) -> None:
    assert float(frechet(*both(case))) == pytest.approx(PEERS["values"][case][peer], rel=1e-6)


def nuclear(x: np.ndarray, y: np.ndarray) -> float:
    """The distance with the last trace as the nuclear norm of Xc Yc^T, without any covariance matrix."""
    xc, yc = x - x.mean(0), y - y.mean(0)
    trace = np.linalg.svd(xc @ yc.T, compute_uv=False).sum() / math.sqrt((len(x) - 1) * (len(y) - 1))
    spread = (xc**2).sum() / (len(x) - 1) + (yc**2).sum() / (len(y) - 1)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + spread - 2 * trace)


@pytest.mark.parametrize("n", [20, 64, 65, 66, 300])
@pytest.mark.parametrize("m", [20, 300])
def test_every_rank(n: int, m: int) -> None:
    rng = np.random.default_rng(n + 1000 * m)
    mix = rng.standard_normal((64, 64)) * np.logspace(0, -3, 64)
    x, y = rng.standard_normal((n, 64)) @ mix, 1.1 * rng.standard_normal((m, 64)) @ mix
    assert float(frechet(FeatureStats.of(x, "e"), FeatureStats.of(y, "e"))) == pytest.approx(nuclear(x, y), rel=1e-9)


@pytest.mark.parametrize("fault", ["dead", "dead on one side", "repeated", "nearly repeated"])
def test_singular_covariances(fault: str) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((200, 12)), 1.2 * rng.standard_normal((150, 12))
    if fault == "dead":
        x[:, :3] = y[:, :3] = 0.5
    elif fault == "dead on one side":
        x[:, :3] = 0.5
    else:
        for f in (x, y):
            f[:, 1] = f[:, 0] + (1e-9 * f[:, 2] if fault == "nearly repeated" else 0)
    assert float(frechet(FeatureStats.of(x, "e"), FeatureStats.of(y, "e"))) == pytest.approx(nuclear(x, y), rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_a_set_is_at_distance_0_from_itself(case: str) -> None:
    a, b = both(case)
    for stats in (a, b):
        assert 0 <= float(frechet(stats, stats)) < 1e-10 * float(stats.cov.trace())


def test_symmetric() -> None:
    a, b = both("many")
    assert float(frechet(a, b)) == pytest.approx(float(frechet(b, a)), rel=1e-11)


def test_negative_covariances_are_an_error_and_not_clamped() -> None:
    good = gaussian(torch.zeros(4), torch.eye(4))
    bad = gaussian(torch.zeros(4), torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.01])))
    skew = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    a, b = gaussian(torch.zeros(2), torch.eye(2)), gaussian(torch.zeros(2), skew)
    for pair in ((a, b), (b, a)):
        with pytest.raises(ValueError, match=r"eigenvalue -.* positive"):
            frechet(*pair)
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match=r"variance -0\.01, below 0"):
            frechet(*pair)


def test_refusals() -> None:
    a, b = both("many")
    with pytest.raises(ValueError, match="same extractor"):
        frechet(a, FeatureStats("f", b.n, b.mean, b.scatter))
