"""FID's standard error, bias and limit, against distributions whose distance is known."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from alphabar.core import seeds
from alphabar.evaluation.estimate import Estimate, Expansion, difference, steepness
from alphabar.evaluation.fid import frechet
from alphabar.evaluation.fid_uncertainty import bootstrap, expand, infinity, inverse_sums, parts
from alphabar.evaluation.kid import kid
from alphabar.features.stats import FeatureStats

D = 8
MIX = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0])
SCALE = torch.logspace(0, -1, D, dtype=torch.float64)
MODEL, REAL = (0.25, 1.1), (0.0, 1.0)  # (shift of every feature before mixing, factor on every scale): closed forms below


def draw(n: int, kind: tuple[float, float], seed: int) -> Tensor:
    shift, factor = kind
    z = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, D)))
    return (z * factor + shift) * SCALE @ MIX.T


def true_fid(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Gaussians with the same eigenvectors: squared distances of means and of standard deviations."""
    return float(((a[0] - b[0]) * SCALE).square().sum() + ((a[1] - b[1]) * SCALE).square().sum())


def expanded(x: Tensor, y: Tensor) -> Expansion:
    return expand(FeatureStats.of(x, "e"), FeatureStats.of(y, "e"), x, y)


def covers(e: Estimate, truth: float) -> bool:
    assert e.interval is not None
    return e.interval[0] <= truth <= e.interval[1]


def limit(x: Tensor, y: Tensor) -> Estimate:
    return infinity(expanded(x, y), parts([x], len(x), "e"), parts([y], len(y), "e")).estimate()


@pytest.mark.slow(3)
@pytest.mark.parametrize("model", [MODEL, REAL])
@pytest.mark.parametrize("way", [lambda x, y: expanded(x, y).unbiased(), limit])
def test_intervals_cover_the_true_distance(model: tuple[float, float], way: Callable[[Tensor, Tensor], Estimate]) -> None:
    hits = [covers(way(draw(1000, model, 2 * k), draw(1500, REAL, 2 * k + 1)), true_fid(model, REAL)) for k in range(200)]
    # 95 % of 200, give or take three standard deviations of a coin: benchmarks/coverage.py has the long run
    assert abs(np.mean(hits) - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 200)


def test_the_bias_of_fid_is_the_estimated_one_and_its_interval_is_for_its_expectation() -> None:
    found = [expanded(draw(400, MODEL, 2 * k), draw(600, REAL, 2 * k + 1)) for k in range(300)]
    excess = np.array([e.value for e in found]) - true_fid(MODEL, REAL)
    error = excess.std() / math.sqrt(len(excess))
    assert abs(excess.mean() - np.mean([e.bias for e in found])) < 3 * error
    assert excess.mean() > 5 * error  # it is there
    assert excess.var() == pytest.approx(np.mean([e.variance for e in found]), rel=0.3)
    expectation = true_fid(MODEL, REAL) + excess.mean()
    assert abs(np.mean([covers(e.estimate(), expectation) for e in found]) - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 300)


def test_influences_agree_with_the_jackknife() -> None:
    x, y = draw(500, MODEL, 1), draw(700, REAL, 2)
    e = expanded(x, y)
    for rows, influence, of in (
        (x, e.influence_x, lambda f: frechet(FeatureStats.of(f, "e"), FeatureStats.of(y, "e"))),
        (y, e.influence_y, lambda f: frechet(FeatureStats.of(x, "e"), FeatureStats.of(f, "e"))),
    ):
        n = len(rows)
        without = np.array([of(torch.cat([rows[:i], rows[i + 1 :]])) for i in range(0, n, 10)])
        jackknife = (n - 1) * (without.mean() - without)
        np.testing.assert_allclose(influence[::10] - influence[::10].mean(), jackknife, rtol=0.05, atol=0.03 * jackknife.std())


def test_the_bootstrap_agrees_and_is_addressed() -> None:
    x, y = draw(2000, MODEL, 1).float(), draw(2000, REAL, 2).float()
    values = bootstrap(x, y, 300, seed=3)
    e = expanded(x, y)
    assert float(values.std()) == pytest.approx(math.sqrt(e.first + e.second), rel=4 / math.sqrt(2 * 300))
    assert torch.equal(bootstrap(x, y, 5, seed=3), values[:5])
    # one replicate, drawn again by hand
    rng = seeds.generator(3, draw=4, stream=seeds.SUBSET)
    again = [f[torch.from_numpy(rng.integers(0, len(f), len(f)))] for f in (x, y)]
    assert float(values[4]) == pytest.approx(frechet(*(FeatureStats.of(f, "e") for f in again)), rel=1e-9)
    with pytest.raises(ValueError, match="replicates = 1"):
        bootstrap(x, y, 1)


def test_quarters_are_disjoint_random_and_whole() -> None:
    f = draw(1003, MODEL, 0)
    found = parts(f.split(100), 1003, "e", seed=1)
    assert sorted(p.n for p in found) == [250, 251, 251, 251]
    whole = found[0] + found[1] + found[2] + found[3]
    np.testing.assert_allclose(whole.cov, FeatureStats.of(f, "e").cov, rtol=1e-10)
    for p, q in zip(found, parts([f], 1003, "e", seed=1), strict=True):
        np.testing.assert_allclose(p.mean, q.mean, rtol=1e-12)
    assert not torch.equal(found[0].mean, parts([f], 1003, "e", seed=2)[0].mean)
    assert not torch.allclose(found[0].mean, FeatureStats.of(f[:251], "e").mean)  # not one stretch of a sorted set
    with pytest.raises(ValueError, match="7 images cannot be split"):
        parts([f[:7]], 7, "e")


@pytest.mark.slow(4)
@pytest.mark.parametrize("metric", [lambda x, y: expanded(x, y), kid])
def test_the_difference_of_two_models(metric: Callable[[Tensor, Tensor], Expansion]) -> None:
    """Paired by their noise: far narrower than unpaired, and both cover what the difference is on average."""
    other = (0.27, 1.12)
    values, paired, apart = [], [], []
    for k in range(120):
        y, x = draw(500, REAL, 3 * k), draw(500, MODEL, 3 * k + 1)
        a = metric(x, y)
        b = metric(draw(500, other, 3 * k + 1), y)  # the same noise
        c = metric(draw(500, other, 3 * k + 2), y)
        values.append((a.value - b.value, a.value - c.value))
        paired.append(difference(a, b, paired=True))
        apart.append(difference(a, c, paired=False))
    means = np.mean(values, axis=0)
    band = 3 * math.sqrt(0.95 * 0.05 / 120)
    assert abs(np.mean([covers(e, means[0]) for e in paired]) - 0.95) < band
    assert abs(np.mean([covers(e, means[1]) for e in apart]) - 0.95) < band
    assert np.median([e.se for e in paired]) < 0.3 * np.median([e.se for e in apart])


def test_differences_that_make_no_sense() -> None:
    x, y = draw(100, MODEL, 0), draw(120, REAL, 1)
    a = kid(x, y)
    with pytest.raises(ValueError, match=r"100 and 90 images cannot be pairs"):
        difference(a, kid(x[:90], y), paired=True)
    with pytest.raises(ValueError, match=r"against 120 and 110 images"):
        difference(a, kid(x, y[:110]), paired=False)
    assert difference(replace(a, trouble="no interval: x"), a, paired=True).interval is None


def test_too_few_images_have_a_value_and_no_interval() -> None:
    flat = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 64)))
    e = expanded(flat[:150], flat[150:]).estimate()
    assert e.interval is None
    assert "too few" in (e.note or "")
    singular = expanded(flat[:50], flat[50:])
    assert "singular (50 images for 64 features)" in (singular.estimate().note or "")
    assert singular.value == frechet(FeatureStats.of(flat[:50], "e"), FeatureStats.of(flat[50:], "e"))
    twice = torch.cat([flat, flat[:, :1]], 1)
    assert "repeat each other" in (expanded(twice[:150], twice[150:]).estimate().note or "")


def test_inverse_sums_by_quadrature() -> None:
    for decades in (0.0, 3.0, 7.0):
        s = 5 * np.logspace(-decades, 0, 60)
        c = inverse_sums(s).astype(np.float64)
        assert np.abs((c @ c.T) * (s + s[:, None]) - 1).max() < 1e-3


def test_steepness_of_known_eigenvalues() -> None:
    """u . u' of Gaussian vectors with variances l has the eigenvalues l: one large one decides."""
    l = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64)  # noqa: E741 (the eigenvalues' letter)
    u = torch.from_numpy(np.random.default_rng(0).standard_normal((2000, 3))) * l.sqrt()
    want = float((l**3).sum() / (l**2).sum())
    assert steepness(u @ u.T, 100, 300) == pytest.approx(4 * (1 / 100 + 1 / 300) * want, rel=0.1)


@pytest.mark.slow
def test_a_value_below_zero_is_in_its_interval() -> None:
    """No distance lies below 0, but unbiased values do, the more often the nearer the truth: each is in its interval."""
    low = 0
    for k in range(100):
        x, y = draw(60, REAL, 2 * k), draw(70, REAL, 2 * k + 1)
        for e in (kid(x, y).estimate(), limit(x, y), expanded(x, y).unbiased(), expanded(x, y).estimate()):
            if e.interval is not None:
                assert e.interval[0] <= e.value <= e.interval[1]
        plain = expanded(x, y).estimate()
        assert plain.interval is None or plain.interval[0] >= 0  # a sum of squares
        low += kid(x, y).value < 0
    assert 30 < low < 90


def test_constant_features_change_nothing() -> None:
    """Dead units of a network: constant on both sides, or on one, where only the other side's own variance counts."""
    x, y = draw(900, MODEL, 1), draw(1100, REAL, 2)
    plain = expanded(x, y)
    both = expanded(torch.cat([x, torch.full((900, 2), 3.0)], 1), torch.cat([y, torch.full((1100, 2), 3.0)], 1))
    assert both.value == pytest.approx(plain.value, rel=1e-9)
    assert both.variance == pytest.approx(plain.variance, rel=1e-4)
    assert both.bias == pytest.approx(plain.bias, rel=1e-4)
    assert both.trouble is None
    extra = torch.from_numpy(np.random.default_rng(5).standard_normal((1100, 1))) * 0.3
    one = expanded(torch.cat([x, torch.zeros(900, 1)], 1), torch.cat([y, extra], 1))
    wanted = frechet(*(FeatureStats.of(f, "e") for f in (torch.cat([x, torch.zeros(900, 1)], 1), torch.cat([y, extra], 1))))
    assert one.value == pytest.approx(wanted, rel=1e-9)
    # the influence of a real image grows by its own square there, less its mean, and by its part in the mean's square
    grown = (extra[:, 0] - extra.mean()).square() + 2 * extra.mean() * (extra[:, 0] - extra.mean())
    np.testing.assert_allclose(one.influence_y - plain.influence_y, grown - grown.mean(), atol=1e-4)
