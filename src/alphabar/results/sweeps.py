"""Sweeps: the settings that were tried, their scores, which of them are on the front, and the folder that keeps them.

The folder holds SETTING.npz, the samples of a setting; rows/SETTING.json and rows/SETTING.npz, its scores and what comparisons
need; protocol.json, what all settings share; results.jsonl, all rows; and index.html.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from alphabar.core.files import json_text, plain, write_atomically
from alphabar.core.parts import Parts
from alphabar.evaluation.pareto import Standing, standings
from alphabar.evaluation.score import HIGHER, Measured, Score, load_measured
from alphabar.sampling.settings import LeftOut, Setting

COSTS = ("calls", "seconds")


@dataclass(frozen=True, eq=False)
class Row:
    """A finished setting. calls: measured network calls an image. seconds: an image. where: the machine. standings: by metric and
    cost ("calls", "seconds")."""

    setting: Setting
    calls: float
    seconds: float
    scores: Mapping[str, Score]
    record: Mapping[str, Any]
    where: Mapping[str, Any]
    samples: Path
    standings: Mapping[str, Mapping[str, Standing]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], samples: Path) -> "Row":
        scores = {s["metric"]: Score.from_json(s) for s in data["scores"]}
        return cls(
            Setting.from_json(data["setting"]), float(data["nfe"]), float(data["seconds_per_image"]), scores,
            data["record"], data["machine"], samples,
        )  # fmt: skip

    def cost(self, name: str) -> float:
        return self.calls if name == "calls" else self.seconds

    def rank(self, metric: str) -> float:
        """The score with its sign such that lower is better."""
        value = self.scores[metric].value
        return -value if metric in HIGHER else value

    @property
    def title(self) -> str:
        return f"{self.setting.method}, {self.calls:.4g} calls"


@dataclass(frozen=True, eq=False)
class Sweep:
    """The result of a sweep. rows: the fewest calls first. protocol: what they share. finished: False after Ctrl-C."""

    folder: Path
    rows: list[Row]
    left_out: list[LeftOut]
    protocol: Mapping[str, Any]
    finished: bool = True

    @property
    def page(self) -> Path:
        return self.folder / "index.html"

    def front(self, metric: str, cost: str = "calls") -> list[Row]:
        """The rows that no other row beats at no higher cost, the cheapest first."""
        return sorted((row for row in self.rows if row.standings[metric][cost].on), key=lambda row: row.cost(cost))

    def to_json(self) -> dict[str, Any]:
        """Plain data, for json.dumps."""
        rows = [
            {
                "name": row.setting.name, "setting": row.setting, "nfe": row.calls, "seconds_per_image": row.seconds,
                "samples": row.samples, "machine": row.where, "scores": [*row.scores.values()],
                "front": {m: {cost: self._standing(at) for cost, at in by.items()} for m, by in row.standings.items()},
            }
            for row in self.rows
        ]  # fmt: skip
        about = {"folder": self.folder, "page": self.page, "finished": self.finished, "protocol": self.protocol}
        return {k: plain(v) for k, v in {**about, "rows": rows, "left_out": self.left_out}.items()}

    def _standing(self, at: Standing) -> dict[str, Any]:
        return {**vars(at), "behind": None if at.behind is None else self.rows[at.behind].setting.name}


def with_standings(rows: Sequence[Row], metrics: Sequence[str], measured: Callable[[str], Measured]) -> list[Row]:
    """The rows with their standings; the level of the comparisons holds for all `metrics` together."""
    loaded = []
    for row in rows:
        whole = measured(row.setting.name)
        loaded.append(Measured({m: whole.scores[m] for m in metrics}, {m: whole.expansions[m] for m in metrics}, whole.images))
    found = {metric: {cost: standings(loaded, [row.cost(cost) for row in rows], metric) for cost in COSTS} for metric in metrics}
    return [
        replace(row, standings={m: {cost: each[k] for cost, each in by_cost.items()} for m, by_cost in found.items()})
        for k, row in enumerate(rows)
    ]


class SweepFolder:
    """The folder of a sweep. A setting is finished once rows/SETTING.json exists, which is written last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = Parts(path, "settings of a sweep", "rows")

        self.protocol = self._rows.protocol

    def samples(self, name: str) -> Path:
        return self.path / f"{name}.npz"

    def scores(self, name: str) -> Path:
        """The file of `save_measured`."""
        return self._rows.path(f"{name}.npz")

    def measured(self, name: str) -> Measured:
        return load_measured(self.scores(name))

    def claim(self, protocol: Mapping[str, Any], wanted: Sequence[Setting]) -> None:
        """Opens the folder for a protocol, as `Parts.claim` does, and forgets which of the `wanted` settings were refused."""
        self._rows.claim(protocol, names=("reference_name", "floor"))
        for setting in wanted:  # a fitted sampler may have been added since
            if "refused" in self._row(setting):
                self._rows.path(f"{setting.name}.json").unlink(missing_ok=True)

    def finished(self, setting: Setting, metrics: Sequence[str]) -> bool:
        """Whether the setting has samples and all of these scores."""
        files = self.samples(setting.name).exists() and self.scores(setting.name).exists()
        return files and "scores" in self._row(setting) and set(metrics) <= set(self.metrics(setting))

    def settled(self, setting: Setting, metrics: Sequence[str]) -> bool:
        """Whether the setting is finished or was refused."""
        return "refused" in self._row(setting) or self.finished(setting, metrics)

    def metrics(self, setting: Setting) -> tuple[str, ...]:
        """The metrics that the setting has scores of."""
        return tuple(s["metric"] for s in self._row(setting).get("scores", ()))

    def write_row(self, row: Mapping[str, Any]) -> None:
        self._rows.save(f"{row['name']}.json", row)

    def refuse(self, setting: Setting, why: str) -> None:
        self.write_row({"name": setting.name, "setting": setting.to_json(), "refused": why})

    def refused(self) -> list[LeftOut]:
        every = [(Setting.from_json(row["setting"]), row["refused"]) for row in self._all() if "refused" in row]
        return [LeftOut(setting.method, f"{setting.steps} steps", why) for setting, why in every]

    def rows(self, metrics: Sequence[str]) -> list[Row]:
        """The settings that have these scores, the fewest calls first, and among equal calls the best score first."""
        rows = [Row.from_json(row, self.samples(row["name"])) for row in self._all() if "scores" in row]
        rows = [row for row in rows if set(metrics) <= set(row.scores)]
        return sorted(rows, key=lambda row: (row.calls, row.rank(metrics[0]) if metrics else 0.0))

    def write_results(self) -> None:
        """Writes results.jsonl: every row that has scores."""
        rows = sorted((row for row in self._all() if "scores" in row), key=lambda row: (row["nfe"], row["name"]))
        write_atomically(self.path / "results.jsonl", "".join(json_text(row) + "\n" for row in rows))

    def _row(self, setting: Setting) -> dict[str, Any]:
        return self._rows.load(f"{setting.name}.json") or {}

    def _all(self) -> list[dict[str, Any]]:
        return [row for name in self._rows.done(".json") if (row := self._rows.load(name))]


def read_sweep(path: Path) -> Sweep:
    """The sweep in a folder, with the metrics that all its settings have. ValueError where there is none."""
    folder = SweepFolder(path)
    try:
        protocol = folder.protocol()
        rows = folder.rows(())
        if not rows:
            raise ValueError(f"no setting of the sweep in {path} is finished")
        metrics = [m for m in rows[0].scores if all(m in row.scores for row in rows)]
        if not metrics:
            raise ValueError(f"the settings of the sweep in {path} share no metric")
        rows = with_standings(folder.rows(metrics), metrics, folder.measured)
    except (KeyError, TypeError, AttributeError, BadZipFile) as e:
        raise ValueError(f"{path} does not hold the files of a sweep ({type(e).__name__}: {e})") from e
    return Sweep(path, rows, [], protocol)
