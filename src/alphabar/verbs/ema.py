"""`ema`: which length of the weights' average scores best, among those that a run's snapshots can make."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.files import plain, write_json
from alphabar.core.machine import device_of
from alphabar.core.messages import as_path
from alphabar.core.options import takes
from alphabar.core.outputs import check_output
from alphabar.core.places import without_places
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.score import Score
from alphabar.report.figures import draw_lengths
from alphabar.sampling.guidance import every_class
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import open_samples, reading_for
from alphabar.training.checkpoint import SNAPSHOTS, load_model
from alphabar.training.ema import snapshots
from alphabar.verbs.options import EmaOptions
from alphabar.verbs.score import make_evaluator, measure


@dataclass(frozen=True)
class Lengths:
    """Scores by length, and of the average that the run samples with (`last`).

    best: the length of the lowest FID. against_last: that average compared with the run's. table, picture: files with all this.
    """

    scores: dict[float, list[Score]]
    last: list[Score]
    best: float
    against_last: list[Comparison]
    table: Path
    picture: Path

    def to_json(self) -> dict[str, Any]:
        names = ("last", "best", "against_last", "picture")
        return {"lengths": {str(k): plain(v) for k, v in self.scores.items()}} | {k: plain(getattr(self, k)) for k in names}


@takes(EmaOptions)
def choose_length(
    run: str | Path, against: str, *, options: EmaOptions = EmaOptions(), reading: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Lengths:  # fmt: skip
    """Scores the averages of a run's weights of several lengths, on the same noise, and keeps table and picture in the run.

    An interrupted call continues with the batch that it was at. The best of several scores is biased low: score that average
    again with another seed before you report it.

    Args:
        run: a run folder with snapshots (--train.ema-snapshots).
        against: SET[:SPLIT] of real images.
        options: see `EmaOptions`; its fields may also be passed as keywords.
        reading: options of `alphabar.load` for the real images.
        progress: show progress bars.

    Raises:
        FileNotFoundError: for a run without snapshots.
        ValueError: for a length that they cannot make.
    """
    folder = as_path(run) / SNAPSHOTS
    snapshots(folder)  # raises now what it would raise after the first sampling
    lengths, n = options.lengths, options.n
    if not lengths or len(set(lengths)) < len(lengths):
        raise ValueError(f"lengths = {list(lengths)}: give different ones, as 0.03 0.05 0.1")
    picture = folder / f"lengths-{n}.png"
    check_output(picture, "picture")
    own = reading_for(run, reading)
    evaluator, real = make_evaluator(against, options.extractor, samples=[run], reading=own, progress=progress)
    measured = {}
    for checkpoint in ("last", *(f"ema:{k:g}" for k in lengths)):
        samples = _samples(run, checkpoint, folder / "samples", options, progress)
        measured[checkpoint] = measure(evaluator, real, open_samples(samples), ("fid", "kid"))
    scores = {k: list(measured[f"ema:{k:g}"].scores.values()) for k in lengths}
    best = min(lengths, key=lambda k: measured[f"ema:{k:g}"].scores["fid"].value)
    compared = compare_measured(measured[f"ema:{best:g}"], measured["last"], names=(f"ema:{best:g}", "last"))
    draw_lengths({k: v[0] for k, v in scores.items()}, measured["last"].scores["fid"], picture)
    found = Lengths(scores, list(measured["last"].scores.values()), best, compared, folder / f"lengths-{n}.json", picture)
    write_json(found.table, without_places({**found.to_json(), "picture": picture.name}))
    return found


def _samples(run: str | Path, checkpoint: str, folder: Path, options: EmaOptions, progress: bool) -> Path:
    """The file of the images that a checkpoint draws; it is made where it does not exist."""
    model = load_model(run, checkpoint).to(device_of(options.device))
    name = f"{checkpoint.replace(':', '-')}-{model.fingerprint}-{options.sampler}-{options.steps}-seed{options.seed}-{options.n}"
    path = folder / f"{name}.npz"
    if not path.exists():
        sample(
            model, options.n, sampler=options.sampler, steps=options.steps, seed=options.seed, classes=every_class(model),
            out=path, channels_last=True, progress=progress,
        )  # fmt: skip
    return path
