"""Tolerant reader of run folders: files that are missing or truncated become messages, not errors."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.core.files import read_jsonl
from alphabar.core.places import without_places
from alphabar.core.run import ENDS, Run
from alphabar.core.stored_values import read_object
from alphabar.denoiser.external import split_run
from alphabar.denoiser.from_hub import local_run
from alphabar.results.series import number, rewound

BUNDLED = Path(__file__).parents[1] / "assets" / "garments"  # the record of the run behind the bundled model
OUTCOME = "outcome.json"  # what `alphabar experiment` leaves in its folder


@dataclass(frozen=True)
class RunData:
    """What a run folder holds. recipe: flat, "train.lr" -> value. previews: (images seen, sheet). comparisons: rows of
    `alphabar compare`. sweeps: their folders. experiment: the folder of the one that trained this run. missing: sentences."""

    path: Path
    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    previews: list[tuple[int, Path]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[Path] = field(default_factory=list)
    experiment: Path | None = None
    missing: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind that have a number of images seen, in rising order of it."""
        return rewound(row for row in self.events if row.get("event") == kind)


def load_run(path: Path) -> RunData:
    """Everything in a run folder; "bundled" is the run behind the bundled model, hf:OWNER/NAME one on
    the Hub. FileNotFoundError for what is not a folder."""
    if str(path) == "bundled" and not path.exists():
        if not BUNDLED.is_dir():
            raise FileNotFoundError("the bundled run comes without its record in this release: name one of your run folders")
        return _read(BUNDLED, "bundled")
    name = split_run(path)[1]  # of a hf: address, whose folder is named after the commit
    path = Path(local_run(path))
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; wanted a run folder, as `alphabar train SET --out RUN` makes them")
    if not any((path / name).exists() for name in ("recipe.toml", "events.jsonl", "scores.jsonl", "checkpoints", "samples")):
        raise FileNotFoundError(f"{path} is no run folder, as `alphabar train SET --out RUN` makes them: it has no recipe.toml")
    return _read(path, Path(name).resolve().name)


def with_trainings(paths: Sequence[Path]) -> list[Path]:
    """The paths, with the folder of an experiment replaced by the runs in it, of which there must be one at least."""
    out: list[Path] = []
    for path in paths:
        if (path / "experiment.json").exists() and not Run(path).recipe.exists():
            trained = sorted(p.parent for p in path.glob("*/recipe.toml"))
            if not trained:
                raise FileNotFoundError(f"{path} holds an experiment of which no training has started: there is nothing to show")
            out += trained
        else:
            out.append(path)
    return out


def _read(path: Path, name: str) -> RunData:
    run, missing, recipe, above = Run(path), [], {}, path.resolve().parent
    try:
        recipe = without_places(run.recipe_keys())
    except FileNotFoundError:
        missing.append("There is no recipe.toml, so what was trained is not known.")
    except (OSError, ValueError, RecursionError) as e:
        missing.append(f"recipe.toml cannot be read ({e}).")
    events = _rows(run.events, missing, "There is no events.jsonl: nothing was logged, or training never started.")
    failed = [f"No {e.get('what')} after {e.get('images')} images: {e.get('why')}." for e in events if e.get("event") == "failed"]
    return RunData(
        path, name, recipe,
        machine=read_record(path / "machine.json", missing, "There is no machine.json, so the machine is not known."),
        data=without_places(read_record(path / "data.json", missing)),
        events=events, missing=missing + failed,
        scores=_rows(run.scores, missing), previews=_previews(run.samples), comparisons=_rows(run.comparisons, missing),
        sweeps=sorted(protocol.parent for protocol in (path / "sweeps").glob("*/protocol.json")),
        experiment=above if (above / OUTCOME).exists() and (above / "experiment.json").exists() else None,
    )  # fmt: skip


def read_record(path: Path, missing: list[str], absent: str = "") -> dict[str, Any]:
    """A JSON object; {} for a file that is missing (then `absent` is added to `missing`) or cannot be read (then why)."""
    try:
        return read_object(path)
    except FileNotFoundError:
        missing += [absent] if absent else []
    except (OSError, ValueError) as e:
        missing.append(f"{path.name} cannot be read ({e}).".replace(str(path), path.name))
    return {}


def _rows(path: Path, missing: list[str], absent: str = "") -> list[dict[str, Any]]:
    if absent and not path.exists():
        missing.append(absent)
    try:
        rows = [row for row in read_jsonl(path) if isinstance(row, dict)]
        if not rows and path.exists() and path.stat().st_size:
            missing.append(f"{path.name} has no line that can be read.")
        return rows
    except (OSError, ValueError, RecursionError) as e:
        missing.append(f"{path.name} cannot be read ({e}).")
        return []


def _previews(folder: Path) -> list[tuple[int, Path]]:
    numbers = [(path.stem.removeprefix("preview_"), path) for path in folder.glob("preview_*.png")]
    return sorted((int(n), path) for n, path in numbers if n.isascii() and n.isdigit())


@dataclass(frozen=True)
class State:
    """How far a run is. kind: finished, stopped early, stopped, diverged, open (no end yet) or empty. words: for a reader.
    images: seen, of `budget`. measured: whether the run recorded `seconds`; else it is the time from its first event on."""

    kind: str
    words: str
    images: int | None
    budget: int | None
    seconds: float | None
    measured: bool = True


def state(run: RunData) -> State:
    """Whether a run has finished, and what it has cost so far."""
    known = [row for row in run.events if row.get("event") in (*ENDS, "loss", "heldout")]
    wanted = number(run.recipe, "train.images")
    budget = None if wanted is None else int(wanted)
    if not known:
        return State("empty", "no events: training has not started, or its record was deleted", None, budget, None)
    last = known[-1]
    kind = last["event"].replace("_", " ") if last["event"] in ENDS else "open"
    times = [t for row in run.events if (t := number(row, "time")) is not None]
    seconds = recorded = number(last, "seconds")
    if recorded is None and times:
        seconds = max(times) - min(times)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(times[-1])) if times and 0 <= times[-1] < 1e11 else "an unknown time"
    words = {
        "stopped early": f"finished, stopped early: {last.get('reason', 'its record does not say why')}. The model is that of "
        f"image {int(number(last, 'model') or 0):,}; --resume --no-early-stop goes on from there",
        "stopped": "stopped by hand, with a checkpoint; --resume continues it",
        "diverged": f"diverged: the loss became {last.get('loss', 'unusable')}; the last good checkpoint is kept",
        "open": f"still running, or interrupted: the last event is of {when}",
    }.get(kind, "finished")
    risen = [pair for row in run.of("risen") if None not in (pair := (number(row, "lowest"), number(row, "loss")))]
    if risen:
        words += f"; during training the loss rose from {risen[0][0]:.3g} to {risen[0][1]:.3g} and stayed there"
    images = int(number(last, "images") or 0)
    return State(kind, words, images, budget, seconds, recorded is not None or not times)


def _unlike(values: Iterable[Any]) -> bool:
    first, *others = [*values] or [None]
    return any(value != first for value in others)


def differing(runs: Sequence[RunData]) -> list[tuple[str, list[Any]]]:
    """The recipe keys that are not the same in all runs that have a recipe, with the value in each (None where a run has no such
    key)."""
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    rows = [(key, [run.recipe.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if _unlike(v for v, run in zip(values, runs, strict=True) if run.recipe)]


def names(runs: Sequence[RunData]) -> list[str]:
    """A name for each run: that of its folder, or as many parts of its path as tell it from the others."""
    parts = [[*run.path.resolve().parts[1:-1], run.name] for run in runs]

    def name(own: list[str]) -> str:
        tails = ("/".join(own[-k:]) for k in range(1, len(own) + 1) if sum(p[-k:] == own[-k:] for p in parts) == 1)
        return next(tails, own[-1])

    return [name(own) for own in parts]
