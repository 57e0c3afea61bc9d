"""Intervals over seeds are Student's and have their stated coverage."""

import numpy as np
import pytest
from scipy import stats

from alphabar.core import seeds
from alphabar.evaluation.estimate import over_seeds, student_quantile


def test_the_interval_over_seeds_covers_as_often_as_stated() -> None:
    g = seeds.generator(0)
    hits = 0
    for _ in range(2000):
        found = over_seeds((1.5 + g.standard_normal(3)).tolist())
        assert found.interval is not None
        hits += found.interval[0] <= 1.5 <= found.interval[1]
    assert hits / 2000 == pytest.approx(0.95, abs=4 * 0.005)


def test_the_interval_over_seeds_is_students_and_one_seed_has_none() -> None:
    values = [1.2, 0.7, 1.9, 1.4]
    found = over_seeds(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high)) and found.value == pytest.approx(np.mean(values))
    one = over_seeds([1.2])
    assert one.interval is None and one.note is not None and "give two or more" in one.note
    with pytest.raises(ValueError, match="give one value per seed"):
        over_seeds([])
    with pytest.raises(ValueError, match="give a level between 0 and 1"):
        student_quantile(1.0, 2)
