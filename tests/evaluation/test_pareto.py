"""The front of quality against cost: on points placed by hand, and on differences whose true value is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alphabar.evaluation.compare import compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.pareto import front, standings
from alphabar.evaluation.score import METRICS, load_measured, save_measured
from tests.fixtures.scores import made
from tests.fixtures.sets import Linear, stripes


def test_the_front_of_points_placed_by_hand() -> None:
    #        a  b   c   d   e   f
    costs = [5, 5, 10, 10, 20, 50]
    value = [9, 8, 8, 4, 5, 3]
    assert front(costs, value) == [False, True, False, True, False, True]
    assert front([1], [2]) == [True]
    assert front([], []) == []
    assert front([1, 1], [2, 2]) == [True, True]  # equal: together
    assert front([1, 2], [2, 2]) == [True, False]  # equally good at lower cost
    assert front([1, 1], [2, 1]) == [False, True]  # better at the same cost
    with pytest.raises(ValueError, match="2 costs for 1 values"):
        front([1, 2], [1])
    with pytest.raises(ValueError, match="NaN"):
        front([1.0, 2.0], [1.0, float("nan")])


def test_the_front_of_random_points_agrees_with_a_second_algorithm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs, values = rng.integers(0, 6, 12).tolist(), rng.integers(0, 6, 12).tolist()
        on = front(costs, values)
        running = float("inf")  # in rising order of cost, what is better than everything before
        best: dict[int, int] = {}
        for cost in sorted(set(costs)):
            lowest = min(v for c, v in zip(costs, values, strict=True) if c == cost)
            if lowest < running:
                best[cost], running = lowest, lowest
        assert on == [best.get(c) == v for c, v in zip(costs, values, strict=True)]


def test_a_difference_is_decided_at_the_level_of_all_pairs() -> None:
    """Influences that all settings share drop out; what is left has a standard error known in closed form."""
    rng = np.random.default_rng(1)
    shared, mine = 100 * rng.standard_normal(400), rng.standard_normal(400)
    mine -= mine.mean()
    se = float(mine.std(ddof=1)) / 20
    base = made(1.0, shared, "a")
    # two settings are one pair: 1.96 standard errors; four are six pairs: z of 0.05 / 6
    for others, z in ((0, 1.96), (2, 2.638)):
        spare = [made(9.0 + k, shared, f"spare {k}") for k in range(others)]
        for factor, yes in ((0.97, False), (1.03, True)):
            worse = made(1.0 + factor * z * se, shared + mine, "b")
            found = standings([base, worse, *spare], [1, 2, 3, 4][: 2 + others], "fid")
            assert found[0].on
            assert found[0].behind is None
            assert (found[1].on, found[1].behind, found[1].decided) == (False, 0, yes)
            assert found[1].difference is not None
            assert found[1].difference.se == pytest.approx(se, rel=1e-9)
    # of as many metrics as there are looks at them
    two = [made(1.0, shared, "a", ("fid", "kid")), made(1.0 + 2.1 * se, shared + mine, "b", ("fid", "kid"))]
    assert [s.decided for s in standings(two, [1, 2], "fid")] == [None, False]


def test_behind_is_the_best_setting_that_costs_no_more() -> None:
    own = np.random.default_rng(2).standard_normal(400)
    values, costs = [5.0, 3.0, 4.0, 3.5, 2.0, 6.0], [5, 10, 10, 20, 50, 20]
    found = standings([made(v, own, str(v)) for v in values], costs, "fid")
    assert [s.on for s in found] == [True, True, False, False, True, False]
    assert [s.behind for s in found] == [None, None, 1, 1, None, 1]
    assert [s.difference.value for s in found if s.difference] == [1.0, 0.5, 3.0]
    higher = standings([made(v, own, str(v), ("coverage",)) for v in values], costs, "coverage")
    assert [s.on for s in higher] == [True, False, False, False, False, True]
    assert [s.behind for s in higher] == [None, 0, 0, 5, 5, None]


def test_no_interval_and_equal_values_are_not_decided() -> None:
    own = np.random.default_rng(3).standard_normal(400)
    blind = made(7.0, own, "b")
    blind = replace(blind, expansions={"fid": replace(blind.expansions["fid"], trouble="no interval: too few")})
    assert standings([made(1.0, own, "a"), blind], [1, 2], "fid")[1].decided is False
    assert standings([made(1.0, own, "a"), made(1.0, own + 1, "b")], [1, 2], "fid")[1].decided is False


def test_measurements_are_stored_bit_for_bit(tmp_path: Path) -> None:
    """A comparison of stored measurements equals one of the originals, in every metric."""
    evaluator = ImageEval(Linear(), stripes(260, 0), cache=False)
    record = {"seed": 0, "first_index": 0, "nfe": 5}
    originals = [evaluator.measure(stripes(120, k).pixels, record) for k in (1, 2)]
    for k, one in enumerate(originals):
        save_measured(tmp_path / f"{k}.npz", one)
    read = [load_measured(tmp_path / f"{k}.npz") for k in (0, 1)]
    for a, b in zip(originals, read, strict=True):
        assert a.images == b.images
        assert a.scores == b.scores
    assert set(read[0].scores) == set(METRICS)
    assert [c.to_json() for c in compare_measured(*originals)] == [c.to_json() for c in compare_measured(*read)]
    np.savez(tmp_path / "other.npz", images=np.zeros(1))
    with pytest.raises(ValueError, match="holds images, but no scores"):
        load_measured(tmp_path / "other.npz")
