"""A run is a folder: recipe.toml, machine.json, {events,scores,comparisons}.jsonl, samples/, checkpoints/ (layer 0)."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """Versions of what decides a number: alphabar, torch, numpy, Python."""
    found = {"python": platform.python_version()}
    for name in ("alphabar", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """The machine a number was made on: processor, cores, memory, accelerators, versions."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "platform": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(memory / 2**30, 1),
        "accelerators": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "versions": versions(),
    }


ENDS = ("finished", "stopped", "diverged")  # the events that end a session of a run


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays whole or not at all: a half-written file never bears the name."""
    import numpy as np

    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("wb") as f:
        np.savez(f, **arrays)
    os.replace(scratch, path)


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """One more line of JSON. A line cut short by a crash is left behind it and is skipped by `read_jsonl`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = False
    if path.exists() and path.stat().st_size:
        with path.open("rb") as f:
            f.seek(-1, os.SEEK_END)
            torn = f.read(1) != b"\n"
    with path.open("a", encoding="utf-8") as f:
        f.write(("\n" if torn else "") + json.dumps(row) + "\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file; a torn line, which a crash leaves, is passed over with a word on stderr."""
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            print(f"{path}: line {number} is torn and was skipped", file=sys.stderr)
            continue
        yield row


class Run:
    """The folder of a run and what is written to it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def scores(self) -> Path:
        return self.path / "scores.jsonl"

    @property
    def comparisons(self) -> Path:
        return self.path / "comparisons.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def trajectory(self) -> Path:
        return self.samples / "trajectory.npz"

    def checkpoint(self, name: str = "last") -> Path:
        return self.path / "checkpoints" / name

    def start(self, recipe_toml: str) -> None:
        """Makes the folder and writes the resolved recipe and the machine."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.recipe, recipe_toml)
        write_atomically(self.path / "machine.json", json.dumps(machine(), indent=1))

    def event(self, kind: str, **values: Any) -> None:
        append_jsonl(self.events, {"event": kind, "time": round(time.time(), 3), **values})
