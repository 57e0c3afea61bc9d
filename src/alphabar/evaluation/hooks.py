"""FID and KID of the averaged (EMA) model during training, in the run's log."""

import sys

from alphabar.core import processes
from alphabar.core.files import append_jsonl
from alphabar.core.messages import say
from alphabar.evaluation.image_eval import ImageEval
from alphabar.sampling.guidance import every_class
from alphabar.sampling.preview import check_steps
from alphabar.sampling.sample import sample
from alphabar.training.hooks import Hook, Training

METRICS = ("fid", "kid")  # the others take as long as the training between two scores


class ScoreSamples(Hook):
    """Scores n DDIM samples of the averaged model against real images, every `every` training images.

    All scores use the same seeds. A conditional model draws its classes in turns.

    Args:
        evaluator: Holds the real images and the extractor.
        every: Training images between two scores.
        n: Samples per score.
        steps: Network calls per sample.
        seed: Of the samples.
    """

    watches = "score"

    def __init__(self, evaluator: ImageEval, every: int, n: int = 1024, steps: int = 25, seed: int = 1) -> None:
        self.evaluator, self.every, self.n, self.steps, self.seed = evaluator, every, n, steps, seed

    def check(self, training: Training) -> None:
        """Raises ValueError where the samples could not be scored; warns where the floor will be of fewer images."""
        check_steps(training.ema, self.steps)
        try:
            self.evaluator.check_model(training.ema, self.n, METRICS)
        except ValueError as e:
            why = str(e).partition("; or use KID")[0]  # training always takes both
            raise ValueError(f"watch.score_n {self.n}: {why}; --watch.score-every 0 trains without scores") from None
        self.evaluator.warn_of_floor(self.n)

    def on_interval(self, training: Training) -> None:
        with processes.alone():  # hooks run in process 0
            samples = sample(
                training.ema, self.n, steps=self.steps, seed=self.seed, classes=every_class(training.ema), progress=False
            )
            scores = self.evaluator.score(samples.images, record=samples.record, metrics=METRICS)
            for score in scores:
                append_jsonl(training.run.scores, {"images": training.images, **score.to_json()})
                if score.metric == "fid":
                    training.improved("fid", score.value)
        training.report("score", scores=[s.to_json() for s in scores])
        line = ", ".join(f"{s.metric.upper()} {s.value:.4g} (floor {s.floor:.4g})" for s in scores)
        say(f"after {training.images} images, {self.n} samples, {self.steps} calls: {line}", sys.stderr)
