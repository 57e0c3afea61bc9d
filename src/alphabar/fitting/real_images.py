"""Real images for a fit by features: the loss on the training images, and held-out scores on the test images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alphabar.data.image_set import load, parse_set
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.extract import extract
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats
from alphabar.fitting.frechet_loss import Embeds, FrechetLoss
from alphabar.fitting.options import TuneOptions
from alphabar.sampling.fitted import Tuned
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import reading_for

METRICS = ("fid", "kid")  # of the held-out scores


@dataclass(frozen=True, eq=False)
class RealImages:
    """What a fit by features is fitted to, and what scores it.

    Attributes:
        loss: distance to the training images in the features of options.extractor.
        evaluator: scores against the test images by options.heldout_extractor.
    """

    loss: FrechetLoss
    evaluator: ImageEval

    @staticmethod
    def of(model: Any, options: TuneOptions, reading: Mapping[str, Any] | None, progress: bool) -> "RealImages":
        """Reads the images and the extractors.

        Raises:
            ValueError: without `against` and `extractor`, for an extractor without gradients or one that is used for both, and
                for too few held-out images.
        """
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
        name, split = parse_set(options.against)
        reading = reading_for(model, reading)
        real = load(name, split, **reading)
        try:
            test = load(name, "test", **reading)
        except FileNotFoundError:  # no test split: the same images, but in other features
            test = real
        evaluator = ImageEval(heldout, test, progress=progress)
        evaluator.check_model(model, options.n_heldout, METRICS)
        stats = FeatureStats.of(extract(real, fitted, progress=progress).rows(slice(None)), fitted.fingerprint)
        return RealImages(FrechetLoss(fitted, stats, remember=options.remember, crop=model.crop), evaluator)

    def compare(self, model: Any, fitted: Tuned, start: Tuned, options: TuneOptions, progress: bool) -> list[Comparison]:
        """Held-out scores of the fitted sampler against those of its start, on the same noise, which no fit has used."""
        measured = []
        for fit in (fitted, start):
            made = sample(
                model, options.n_heldout, sampler="tuned", tuned=fit, seed=options.seed + 1, batch=2 * options.call_batch,
                classes=every_class(model), progress=progress,
            )  # fmt: skip
            measured.append(self.evaluator.measure(made.images, made.record, METRICS))
        return compare_measured(measured[0], measured[1], names=("fitted", "its start"))
