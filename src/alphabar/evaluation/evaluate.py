"""ImageEval: images in, scores out, each beside the score that as many real images get."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphabar.data.images import check_images
from alphabar.data.sources import ImageSet
from alphabar.evaluation.extractor import FeatureExtractor, load_extractor
from alphabar.evaluation.features import FeatureStats
from alphabar.evaluation.floor import Real, floor_sets, real_images
from alphabar.evaluation.frechet import frechet
from alphabar.evaluation.kernel import kid
from alphabar.evaluation.score import Score, of_samples
from alphabar.progress import track
from alphabar.record import versions
from alphabar.types import Features, Pixels

METRICS = ("fid", "kid")
_CHUNK = 1024  # images between two steps of the bar


@dataclass
class _Side:
    """Features of one side and, once asked for, their statistics."""

    features: Features
    extractor: str
    _stats: FeatureStats | None = field(default=None)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def stats(self) -> FeatureStats:
        if self._stats is None:
            self._stats = FeatureStats.of(self.features, self.extractor)
        return self._stats


class ImageEval:
    """Scores of images against a reference, by one extractor.

    extractor: one of ours, its path, or "bundled"; or anything with name, dim, fingerprint, preprocessing and
    features(pixels). reference: real images: a set, its name ("fashion_mnist:test"), or an array. floor_images: real
    images that are not in the reference; None: `alphabar.evaluation.floor.real_images` chooses them, and every score
    says what it chose. seed: picks the floor's images. progress: show a bar while features are worked out.

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
    ) -> None:
        self.extractor: FeatureExtractor = load_extractor(extractor) if isinstance(extractor, str | Path) else extractor
        self.real: Real = real_images(reference, floor_images)
        self.seed = seed
        self.progress = progress
        self._order = self.real.floor_order(seed)
        self._pool: Features | None = None  # features of the pool's first images in that order
        self._reference: _Side | None = None
        self._floors: dict[tuple[str, int], float] = {}

    # ---- what a user calls

    def fid(self, images: Any, record: Mapping[str, Any] | None = None) -> Score:
        """Fréchet distance of features. record: the sampling record of the images, where they are not `Samples`.

        Raises ValueError where images, reference or floor are not more than the extractor has features.
        """
        return self._score(images, record, ("fid",))[0]

    def kid(self, images: Any, record: Mapping[str, Any] | None = None) -> Score:
        """Kernel distance of features: unbiased, for 2 images and up. record: as for `fid`."""
        return self._score(images, record, ("kid",))[0]

    def score(self, images: Any, record: Mapping[str, Any] | None = None, metrics: Sequence[str] = METRICS) -> tuple[Score, ...]:
        """One Score a metric ("fid", "kid"); the features are worked out once. record: as for `fid`."""
        return self._score(images, record, metrics)

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
            about = of_samples(record)
            about["nfe"] = None
            about["sampler"] = {**(about.get("sampler") or {}), "x0_step": number}
            out.append(self._of(self._side(check_images(images), f"features, step {number}"), about, metrics))
        return out

    def features(self, images: Any) -> Features:
        """Features [n, dim] of images, as the scores see them."""
        return self._side(_open(images)[0], "features").features

    # ---- how it is worked out

    def _score(self, images: Any, record: Mapping[str, Any] | None, metrics: Sequence[str]) -> tuple[Score, ...]:
        pixels, own = _open(images)
        self._check(len(pixels), metrics)  # before the features, which take long
        about = of_samples(record if record is not None else own)
        return self._of(self._side(pixels, "features"), about, metrics)

    def _of(self, side: _Side, about: Mapping[str, Any], metrics: Sequence[str]) -> tuple[Score, ...]:
        n = len(side)
        self._check(n, metrics)
        floor_n = min(n, len(self.real.pool))
        if floor_n < n:
            warnings.warn(
                f"the floor is taken at {floor_n} images, not at {n}: no more real images lie outside the reference "
                f"({self.real.pool_source}); pass floor_images=... with {n} of them, or score {floor_n} images",
                stacklevel=4,
            )
        return tuple(
            Score(
                metric=metric,
                value=self._distance(metric, side),
                n=n,
                n_reference=len(self.real.reference),
                floor=self._floor(metric, floor_n),
                floor_n=floor_n,
                floor_sets=floor_sets(floor_n, len(self.real.pool)),
                floor_source=self.real.pool_source,
                floor_seed=self.seed,
                extractor=self.extractor.fingerprint,
                preprocessing=dict(self.extractor.preprocessing),
                reference=self.real.reference_fingerprint,
                reference_name=self.real.reference_name,
                versions=versions(),
                **about,
            )
            for metric in metrics
        )

    def _check(self, n: int, metrics: Sequence[str]) -> None:
        if bad := [m for m in metrics if m not in METRICS]:
            raise ValueError(f"metric {bad[0]!r} is unknown: use {' or '.join(METRICS)}")
        for metric in metrics:
            least = self.extractor.dim + 1 if metric == "fid" else 2
            why = f"the extractor has {self.extractor.dim} features" if metric == "fid" else "it compares pairs"
            for what, count in (
                ("images", n),
                ("reference images", len(self.real.reference)),
                (f"images for the floor ({self.real.pool_source})", len(self.real.pool)),
            ):
                if count < least:
                    other = "; or use .kid, which is unbiased at any number" if metric == "fid" else ""
                    raise ValueError(
                        f"{count} {what} are too few for {metric.upper()}: {why}, so it takes at least {least}{other}"
                    )

    def _distance(self, metric: str, side: _Side) -> float:
        reference = self._reference_side()
        if metric == "fid":
            return frechet(side.stats, reference.stats).value
        return kid(side.features, reference.features).value

    def _floor(self, metric: str, n: int) -> float:
        if (metric, n) not in self._floors:
            # one draw of n images is as noisy as the score itself; disjoint draws cost little and are averaged
            features = torch.split(self._pool_features(n * floor_sets(n, len(self.real.pool))), n)
            sides = [_Side(f, self.extractor.fingerprint) for f in features]
            self._floors[metric, n] = float(np.mean([self._distance(metric, side) for side in sides]))
        return self._floors[metric, n]

    def _pool_features(self, n: int) -> Features:
        have = 0 if self._pool is None else len(self._pool)
        if n > have:
            new = self._extract(self.real.pool[np.sort(self._order[have:n])], "features of the floor")
            new = new[torch.from_numpy(np.argsort(np.argsort(self._order[have:n])))]  # back in the pool's order
            self._pool = new if self._pool is None else torch.cat([self._pool, new])
        if self._pool is None:
            raise ValueError("the floor was asked for with 0 images")
        return self._pool[:n]

    def _reference_side(self) -> _Side:
        if self._reference is None:
            self._reference = self._side(self.real.reference, "features of the reference")
        return self._reference

    def _side(self, pixels: Pixels, what: str) -> _Side:
        return _Side(self._extract(pixels, what), self.extractor.fingerprint)

    def _extract(self, pixels: Pixels, what: str) -> Features:
        out: list[Tensor] = []
        with track(len(pixels), what, unit="images", show=self.progress) as advance:
            for start in range(0, len(pixels), _CHUNK):
                out.append(self.extractor.features(np.asarray(pixels[start : start + _CHUNK])))
                advance(len(out[-1]))
        return torch.cat(out)


def _open(images: Any) -> tuple[Pixels, Mapping[str, Any] | None]:
    """Pixels, and the record where the images carry one."""
    if isinstance(images, ImageSet):
        return images.pixels, None
    record = getattr(images, "record", None)
    if isinstance(record, Mapping):  # Samples, whatever wrote them
        return check_images(images.images), record
    return check_images(images), None
