"""The outcome of an experiment: its trials, paired differences over training seeds, and a verdict on the hypothesis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import plain
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.estimate import Estimate, over_seeds
from alphabar.evaluation.score import HIGHER, TITLES, Measured
from alphabar.results.experiments import Experiment


@dataclass(frozen=True, eq=False)
class Trial:
    """One variant trained from one seed. images: seen in training. seconds: of training. samples: the file of its samples."""

    variant: str
    seed: int
    run: Path
    images: int
    seconds: float
    samples: Path
    machine: Mapping[str, Any]
    measured: Measured

    def value(self, metric: str) -> float:
        return self.measured.scores[metric].value


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of an experiment.

    means, differences: by variant and metric, over its seeds; of differences, the variant minus `than`. within: by variant and
    seed, the difference of one pair of trained models, image by image on the same noise. verdict: "supported", "contradicted" or
    "not decided"; words: the same in a sentence. finished: False after Ctrl-C.
    """

    experiment: Experiment
    folder: Path
    trials: list[Trial]
    means: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    within: dict[str, dict[int, list[Comparison]]]
    verdict: str
    words: str
    finished: bool = True

    @property
    def page(self) -> Path:
        return self.folder / "index.html"

    @property
    def metrics(self) -> list[str]:
        return list(self.trials[0].measured.scores) if self.trials else []

    def of(self, variant: str) -> list[Trial]:
        return [t for t in self.trials if t.variant == variant]

    def to_json(self) -> dict[str, Any]:
        """Plain data, for json.dumps."""
        names = ("verdict", "words", "finished", "page", "means", "differences", "within")
        trials = [
            {k: v for k, v in vars(t).items() if k not in ("machine", "measured")} | {"scores": [*t.measured.scores.values()]}
            for t in self.trials
        ]
        values = {name: getattr(self, name) for name in names} | {"trials": trials}
        return {"experiment": self.experiment.to_json()} | {k: plain(v) for k, v in values.items()}


def conclude(experiment: Experiment, folder: Path, trials: Sequence[Trial], *, finished: bool = True) -> Outcome:
    """Means, differences against the variant `than`, and the verdict. finished: whether these are all trials."""
    names = [v for v in experiment.variants if any(t.variant == v for t in trials)]
    by = {(t.variant, t.seed): t for t in trials}
    metrics = list(trials[0].measured.scores) if trials else []
    means = {v: {m: over_seeds([t.value(m) for t in trials if t.variant == v]) for m in metrics} for v in names}
    differences: dict[str, dict[str, Estimate]] = {}
    within: dict[str, dict[int, list[Comparison]]] = {}
    than = experiment.than
    for v in names:
        pairs = {s: (by[v, s], by[than, s]) for s in experiment.seeds if (v, s) in by and (than, s) in by}
        if v == than or not pairs:
            continue
        differences[v] = {m: over_seeds([a.value(m) - b.value(m) for a, b in pairs.values()]) for m in metrics}
        within[v] = {s: compare_measured(a.measured, b.measured, names=(v, than)) for s, (a, b) in pairs.items()}
    verdict, words = decide(experiment, differences.get(experiment.better, {}).get(experiment.metric))
    return Outcome(experiment, folder, list(trials), means, differences, within, verdict, words, finished)


def decide(experiment: Experiment, difference: Estimate | None) -> tuple[str, str]:
    """The verdict on the hypothesis and a sentence about it, from the difference of the deciding metric over the seeds."""
    better, than, n = experiment.better, experiment.than, len(experiment.seeds)
    if difference is None:
        return "not decided", f"No seed has both {better} and {than} yet."
    title = TITLES[experiment.metric]
    found = f"{title} of {better} minus that of {than}, over {n} {'seed' if n == 1 else 'seeds'}: {difference}"
    if difference.interval is None:
        return "not decided", f"{found}. One seed cannot separate the variants from chance: give two or more."
    low, high = difference.interval
    if low <= 0 <= high:
        return "not decided", f"{found}. The interval contains 0: these seeds and this budget do not decide it."
    verdict = "supported" if (low > 0) == (experiment.metric in HIGHER) else "contradicted"
    return verdict, f"{found}. The hypothesis is {verdict}."
