"""What `ImageEval.measure` returns: scores, with the expansions that a comparison needs, in memory and in a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.files import write_npz
from alphabar.core.npz import read_npz
from alphabar.core.stored_values import REAL, TEXT, StoredValues, naming, parse_object, whole
from alphabar.evaluation.estimate import Estimate, Expansion
from alphabar.evaluation.score import Score


@dataclass(frozen=True)
class Measured:
    """Scores and expansions of one set of images, by name of the metric."""

    scores: dict[str, Score]
    expansions: dict[str, Expansion]
    images: str  # fingerprint of the images' content


@dataclass(frozen=True)
class CurvePoint:
    """A metric at n images: its mean over `sets` disjoint parts, the estimate of one part, and that of n real images."""

    metric: str
    n: int
    value: float
    sets: int
    one: Estimate
    floor: Estimate | None


def save_measured(path: Path, measured: Measured) -> None:
    """Writes scores and expansions to an .npz file, whole or not at all."""
    arrays: dict[str, Any] = {}
    numbers = {}
    for metric, expansion in measured.expansions.items():
        plain = {f.name: getattr(expansion, f.name) for f in fields(expansion)}
        for side in ("influence_x", "influence_y"):
            arrays[f"{metric}.{side}"] = plain.pop(side).numpy()
        numbers[metric] = plain
    scores = {metric: score.to_json() for metric, score in measured.scores.items()}
    about = {"images": measured.images, "expansions": numbers, "scores": scores}
    write_npz(path, {"about": np.array(json.dumps(about)), **arrays})


def load_measured(path: Path) -> Measured:
    """What `save_measured` wrote, bit for bit. Raises OSError, or ValueError for another file."""
    arrays = read_npz(path)
    if "about" not in arrays:
        raise ValueError(f"{path} holds {', '.join(arrays)}, but no scores: measure the images again")
    about = parse_object(str(arrays["about"]), str(path))
    with naming(f"{path} is incomplete: measure the images again"):
        expansions = {metric: _expansion(metric, numbers, arrays) for metric, numbers in about["expansions"].items()}
        return Measured({m: Score.from_json(s) for m, s in about["scores"].items()}, expansions, about["images"])


def _expansion(metric: str, numbers: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Expansion:
    nullable = {f.name for f in fields(Expansion) if f.default is None}
    kinds = dict.fromkeys(numbers, REAL) | {"n": whole(1, 10**12), "m": whole(1, 10**12), "trouble": TEXT}
    StoredValues(numbers, metric).check(kinds, nullable)
    x, y = (arrays[f"{metric}.influence_{side}"] for side in "xy")
    if not x.dtype == y.dtype == np.float64 or not x.ndim == y.ndim == 1:
        raise ValueError(f"influences of {metric} are {x.dtype} {x.shape} and {y.dtype} {y.shape}; wanted vectors of float64")
    return Expansion(**numbers, influence_x=torch.from_numpy(x), influence_y=torch.from_numpy(y))
