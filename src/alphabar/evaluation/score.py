"""A score is a record that carries its protocol. Scores measured under different protocols cannot be compared.

`Measured` is what `ImageEval.measure` returns: scores, with the expansions that a comparison needs, in memory and in a file.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.files import Record, json_text, plain, write_npz
from alphabar.core.npz import read_npz
from alphabar.core.stored_names import SCORE, renamed
from alphabar.core.stored_values import PAIR, REAL, TEXT, StoredValues, naming, parse_object, whole
from alphabar.evaluation.estimate import LEVEL, Estimate, Expansion
from alphabar.sampling.samples import check_record

# Fields that two scores must share before their values may be compared. Sampler, nfe and seeds are what is compared.
PROTOCOL = ("metric", "options", "extractor", "preprocessing", "reference", "n", "n_reference")
TITLES = {
    "fid": "FID", "fid_infinity": "FID-infinity", "kid": "KID",
    "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage",
}  # fmt: skip
METRICS = tuple(TITLES)  # of one extractor; and, where it is asked for,
RBF = "kid_rbf"  # KID with the Gaussian kernel of CMMD, of the median distance of the real images
TITLES[RBF] = "KID (Gaussian kernel)"
RELATIVE = "relative_fid"  # of several (`evaluation.several`): the mean over them of FID / floor
TITLES[RELATIVE] = "relative FID"
HIGHER = frozenset({"precision", "recall", "density", "coverage"})  # metrics of which a higher value is better
INTERVALS = {  # what the interval of each metric is an interval for
    **dict.fromkeys(
        ("fid", RELATIVE, "precision", "recall", "density", "coverage"), "its expectation at these numbers of images"
    ),
    **dict.fromkeys(("fid_infinity", "kid", RBF), "the distance of the two distributions, at any number of images"),
}
_SAMPLER_KEYS = (  # of a sampling record, kept in the score
    "sampler", "eta", "steps", "grid_name", "plan", "clip", "threshold", "variance", "options", "tuned", "calls",
    "precision", "classes", "guidance", "guidance_interval", "model", "source", "seconds_per_image",
)  # fmt: skip


_NUMBERS = ("value", "n", "n_reference", "floor", "floor_n", "se", "level", "bias", "floor_seed", "floor_sets", "nfe")
_KINDS = {
    **dict.fromkeys(_NUMBERS, REAL), "interval": PAIR, "floor_interval": PAIR,
    **dict.fromkeys(("metric", "floor_source", "extractor", "reference", "reference_name", "note"), TEXT),
}  # fmt: skip


FEW = 1000  # images on a side; of fewer, FID is mostly bias
T = TypeVar("T")


def in_order(found: Sequence[T]) -> list[T]:
    """Scores or comparisons in the order of tables: KID first, which has no bias, where there are few images on a side."""
    few = any(min(s.n, s.n_reference) < FEW for x in found if isinstance(s := getattr(x, "a", x), Score))
    return sorted(found, key=lambda x: few and getattr(x, "metric", "") != "kid")


class ProtocolError(ValueError):
    """Two scores differ in the field `field` of their protocols, so their values mean different things."""

    def __init__(self, name: str, a: Any, b: Any) -> None:
        super().__init__(
            f"scores of different protocols: {name} is {a!r} on the left and {b!r} on the right; score both sets of images "
            "with one ImageEval, and as many images on both sides"
        )
        self.field = name


@dataclass(frozen=True, eq=True)
class Score(Record):
    """One metric of one set of images, with everything needed to measure it again.

    The floor is the score of as many real images, which is what a perfect model would get: the mean over `floor_sets` disjoint
    draws of `floor_n` real images that are not in the reference. `a - b` is a `Difference`, or raises ProtocolError.
    """

    metric: str
    value: float  # lower is better for fid (>= 0), fid_infinity and kid (both about 0 at best), higher for the four others
    n: int  # images scored
    n_reference: int  # real images they were compared with
    floor: float | None
    floor_n: int | None  # equals n, unless there are too few real images
    floor_source: str  # in words
    extractor: str  # fingerprint of weights and preprocessing
    preprocessing: Mapping[str, Any]
    reference: str  # fingerprint of the images' content
    reference_name: str
    se: float | None = None
    interval: tuple[float, float] | None = None  # at `level`, for what `INTERVALS` says; None: unknown, and `note` says why
    level: float = LEVEL
    note: str | None = None
    bias: float | None = None  # of fid: expected excess over its limit at these numbers of images
    floor_interval: tuple[float, float] | None = None
    floor_seed: int | None = None
    floor_sets: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the metric: k, the neighbour that a ball reaches to
    check_result: str | None = None  # of `alphabar extractor check`, for this metric
    nfe: float | None = None  # network calls per image
    seeds: Mapping[str, int] | None = None  # this and the next: of the sampling record, None for images of unknown origin
    sampler: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __sub__(self, other: "Score") -> "Difference":
        """This score minus the other. Raises ProtocolError, which names the field, when their protocols differ."""
        for name in PROTOCOL:
            a, b = getattr(self, name), getattr(other, name)
            if a != b:
                raise ProtocolError(name, a, b)
        return Difference(self.metric, self.value - other.value, self, other)

    @property
    def estimate(self) -> Estimate:
        """The value with its interval."""
        return Estimate(self.value, self.se, self.interval, self.level, self.note)

    def __str__(self) -> str:
        floor = "" if self.floor is None else f", floor {self.floor:.4g}"
        at = "" if self.floor_n in (None, self.n) else f" at {self.floor_n}"
        return f"{TITLES.get(self.metric, self.metric)} {self.estimate} ({self.n} images{floor}{at})"

    def _repr_html_(self) -> str:
        """A row with a drawing of the interval (bar), the value (dot) and the floor (line), for a notebook."""
        known = [v for v in (self.value, self.floor, *(self.interval or ())) if v is not None]
        low, high = min(0.0, *known), max(0.0, *known) or 1.0
        value, floor, start, end = (
            None if v is None else round(4 + 192 * (v - low) / (high - low), 1)
            for v in (self.value, self.floor, *(self.interval or (None, None)))
        )
        bar = "" if start is None else f'<line x1="{start}" x2="{end}" y1="10" y2="10" stroke="#1f5fa8" stroke-width="4"/>'
        line = "" if floor is None else f'<line x1="{floor}" x2="{floor}" y1="1" y2="19" stroke="#b4530a" stroke-width="2"/>'
        drawing = (
            f'<svg width="200" height="20" role="img" aria-hidden="true">{line}{bar}<circle cx="{value}" cy="10" r="4"/></svg>'
        )
        words, name = html.escape(str(self)), html.escape(self.reference_name)
        return f"<table><tr><td>{words}</td><td>{drawing}</td><td>against {name}</td></tr></table>"

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> "Score":
        """The score that `to_json` wrote (a mapping, or its text). Raises ValueError for missing or unknown keys."""
        values = renamed(json.loads(data) if isinstance(data, str) else data, SCORE)
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"a score record has no {unknown[0]!r}: its keys are {', '.join(sorted(known))}")
        StoredValues(values, "a score record").check(_KINDS, null=_KINDS)
        values |= {name: tuple(values[name]) for name in ("interval", "floor_interval") if values.get(name) is not None}
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"an incomplete score record ({error}): give one that Score.to_json wrote") from error


@dataclass(frozen=True)
class Difference:
    """value = a - b of one metric under one protocol. Records alone give no interval: `alphabar.compare` computes one."""

    metric: str
    value: float
    a: Score
    b: Score

    def __float__(self) -> float:
        return self.value


def sampling_fields(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields nfe, seeds and sampler of a Score, from a sampling record."""
    if record is None:
        return {}
    if not isinstance(record, Mapping):
        raise ValueError(f"the record of samples is {type(record).__name__}: give the one of Samples, or None")
    record = check_record(dict(record), "the record of samples")
    seeds = {k: int(record[k]) for k in ("seed", "first_index") if record.get(k) is not None}
    sampler = {k: record[k] for k in _SAMPLER_KEYS if k in record}
    nfe = record.get("nfe")
    return {"nfe": None if nfe is None else float(nfe), "seeds": seeds or None, "sampler": sampler or None}


@dataclass(frozen=True)
class Measured:
    """Scores and expansions of one set of images, by name of the metric."""

    scores: dict[str, Score]
    expansions: dict[str, Expansion]
    images: str  # fingerprint of the images' content
    further: tuple["Measured", ...] = ()  # FID by further extractors


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
    sides = [(metric, e, f"influence_{side}") for metric, e in measured.expansions.items() for side in "xy"]
    arrays = {f"{metric}.{name}": getattr(e, name).numpy() for metric, e, name in sides}
    write_npz(path, {"about": np.array(json_text(plain(measured))), **arrays})


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
