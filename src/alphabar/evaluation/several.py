"""Scores by several extractors: FID relative to the floor, averaged over extractors, which no single feature space decides."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import DTypeLike

from alphabar.data.image_set import ImageSet
from alphabar.evaluation.estimate import Estimate, Expansion
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import METRICS, RELATIVE, Measured, Score
from alphabar.features.extractor import FeatureExtractor


class SeveralEval(ImageEval):
    """An ImageEval of the first extractor, which adds the relative FID over all of them.

    The relative FID is the mean, over the extractors, of FID divided by the FID of as many real images (the floor): 1 for images
    as good as real ones. FIDs of unlike extractors differ in scale; their ratios to the floor do not (FD-loss, arXiv:2604.28190,
    uses this mean). It is measured wherever FID is.

    Args:
        extractors: Two or more, as ImageEval takes one.
        reference: As for ImageEval.
        options: Keywords of ImageEval.

    Raises:
        ValueError: For an extractor that is named twice, or one alone.
    """

    def __init__(
        self, extractors: Sequence[FeatureExtractor | str | Path], reference: ImageSet | Any | str, **options: Any
    ) -> None:
        super().__init__(extractors[0], reference, **options)
        self.further = [ImageEval(e, reference, **options) for e in extractors[1:]]
        prints = [e.extractor.fingerprint for e in (self, *self.further)]
        if len(set(prints)) < max(len(prints), 2):
            raise ValueError(f"extractors {', '.join(map(str, prints))}: give two or more that differ")

    def measure(self, images: Any, record: Mapping[str, Any] | None = None, metrics: Sequence[str] = METRICS) -> Measured:
        """`ImageEval.measure`, with the relative FID, and the FIDs by the further extractors in `Measured.further`."""
        own = super().measure(images, record, metrics)
        if "fid" not in metrics:
            return own
        further = tuple(e.measure(images, record, ("fid",)) for e in self.further)
        score, expansion = relative([own, *further])
        return Measured({**own.scores, RELATIVE: score}, {**own.expansions, RELATIVE: expansion}, own.images, further)

    def check_shape(self, shape: tuple[int, int, int], dtype: DTypeLike, n: int, metrics: Sequence[str]) -> None:
        """As of ImageEval, by every extractor."""
        super().check_shape(shape, dtype, n, metrics)
        for e in self.further if "fid" in metrics else ():
            e.check_shape(shape, dtype, n, ("fid",))

    def _too_few(self, metric: str, n: int) -> str:
        every = [super()._too_few(metric, n), *(e._too_few(metric, n) for e in self.further if metric == "fid")]
        return next(filter(None, every), "")


def relative(measured: Sequence[Measured]) -> tuple[Score, Expansion]:
    """The mean of FID / floor over extractors, from their measurements of the same images, and its expansion at fixed floors.

    Influences of an image add over extractors, so that what they share is counted; second-order terms and the floors' errors,
    whose correlation is unknown, are added as if they were wholly correlated, which can only widen the interval.

    Raises:
        ValueError: For a floor of 0, as of real images that are all alike.
    """
    scores = [m.scores["fid"] for m in measured]
    floors = [s.floor or 0.0 for s in scores]
    if min(floors) <= 0:
        raise ValueError("an extractor cannot tell real images apart (FID of the floor is 0): leave it out of --extractors")
    weights = [1 / (len(scores) * floor) for floor in floors]
    expansion = weighted_sum([m.expansions["fid"] for m in measured], weights)
    error = sum(w * s.value * _half(s) / floor for w, s, floor in zip(weights, scores, floors, strict=True))
    found = _widened(expansion.estimate(), error)
    if any(s.floor_interval is None for s in scores):
        found = replace(found, se=None, interval=None, note="no interval: the floor has none, for want of real images")
    first = scores[0]
    return replace(
        first, metric=RELATIVE, value=found.value, se=found.se, interval=found.interval, note=found.note, bias=None,
        floor=1.0, floor_interval=None,
        extractor=" ".join(s.extractor for s in scores), preprocessing={s.extractor: s.preprocessing for s in scores},
        check_result="; ".join(dict.fromkeys(s.check_result or "not checked" for s in scores)),
    ), expansion  # fmt: skip


def weighted_sum(expansions: Sequence[Expansion], weights: Sequence[float]) -> Expansion:
    """The expansion of a sum of statistics of the same images with positive weights.

    Influences must be those of the same images. The variances of the second-order terms are added as of wholly correlated terms.
    """
    pairs = list(zip(expansions, weights, strict=True))
    trouble = next((e.trouble for e in expansions if e.trouble), None)
    first = expansions[0]
    x, y = first.influence_x, first.influence_y
    if trouble is None:
        x, y = (torch.stack([w * getattr(e, name) for e, w in pairs]).sum(0) for name in ("influence_x", "influence_y"))
    return Expansion(
        sum(w * e.value for e, w in pairs), first.n, first.m, x, y,
        second=sum(w * math.sqrt(e.second) for e, w in pairs) ** 2,
        second_x=sum(w * math.sqrt(e.second_x) for e, w in pairs) ** 2,
        bias=sum(w * e.bias for e, w in pairs), quadratic=sum(w * (e.quadratic or 0.0) for e, w in pairs),
        steepness=sum(w * e.steepness for e, w in pairs), trouble=trouble,
    )  # fmt: skip


def _half(score: Score) -> float:
    """Half the interval of the floor."""
    low, high = score.floor_interval or (0.0, 0.0)
    return (high - low) / 2


def _widened(found: Estimate, half: float) -> Estimate:
    """The estimate with a further, independent error, whose interval reaches as far to both sides."""
    if found.interval is None:
        return found
    low, high = (math.hypot(end - found.value, half) for end in found.interval)
    return replace(found, interval=(max(found.value - low, 0.0), found.value + high))
