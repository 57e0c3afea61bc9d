"""What a run folder holds, read with patience: what is missing or torn is said in words and stops nothing."""

import json
import math
import statistics
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphabar.core.files import read_jsonl
from alphabar.core.run import ENDS, Run, flat
from alphabar.core.stored_names import RECIPE, SCORE, renamed

BUNDLED = Path(__file__).parents[1] / "assets" / "garments"  # the record of the run behind the bundled model
OUTCOME = "outcome.json"  # what `alphabar experiment` leaves in its folder
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunData:
    """A run as it lies on disk. recipe: flat, "train.lr" -> value. previews: sheets by images seen. comparisons: rows of
    `alphabar compare`. sweeps: folders of sweeps. experiment: the folder of the one that trained it. missing: sentences."""

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
        """The events of a kind that say how many images were seen, in that order."""
        return rewound(row for row in self.events if row.get("event") == kind)


@dataclass(frozen=True)
class State:
    """How a run stands. kind: finished, stopped, diverged, open (no end in its record) or empty. words: for a reader."""

    kind: str
    words: str
    images: int | None
    budget: int | None
    seconds: float | None
    measured: bool = True  # whether the run said its seconds, or they were worked out from its first and last event


@dataclass(frozen=True)
class Curve:
    """One metric of a run during training, under one protocol. intervals: (low, high) of each value, None where the record
    has none, for which `notes` of those records say why. floor: of real images, None where unknown; floor_interval only
    where all records hold the same floor."""

    metric: str
    protocol: str
    images: list[float]
    values: list[float]
    intervals: list[tuple[float, float] | None]
    floor: float | None
    floor_interval: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)


def load_run(path: Path) -> RunData:
    """Everything that a run folder says. Raises FileNotFoundError for a path that is no folder."""
    if str(path) == "bundled" and not path.exists():
        if not BUNDLED.is_dir():
            raise FileNotFoundError("the bundled run comes without its record in this release: name a run folder of your own")
        return _read(BUNDLED, "bundled")
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; wanted a run folder, as `alphabar train SET --out RUN` makes them")
    return _read(path, path.resolve().name)


def expanded(paths: Sequence[Path]) -> list[Path]:
    """The run folders among `paths`, and for the folder of an experiment those of its trainings."""
    out: list[Path] = []
    for path in paths:
        if (path / "experiment.json").exists() and not Run(path).recipe.exists():
            trained = sorted(p.parent for p in path.glob("*/recipe.toml"))
            if not trained:
                raise FileNotFoundError(
                    f"{path} holds an experiment of which no training has begun: there is nothing to show yet"
                )
            out += trained
        else:
            out.append(path)
    return out


def _read(path: Path, name: str) -> RunData:
    run, missing = Run(path), []
    recipe: dict[str, Any] = {}
    try:
        recipe = renamed(flat(tomllib.loads(run.recipe.read_text(encoding="utf-8"))), RECIPE)
    except FileNotFoundError:
        missing.append("There is no recipe.toml, so what was trained is not known.")
    except (OSError, ValueError) as e:
        missing.append(f"recipe.toml cannot be read ({e}).")
    machine = _json(path / "machine.json", missing, "There is no machine.json, so the machine is not known.")
    data = _json(path / "data.json", missing, None)
    events = _rows(run.events, missing, "There is no events.jsonl: nothing was logged, or training never began.")
    scores = _rows(run.scores, missing, None)
    return RunData(
        path, name, recipe, machine, data, events, scores, _previews(run.samples), _rows(run.comparisons, missing, None),
        sorted(note.parent for note in (path / "sweeps").glob("*/protocol.json")), _experiment(path), missing,
    )  # fmt: skip


def _experiment(path: Path) -> Path | None:
    above = path.resolve().parent
    return above if (above / OUTCOME).exists() and (above / "experiment.json").exists() else None


def _json(path: Path, missing: list[str], absent: str | None) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if absent:
            missing.append(absent)
        return {}
    except (OSError, ValueError) as e:
        missing.append(f"{path.name} cannot be read ({e}).")
        return {}
    if not isinstance(value, dict):
        missing.append(f"{path.name} holds no record.")
        return {}
    return value


def _rows(path: Path, missing: list[str], absent: str | None) -> list[dict[str, Any]]:
    if not path.exists() and absent:
        missing.append(absent)
    try:
        return [row for row in read_jsonl(path) if isinstance(row, dict)]
    except (OSError, ValueError) as e:
        missing.append(f"{path.name} cannot be read ({e}).")
        return []


def _previews(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.glob("preview_*.png"):
        number = path.stem.removeprefix("preview_")
        if number.isascii() and number.isdigit():
            found.append((int(number), path))
    return sorted(found)


def number(row: Row, key: str) -> float | None:
    """row[key] where it is a finite number, else None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(row: Row, key: str = "interval") -> tuple[float, float] | None:
    """row[key] where it is two finite numbers in rising order, else None: as in records of releases without intervals."""
    ends = row.get(key)
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = (number({key: end}, key) for end in ends)
    return None if low is None or high is None or low > high else (low, high)


def missing_interval(row: Row) -> str | None:
    """Why a score has no interval; None where it has one."""
    if interval(row) is not None:
        return None
    note = row.get("note")
    return note.removeprefix("no interval: ") if isinstance(note, str) and note else "its record holds none"


def rewound(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in rising order of images. A run that was resumed repeats what came after its checkpoint: the later rows count."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        images = number(row, "images")
        if images is None:
            continue
        while kept and kept[-1]["images"] >= images:
            kept.pop()
        kept.append(row)
    return kept


def series(rows: Iterable[Row], key: str) -> tuple[list[float], list[float]]:
    """(images, values) of the rows that have both as finite numbers."""
    pairs = [(number(row, "images"), number(row, key)) for row in rows]
    good = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in good], [y for _, y in good]


def bands(rows: Sequence[Row]) -> list[tuple[str, list[float], list[float]]]:
    """Held-out loss by band of noise: (the band in words, images, values), from the least noise up."""
    last: list[Any] = next((b for row in reversed(rows) if isinstance(b := row.get("bands"), list) and b), [])
    out = []
    for k, band in enumerate(last):
        points = []
        for row in rows:
            own, images = row.get("bands"), number(row, "images")
            if not isinstance(own, list) or len(own) != len(last) or not isinstance(own[k], dict) or images is None:
                continue
            if (value := number(own[k], "loss")) is not None:
                points.append((images, value))
        if points:
            out.append((_band_words(band, k), [x for x, _ in points], [y for _, y in points]))
    return out


def _band_words(band: Any, k: int) -> str:
    sigma = band.get("sigma") if isinstance(band, dict) else None
    if isinstance(sigma, list) and len(sigma) == 2 and all(isinstance(s, int | float) for s in sigma):
        return f"sigma {sigma[0]:.2g} to {sigma[1]:.2g}"
    return f"band {k + 1}"


def state(run: RunData) -> State:
    """Whether a run has finished, and what it has cost so far."""
    told = [row for row in run.events if row.get("event") in (*ENDS, "loss", "heldout")]
    wanted = number(run.recipe, "train.images")
    budget = None if wanted is None else int(wanted)
    if not told:
        return State("empty", "no events: training has not begun, or its record is gone", None, budget, None)
    last = told[-1]
    images = int(number(last, "images") or 0)
    times = [t for row in run.events if (t := number(row, "time")) is not None]
    seconds, measured = number(last, "seconds"), True
    if seconds is None and times:
        seconds, measured = max(times) - min(times), False
    kind = last["event"] if last["event"] in ENDS else "open"
    if kind == "finished":
        words = "finished"
    elif kind == "stopped":
        words = "stopped by hand, with a checkpoint; --resume goes on"
    elif kind == "diverged":
        words = f"diverged: the loss became {last.get('loss', 'unusable')}; the last good checkpoint is kept"
    else:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(times[-1])) + " UTC" if times else "an unknown time"
        words = f"still running, or cut off: its record ends at {when} without saying so"
    risen = [pair for row in run.of("risen") if None not in (pair := (number(row, "lowest"), number(row, "loss")))]
    if risen:
        words += f"; on the way the loss rose from {risen[0][0]:.3g} to {risen[0][1]:.3g} and stayed there"
    return State(kind, words, images, budget, seconds, measured)


def score_rows(run: RunData) -> list[dict[str, Any]]:
    """All scores of a run, each with `images` where it was taken during training: scores.jsonl, else its events."""
    rows: list[dict[str, Any]] = run.scores
    if not rows:
        rows = [
            {"images": event.get("images"), **score}
            for event in run.of("score")
            if isinstance(scores := event.get("scores"), list)
            for score in scores
            if isinstance(score, dict)
        ]
    rows = [renamed(row, SCORE) for row in rows]
    return [row for row in rows if isinstance(row.get("metric"), str) and number(row, "value") is not None]


def protocol(score: Row) -> tuple[str, ...]:
    """What two scores must share before one line may join them: metric, both sides, extractor, sampler and its steps."""
    sampler = score.get("sampler")
    how = sampler if isinstance(sampler, Mapping) else {}
    names = ("metric", "n", "n_reference", "extractor", "reference", "preprocessing")
    return (
        *(json.dumps(score.get(name), sort_keys=True, default=str) for name in names),
        *(json.dumps(how.get(name), default=str) for name in ("sampler", "steps", "eta", "plan", "grid_name", "clip")),
    )


def in_words(score: Row) -> str:
    """The protocol of a score in a line: "1,024 images, ddim, 25 calls, eta 0"."""
    sampler = score.get("sampler")
    how = sampler if isinstance(sampler, Mapping) else {}
    parts = [f"{int(n):,} images" if (n := number(score, "n")) is not None else "an unknown number of images"]
    if how.get("sampler"):
        parts.append(str(how["sampler"]))
    if (nfe := number(score, "nfe")) is not None:
        parts.append(f"{nfe:.4g} calls")
    if (eta := number(how, "eta")) is not None:
        parts.append(f"eta {eta:g}")
    if how.get("plan"):
        parts.append(str(how["plan"]))
    return ", ".join(parts)


def curves(run: RunData, metric: str) -> list[Curve]:
    """A metric during training, one curve a protocol."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in score_rows(run):
        if row["metric"] == metric and number(row, "images") is not None:
            groups.setdefault(protocol(row), []).append(row)
    out = []
    told = [in_words(rows[-1]) for rows in groups.values()]
    for words, rows in zip(told, groups.values(), strict=True):
        kept = rewound(rows)
        if told.count(words) > 1:  # the same to the eye, and yet not comparable: say more
            words += f", extractor {kept[-1].get('extractor')}, reference {kept[-1].get('reference')}"
        x, y = series(kept, "value")  # score_rows lets no row pass that has no value
        floors = [f for row in kept if (f := number(row, "floor")) is not None]
        floor = statistics.fmean(floors) if floors else None
        own = interval(kept[-1], "floor_interval") if len(set(floors)) == 1 else None
        ends = [interval(row) for row in kept]
        out.append(Curve(metric, words, x, y, ends, floor, own, [note for row in kept if (note := missing_interval(row))]))
    return out


def differing(runs: Sequence[RunData]) -> list[tuple[str, list[Any]]]:
    """The recipe keys that are not the same in all runs, with the value in each (None where a run has no such key)."""
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    rows = [(key, [run.recipe.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]


def names(runs: Sequence[RunData]) -> list[str]:
    """A name for each run: its folder's, or its whole path where two folders are called the same."""
    plain = [run.name for run in runs]
    return [run.name if plain.count(run.name) == 1 else str(run.path) for run in runs]
