"""Scores of corrupted images, with standard errors of their rise, for `check`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.seeds import permutation
from alphabar.core.types import Features
from alphabar.evaluation.check_result import DRAWS, SeverityScores
from alphabar.evaluation.estimate import Estimate, Expansion, t95
from alphabar.evaluation.fid import frechet
from alphabar.evaluation.fid_uncertainty import ROWS, expand
from alphabar.evaluation.kid import kid
from alphabar.features.extract import sample_rows
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.stats import FeatureStats

METRICS = ("fid", "kid")
PARTS = 8  # groups of images, where a standard error has to be computed from groups


@dataclass(frozen=True, eq=False)
class ReferenceSide:
    """Features of the reference images, which all scores of a check are against."""

    features: Features
    stats: FeatureStats
    rows: Float[Tensor, "m d"]  # of some images, for KID
    dim: int

    @staticmethod
    def of(features: Features, extractor: FeatureExtractor, n: int, seed: int) -> "ReferenceSide":
        rows = features[torch.from_numpy(sample_rows(len(features), max(n, 2), seed))]
        return ReferenceSide(features, FeatureStats.of(features, extractor.fingerprint), rows, extractor.dim)

    def metrics(self, n: int) -> tuple[str, ...]:
        """The metrics that n images can be scored by."""
        return METRICS if min(n, self.stats.n) > self.dim else ("kid",)

    def note(self, n: int) -> str | None:
        if "fid" in self.metrics(n):
            return None
        return f"no FID: {min(n, self.stats.n)} images for {self.dim} features, it needs at least {self.dim + 1}"

    def stats_of(self, features: Features) -> FeatureStats:
        return FeatureStats.of(features, self.stats.extractor)

    def score(self, metric: str, features: Features) -> float:
        return frechet(self.stats_of(features), self.stats) if metric == "fid" else kid(features, self.rows).value


class ScoredDraw:
    """The scores of one draw of images; draws of the same images at two severities are compared image by image."""

    def __init__(self, features: Features, against: ReferenceSide) -> None:
        self.features, self.against = features, against
        self.scores: dict[str, Expansion] = {"kid": kid(features, against.rows)}
        if "fid" in against.metrics(len(features)):
            rows = against.features[:ROWS]
            self.scores = {"fid": expand(against.stats_of(features), against.stats, features, rows), **self.scores}

    def estimate(self, metric: str) -> Estimate:
        score = self.scores[metric]
        return score.estimate() if score.trouble is None else self._from_groups(metric, np.array(self._groups))

    def rise(self, metric: str, before: "ScoredDraw") -> Estimate:
        """This score minus that of the same images before, with the variation over images (delta method)."""
        now, then = self.scores[metric], before.scores[metric]
        if now.trouble is None and then.trouble is None:
            apart = now.influence_x - then.influence_x
            return Estimate.normal(now.value - then.value, float(apart.std(correction=1)) / math.sqrt(len(apart)))
        return self._from_groups(metric, np.array(self._groups) - np.array(before._groups), then.value)

    def _from_groups(self, metric: str, parts: NDArray[np.float64], minus: float = 0.0) -> Estimate:
        return mean_of_parts(self.scores[metric].value - minus, parts, self.scores[metric].trouble)

    @cached_property
    def _groups(self) -> list[float]:
        """FID's pseudo-values when one group of images at a time is left out (jackknife; Efron & Tibshirani 1993, ch. 11).

        They exist for covariances of any rank, where the expansion does not, and overestimate the error of an FID near its floor.
        """
        stats = [self.against.stats_of(self.features[k::PARTS]) for k in range(PARTS)]
        value = frechet(reduce(add, stats), self.against.stats)
        without = (frechet(reduce(add, stats[:k] + stats[k + 1 :]), self.against.stats) for k in range(PARTS))
        return [PARTS * value - (PARTS - 1) * left for left in without]


def floor_errors(clean: ScoredDraw, features: Features) -> dict[str, float]:
    """By metric, the standard deviation of the uncorrupted images' score over draws from the pool.

    Where the pool is too small for such draws, the score's own standard error.
    """
    n, pool, against = len(clean.features), len(features), clean.against
    out = {}
    for metric in clean.scores:
        if pool < 2 * n:
            out[metric] = clean.estimate(metric).se or 0.0
            continue
        draws = [features[torch.from_numpy(permutation(k, 1, pool)[:n])] for k in range(DRAWS)]
        sd = float(np.std([against.score(metric, draw) for draw in draws], ddof=1))
        out[metric] = sd / math.sqrt(1 - n / pool)  # draws from one pool share images
    return out


def of_same_images(severities: Sequence[float], draws: Sequence[ScoredDraw]) -> tuple[SeverityScores, ...]:
    """Scores of one draw of images at rising severity."""
    return tuple(
        SeverityScores(
            float(severity),
            {metric: draw.estimate(metric) for metric in draw.scores},
            {metric: draw.rise(metric, draws[k - 1]) for metric in draw.scores} if k else {},
        )
        for k, (severity, draw) in enumerate(zip(severities, draws, strict=True))
    )


def of_many_draws(severities: Sequence[float], values: Mapping[str, NDArray[np.float64]]) -> tuple[SeverityScores, ...]:
    """Mean scores over draws from the pool; the interval of a score is that of a single draw.

    values: by metric, [severities, draws].
    """
    out = []
    for k, severity in enumerate(severities):
        scores = {m: _student(float(v[k].mean()), float(v[k].std(ddof=1)), DRAWS) for m, v in values.items()}
        apart = {m: v[k] - v[k - 1] for m, v in values.items()} if k else {}
        out.append(SeverityScores(float(severity), scores, {m: mean_of_parts(float(v.mean()), v) for m, v in apart.items()}))
    return tuple(out)


def mean_of_parts(value: float, parts: NDArray[np.float64], note: str | None = None) -> Estimate:
    """A value with Student's interval from the variation of its parts."""
    return _student(value, float(parts.std(ddof=1)) / math.sqrt(len(parts)), len(parts), note)


def _student(value: float, se: float, parts: int, note: str | None = None) -> Estimate:
    half = t95(parts) * se
    return Estimate(value=value, se=se, interval=(value - half, value + half), note=note)
