"""The Pareto front of quality against cost: the settings that no other setting beats at no higher cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from alphabar.evaluation.compare import compare_measured
from alphabar.evaluation.estimate import LEVEL, Estimate, normal_quantile
from alphabar.evaluation.score import HIGHER, Measured


def front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Whether each point is on the front: no other point has cost and value at most as high, and one of the two lower.

    Lower is better for both; intervals are not considered. Points with equal cost and value are both on the front or both off
    it. Raises ValueError for different numbers of costs and values, and for NaN.

    >>> front([1, 2, 3], [5.0, 6.0, 4.0])
    [True, False, True]
    """
    if len(costs) != len(values):
        raise ValueError(f"{len(costs)} costs for {len(values)} values: give one per point")
    if any(v != v for v in (*costs, *values)):
        raise ValueError("NaN is neither better nor worse than a number: leave such points out")
    return [
        not any(c <= cost and v <= value and (c < cost or v < value) for c, v in zip(costs, values, strict=True))
        for cost, value in zip(costs, values, strict=True)
    ]


@dataclass(frozen=True)
class Standing:
    """Whether one setting is on the front of one metric against one cost, and otherwise which setting beats it."""

    on: bool
    behind: int | None = None  # number of the best setting that is better and costs no more; None on the front
    difference: Estimate | None = None  # this setting's value minus that setting's
    decided: bool | None = None  # whether the difference is significant, at a level for all pairs and metrics together


def standings(measured: Sequence[Measured], costs: Sequence[float], metric: str, level: float = LEVEL) -> list[Standing]:
    """The standing of every setting in `metric` against `costs`, as measured by one ImageEval.

    Images from the same noise are compared pairwise (`compare_measured`). The front is picked by looking at all settings, so
    the level is divided by the number of pairs of settings and of metrics (Bonferroni).
    """
    sign = -1.0 if metric in HIGHER else 1.0
    values = [sign * m.scores[metric].value for m in measured]
    on_front = front(costs, values)
    pairs = max(len(measured) * (len(measured) - 1) // 2, 1)
    looks = pairs * max((len(m.scores) for m in measured), default=1)
    z = normal_quantile(1 - (1 - level) / looks)
    out = []
    for k, on in enumerate(on_front):
        if on:
            out.append(Standing(True))
            continue
        better = [j for j, yes in enumerate(on_front) if yes and costs[j] <= costs[k] and values[j] <= values[k]]
        best = min(better, key=lambda j: values[j])
        found = next(c for c in compare_measured(measured[k], measured[best], level=level) if c.metric == metric)
        gap = found.difference
        decided = found.verdict != "the same images" and gap.se is not None and abs(gap.value) > z * gap.se
        out.append(Standing(False, best, gap, decided and gap.value != 0))
    return out
