"""One setting of a sweep: sampled, scored, and written to the folder of the sweep."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from alphabar.core.files import write_atomically
from alphabar.core.machine import device_of, machine, versions
from alphabar.core.processes import import_ray, joined
from alphabar.data.image_set import ImageSet, parse_set
from alphabar.denoiser.external import split_run
from alphabar.denoiser.from_hub import HUB
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import save_measured
from alphabar.results.sweeps import SweepFolder
from alphabar.sampling.fitted import Tuned, all_tuned, folders_of
from alphabar.sampling.guidance import every_class
from alphabar.sampling.model import fingerprint
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import SampleSet, check_value_range, reading_for
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import Setting
from alphabar.training.checkpoint import load_model
from alphabar.verbs import score as scoring
from alphabar.verbs.options import SweepOptions


@dataclass(frozen=True)
class Job:
    """What a sweep samples and scores, as plain data: a worker on another machine loads it by these names. reading: options of
    `load` for the real images, sorted by name."""

    run: str
    against: str
    reading: tuple[tuple[str, Any], ...]
    options: SweepOptions


@dataclass(frozen=True, eq=False)
class LoadedJob:
    """A job with its model, evaluator and real images."""

    job: Job
    model: Any
    evaluator: ImageEval
    real: ImageSet

    @classmethod
    def load(cls, job: Job, progress: bool = False) -> "LoadedJob":
        model = load_model(job.run, job.options.checkpoint)
        reading = reading_for(model, dict(job.reading))
        chosen = str(job.options.extractor)
        real = scoring.make_evaluator(job.against, chosen, samples=[job.run], reading=reading, progress=progress)
        return cls(job, model, *real)

    def check(self) -> None:
        """Raises ValueError where the images of the model cannot be scored, before any image is sampled."""
        options = self.job.options
        if options.guidance != 1 and not every_class(self.model):
            raise ValueError(f"guidance {options.guidance:g}: {self.job.run} has no classes to guide to; leave guidance out")
        check_value_range({"value_range": self._value_range, "fit": getattr(self.model, "fit", None)}, self.real)
        self.evaluator.check_model(self.model, options.n, options.metrics)

    def protocol(self) -> dict[str, Any]:
        """What all settings of a sweep must share for their scores to be comparable."""
        options, real = self.job.options, self.evaluator.real
        return {
            "model": fingerprint(self.model), "extractor": self.evaluator.extractor.fingerprint,
            "reference": real.reference_fingerprint, "reference_name": real.reference_name, "floor": real.pool_source,
            "n": options.n, "seed": options.seed, "batch": options.batch, "fast": options.fast, "versions": versions(),
            **({"guidance": options.guidance} if every_class(self.model) else {}),
        }  # fmt: skip

    def warm_up(self) -> None:
        """One network call, so that the time of the first setting does not include what is done once."""
        options = self.job.options
        sample(self.model, min(options.batch, options.n), steps=1, batch=options.batch, **self._how)

    def fitted(self, setting: Setting) -> Tuned | None:
        """The fitted sampler of a setting that has one, by its digest: the one that existed when the settings were listed."""
        if setting.fit is None:
            return None
        known = all_tuned(folders_of(self.model), str(fingerprint(self.model)))
        if (found := next((fit for fit in known if fit.digest == setting.fit), None)) is None:
            which = f"the fitted sampler {setting.fit} of {setting.steps} calls"
            raise ValueError(f"{which} was removed during the sweep: start the sweep again")
        return found

    def finish(self, setting: Setting, folder: SweepFolder, processes: int, fit: Tuned | None) -> None:
        """Samples and scores one setting and writes its row; where `sample` refuses the setting, the row says why.

        Samples that the folder already holds are only scored. processes: how many settings are sampled at once, for the row.
        """
        options, target = self.job.options, folder.samples(setting.name)
        try:
            made = Samples.load(target) if target.exists() else sample(
                self.model, options.n, seed=options.seed, batch=options.batch, out=target, **self._how,
                **(setting.arguments() if fit is None else {"tuned": fit}),
            )  # fmt: skip
        except ValueError as error:
            folder.refuse(setting, str(error))
            return
        opened = SampleSet(setting.name, made.images, {**made.record, "value_range": self._value_range})
        metrics = tuple(dict.fromkeys((*options.metrics, *folder.metrics(setting))))  # keep the metrics of earlier calls
        measured = scoring.measure(self.evaluator, self.real, opened, metrics)
        save_measured(folder.scores(setting.name), measured)
        here = machine()
        where = {
            "cpu": here["cpu"], "cores": here["cores"], "device": made.record["device"], "processes": processes,
            "process": int(os.environ.get("RANK", "0")),
        }  # fmt: skip
        folder.write_row({
            "name": setting.name, "setting": setting.to_json(), "nfe": made.record["nfe"],
            "seconds_per_image": made.record["seconds_per_image"], "samples": target.name, "machine": where,
            "model": made.record["model"], "extractor": self.evaluator.extractor.fingerprint,
            "reference": self.evaluator.real.reference_fingerprint, "record": made.record,
            "scores": [score.to_json() for score in measured.scores.values()],
        })  # fmt: skip

    @property
    def _value_range(self) -> Any:
        return getattr(self.model, "value_range", None)

    @cached_property
    def _how(self) -> dict[str, Any]:
        """The arguments of `sample` that are the same under every setting."""
        options = self.job.options
        how = {"device": str(device_of(options.device)), "channels_last": True, "progress": False}
        how |= {} if options.fast is None else {"fast": options.fast}
        how |= {} if options.guidance == 1 else {"guidance": options.guidance}
        return how | {"classes": every_class(self.model)}


Todo = Sequence[tuple[Setting, float]]  # settings with their network calls an image


def over_ray(address: str, loaded: LoadedJob, todo: Todo, folder: SweepFolder) -> None:
    """Samples and scores the settings on a cluster; each task takes one processor and, where the cluster has any, one GPU.

    A setting whose samples the folder holds is scored here. Raises ValueError where a machine of the cluster has another model,
    other images or other versions under the same names.
    """
    ray = import_ray("a sweep")
    job, (against, split) = loaded.job, parse_set(loaded.job.against)
    job = replace(
        job, run=_absolute(job.run), against=f"{_absolute(against)}:{split}" if Path(against).exists() else job.against,
        options=replace(job.options, extractor=_absolute(str(job.options.extractor))),
    )  # fmt: skip
    missing = [(setting, cost) for setting, cost in todo if not folder.samples(setting.name).exists()]
    for setting, _ in todo:
        if folder.samples(setting.name).exists():
            loaded.finish(setting, folder, 1, None)
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
    prefix, path, end = split_run(name)
    return f"{prefix}{Path(path).resolve()}{end}" if prefix != HUB and Path(path).exists() else name
