"""A run is a folder: recipe.toml, machine.json, {events,scores,comparisons}.jsonl, samples/, checkpoints/."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphabar.core.files import append_jsonl, write_atomically, write_json
from alphabar.core.machine import machine
from alphabar.core.messages import as_path
from alphabar.core.stored_names import RECIPE, renamed
from alphabar.core.stored_values import read_toml

DISTILLED = "distilled"  # the folder in a run, and the sampler that draws by it
ENDS = ("finished", "stopped", "stopped_early", "diverged")  # events that end a session of training


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


class Run:
    """The folder of a run: where its files are, and how events are written."""

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)
        self.recipe = self.path / "recipe.toml"
        self.events = self.path / "events.jsonl"
        self.scores = self.path / "scores.jsonl"
        self.comparisons = self.path / "comparisons.jsonl"
        self.samples = self.path / "samples"
        self.copies = self.samples / "copies.png"
        self.trajectory = self.samples / "trajectory.npz"
        self.distilled = self.path / DISTILLED  # a run too

    def checkpoint(self, name: str = "last") -> Path:
        return self.path / "checkpoints" / name

    def recipe_keys(self) -> dict[str, Any]:
        """The resolved recipe with flat keys ("train.lr"), under their present names. Raises OSError or ValueError."""
        return renamed(flat(read_toml(self.recipe)), RECIPE)

    def start(self, recipe_toml: str) -> None:
        """Creates the folder and writes the resolved recipe and the machine."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.recipe, recipe_toml)
        write_json(self.path / "machine.json", machine())

    def event(self, kind: str, **values: Any) -> None:
        append_jsonl(self.events, {"event": kind, "time": round(time.time(), 3), **values})
