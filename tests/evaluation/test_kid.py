import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.evaluation.kid import kid, median_distance, within
from tests.references.features import features

PEERS = json.loads((Path(__file__).parents[1] / "references" / "peers.json").read_text())


def double_loop(x: np.ndarray, y: np.ndarray, degree: int = 3) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** degree)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


@pytest.mark.parametrize("block", [1, 7, 16, 1024])
@pytest.mark.parametrize(
    ("n", "m", "degree"), [(23, 31, 3), (16, 16, 3), (2, 5, 3), (20, 11, 2), (9, 8, 1), (12, 9, 4), (8, 9, 5)]
)
def test_direct_double_loop(n: int, m: int, degree: int, block: int) -> None:
    rng = np.random.default_rng(n + m)
    x, y = rng.random((n, 5)) + 1, 1.2 * rng.random((m, 5)) + 1.1
    want = double_loop(x, y, degree)
    assert kid(x, y, degree=degree, block=block, dtype=torch.float64).value == pytest.approx(want, rel=1e-10)
    assert kid(x, y, degree=degree, block=block).value == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("block", [7, 1024])
def test_gaussian_kernel_against_all_distances(block: int) -> None:
    rng = np.random.default_rng(3)
    x, y, h = rng.random((23, 5)) + 100, 1.2 * rng.random((31, 5)) + 100.1, 0.7  # far from 0, which changes no distance

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        k = np.exp(-((a[:, None] - b) ** 2).sum(-1) / (2 * h**2))
        n = len(a)
        return float(k.mean()) if a is not b else float((k.sum() - n) / (n * (n - 1)))

    want = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    assert kid(x, y, bandwidth=h, block=block, dtype=torch.float64).value == pytest.approx(want, rel=1e-10)
    assert kid(x, y, bandwidth=h, block=block).value == pytest.approx(want, rel=1e-4)
    shared = within(torch.from_numpy(y), bandwidth=h)
    assert kid(x, shared, bandwidth=h).value == pytest.approx(want, rel=1e-4)
    # a bandwidth far above all distances leaves the linear term: |difference of means|^2 / h^2, without its bias
    wide = kid(x, y, bandwidth=1e3, dtype=torch.float64).value * 1e6
    plain = ((x.mean(0) - y.mean(0)) ** 2).sum() - x.var(0, ddof=1).sum() / len(x) - y.var(0, ddof=1).sum() / len(y)
    assert wide == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_interval_with_the_gaussian_kernel_holds_the_truth() -> None:
    """For two normal distributions the distance is known: sums of normal densities."""
    rng, d, h, shift = np.random.default_rng(0), 3, 1.5, 0.4
    near, far = (h**2 / (h**2 + 2)) ** (d / 2), np.exp(-d * shift**2 / (2 * (h**2 + 2)))
    truth, held = 2 * near * (1 - far), 0
    for _ in range(300):
        x, y = rng.standard_normal((200, d)), rng.standard_normal((150, d)) + shift
        low, high = kid(x, y, bandwidth=h).estimate().interval or (0, 0)
        held += low <= truth <= high
    assert 0.91 < held / 300 < 0.99


def test_median_distance() -> None:
    assert median_distance(torch.tensor([[0.0], [1.0], [3.0]])) == 2
    with pytest.raises(ValueError, match="median distance of 3 images is 0"):
        median_distance(torch.ones(3, 2))
    with pytest.raises(ValueError, match="bandwidth = 0: give a distance"):
        kid(np.ones((4, 3)), np.ones((4, 3)), bandwidth=0)


@pytest.mark.parametrize("case", ["equal", "alike"])
@pytest.mark.parametrize("peer", ["torch-fidelity kid", "clean-fid kid"])
def test_stored_values_of_other_libraries(case: str, peer: str) -> None:
    want = PEERS["values"][case][peer]
    assert kid(*features(case), dtype=torch.float64).value == pytest.approx(want, rel=1e-9)
    assert kid(*features(case)).value == pytest.approx(want, rel=1e-5)


def test_float32_products_are_precise_where_the_mean_is_far_above_the_spread() -> None:
    # the kernel is about 1e6 here, its differences about 10: float32 products of uncentred features would lose all digits
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 32)) * 0.1 + 10, rng.standard_normal((300, 32)) * 0.1 + 10.01
    assert kid(x, y).value == pytest.approx(kid(x, y, dtype=torch.float64).value, rel=1e-5)


@pytest.mark.slow
def test_unbiased_at_any_number_of_images() -> None:
    # one distribution on both sides: the mean over many draws is 0 within 4 standard errors, and far from the biased value
    rng = np.random.default_rng(1)
    draws = np.array([kid(rng.standard_normal((6, 4)), rng.standard_normal((9, 4))).value for _ in range(2000)])
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean()) < 4 * error
    # the biased estimate includes the diagonals: E k(x, x) - E k(x, y) = (1 + |x|^2 / d)^3 - ..., above 1
    assert 4 * error < 1 / 6
    assert (draws < 0).mean() > 0.3


def test_symmetric() -> None:
    x, y = features("many")
    assert kid(x, y).value == pytest.approx(kid(y, x).value, rel=1e-6)


def test_refusals() -> None:
    f = np.ones((4, 3))
    with pytest.raises(ValueError, match="3 and 2 wide"):
        kid(f, np.ones((4, 2)))
    with pytest.raises(ValueError, match="4 and 1 images"):
        kid(f, f[:1])
    with pytest.raises(ValueError, match="degree = 0"):
        kid(f, f, degree=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        kid(f, f * np.inf)


def brute_variance(x: np.ndarray, y: np.ndarray) -> float:
    """Square of the statistic minus the mean of products of its terms that share no image, by loops."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    h = {
        (i, j, p, q): k(x[i], x[j]) + k(y[p], y[q]) - k(x[i], y[q]) - k(x[j], y[p])
        for i, j in permutations(range(len(x)), 2)
        for p, q in permutations(range(len(y)), 2)
    }
    apart = [
        h[i, j, p, q] * h[r, s, t, u]
        for i, j, r, s in permutations(range(len(x)), 4)
        for p, q, t, u in permutations(range(len(y)), 4)
    ]
    return float(np.mean(list(h.values()))) ** 2 - float(np.mean(apart))


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 4), (4, 6)])
def test_variance_against_loops_over_disjoint_images(n: int, m: int) -> None:
    rng = np.random.default_rng(n + 7 * m)
    x, y = rng.random((n, 3)) + 1, 1.5 * rng.random((m, 3)) + 2
    found = kid(x, y, dtype=torch.float64)
    want = max(brute_variance(x, y), found.second)
    assert found.known_variance == pytest.approx(want, rel=1e-8)


def test_influences_agree_with_the_jackknife() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.random((40, 4)), rng.random((50, 4)) + 0.2
    all_of_them = kid(x, y, dtype=torch.float64)
    # U-statistics of order 2: leaving image i out changes the mean over pairs by -(influence_i) / (n - 2), to the last digit
    without = np.array([kid(np.delete(x, i, 0), y, dtype=torch.float64).value for i in range(40)])
    rows = all_of_them.influence_x.numpy()
    slope, rest = np.polyfit(rows, without, 1, full=True)[:2]
    assert rest[0] < 0.01 * without.var() * 40
    assert slope[0] == pytest.approx(-1 / 39, rel=0.06)


def test_the_variance_does_not_depend_on_block_and_precision() -> None:
    x, y = features("alike")
    want = kid(x, y, dtype=torch.float64)
    for found in (kid(x, y, block=37), kid(x, y)):
        assert found.variance == pytest.approx(want.variance, rel=1e-3)
        assert found.second == pytest.approx(want.second, rel=1e-3)


def test_two_and_three_images_have_a_value_and_no_interval() -> None:
    rng = np.random.default_rng(0)
    e = kid(rng.random((3, 2)), rng.random((9, 2))).estimate()
    assert e.interval is None
    assert "at least 4 images" in (e.note or "")


def test_sums_of_one_side_are_used_many_times() -> None:
    rng = np.random.default_rng(3)
    y = torch.from_numpy(rng.random((70, 5)))
    ready = within(y, dtype=torch.float64)
    for k in range(3):
        x = rng.random((60 + k, 5)) * (1 + k) + k
        a, b = kid(x, ready), kid(x, y, dtype=torch.float64)
        assert a.value == pytest.approx(b.value, rel=1e-9)
        assert a.variance == pytest.approx(b.variance, rel=1e-6)
        # terms of one image cancel in an influence up to a part of 1 / m
        assert torch.allclose(a.influence_y, b.influence_y, rtol=0.05, atol=0.02 * float(b.influence_y.std()))
    with pytest.raises(ValueError, match="degree 3 and bandwidth None cannot be used for 2 and None"):
        kid(x, ready, degree=2)
