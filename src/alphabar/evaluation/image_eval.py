"""ImageEval: scores of images, each with the score that as many real images get (the floor)."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from alphabar.evaluation import fid_uncertainty
from alphabar.evaluation.estimate import Estimate, Expansion, t95
from alphabar.evaluation.floor import Real, floor_sets, real_images
from alphabar.evaluation.kid import Within, kid, median_distance, within
from alphabar.evaluation.prdc import METRICS as PRDC_METRICS
from alphabar.evaluation.prdc import prdc
from alphabar.evaluation.prdc_neighbours import Balls, balls
from alphabar.evaluation.score import METRICS, RBF, TITLES, CurvePoint, Measured, Score, sampling_fields
from alphabar.features.extract import FeatureStore, extract, sample_rows
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats
from alphabar.sampling.model import image_shape

LIMIT = 50_000  # images per side whose pairs are compared, by KID and by precision, recall, density and coverage
NEIGHBOUR = 5  # the k of precision, recall, density and coverage
_PRDC = frozenset(PRDC_METRICS)
_FEWEST_DRAWS = 4  # of the floor, for an interval over draws; of fewer, the interval of a single draw is narrower


class ImageEval:
    """Scores of images against real images (the reference), with features of one extractor.

    Every score carries its floor: the score of as many real images that are not in the reference, as a perfect model would get.
    Under torchrun every process makes the same calls with the same images, shares the work, and gets the same scores.

    Args:
        extractor: "bundled", the path of an extractor file, or an object with name, dim, fingerprint, preprocessing and
            features(pixels).
        reference: Real images: an ImageSet, the name of a set ("fashion_mnist:test"), or an array [n, h, w, c].
        floor_images: Real images that are not in the reference; None: `real_images` chooses them, and every score records how.
        seed: Selects the floor's images, the parts for FID-infinity, and the part of very many images that is compared in pairs.
        progress: Whether to show a progress bar while features are extracted.
        cache: Folder of stored features, so that scoring the same images again reads them; None: the usual folder, False: none.

    Images to be scored are arrays or tensors, uint8 or floats in [0, 1] (other ranges raise ValueError), an ImageSet, or Samples,
    whose sampling record then goes into the score.

    >>> pixels = np.random.default_rng(0).integers(0, 256, (96, 28, 28, 1), dtype=np.uint8)
    >>> evaluator = ImageEval("bundled", pixels[:32], floor_images=pixels[32:64], cache=False)
    >>> score = evaluator.kid(pixels[64:])
    >>> score.metric, score.n, score.n_reference, score.floor_n
    ('kid', 32, 32, 32)
    """

    def __init__(
        self, extractor: FeatureExtractor | str | Path, reference: ImageSet | Any | str, *,
        floor_images: ImageSet | Any | None = None, seed: int = 0, progress: bool = False,
        cache: str | PathLike[str] | bool | None = None,
    ) -> None:  # fmt: skip
        self.extractor: FeatureExtractor = load_extractor(extractor) if isinstance(extractor, str | Path) else extractor
        if not isinstance(self.extractor, FeatureExtractor):
            raise ValueError(f"the extractor is {type(extractor).__name__}: give a name, a path, or what load_extractor returns")
        self.real: Real = real_images(reference, floor_images)
        self.seed, self.progress, self.cache = seed, progress, cache
        self._order = self.real.floor_order(seed)
        self._pool: Features | None = None  # features of the pool's first images in that order
        self._floors: dict[tuple[str, int], Estimate] = {}

    # ---- scores

    def fid(self, images: Any, record: Mapping[str, Any] | None = None) -> Score:
        """Fréchet distance of features (see `alphabar.evaluation.fid`).

        Args:
            images: What is scored.
            record: Sampling record of the images, where they are not Samples.

        Raises:
            ValueError: Where images, reference or floor are not more than the extractor has features.
        """
        return self.score(images, record, ("fid",))[0]

    def kid(self, images: Any, record: Mapping[str, Any] | None = None) -> Score:
        """Kernel distance of features (see `alphabar.evaluation.kid`): unbiased, from 2 images on. Arguments as for `fid`."""
        return self.score(images, record, ("kid",))[0]

    def score(self, images: Any, record: Mapping[str, Any] | None = None, metrics: Sequence[str] = METRICS) -> tuple[Score, ...]:
        """One score per metric; features are extracted once.

        Args:
            images: What is scored.
            record: Sampling record of the images, where they are not Samples.
            metrics: Some of `alphabar.evaluation.score.METRICS`, all by default, and "kid_rbf" (KID with the Gaussian kernel of
                CMMD, whose bandwidth is the median distance of real images).

        Raises:
            ValueError: For an unknown metric, images of another shape than the reference, or too few images for a metric.
        """
        return tuple(self.measure(images, record, metrics).scores.values())

    def measure(self, images: Any, record: Mapping[str, Any] | None = None, metrics: Sequence[str] = METRICS) -> Measured:
        """`score`, with the expansions that `compare_measured` needs in addition to the scores."""
        opened, own = self._open(images)
        self._check(opened, metrics)  # before the features, which take long
        fields = sampling_fields(record if record is not None else own)
        return self._score_features(self._features_of(opened, "features"), fields, metrics)

    def trajectory(
        self, steps: Sequence[Any], record: Mapping[str, Any] | None = None, metrics: Sequence[str] = METRICS
    ) -> list[tuple[Score, ...]]:
        """Scores of the x0_hat of every kept sampling step: one tuple per step.

        Args:
            steps: One array of images per step, as `sample(..., keep_x0=True).x0` has them.
            record: Sampling record of those samples.
            metrics: As for `score`.

        Returns:
            Scores with the number of the step in sampler["x0_step"] and without nfe, which is counted for complete images only.
        """
        numbers = list(range(len(steps)))
        if record is not None and record.get("x0_steps") is not None:
            numbers = list(record["x0_steps"])
            if len(numbers) != len(steps):
                raise ValueError(f"{len(steps)} arrays, but the record's x0_steps names {len(numbers)}: pass samples.x0 whole")
        out = []
        for number, images in zip(numbers, steps, strict=True):
            fields = sampling_fields(record)
            fields["nfe"] = None
            fields["sampler"] = {**(fields.get("sampler") or {}), "x0_step": number}
            opened, _ = self._open(images)
            self._check(opened, metrics)
            measured = self._score_features(self._features_of(opened, f"features, step {number}"), fields, metrics)
            out.append(tuple(measured.scores.values()))
        return out

    def features(self, images: Any) -> Features:
        """Features [n, dim] of images, as the scores use them."""
        return self._features_of(self._open(images)[0], "features").store.all()

    def curve(self, images: Any, points: int = 6, metrics: Sequence[str] = ("fid", "kid")) -> list[CurvePoint]:
        """Scores of parts of the images, from a tenth of them (or the fewest that FID accepts) to all, with their floors.

        At each n the value is the mean over up to 8 disjoint random parts; the interval is that of one part of n images.
        """
        opened, _ = self._open(images)
        self._check(opened, metrics)
        side = self._features_of(opened, "features")
        fewest = max(len(side) // 10, *(self._fewest(metric)[0] for metric in metrics))
        order = seeds.generator(self.seed, 1, stream=seeds.SUBSET).permutation(len(side))
        out = []
        for n in sorted({round(float(n)) for n in np.geomspace(fewest, len(side), points)}):
            sets = floor_sets(n, len(side))
            parts = [side.store.rows(np.sort(order[k * n : (k + 1) * n])) for k in range(sets)]
            found = [self._estimates(self._in_memory(part), metrics) for part in parts]
            for metric in metrics:
                values = [each[metric][0].value for each in found]
                floor = self._floor(metric, n) if n <= len(self.real.pool) else None
                out.append(CurvePoint(metric, n, float(np.mean(values)), sets, found[0][metric][0], floor))
        return out

    # ---- checks before anything is computed

    def check_shape(self, shape: tuple[int, int, int], dtype: DTypeLike, n: int, metrics: Sequence[str]) -> None:
        """Raises the ValueError that `measure` would raise for n images of shape (c, h, w) and that dtype."""
        c, h, w = shape
        opened, _ = self._open(np.zeros((1, h, w, c), dtype))
        one = np.asarray(opened)
        self._check(np.broadcast_to(one, (n, h, w, c)) if n > 0 else one[:0], metrics)
        self.extractor.features(one)  # raises for images that it does not take

    def check_model(self, model: Any, n: int, metrics: Sequence[str]) -> None:
        """Raises the ValueError that `measure` would raise for n samples of a model, before any is drawn."""
        self.check_shape(image_shape(model), getattr(model, "pixels", "uint8"), n, metrics)

    def warn_of_floor(self, n: int) -> int:
        """The number of images that the floor of n images is taken at, with a warning where that is less than n."""
        floor_n = min(n, len(self.real.pool))
        if floor_n < n:
            warnings.warn(
                f"the floor is taken at {floor_n} images, not at {n}: no more real images lie outside the reference "
                f"({self.real.pool_source}); score {floor_n} images (--n {floor_n}), or in Python pass floor_images=... with {n}",
                stacklevel=5,
            )
        return floor_n

    def scorable(self, n: int, metrics: Sequence[str] = METRICS) -> tuple[tuple[str, ...], dict[str, str]]:
        """The metrics that n images can be scored by, and why not by each of the others: too few images on some side."""
        self._check_names(metrics)
        why = {metric: self._too_few(metric, n) for metric in metrics}
        return tuple(m for m in metrics if not why[m]), {m: words for m, words in why.items() if words}

    def _check(self, images: ImageSet | Pixels, metrics: Sequence[str]) -> None:
        self._check_names(metrics)
        for metric in metrics:
            if why := self._too_few(metric, len(images.pixels if isinstance(images, ImageSet) else images)):
                kid = "; or use KID alone (.kid, --metrics kid), which is unbiased at any number of images"
                raise ValueError(why + (kid if metric.startswith("fid") else ""))

    @staticmethod
    def _check_names(metrics: Sequence[str]) -> None:
        if bad := [m for m in metrics if m not in (*METRICS, RBF)]:
            raise ValueError(f"metric {bad[0]!r} is unknown: use one of {', '.join((*METRICS, RBF))}")

    def _too_few(self, metric: str, n: int) -> str:
        """Why n images cannot be scored by a metric; empty where they can."""
        (fewest, why), more = self._fewest(metric), ""
        real, pool = len(self.real.reference), len(self.real.pool)
        counts = {"images": n, "reference images": real, f"images for the floor ({self.real.pool_source})": pool}
        what, count = next(((what, count) for what, count in counts.items() if count < fewest), ("", 0))
        if what and self.real.halved and what != "images":
            what, count, fewest = "reference images", real + pool, 2 * fewest
            more = ", since one half of them is scored against the other for the floor (or pass floor_images)"
        return what and f"{count} {what} are too few for {TITLES[metric]}: {why}, so it needs at least {fewest}{more}"

    def _fewest(self, metric: str) -> tuple[int, str]:
        """The smallest number of images that a metric accepts, and why."""
        if metric in _PRDC:
            return NEIGHBOUR + 1, f"it looks at neighbour {NEIGHBOUR} of each image"
        if metric in ("kid", RBF):
            return 2, "it compares pairs"
        return max(self.extractor.dim + 1, 8), f"the extractor has {self.extractor.dim} features"

    def _open(self, images: Any) -> tuple[ImageSet | Pixels, Mapping[str, Any] | None]:
        """The images at the depth of the reference (floats are rounded to its levels, as samples are), and their record."""
        record = getattr(images, "record", None)  # of Samples, whatever wrote them
        record = record if isinstance(record, Mapping) and not isinstance(images, ImageSet) else None
        opened = images if isinstance(images, ImageSet) else check_images(images.images if record is not None else images)
        pixels, real = opened.pixels if isinstance(opened, ImageSet) else opened, self.real.reference
        if pixels.shape[1:] != real.shape[1:]:
            raise ValueError(
                f"images of shape {pixels.shape[1:]} (h, w, c) against real ones of {real.shape[1:]}: the difference in size or "
                "channels would be scored as well; bring both to one shape yourself, or give real images of that shape"
            )
        return (opened if pixels.dtype == real.dtype else to_depth(pixels, real.dtype)), record

    # ---- computation

    def _score_features(self, side: "FeatureSet", fields: Mapping[str, Any], metrics: Sequence[str]) -> Measured:
        real, n = self.real, len(side)
        floor_n = self.warn_of_floor(n)
        found = self._estimates(side, metrics)
        scores = {}
        for metric in metrics:
            (estimate, expansion), floor = found[metric], self._floor(metric, floor_n)
            scores[metric] = Score(
                metric, estimate.value, n, len(real.reference), floor.value, floor_n, real.pool_source,
                self.extractor.fingerprint, dict(self.extractor.preprocessing), real.reference_fingerprint, real.reference_name,
                se=estimate.se, interval=estimate.interval, level=estimate.level, note=estimate.note,
                bias=expansion.bias if metric == "fid" and estimate.interval is not None else None,
                floor_interval=floor.interval, floor_seed=self.seed, floor_sets=floor_sets(floor_n, len(real.pool)),
                options=self._options(metric), check_result=self._check_result(metric),
                versions=versions(), **fields,
            )  # fmt: skip
        return Measured(scores, {metric: found[metric][1] for metric in metrics}, side.fingerprint)

    def _options(self, metric: str) -> dict[str, Any]:
        """Of a metric, as far as scores must share them."""
        if metric == RBF:
            return {"bandwidth": self._reference.within_rbf.bandwidth}
        return {"k": NEIGHBOUR} if metric in _PRDC else {}

    def _check_result(self, metric: str) -> str:
        """What `alphabar extractor check` found of the extractor: for the metric, where corruptions were ranked by it."""
        by = {"fid": "fid", "fid_infinity": "fid", "kid": "kid", RBF: "kid"}.get(metric)
        if by is not None and (of_metric := getattr(self.extractor, "check_result_of", None)) is not None:
            return str(of_metric(by))
        return str(getattr(self.extractor, "check_result", "not checked"))

    def _estimates(self, side: "FeatureSet", metrics: Sequence[str]) -> dict[str, tuple[Estimate, Expansion]]:
        real = self._reference
        found: dict[str, tuple[Estimate, Expansion]] = {}
        if {"fid", "fid_infinity"} & set(metrics):
            fid = fid_uncertainty.expand(side.store.stats(), real.store.stats(), side.rows, real.rows)
            found["fid"] = fid.estimate(), fid
            if "fid_infinity" in metrics:
                limit = fid_uncertainty.infinity(fid, side.parts, real.parts)
                found["fid_infinity"] = limit.estimate(), limit
        if "kid" in metrics:
            pairs = kid(side.paired, real.within)
            found["kid"] = with_limit_note(pairs.estimate(), side, real), pairs
        if RBF in metrics:
            pairs = kid(side.paired, real.within_rbf, bandwidth=real.within_rbf.bandwidth)
            found[RBF] = with_limit_note(pairs.estimate(), side, real), pairs
        if _PRDC & set(metrics):
            four = prdc(real=real.balls, generated=side.paired, k=NEIGHBOUR, seed=self.seed)
            for metric in _PRDC & set(metrics):
                found[metric] = with_limit_note(getattr(four, metric), side, real), four.expansion(metric)
        return found

    def _floor(self, metric: str, n: int) -> Estimate:
        """The score of n real images: the mean over disjoint draws, because one draw varies as much as the score itself."""
        if (metric, n) not in self._floors:
            sets = floor_sets(n, len(self.real.pool))
            metrics = tuple(_PRDC) if metric in _PRDC else (metric,)
            draws = [self._estimates(self._in_memory(f), metrics) for f in torch.split(self._pool_features(n * sets), n)]
            for each in metrics:
                self._floors[each, n] = _mean_of_draws([found[each][0] for found in draws])
        return self._floors[metric, n]

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
    def _reference(self) -> "FeatureSet":
        real = self.real
        return self._features_of(real.reference, "features of the reference", real.reference_fingerprint)

    def _features_of(self, images: ImageSet | Pixels, what: str, fingerprint: str | None = None) -> "FeatureSet":
        return FeatureSet(self._extract(images, what, fingerprint), self.seed)

    def _in_memory(self, features: Features) -> "FeatureSet":
        return FeatureSet(FeatureStore(self.extractor.fingerprint, None, features), self.seed)

    def _extract(self, images: ImageSet | Pixels, what: str, fingerprint: str | None = None) -> FeatureStore:
        return extract(images, self.extractor, fingerprint=fingerprint, cache=self.cache, progress=self.progress, what=what)


class FeatureSet:
    """Features of one side of a score, with what the metrics compute from that side alone, each computed once."""

    def __init__(self, store: FeatureStore, seed: int) -> None:
        self.store, self.seed = store, seed

    def __len__(self) -> int:
        return len(self.store)

    @cached_property
    def rows(self) -> Features:
        """Features of a random part, from which FID's influences are computed; the same images in every set of n."""
        return self.store.rows(sample_rows(len(self), fid_uncertainty.ROWS, self.seed))

    @cached_property
    def paired(self) -> Features:
        """Features of the images whose pairs are compared."""
        return self.store.all() if len(self) <= LIMIT else self.store.rows(sample_rows(len(self), LIMIT, self.seed))

    @cached_property
    def balls(self) -> Balls:
        return balls(self.paired, NEIGHBOUR)

    @cached_property
    def within(self) -> Within:
        return within(self.paired)

    @cached_property
    def within_rbf(self) -> Within:
        return within(self.paired, bandwidth=median_distance(self.paired))

    @cached_property
    def parts(self) -> list[FeatureStats]:
        return fid_uncertainty.parts(self.store.chunks(), len(self), self.store.extractor, self.seed)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images, or of the features where the images have none."""
        return self.store.images or blake2b(self.store.all().numpy().tobytes(), digest_size=8).hexdigest()


def with_limit_note(estimate: Estimate, *sides: FeatureSet) -> Estimate:
    """The estimate, with a note where only a part of the images was compared in pairs."""
    if max(map(len, sides)) <= LIMIT:
        return estimate
    return replace(estimate, note=f"pairs of at most {LIMIT:,} images per side, drawn at random")


def _mean_of_draws(draws: Sequence[Estimate]) -> Estimate:
    """The mean over disjoint draws, with Student's interval, or, of few draws, with the interval of the first one around it."""
    values = np.array([draw.value for draw in draws])
    mean = float(values.mean())
    if len(draws) < _FEWEST_DRAWS:
        one = draws[0]
        moved = None if one.interval is None else (one.interval[0] + mean - one.value, one.interval[1] + mean - one.value)
        return replace(one, value=mean, interval=moved)
    half = t95(len(draws)) * float(values.std(ddof=1)) / len(draws) ** 0.5
    return Estimate(mean, None, (mean - half, mean + half), note=f"over {len(draws)} draws")
