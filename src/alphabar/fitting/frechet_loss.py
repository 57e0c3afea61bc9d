"""The Fréchet distance between feature statistics of generated and real images as a loss with a gradient.

Watson et al. 2022 (arXiv:2202.05830) fit samplers by such a loss on single batches. The distance of a batch of a hundred images
is mostly bias, so this one is of a few thousand: the current batch has a gradient, and features of those before it are kept.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from alphabar.core.types import Features, Images
from alphabar.data.image_set import ImageSet, load, parse_set
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.extract import extract
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats
from alphabar.fitting.options import TuneOptions
from alphabar.sampling.fitted import Tuned
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import reading_for


@runtime_checkable
class Embeds(Protocol):
    """An extractor with gradients: images NCHW in [-1, 1] -> features."""

    dim: int
    fingerprint: str

    def embed(self, x: Images, /) -> Features: ...


class FrechetLoss:
    """|m - m_r|^2 + tr(C + C_r - 2 (C_r^{1/2} C C_r^{1/2})^{1/2}) of the last `remember` images against real ones.

    Its gradient is that of the current batch: with G = I - C_r^{1/2} (C_r^{1/2} C C_r^{1/2})^{-1/2} C_r^{1/2}, an image with
    features f contributes 2 (m - m_r) . f + (f - m)^T G (f - m), the first-order expansion of the distance.

    Args:
        extractor: its `embed` has gradients.
        real: statistics of the real images' features.
        remember: images in the statistics.
        crop: pixels to cut from each side of the images.

    Raises:
        ValueError: for statistics of another extractor.
    """

    def __init__(self, extractor: Embeds, real: FeatureStats, *, remember: int = 4096, crop: int = 0) -> None:
        if real.extractor != extractor.fingerprint:
            raise ValueError(f"statistics of extractor {real.extractor}, but the extractor is {extractor.fingerprint}")
        self.extractor = extractor
        self.crop = crop
        self.remember = remember
        self.mean = real.mean.double().cpu()
        self.cov = real.cov.double().cpu()
        values, vectors = torch.linalg.eigh(self.cov)
        self.root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        self._batches: deque[Tensor] = deque()

    def forget(self) -> None:
        """Removes the features of all images."""
        self._batches.clear()

    def state(self) -> Tensor:
        """The features that are kept, (batches, images, features)."""
        return torch.stack([*self._batches]) if self._batches else torch.empty(0)

    def restore(self, batches: Tensor) -> None:
        """Takes up features that `state` gave."""
        self._batches = deque(batches)

    @property
    def full(self) -> bool:
        """Whether as many images are kept as there shall be."""
        return sum(map(len, self._batches)) >= self.remember

    def add(self, images: Images) -> None:
        """Adds features of images to the statistics, without a gradient: some thousand of them before the first loss."""
        with torch.no_grad():
            self._push(self._embed(images).detach())

    def __call__(self, images: Images, indices: Sequence[int] = ()) -> Tensor:
        f = self._embed(images)
        self._push(f.detach())
        m, c, values, vectors = self._spectrum()
        inner = self.root @ (vectors / values.sqrt()) @ vectors.T @ self.root
        g = (torch.eye(len(m), dtype=torch.float64) - inner).to(f)
        off = f - m.to(f)
        first = 2 * (m - self.mean).to(f)
        slope = (f @ first + ((off @ g) * off).sum(1)).mean()
        out: Tensor = slope - slope.detach() + self._value(m, c, values).to(f)
        return out

    def distance(self) -> float:
        """The distance of the images in the statistics. Raises ValueError for fewer than two."""
        if sum(len(b) for b in self._batches) < 2:
            raise ValueError("a distance needs at least two images: add some")
        m, c, values, _ = self._spectrum()
        return float(self._value(m, c, values))

    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and covariance of the features, and eigenvalues and eigenvectors of C_r^{1/2} C C_r^{1/2}."""
        features = torch.cat(list(self._batches)).double().cpu()
        m, c = features.mean(0), features.T.cov()
        values, vectors = torch.linalg.eigh(self.root @ c @ self.root)
        return m, c, values.clamp_min(float(values[-1]) * 1e-14), vectors  # above 0 also after rounding

    def _value(self, m: Tensor, c: Tensor, values: Tensor) -> Tensor:
        return (m - self.mean).square().sum() + (c + self.cov).diagonal().sum() - 2 * values.sqrt().sum()

    def _embed(self, images: Images) -> Features:
        k = self.crop
        x = images.clamp(-1, 1)[..., k : images.shape[-2] - k, k : images.shape[-1] - k]
        return self.extractor.embed(x.contiguous(memory_format=torch.channels_last))

    def _push(self, f: Tensor) -> None:
        self._batches.append(f)
        while len(self._batches) > 1 and sum(len(b) for b in self._batches) - len(self._batches[0]) >= self.remember:
            self._batches.popleft()


METRICS = ("fid", "kid")  # of the held-out scores


@dataclass(frozen=True, eq=False)
class RealImages:
    """What a fit by features is fitted to, and what scores it.

    Attributes:
        loss: distance to the training images in the features of options.extractor.
        evaluator: scores against the test images by options.heldout_extractor.
        metrics: those of `METRICS` for which there are enough images.
    """

    loss: FrechetLoss
    evaluator: ImageEval
    metrics: Sequence[str] = METRICS

    @staticmethod
    def of(
        model: Any, options: TuneOptions, reading: Mapping[str, Any] | None, progress: bool,
        heldout_images: tuple[ImageSet, ImageSet] | None = None,
    ) -> "RealImages":  # fmt: skip
        """Reads the images and the extractors. heldout_images: those of SET:heldout, and those that the run was trained on, to
        which the sampler is fitted.

        Raises:
            ValueError: without `against` and `extractor`, for an extractor without gradients or one that is used for both, and
                for too few held-out images.
        """
        if model.latents is not None:
            raise ValueError("a fit by features needs a model of images, and this one makes latents: use another --fit")
        if options.against is None or options.extractor is None:
            raise ValueError(
                "a fit by features needs real images and an extractor, and another extractor for the held-out scores: --against "
                "SET --extractor PATH (alphabar extractor train SET --seed 1 --out PATH) --heldout-extractor bundled"
            )
        fitted, heldout = load_extractor(options.extractor), load_extractor(options.heldout_extractor)
        if not isinstance(fitted, Embeds):
            raise ValueError(
                f"extractor {options.extractor} has no gradients (no method `embed`): use one of `alphabar extractor train`"
            )
        if fitted.fingerprint == heldout.fingerprint:
            raise ValueError(
                f"the held-out extractor is the one that is fitted to ({options.extractor}): name another one, "
                "--heldout-extractor PATH"
            )
        if heldout_images is not None:
            test, real = heldout_images
            evaluator = ImageEval(heldout, test, floor_images=real, progress=progress)
        else:
            name, split = parse_set(options.against)
            reading = reading_for(model, reading)
            real = load(name, split, **reading)
            try:
                test = load(name, "test", **reading)
            except FileNotFoundError:  # no test split: the same images, but in other features
                test = real
            evaluator = ImageEval(heldout, test, progress=progress)
        metrics = evaluator.scorable(options.n_heldout, METRICS)[0] or METRICS
        evaluator.check_model(model, options.n_heldout, metrics)
        stats = FeatureStats.of(extract(real, fitted, progress=progress).rows(slice(None)), fitted.fingerprint)
        return RealImages(FrechetLoss(fitted, stats, remember=options.remember, crop=model.crop), evaluator, metrics)

    def compare(self, model: Any, fitted: Tuned, start: Tuned, options: TuneOptions, progress: bool) -> list[Comparison]:
        """Held-out scores of the fitted sampler against those of its start, on the same noise, which no fit has used."""
        measured = []
        for fit in (fitted, start):
            made = sample(
                model, options.n_heldout, sampler="tuned", tuned=fit, seed=options.seed + 1, batch=2 * options.call_batch,
                classes=every_class(model), progress=progress,
            )  # fmt: skip
            measured.append(self.evaluator.measure(made.images, made.record, self.metrics))
        return compare_measured(measured[0], measured[1], names=("fitted", "its start"))
