"""`ema`: which length of the weights' average scores best, of those that a run's snapshots can make."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import write_atomically
from alphabar.core.machine import best_device
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.score import Score
from alphabar.report.figures import draw_lengths
from alphabar.sampling.sample import every_class, sample
from alphabar.sampling.sample_set import open_samples
from alphabar.training.checkpoint import SNAPSHOTS, load_model
from alphabar.training.ema import some_snapshots
from alphabar.verbs import score as judge

TRIED = (0.03, 0.05, 0.075, 0.10, 0.15, 0.20)


@dataclass(frozen=True)
class Lengths:
    """Scores by length, and of the average that the run itself samples with (`last`); the best length by FID, and how it
    compares with the run's own. table, picture: where these are kept."""

    scores: dict[float, list[Score]]
    last: list[Score]
    best: float
    against_last: list[Comparison]
    table: Path
    picture: Path

    def to_json(self) -> dict[str, Any]:
        return {
            "lengths": {str(k): [s.to_json() for s in v] for k, v in self.scores.items()},
            "last": [s.to_json() for s in self.last], "best": self.best,
            "against_last": [c.to_json() for c in self.against_last], "picture": str(self.picture),
        }  # fmt: skip


def choose_length(
    run: str | Path,
    against: str,
    lengths: Sequence[float] = TRIED,
    *,
    extractor: str = "bundled",
    n: int = 1000,
    sampler: str = "unipc",
    steps: int = 20,
    seed: int = 0,
    device: str | None = None,
    reading: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Lengths:
    """Draws n images, on the same noise, from the average of each length, scores them, and keeps table and picture in the run.

    An interrupted command goes on with the batch it was at. The best of several is best by luck too: score it again with
    another seed before you quote it.
    Raises FileNotFoundError for a run without snapshots, ValueError for a length that they cannot make.
    """
    folder = Path(run) / SNAPSHOTS
    some_snapshots(folder)  # refuses now what it would refuse after the first drawing
    if not lengths or len(set(lengths)) < len(lengths):
        raise ValueError(f"lengths = {list(lengths)}: give unlike ones, as 0.03 0.05 0.1")
    ruler, real = judge.evaluator(against, extractor, reading=reading, progress=progress)
    measured = {}
    for which in ("last", *(f"ema:{k:g}" for k in lengths)):
        model = load_model(run, which).to(device or best_device())
        out = folder / "samples" / f"{which.replace(':', '-')}-{model.fingerprint}-{sampler}-{steps}-seed{seed}-{n}.npz"
        if not out.exists():
            sample(
                model, n, sampler=sampler, steps=steps, seed=seed, classes=every_class(model), out=out, channels_last=True,
                progress=progress,
            )  # fmt: skip
        measured[which] = judge.measure(ruler, real, open_samples(out), ("fid", "kid"))
    scores = {k: list(measured[f"ema:{k:g}"].scores.values()) for k in lengths}
    best = min(lengths, key=lambda k: measured[f"ema:{k:g}"].scores["fid"].value)
    compared = compare_measured(measured[f"ema:{best:g}"], measured["last"], names=(f"ema:{best:g}", "last"))
    picture = draw_lengths(
        {k: v[0] for k, v in scores.items()}, measured["last"].scores["fid"], folder / f"lengths-{n}.png"
    )  # fmt: skip
    found = Lengths(scores, list(measured["last"].scores.values()), best, compared, folder / f"lengths-{n}.json", picture)
    write_atomically(found.table, json.dumps(found.to_json(), indent=1) + "\n")
    return found
