"""FID and KID of the averaged (EMA) model during training, and whether its samples are copies, in the run's log."""

import sys

import numpy as np
import torch

from alphabar.core import processes
from alphabar.core.files import append_jsonl
from alphabar.core.messages import say
from alphabar.core.outputs import save_picture
from alphabar.core.types import Features, Pixels
from alphabar.evaluation.estimate import LEVEL
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.memorisation import K, Memorisation, from_distances, nearest, pairs_sheet, pixel_features
from alphabar.evaluation.score import TITLES
from alphabar.sampling.guidance import every_class
from alphabar.sampling.preview import check_steps
from alphabar.sampling.sample import sample
from alphabar.training.hooks import Hook, Training

METRICS = ("fid", "kid")  # the others take as long as the training between two scores
CERTAIN = 0.999  # level of the intervals by which copies end a training, which many tests look for
PAIRS = 8  # on the sheet that a test leaves
SIDE = 32  # pixels; larger images are compared at a half or a quarter of their size, which costs less and overlooks noise


class CopiesTest:
    """The memorisation test (docs/memorisation.md) in pixels, of many sets of samples against the same real images."""

    def __init__(self, train: Pixels, heldout: Pixels) -> None:
        self.train, self.heldout = train, heldout
        self.known: tuple[Features, torch.Tensor] | None = None

    def __call__(self, samples: Pixels) -> tuple[Memorisation, bool]:
        """The result, and whether copies are found at the level CERTAIN too."""
        if self.known is None:
            train = _pooled(self.train)
            self.known = train, nearest(_pooled(self.heldout), train, min(K, len(train)))[0]
        train, heldout = self.known
        far, which = nearest(_pooled(samples), train, min(K, len(train)))
        found, strict = (from_distances(far, which[:, 0], heldout, n_train=len(train), level=level) for level in (LEVEL, CERTAIN))
        return found, strict.verdict == "copies found"


def _pooled(pixels: Pixels) -> Features:
    """Pixels as features, in means over squares of them where an image is larger than SIDE."""
    factor = max(1, min(pixels.shape[1:3]) // SIDE)
    x = pixel_features(pixels).reshape(len(pixels), pixels.shape[3], *pixels.shape[1:3])
    return torch.nn.functional.avg_pool2d(x, factor, ceil_mode=True).flatten(1)


class ScoreSamples(Hook):
    """Scores n DDIM samples of the averaged model against real images, every `every` training images.

    All scores use the same seeds. A conditional model draws its classes in turns. A metric for which there are too few images is
    left out, and `lines` says why.

    Args:
        evaluator: Holds the real images and the extractor; None: no scores.
        every: Training images between two scores.
        n: Samples per score.
        steps: Network calls per sample.
        seed: Of the samples.
        copies: Tests the samples for copies of training images; copies end the training where `train.early_stop` allows it.
    """

    watches = "score"

    def __init__(
        self, evaluator: ImageEval | None, every: int, n: int = 1024, steps: int = 25, seed: int = 1,
        copies: CopiesTest | None = None,
    ) -> None:  # fmt: skip
        self.evaluator, self.every, self.n, self.steps, self.seed, self.copies = evaluator, every, n, steps, seed, copies
        self.metrics, self.left_out = evaluator.scorable(n, METRICS) if evaluator else ((), {})

    def lines(self) -> list[str]:
        """What is scored and tested, and what is not, and why, in sentences."""
        every, real = f"of {self.n:,} samples every {self.every:,} images", self.evaluator and self.evaluator.real
        against = f"{every}, against {len(real.reference):,} images ({real.reference_name})" if real else ""
        return [
            *([f"{' and '.join(TITLES[m] for m in self.metrics)} {against}."] if self.metrics else []),
            *(f"No {TITLES[metric]}: {why}." for metric, why in self.left_out.items()),
            *([f"Test {every} for copies, against {len(self.copies.heldout):,} held-out images."] if self.copies else []),
        ]

    def check(self, training: Training) -> None:
        """Raises ValueError where the samples could not be scored; warns where the floor will be of fewer images."""
        check_steps(training.ema, self.steps)
        if self.evaluator and self.metrics:
            self.evaluator.check_model(training.ema, self.n, self.metrics)
            self.evaluator.warn_of_floor(self.n)

    def on_interval(self, training: Training) -> None:
        with processes.alone():  # hooks run in process 0
            samples = sample(
                training.ema, self.n, steps=self.steps, seed=self.seed, batch=training.at_once,
                classes=every_class(training.ema), progress=False,
            )  # fmt: skip
            found = []
            if self.evaluator and self.metrics:
                found = self._score(training, self.evaluator, samples.images, samples.record)
            if self.copies:
                made = np.asarray(samples.images)
                result, certain = self.copies(made)
                save_picture(pairs_sheet(result, made, self.copies.train, n=PAIRS), training.run.copies)  # of the latest test
                training.report("copies", certain=certain, **result.to_json())
                found.append(result.verdict if result.verdict != "copies found" else str(result))
                if certain:
                    training.end_early(f"samples are copies of training images ({result.reason})")
        if found:
            say(f"after {training.images} images, {self.n} samples, {self.steps} calls: {', '.join(found)}", sys.stderr)

    def _score(self, training: Training, evaluator: ImageEval, images: Pixels, record: dict[str, object]) -> list[str]:
        scores = evaluator.score(images, record=record, metrics=self.metrics)
        for score in scores:
            append_jsonl(training.run.scores, {"images": training.images, **score.to_json()})
            if score.metric == "fid":
                training.improved("fid", score.value)
        training.report("score", scores=[s.to_json() for s in scores])
        ends = {s.metric: " [{:.4g}, {:.4g}]".format(*s.interval) if s.interval else "" for s in scores}
        return [f"{s.metric.upper()} {s.value:.4g}{ends[s.metric]} (floor {s.floor:.4g})" for s in scores]
