"""Tests whether an extractor's scores rise as real images get worse: a condition for believing its scores.

Real images are corrupted in known ways at rising severity, beginning with none. FID and KID at every severity must exceed those
at the severity before, by more than chance: the difference is taken between the same images (or the same classes, or the same
draw), so that its standard error is far below that of either score. The first severity must in addition exceed the uncorrupted
images' score by more than the choice of images moves that score, because a corruption that no user could notice proves nothing.
Standard errors are over the corrupted images, against the given reference.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core.progress import track
from alphabar.core.seeds import permutation
from alphabar.core.types import Features, Pixels
from alphabar.data.image_set import ImageSet, load, parse_set
from alphabar.data.split import image_hashes
from alphabar.evaluation.check_result import DRAWS, NOT_ASKED, CheckResult, CorruptionResult, SeverityScores
from alphabar.evaluation.corruptions import CORRUPTIONS, Corruption, clusters, copies, without_classes
from alphabar.evaluation.estimate import Estimate, Expansion, t95
from alphabar.evaluation.fid import frechet
from alphabar.evaluation.fid_uncertainty import ROWS, expand
from alphabar.evaluation.floor import Real, real_images
from alphabar.evaluation.kid import kid
from alphabar.features.extract import extract, sample_rows
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats, check_finite

METRICS = ("fid", "kid")
PARTS = 8  # groups of images, where a standard error has to be computed from groups
SET_CORRUPTIONS = ("missing classes", "duplicates")  # of the choice of images, not of the images themselves
ALL = (*CORRUPTIONS, *SET_CORRUPTIONS)
MOST = 10_000  # images of the reference, and of the pool, that are used
_CLASSES_MISSING = (0.1, 0.3, 0.5, 0.8)  # shares of all classes
_COPIES = (2.0, 10.0, 50.0, 250.0)  # of every image: of 2,000 images 1,000, 200, 40 and 8 are distinct
_CHUNK = 256
_SHOWN = 9  # images of every severity for the picture


def check(
    extractor: FeatureExtractor | str | Path, reference: ImageSet | Any | str, *, floor_images: ImageSet | Any | None = None,
    n: int = 2000, seed: int = 0, corruptions: Sequence[str] | None = None, progress: bool = False,
    on_result: Callable[[CorruptionResult], None] | None = None,
) -> CheckResult:  # fmt: skip
    """FID and KID of corrupted real images against uncorrupted ones, for every corruption (after Heusel et al. 2017, fig. 3).

    Args:
        extractor: An extractor, the path of one, or "bundled".
        reference: Real images, as for `ImageEval`.
        floor_images: Real images that are not in the reference, as for `ImageEval`; these are corrupted. At most 10,000 of them,
            and of the reference, are used.
        n: Images at every severity, fewer where there are fewer. FID needs more images than the extractor has features; below
            that only KID is computed, and the result has a note. KID is taken against as many of the reference's images.
        seed: Of images, noise, places and classes.
        corruptions: Names from `ALL`; None: all. "missing classes" and "duplicates" are means over 16 draws; where the images
            have no labels, k-means clusters of their pixels replace the classes.
        progress: Whether to show progress bars.
        on_result: Called with the result of each corruption when it is complete.

    Raises:
        ValueError: For an unknown corruption, or fewer than 32 images.
    """
    if isinstance(extractor, str | Path):
        extractor = load_extractor(extractor)
    wanted = ALL if corruptions is None else tuple(corruptions)
    if unknown := [name for name in wanted if name not in ALL]:
        raise ValueError(f"corruption {unknown[0]!r} is unknown: use {', '.join(ALL)}")
    real = real_images(reference, floor_images)
    pool = np.asarray(real.pool[np.sort(real.floor_order(seed)[:MOST])])
    n = min(n, len(pool))
    if n < 4 * PARTS:
        raise ValueError(f"{n} images to corrupt ({real.pool_source}) are too few: the check needs at least {4 * PARTS}")
    chosen = permutation(seed, 0, len(pool))[:n]  # in random order, because groups are taken from it
    against, n_reference = _reference_side(real, extractor, n, seed, progress)
    features = extract(pool, extractor, progress=progress, what="features of real images").all()
    clean = ScoredDraw(features[torch.from_numpy(chosen)], against)
    sources = _Sources(pool, features, chosen, clean, floor_errors(clean, features), seed)

    skipped = {name: NOT_ASKED for name in ALL if name not in wanted}
    of_images = [CORRUPTIONS[name] for name in wanted if name in CORRUPTIONS]
    skipped |= {c.name: reason for c in of_images if (reason := c.refuses(sources.images))}
    of_images = [c for c in of_images if c.name not in skipped]
    results: dict[str, CorruptionResult] = {}

    def keep(result: CorruptionResult | str, name: str) -> None:
        if isinstance(result, str):
            skipped[name] = result
            return
        results[name] = result
        if on_result is not None:
            on_result(result)

    with track(n * sum(len(c.severities) for c in of_images), "corrupted images", unit="images", show=progress) as advance:
        for corruption in of_images:
            keep(_corrupt_images(corruption, extractor, sources, advance), corruption.name)
    if "missing classes" in wanted:
        keep(_missing_classes(sources, reference, floor_images), "missing classes")
    if "duplicates" in wanted:
        keep(_duplicates(sources), "duplicates")
    return CheckResult(
        extractor.fingerprint, extractor.name, real.reference_fingerprint, real.reference_name, n_reference, seed,
        tuple(results[name] for name in wanted if name in results), skipped,
    )  # fmt: skip


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


@dataclass(frozen=True, eq=False)
class _Sources:
    """The images that are corrupted: the pool, n of them in random order, and the scores of these uncorrupted."""

    pool: Pixels
    features: Features  # of the pool
    chosen: NDArray[np.int64]  # numbers of the images within the pool
    clean: ScoredDraw
    floor_se: Mapping[str, float]
    seed: int

    @cached_property
    def images(self) -> Pixels:
        return self.pool[self.chosen]

    @property
    def n(self) -> int:
        return len(self.chosen)


def _reference_side(real: Real, extractor: FeatureExtractor, n: int, seed: int, progress: bool) -> tuple[ReferenceSide, int]:
    """The reference's features, and how many of its images are used."""
    rows = sample_rows(len(real.reference), MOST, seed)
    all_rows = len(rows) == len(real.reference)
    store = extract(
        real.reference if all_rows else np.asarray(real.reference[rows]), extractor,
        fingerprint=real.reference_fingerprint if all_rows else None, progress=progress, what="features of the reference",
    )  # fmt: skip
    return ReferenceSide.of(store.all(), extractor, n, seed), len(rows)


def _corrupt_images(
    corruption: Corruption, extractor: FeatureExtractor, sources: _Sources, advance: Callable[..., None]
) -> CorruptionResult:
    n, images, against = sources.n, sources.images, sources.clean.against
    draws, shown = [sources.clean], [images[:_SHOWN]]
    for severity in corruption.severities:
        parts: list[Tensor] = []
        for start in range(0, n, _CHUNK):
            numbers = np.arange(start, min(start + _CHUNK, n))
            corrupted = corruption(images[start : start + _CHUNK], severity, seed=sources.seed, numbers=numbers)
            if start == 0:
                shown.append(corrupted[:_SHOWN])
            f = extractor.features(corrupted)
            check_finite(f, start)
            parts.append(f)
            advance(len(f), corruption.name)
        draws.append(ScoredDraw(torch.cat(parts), against))
    scores = of_same_images((0.0, *corruption.severities), draws)
    return CorruptionResult(corruption.name, corruption.unit, n, scores, np.stack(shown), sources.floor_se, against.note(n))


def _duplicates(sources: _Sources) -> CorruptionResult:
    n, note = sources.n, sources.clean.against.note(sources.n)
    severities = [1.0] + [each for each in _COPIES if n / each >= 2]
    chosen = [[copies(len(sources.pool), n, each, sources.seed, draw) for draw in range(DRAWS)] for each in severities]
    return _of_draws("duplicates", "copies of every image", n, severities, chosen, sources, note)


def _missing_classes(sources: _Sources, reference: Any, floor_images: Any) -> CorruptionResult | str:
    """The result, or why these images cannot be tested."""
    n, pool, seed, against = sources.n, sources.pool, sources.seed, sources.clean.against
    labels, note = _labels(pool, reference, floor_images), None
    if labels is None:
        labels, note = clusters(pool, min(10, len(pool)), seed), "no labels: the classes are clusters of pixels"
    number = len(np.unique(labels))
    if number < 2:
        return f"no class can be left out of {number}: give a set of at least two"
    missing = sorted({min(max(1, round(share * number)), number - 1) for share in _CLASSES_MISSING})
    left = [min(len(without_classes(labels, k, seed, draw)) for draw in range(DRAWS)) for k in missing]
    enough = max(against.dim + 1, 4 * PARTS) if "fid" in against.metrics(n) else 4 * PARTS
    missing = [k for k, images in zip(missing, left, strict=True) if images >= enough]
    if not missing:
        return f"{left[0]} images are left without one class, too few: give more real images"
    n = min(n, left[len(missing) - 1])
    severities = [0.0, *map(float, missing)]
    chosen = [[without_classes(labels, int(k), seed, draw)[:n] for draw in range(DRAWS)] for k in severities]
    note = "; ".join(filter(None, (note, against.note(n)))) or None
    return _of_draws("missing classes", "classes missing", n, severities, chosen, sources, note)


def _of_draws(
    name: str, unit: str, n: int, severities: list[float], chosen: list[list[NDArray[np.int64]]], sources: _Sources,
    note: str | None,
) -> CorruptionResult:  # fmt: skip
    """The result of a corruption of the set. chosen: for every severity, numbers of the pool's images in each draw."""
    against = sources.clean.against
    shown = np.stack([sources.pool[np.sort(_evenly(draws[0]))] for draws in chosen])
    values = {
        metric: np.array([[against.score(metric, sources.features[torch.from_numpy(i)]) for i in draws] for draws in chosen])
        for metric in against.metrics(n)
    }
    floor_se = {metric: sources.floor_se[metric] * math.sqrt(sources.n / n) for metric in values}
    return CorruptionResult(name, unit, n, of_many_draws(severities, values), shown, floor_se, note)


def _evenly(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Some images from all over a draw, with duplicates at the same rate."""
    some: NDArray[np.int64] = index[np.linspace(0, len(index) - 1, _SHOWN).astype(int)]
    return some


def _labels(pool: Pixels, reference: Any, floor_images: Any) -> NDArray[np.int64] | None:
    """The labels of the pool's images, found by content in the sets that they may come from; None where any has none."""
    hashes = image_hashes(pool)
    out, found = np.zeros(len(pool), np.int64), np.zeros(len(pool), bool)
    for images in _sets(reference, floor_images):
        if images.labels is None:
            continue
        order = np.argsort(images.hashes, kind="stable")
        place = np.searchsorted(images.hashes, hashes, sorter=order).clip(max=len(order) - 1)
        same = images.hashes[order[place]] == hashes
        out[same & ~found] = images.labels[order[place]][same & ~found]
        found |= same
    return out if bool(found.all()) else None


def _sets(reference: Any, floor_images: Any) -> Iterator[ImageSet]:
    if isinstance(floor_images, ImageSet):
        yield floor_images
    if isinstance(reference, str):
        reference = load(*parse_set(reference))
    if isinstance(reference, ImageSet):
        yield reference
        if (train := reference.train_split()) is not None:
            yield train
