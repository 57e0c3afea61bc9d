"""The choice of the method that finishes the work soonest, by timings on this machine, which a file keeps between sessions."""

import hashlib
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alphabar.core.files import write_json
from alphabar.core.machine import machine
from alphabar.core.stored_values import number, read_object
from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.runtime.methods import METHODS, prepare, unavailable

ROUNDS = 5  # timed calls per method
PAUSE = 0.05  # seconds before each of them, in which the threads of the previous method stop spinning
# Methods in order of the cost of trying them; a stage is tried only where it can pay, given the results of those before.
STAGES = (("eager", "channels_last"), ("cuda_graphs", "onnxruntime", "openvino", "mnn"), ("compile",))
EXPECTED_SAVING = 0.1  # share of the time that a method of a later stage saves; 5 to 15 % against channels_last were measured
WITHOUT_TIMINGS = ("channels_last", "eager")


class Timing(NamedTuple):
    """Seconds per image and call, and seconds that the preparation took."""

    seconds: float
    prepare: float


def measure(job: Job, names: Sequence[str]) -> dict[str, float]:
    """Seconds per image and call of each method: the median of ROUNDS rounds in which the methods take turns."""
    inputs = job.example()
    synchronize: Callable[[], None] = (
        (lambda: None) if job.device.type == "cpu" else partial(torch.accelerator.synchronize, job.device)
    )
    taken: dict[str, list[float]] = {name: [] for name in names}
    with torch.no_grad():
        for name in names:
            prepare(job, name).run(*inputs)
        for _ in range(ROUNDS):
            for name in names:
                synchronize()
                time.sleep(PAUSE)
                started = time.perf_counter()
                job.prepared[name].run(*inputs)
                synchronize()
                taken[name].append((time.perf_counter() - started) / job.batch)
    return {name: statistics.median(v) for name, v in taken.items()}


class TimingFile:
    """The timings of one job in a JSON file {key: {method: {"seconds", "prepare"}}}.

    The key is a hash of everything that the speed depends on: machine, versions, shapes of the network (not its weights), batch.
    """

    def __init__(self, file: Path, job: Job) -> None:
        self.file, self.key = file, _key(job)

    def read(self) -> dict[str, Timing]:
        """The timings by method; none where the file is missing or damaged, so that they are measured again."""
        return {name: Timing(**v) for name, v in self._all().get(self.key, {}).items()}

    def write(self, timings: Mapping[str, Timing]) -> None:
        """Stores the timings. A file that cannot be written is a warning, since it costs time but changes no image."""
        values = {name: v._asdict() for name, v in timings.items()}
        try:
            write_json(self.file, {**self._all(), self.key: values})
        except OSError as e:
            hint = "timings are not kept; set ALPHABAR_CACHE to a folder of yours"
            warnings.warn(f"{self.file} cannot be written ({e}): {hint}", stacklevel=2)

    def _all(self) -> dict[str, dict[str, dict[str, float]]]:
        try:
            stored = read_object(self.file)
        except (OSError, ValueError):
            return {}
        return {
            key: {m: {k: float(v[k]) for k in Timing._fields} for m, v in methods.items() if m in METHODS and _is_timing(v)}
            for key, methods in stored.items()
            if isinstance(methods, dict)
        }


def _is_timing(stored: Any) -> bool:
    return isinstance(stored, dict) and all(number(0, 1e6).good(stored.get(k)) for k in Timing._fields)


def _key(job: Job) -> str:
    here = machine()
    about = {
        **{k: here[k] for k in ("cpu", "cores", "capability", "accelerators")},
        "system": platform.system(), "threads": torch.get_num_threads(), "device": str(job.device),
        "torch": torch.__version__, **{p: version(p) for p in ("onnxruntime", "openvino", "MNN", "onnxscript") if find_spec(p)},
        "network": type(job.model.network).__name__,
        "weights": {k: list(v.shape) for k, v in sorted(job.model.network.state_dict().items())},
        "image": list(job.model.image_shape), "batch": job.batch, "precision": job.precision,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


class Choice:
    """Measures what is worth measuring and chooses. `timings` and `failed` (reasons by method) say how it came about.

    Args:
        job: what is to be run.
        work: images times network calls that are to come; None: unlimited.
        file: timings of earlier sessions.
    """

    def __init__(self, job: Job, work: int | None, file: TimingFile) -> None:
        self.job, self.work, self.file = job, work, file
        self.failed = {m: reason for m in METHODS if (reason := unavailable(m, job.device, job.precision))}
        self.timings = {m: v for m, v in file.read().items() if m not in self.failed}
        for stage in STAGES:
            self._measure([m for m in stage if m not in self.failed and self._worth_trying(m) and self._works(m)])
        order = dict.fromkeys([*sorted(self.timings, key=self._total), *WITHOUT_TIMINGS])
        if not (found := next(filter(self._works, order), "")):
            raise RuntimeError("no method can run the network here: " + "; ".join(f"{m}: {w}" for m, w in self.failed.items()))
        self.method = found

    def _worth_trying(self, name: str) -> bool:
        """Whether a method without timing may save more time than its preparation and measurement take."""
        if name in self.timings:
            return False
        if self.work is None:
            return True
        measuring = (ROUNDS + 2) * self.job.batch  # images times calls
        if not self.timings:
            return self.work > 10 * measuring
        fastest = min(v.seconds for v in self.timings.values())
        return EXPECTED_SAVING * (self.work - measuring) * fastest > METHODS[name].seconds

    def _works(self, name: str) -> bool:
        """Prepares a method; False, with the reason in `failed`, where that fails."""
        try:
            prepare(self.job, name)
        except (RuntimeError, ImportError) as e:
            self.failed[name] = str(e)
            return False
        return True

    def _measure(self, ready: Sequence[str]) -> None:
        """Times prepared methods, and stores the results."""
        if not ready:
            return
        # The fastest method so far is timed again along with them, so that a change in the machine's load cancels out.
        fastest = min(self.timings, key=lambda m: self.timings[m].seconds) if self.timings else ready[0]
        taken = measure(self.job, [*dict.fromkeys([fastest, *ready])])
        scale = self.timings[fastest].seconds / taken[fastest] if self.timings else 1.0
        self.timings |= {m: Timing(taken[m] * scale, self.job.prepared[m].seconds) for m in ready}
        self.file.write(self.timings)

    def _total(self, name: str) -> float:
        """Seconds for the whole work, with the preparation if it is still to come."""
        remaining = 0.0 if name in self.job.prepared or self.work is None else self.timings[name].prepare
        return remaining + self.timings[name].seconds * (self.work or 1)
