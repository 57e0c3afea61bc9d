"""The front of quality against cost: which settings no other one beats at no higher price, and what is known of the others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.core.files import write_npz
from alphabar.evaluation.compare import compare_measured
from alphabar.evaluation.estimate import LEVEL, Estimate, Expansion, normal_quantile
from alphabar.evaluation.image_eval import Measured
from alphabar.evaluation.score import HIGHER, Score


def front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Whether each of several points is on the front: no other has a cost and a value as low, and one of the two lower.

    By point value; lower is better for both. Points that are alike in both stand or fall together. Raises ValueError for unlike
    numbers of costs and values, and for NaN.
    """
    if len(costs) != len(values):
        raise ValueError(f"{len(costs)} costs for {len(values)} values: give one a point")
    if any(v != v for v in (*costs, *values)):
        raise ValueError("NaN is neither better nor worse than a number: leave such points out")
    return [
        not any(c <= cost and v <= value and (c < cost or v < value) for c, v in zip(costs, values, strict=True))
        for cost, value in zip(costs, values, strict=True)
    ]


@dataclass(frozen=True)
class Standing:
    """Where one setting stands in one metric against one cost.

    on: on the front. behind: the number of the setting that is better and costs no more, the best of them; None on the front.
    difference: the value less that one's. decided: whether that difference is more than chance, at a level that holds for all
    pairs of settings in all metrics together, since the front was picked by looking at them all; None on the front.
    """

    on: bool
    behind: int | None = None
    difference: Estimate | None = None
    decided: bool | None = None


def standings(measured: Sequence[Measured], costs: Sequence[float], metric: str, level: float = LEVEL) -> list[Standing]:
    """The standing of every setting in `metric`, as measured by one ImageEval, against `costs`.

    Images from the same noise are compared one by one (`compare_measured`). The level is shared out evenly over all pairs of
    settings and metrics (Bonferroni).
    """
    sign = -1.0 if metric in HIGHER else 1.0
    values = [sign * m.scores[metric].value for m in measured]
    on = front(costs, values)
    pairs = max(len(measured) * (len(measured) - 1) // 2, 1)
    looks = pairs * max((len(m.scores) for m in measured), default=1)
    strict = normal_quantile(1 - (1 - level) / looks)
    out = []
    for k, good in enumerate(on):
        if good:
            out.append(Standing(True))
            continue
        cheaper = [j for j, yes in enumerate(on) if yes and costs[j] <= costs[k] and values[j] <= values[k]]
        best = min(cheaper, key=lambda j: values[j])
        found = next(c for c in compare_measured(measured[k], measured[best], level=level) if c.metric == metric)
        gap = found.difference
        decided = found.verdict != "the same images" and gap.se is not None and abs(gap.value) > strict * gap.se
        out.append(Standing(False, best, gap, decided and gap.value != 0))
    return out


def save_measured(path: Path, measured: Measured) -> None:
    """Writes what a later comparison takes: of every metric its score and its expansion. Whole or not at all."""
    arrays: dict[str, Any] = {}
    numbers = {}
    for metric, expansion in measured.expansions.items():
        plain = {f.name: getattr(expansion, f.name) for f in fields(expansion)}
        for side in ("influence_x", "influence_y"):
            arrays[f"{metric}.{side}"] = plain.pop(side).numpy()
        numbers[metric] = plain
    about = {
        "images": measured.images, "expansions": numbers, "scores": {m: s.to_json() for m, s in measured.scores.items()},
    }  # fmt: skip
    write_npz(path, {"about": np.array(json.dumps(about)), **arrays})


def load_measured(path: Path) -> Measured:
    """What `save_measured` wrote, bit for bit. Raises OSError, or ValueError for another file."""
    with np.load(path, allow_pickle=False) as file:
        if "about" not in file.files:
            raise ValueError(f"{path} holds {', '.join(file.files)}, but no scores: measure the images again")
        about: Mapping[str, Any] = json.loads(str(file["about"]))
        expansions = {
            metric: Expansion(
                **numbers,
                influence_x=torch.from_numpy(file[f"{metric}.influence_x"]),
                influence_y=torch.from_numpy(file[f"{metric}.influence_y"]),
            )
            for metric, numbers in about["expansions"].items()
        }
    return Measured({m: Score.from_json(s) for m, s in about["scores"].items()}, expansions, about["images"])
