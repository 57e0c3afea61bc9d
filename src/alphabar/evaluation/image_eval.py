"""ImageEval: images in, scores out, each beside the score that as many real images get."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from alphabar.core import seeds
from alphabar.core.machine import versions
from alphabar.core.types import Features, Pixels
from alphabar.data.image_set import ImageSet
from alphabar.data.images import check_images
from alphabar.data.values import to_depth
from alphabar.evaluation import fid_uncertainty as influence
from alphabar.evaluation import prdc as cover_module
from alphabar.evaluation.estimate import Estimate, Expansion
from alphabar.evaluation.floor import Real, floor_sets, real_images
from alphabar.evaluation.kid import Within, kid, within
from alphabar.evaluation.score import METRICS, TITLES, Score, sampling_fields
from alphabar.features.extract import extract
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats
from alphabar.features.store import FeatureStore, sample_rows

LIMIT = 50_000  # images a side whose pairs are looked at, by KID and by precision, recall, density and coverage
NEIGHBOUR = 5  # the k of these four
_COVER = frozenset(cover_module.METRICS)
# two-sided 95 % of Student's t for the mean over 4 to 8 draws of the floor; of fewer, one draw's own interval tells more
_STUDENT = {4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}


class _Side:
    """Features of one side and, once asked for, what the metrics take of them."""

    def __init__(self, store: FeatureStore, seed: int) -> None:
        self.store, self.seed = store, seed

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def rows(self) -> Features:
        """Of a random part of the images, from which influences are taken; the same images of every set of n."""
        return self.store.rows(sample_rows(len(self), influence.ROWS, self.seed))

    @cached_property
    def paired(self) -> Features:
        """Of the images whose pairs are looked at."""
        return self.store.all() if len(self) <= LIMIT else self.store.rows(sample_rows(len(self), LIMIT, self.seed))

    @cached_property
    def balls(self) -> cover_module.Balls:
        return cover_module.balls(self.paired, NEIGHBOUR)

    @cached_property
    def within(self) -> Within:
        return within(self.paired)

    @property
    def fingerprint(self) -> str:
        """Of the features, where the images have none."""
        return blake2b(self.store.all().numpy().tobytes(), digest_size=8).hexdigest()

    @cached_property
    def parts(self) -> list[FeatureStats]:
        return influence.parts(self.store.chunks(), len(self), self.store.extractor, self.seed)


@dataclass(frozen=True)
class Measured:
    """Scores of one set of images, with the expansions that a comparison of two sets needs; by the metric's name.

    images: tells one set from another, by content.
    """

    scores: dict[str, Score]
    expansions: dict[str, Expansion]
    images: str


@dataclass(frozen=True)
class CurvePoint:
    """A metric at n images: the mean over `sets` disjoint parts, the estimate of one part, and that of real images."""

    metric: str
    n: int
    value: float
    sets: int
    one: Estimate
    floor: Estimate | None


class ImageEval:
    """Scores of images against a reference, by one extractor.

    extractor: one of ours, its path, or "bundled"; or anything with name, dim, fingerprint, preprocessing and
    features(pixels). reference: real images: a set, its name ("fashion_mnist:test"), or an array. floor_images: real
    images that are not in the reference; None: `alphabar.evaluation.floor.real_images` chooses them, and every score
    says what it chose. seed: picks the floor's images, FID-infinity's parts and what of very many images is looked at in
    pairs. progress: show a bar while features are worked out. cache: where features are kept, so that a second score of the
    same images reads them: None for the usual folder, False for nowhere.

    Under torchrun every process makes the same calls with the same images, shares the work, and has the same scores.

    Images to be scored: arrays or tensors, uint8 or floats in [0, 1] (anything else is refused with the range it has),
    an ImageSet, or Samples, whose record then goes into the score.
    """

    def __init__(
        self,
        extractor: FeatureExtractor | str | Path,
        reference: ImageSet | Any | str,
        *,
        floor_images: ImageSet | Any | None = None,
        seed: int = 0,
        progress: bool = False,
        cache: str | PathLike[str] | bool | None = None,
    ) -> None:
        self.extractor: FeatureExtractor = load_extractor(extractor) if isinstance(extractor, str | Path) else extractor
        self.real: Real = real_images(reference, floor_images)
        self.seed = seed
        self.progress = progress
        self.cache = cache
        self._order = self.real.floor_order(seed)
        self._pool: Features | None = None  # features of the pool's first images in that order
        self._floors: dict[tuple[str, int], Estimate] = {}

    # ---- what a user calls

    def fid(self, images: Any, record: Mapping[str, Any] | None = None) -> Score:
        """Fréchet distance of features. record: the sampling record of the images, where they are not `Samples`.

        Raises ValueError where images, reference or floor are not more than the extractor has features.
        """
        return self.score(images, record, ("fid",))[0]

    def kid(self, images: Any, record: Mapping[str, Any] | None = None) -> Score:
        """Kernel distance of features: unbiased, for 2 images and up. record: as for `fid`."""
        return self.score(images, record, ("kid",))[0]

    def score(self, images: Any, record: Mapping[str, Any] | None = None, metrics: Sequence[str] = METRICS) -> tuple[Score, ...]:
        """One Score a metric, all of them unless they are named; the features are worked out once. record: as for `fid`."""
        return tuple(self.measure(images, record, metrics).scores.values())

    def measure(self, images: Any, record: Mapping[str, Any] | None = None, metrics: Sequence[str] = METRICS) -> Measured:
        """`score`, with what `alphabar.evaluation.compare.compare` takes beside the scores."""
        given, own = self._given(images)
        self._check(given, metrics)  # before the features, which take long
        about = sampling_fields(record if record is not None else own)
        return self._of(self._side(given, "features"), about, metrics)

    def trajectory(
        self,
        steps: Sequence[Any],
        record: Mapping[str, Any] | None = None,
        metrics: Sequence[str] = METRICS,
    ) -> list[tuple[Score, ...]]:
        """Scores of the x0_hat of every kept step, as `sample(..., keep_x0=True).x0` holds them: one tuple a step.

        record: of those samples. A step's score says its number, sampler["x0_step"], and no nfe: calls are counted for
        whole images only.
        """
        numbers = list(range(len(steps)))
        if record is not None and record.get("x0_steps") is not None:
            numbers = list(record["x0_steps"])
            if len(numbers) != len(steps):
                raise ValueError(f"{len(steps)} arrays, but the record's x0_steps names {len(numbers)}: pass samples.x0 whole")
        out = []
        for number, images in zip(numbers, steps, strict=True):
            about = sampling_fields(record)
            about["nfe"] = None
            about["sampler"] = {**(about.get("sampler") or {}), "x0_step": number}
            given, _ = self._given(images)
            self._check(given, metrics)
            measured = self._of(self._side(given, f"features, step {number}"), about, metrics)
            out.append(tuple(measured.scores.values()))
        return out

    def features(self, images: Any) -> Features:
        """Features [n, dim] of images, as the scores see them."""
        return self._side(self._given(images)[0], "features").store.all()

    def curve(self, images: Any, points: int = 6, metrics: Sequence[str] = ("fid", "kid")) -> list[CurvePoint]:
        """Scores of parts of the images, from a tenth (no fewer than FID takes) to all of them, beside real images' scores.

        At each n the value is the mean over up to 8 disjoint random parts; the interval is that of one part of n images.
        """
        given, _ = self._given(images)
        self._check(given, metrics)
        side = self._side(given, "features")
        least = max(len(side) // 10, *(self._least(metric)[0] for metric in metrics))
        order = seeds.generator(self.seed, 1, stream=seeds.SUBSET).permutation(len(side))
        sizes = sorted({round(float(n)) for n in np.geomspace(least, len(side), points)})
        out = []
        for n in sizes:
            sets = floor_sets(n, len(side))
            of_parts = [
                self._expand(self._loose(side.store.rows(np.sort(order[k * n : (k + 1) * n]))), metrics) for k in range(sets)
            ]
            for metric in metrics:
                values = [found[metric][0].value for found in of_parts]
                one = of_parts[0][metric][0]
                floor = self._floor(metric, n) if n <= len(self.real.pool) else None
                out.append(CurvePoint(metric, n, float(np.mean(values)), sets, one, floor))
        return out

    # ---- how it is worked out

    def _given(self, images: Any) -> tuple[ImageSet | Pixels, Mapping[str, Any] | None]:
        """The images at the depth of the reference: floats are rounded to its levels, as samples are."""
        given, record = _open(images)
        have, real = given.pixels if isinstance(given, ImageSet) else given, self.real.reference
        if have.shape[1:] != real.shape[1:]:
            raise ValueError(
                f"images of shape {have.shape[1:]} (h, w, c) against real ones of {real.shape[1:]}: the difference in size or "
                "channels would be scored as well; bring both to one shape yourself, or give real images of that shape"
            )
        return (given if have.dtype == real.dtype else to_depth(have, real.dtype)), record

    def _of(self, side: _Side, about: Mapping[str, Any], metrics: Sequence[str]) -> Measured:
        n = len(side)
        floor_n = min(n, len(self.real.pool))
        if floor_n < n:
            warnings.warn(
                f"the floor is taken at {floor_n} images, not at {n}: no more real images lie outside the reference "
                f"({self.real.pool_source}); pass floor_images=... with {n} of them, or score {floor_n} images",
                stacklevel=4,
            )
        found = self._expand(side, metrics)
        scores = {}
        for metric in metrics:
            estimate, expansion = found[metric]
            floor = self._floor(metric, floor_n)
            scores[metric] = Score(
                metric=metric,
                value=estimate.value,
                n=n,
                n_reference=len(self.real.reference),
                floor=floor.value,
                floor_n=floor_n,
                floor_sets=floor_sets(floor_n, len(self.real.pool)),
                floor_interval=floor.interval,
                floor_source=self.real.pool_source,
                floor_seed=self.seed,
                se=estimate.se,
                interval=estimate.interval,
                level=estimate.level,
                note=estimate.note,
                bias=expansion.bias if metric == "fid" and estimate.interval is not None else None,
                extractor=self.extractor.fingerprint,
                preprocessing=dict(self.extractor.preprocessing),
                options={"k": NEIGHBOUR} if metric in _COVER else {},
                check_result=self._check_result(metric),
                reference=self.real.reference_fingerprint,
                reference_name=self.real.reference_name,
                versions=versions(),
                **about,
            )
        return Measured(scores, {metric: found[metric][1] for metric in metrics}, side.store.images or side.fingerprint)

    def check_shape(self, shape: tuple[int, int, int], dtype: DTypeLike, n: int, metrics: Sequence[str]) -> None:
        """Whether n images of shape (c, h, w) and that type could be scored: before any is drawn. Raises ValueError as `measure`
        would."""
        c, h, w = shape
        given, _ = self._given(np.zeros((1, h, w, c), dtype))
        self._check(np.broadcast_to(np.asarray(given), (n, h, w, c)), metrics)

    def check_model(self, model: Any, n: int, metrics: Sequence[str]) -> None:
        """Whether n images of a model could be scored: before any is drawn. Raises ValueError as `measure` would."""
        (c, h, w), crop = model.image_shape, 2 * int(getattr(model, "crop", 0))
        self.check_shape((c, h - crop, w - crop), getattr(model, "pixels", "uint8"), n, metrics)

    def _check(self, images: ImageSet | Pixels, metrics: Sequence[str]) -> None:
        pixels = images.pixels if isinstance(images, ImageSet) else images
        if bad := [m for m in metrics if m not in METRICS]:
            raise ValueError(f"metric {bad[0]!r} is unknown: use {', '.join(METRICS)}")
        for metric in metrics:
            least, why = self._least(metric)
            for what, count in (
                ("images", len(pixels)),
                ("reference images", len(self.real.reference)),
                (f"images for the floor ({self.real.pool_source})", len(self.real.pool)),
            ):
                if count < least:
                    other = (
                        "; or take KID alone (.kid, --metrics kid), which is unbiased at any number"
                        if metric.startswith("fid")
                        else ""
                    )
                    raise ValueError(
                        f"{count} {what} are too few for {TITLES[metric]}: {why}, so it takes at least {least}{other}"
                    )

    def _least(self, metric: str) -> tuple[int, str]:
        """The fewest images that a metric takes, and why."""
        if metric in _COVER:
            return NEIGHBOUR + 1, f"it looks at neighbour {NEIGHBOUR} of each image"
        if metric == "kid":
            return 2, "it compares pairs"
        return max(self.extractor.dim + 1, 8), f"the extractor has {self.extractor.dim} features"

    def _check_result(self, metric: str) -> str:
        """What the extractor's check found: for the metric, where ladders were ranked by it."""
        by = {"fid": "fid", "fid_infinity": "fid", "kid": "kid"}.get(metric)
        if by is not None and (of_metric := getattr(self.extractor, "warrant_of", None)) is not None:
            return str(of_metric(by))
        return str(getattr(self.extractor, "warrant", "not checked"))

    def _expand(self, side: _Side, metrics: Sequence[str]) -> dict[str, tuple[Estimate, Expansion]]:
        real = self._reference
        found: dict[str, tuple[Estimate, Expansion]] = {}
        if {"fid", "fid_infinity"} & set(metrics):
            fid = influence.expand(side.store.stats(), real.store.stats(), side.rows, real.rows)
            found["fid"] = fid.estimate(), fid
            if "fid_infinity" in metrics:
                limit = influence.infinity(fid, side.parts, real.parts)
                found["fid_infinity"] = limit.estimate(), limit
        if "kid" in metrics:
            pairs = kid(side.paired, real.within)
            found["kid"] = _said(pairs.estimate(), side, real), pairs
        if _COVER & set(metrics):
            covered = cover_module.cover(real=real.balls, generated=side.paired, k=NEIGHBOUR, seed=self.seed)
            for metric in _COVER & set(metrics):
                found[metric] = _said(getattr(covered, metric), side, real), covered.expansion(metric)
        return found

    def _floor(self, metric: str, n: int) -> Estimate:
        """Of n real images: the mean over disjoint draws, since one draw is as noisy as the score itself."""
        if (metric, n) not in self._floors:
            sets = floor_sets(n, len(self.real.pool))
            metrics = tuple(_COVER) if metric in _COVER else (metric,)
            draws = [self._expand(self._loose(f), metrics) for f in torch.split(self._pool_features(n * sets), n)]
            for each in metrics:
                values = np.array([found[each][0].value for found in draws])
                if sets not in _STUDENT:
                    one, mean = draws[0][each][0], float(values.mean())
                    moved = (
                        None if one.interval is None else (one.interval[0] + mean - one.value, one.interval[1] + mean - one.value)
                    )
                    self._floors[each, n] = replace(one, value=mean, interval=moved)
                    continue
                mean, half = float(values.mean()), _STUDENT[sets] * float(values.std(ddof=1)) / sets**0.5
                self._floors[each, n] = Estimate(mean, None, (mean - half, mean + half), note=f"over {sets} draws")
        return self._floors[metric, n]

    def _loose(self, features: Features) -> _Side:
        """Features that belong to no set with a fingerprint."""
        return _Side(FeatureStore(self.extractor.fingerprint, None, features), self.seed)

    def _pool_features(self, n: int) -> Features:
        have = 0 if self._pool is None else len(self._pool)
        if n > have:
            new = self._extract(self.real.pool[np.sort(self._order[have:n])], "features of the floor").all()
            new = new[torch.from_numpy(np.argsort(np.argsort(self._order[have:n])))]  # back in the pool's order
            self._pool = new if self._pool is None else torch.cat([self._pool, new])
        if self._pool is None:
            raise ValueError("the floor was asked for with 0 images")
        return self._pool[:n]

    @cached_property
    def _reference(self) -> _Side:
        real = self.real
        return self._side(real.reference, "features of the reference", real.reference_fingerprint)

    def _side(self, images: ImageSet | Pixels, what: str, fingerprint: str | None = None) -> _Side:
        return _Side(self._extract(images, what, fingerprint), self.seed)

    def _extract(self, images: ImageSet | Pixels, what: str, fingerprint: str | None = None) -> FeatureStore:
        return extract(images, self.extractor, fingerprint=fingerprint, cache=self.cache, progress=self.progress, what=what)


def _said(estimate: Estimate, side: _Side, real: _Side) -> Estimate:
    """With a word about images that were left out."""
    most = max(len(side), len(real))
    if most <= LIMIT:
        return estimate
    return replace(estimate, note=f"pairs of at most {LIMIT:,} images a side, drawn at random")


def _open(images: Any) -> tuple[ImageSet | Pixels, Mapping[str, Any] | None]:
    """The images, and the record where they carry one."""
    if isinstance(images, ImageSet):
        return images, None
    record = getattr(images, "record", None)
    if isinstance(record, Mapping):  # Samples, whatever wrote them
        return check_images(images.images), record
    return check_images(images), None
