import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.evaluation.kernel import kid
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
    assert kid(x, y, degree=degree, block=block, dtype=torch.float64) == pytest.approx(want, rel=1e-10)
    assert kid(x, y, degree=degree, block=block) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("case", ["equal", "alike"])
@pytest.mark.parametrize("peer", ["torch-fidelity kid", "clean-fid kid"])
def test_kept_values_of_other_libraries(case: str, peer: str) -> None:
    want = PEERS["values"][case][peer]
    assert kid(*features(case), dtype=torch.float64) == pytest.approx(want, rel=1e-9)
    assert kid(*features(case)) == pytest.approx(want, rel=1e-5)


def test_float32_products_hold_where_the_mean_dwarfs_the_spread() -> None:
    # the kernel is about 1e6 here, its differences about 10: plain float32 products would leave no digit of them
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 32)) * 0.1 + 10, rng.standard_normal((300, 32)) * 0.1 + 10.01
    assert kid(x, y) == pytest.approx(kid(x, y, dtype=torch.float64), rel=1e-5)


def test_unbiased_at_any_number_of_images() -> None:
    # one distribution on both sides: the mean over many draws is 0 within 4 standard errors, and far from the biased value
    rng = np.random.default_rng(1)
    draws = np.array([kid(rng.standard_normal((6, 4)), rng.standard_normal((9, 4))) for _ in range(2000)])
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean()) < 4 * error
    # the biased estimate has the diagonals in: E k(x, x) - E k(x, y) is (1 + |x|^2 / d)^3 - ..., above 1
    assert 4 * error < 1 / 6
    assert (draws < 0).mean() > 0.3


def test_symmetric() -> None:
    x, y = features("many")
    assert kid(x, y) == pytest.approx(kid(y, x), rel=1e-6)


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
