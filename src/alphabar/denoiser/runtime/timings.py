"""Measured speeds of the methods on this machine, kept in a file between sessions."""

import hashlib
import json
import platform
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from alphabar.core.files import write_atomically
from alphabar.core.machine import machine
from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.runtime.methods import METHODS, prepare

ROUNDS = 5  # timed calls per method
PAUSE = 0.05  # seconds before each of them, in which the threads of the previous method stop spinning


class Timing(NamedTuple):
    """Seconds per image and call, and seconds that the preparation took."""

    seconds: float
    prepare: float


def measure(job: Job, names: Sequence[str]) -> dict[str, float]:
    """Seconds per image and call of each method: the median of ROUNDS rounds in which the methods take turns."""
    inputs = job.example()
    taken: dict[str, list[float]] = {name: [] for name in names}
    with torch.no_grad():
        for name in names:
            prepare(job, name).run(*inputs)
        for _ in range(ROUNDS):
            for name in names:
                _synchronize(job.device)
                time.sleep(PAUSE)
                started = time.perf_counter()
                job.prepared[name].run(*inputs)
                _synchronize(job.device)
                taken[name].append((time.perf_counter() - started) / job.batch)
    return {name: statistics.median(v) for name, v in taken.items()}


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


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
            write_atomically(self.file, json.dumps({**self._all(), self.key: values}, indent=1) + "\n")
        except OSError as e:
            warnings.warn(
                f"{self.file} cannot be written ({e}): timings are not kept; set ALPHABAR_CACHE to a folder of yours",
                stacklevel=2,
            )

    def _all(self) -> dict[str, dict[str, dict[str, float]]]:
        try:
            return {
                key: {m: {k: float(v[k]) for k in Timing._fields} for m, v in methods.items() if m in METHODS}
                for key, methods in json.loads(self.file.read_text()).items()
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}


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
