"""A sweep over a Ray cluster: every setting is a task, which returns the files that it made."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from alphabar.core.cluster import import_ray, joined
from alphabar.core.files import write_atomically
from alphabar.data.image_set import parse_set
from alphabar.denoiser.from_diffusers import PREFIX
from alphabar.results.sweeps import SweepFolder
from alphabar.sampling.fitted import Tuned
from alphabar.sampling.settings import Setting
from alphabar.verbs.sweep_setting import Job, LoadedJob

Todo = Sequence[tuple[Setting, float]]  # settings with their network calls an image


def over_ray(address: str, loaded: LoadedJob, todo: Todo, folder: SweepFolder) -> None:
    """Samples and scores the settings on a cluster; each task takes one processor and, where the cluster has any, one GPU.

    Args:
        address: "local", or the address of a running cluster.
        loaded: the job; files are found by absolute names on every machine.
        todo: the settings. One whose samples the folder holds is scored here.
        folder: receives the files of each setting when its task ends.

    Raises:
        ValueError: where a machine of the cluster has another model, other images or other versions under the same names.
    """
    ray = import_ray("a sweep")
    job = loaded.job
    job = replace(
        job, run=_absolute(job.run), against=_absolute_set(job.against),
        options=replace(job.options, extractor=_absolute(str(job.options.extractor))),
    )  # fmt: skip
    missing = []
    for setting, cost in todo:
        if folder.samples(setting.name).exists():
            loaded.finish(setting, folder, 1, None)
        else:
            missing.append((setting, cost))
    if not missing:
        return
    with joined(ray, address):
        have = ray.cluster_resources()
        task = ray.remote(num_cpus=1, num_gpus=1 if have.get("GPU") else 0)(_task)
        together = max(int(have.get("GPU") or have.get("CPU") or 1), 1)
        fits = {s: None if (fit := loaded.fitted(s)) is None else fit.to_json() for s, _ in missing}
        waiting = [task.remote(job, s.to_json(), fits[s], together) for s, _ in sorted(missing, key=lambda item: -item[1])]
        while waiting:
            (done, *_), waiting = ray.wait(waiting, num_returns=1)
            _receive(folder, ray.get(done))
            folder.write_results()


def _task(job: Job, setting: Mapping[str, Any], fit: Mapping[str, Any] | None, processes: int) -> dict[str, bytes]:
    """Runs on a machine of the cluster: the files of one setting by their names in the folder of the sweep, the row last."""
    loaded = _loaded(job)
    with tempfile.TemporaryDirectory(prefix="alphabar-sweep-") as scratch:
        folder = SweepFolder(Path(scratch))
        folder.claim(loaded.protocol(), ())
        loaded.finish(Setting.from_json(setting), folder, processes, None if fit is None else Tuned.from_json(fit))
        files = [Path(scratch) / "protocol.json", *Path(scratch).rglob("*.npz"), *Path(scratch).glob("rows/*.json")]
        return {path.relative_to(scratch).as_posix(): path.read_bytes() for path in files}


@lru_cache(maxsize=1)
def _loaded(job: Job) -> LoadedJob:
    """Loads the job once for all tasks of a worker process."""
    loaded = LoadedJob.load(job)
    loaded.warm_up()
    return loaded


def _receive(folder: SweepFolder, files: Mapping[str, bytes]) -> None:
    """Writes the files of a task into the folder of the sweep."""
    theirs, own = json.loads(files["protocol.json"]), folder.protocol()
    if differ := [k for k in own if k != "versions" and theirs.get(k) != own[k]]:
        raise ValueError(
            f"a machine of the cluster has another {differ[0]} ({theirs.get(differ[0])!r:.60}, here {own[differ[0]]!r:.60}): the "
            "same files must lie under the same names on all machines"
        )
    if theirs["versions"] != own["versions"]:
        raise ValueError(f"a machine of the cluster runs {theirs['versions']}, this one {own['versions']}: install the same")
    for name, data in files.items():
        if name != "protocol.json":
            write_atomically(folder.path / name, data)


def _absolute(name: str) -> str:
    prefix, path = (PREFIX, name.removeprefix(PREFIX)) if name.startswith(PREFIX) else ("", name)
    return f"{prefix}{Path(path).resolve()}" if Path(path).exists() else name


def _absolute_set(text: str) -> str:
    name, split = parse_set(text)
    return f"{Path(name).resolve()}:{split}" if Path(name).exists() else text
