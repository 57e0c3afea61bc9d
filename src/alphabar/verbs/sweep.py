"""`sweep`: sampler x calls x eta x grid x call plan on the same noise, scored, with the front of quality against cost.

(The module is not called sweep, so that `alphabar.sweep` can be the function.)
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.core import processes
from alphabar.core.cluster import import_ray, joined
from alphabar.core.files import write_atomically
from alphabar.core.machine import best_device, machine, versions
from alphabar.core.progress import track
from alphabar.data.image_set import ImageSet, parse_set
from alphabar.denoiser.from_diffusers import PREFIX
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.measured import load_measured, save_measured
from alphabar.report.sweep_page import Row, Sweep, read_rows, stand, write_page
from alphabar.sampling.fitted import Tuned, all_tuned, folders_of
from alphabar.sampling.guidance import every_class
from alphabar.sampling.model import fingerprint
from alphabar.sampling.sample import sample
from alphabar.sampling.sample_set import SampleSet, check_value_range
from alphabar.sampling.samples import Samples
from alphabar.sampling.settings import CALLS, LeftOut, Setting, settings
from alphabar.training.checkpoint import load_model
from alphabar.verbs import score as judge

METRICS = ("fid", "kid")  # taken unless others are named


@dataclass(frozen=True)
class _Job:
    """What every setting of a sweep is drawn and scored with, as plain data: a worker elsewhere opens it by these names."""

    run: str
    checkpoint: str
    against: str
    extractor: str
    reading: tuple[tuple[str, Any], ...]
    metrics: tuple[str, ...]
    n: int
    seed: int
    batch: int
    device: str | None
    fast: str | None
    guidance: float = 1.0


@dataclass(frozen=True, eq=False)
class _Bench:
    """A job with everything loaded."""

    job: _Job
    model: Any
    ruler: ImageEval
    real: ImageSet


def sweep(
    run: str | Path,
    against: str,
    *,
    samplers: Sequence[str] | None = None,
    calls: Sequence[int] = CALLS,
    steps: Sequence[int] = (),
    etas: Sequence[float | None] | None = None,
    plans: Sequence[str | None] = (None,),
    grids: Sequence[str | None] = (None,),
    clip: bool | None = None,
    threshold: float | None = None,
    guidance: float = 1.0,
    n: int = 2000,
    seed: int = 0,
    batch: int = 64,
    extractor: str | Path = "bundled",
    metrics: Sequence[str] = METRICS,
    reading: Mapping[str, Any] | None = None,
    name: str = "default",
    out: str | Path | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    fast: str | None = None,
    ray: str | None = None,
    shown: int = 16,
    progress: bool = True,
) -> Sweep:
    """n images under every setting, from the same noise, scored against SET[:SPLIT]; a table's rows, and a page.

    samplers, calls, steps, etas, plans, grids, clip, threshold: see `alphabar.sampling.settings.settings`; what cannot be
    combined is left out, and `Sweep.left_out` says why. guidance: as for `sample`, under every setting; a conditional model
    draws all classes in turns, and no other has guidance. metrics: of `alphabar.evaluation.score.METRICS`; the first one sorts.
    reading: options of `load` for the real images. fast: as for `sample`. shown: images of every setting on the page.

    Everything is kept in RUN/sweeps/NAME, or `out` (sweep/ for bundled and for a single file): SETTING.npz, its samples;
    results.jsonl, a row a finished setting; protocol.json; index.html. The same call goes on where one was stopped or
    killed, and with further samplers, calls or metrics adds to what is there.

    Under torchrun the settings, not the images, are dealt to the processes, which must all see the folder; all of them
    return the same. ray: "local", or the address of a Ray cluster, whose machines draw and score the settings: they find
    run, extractor and real images by the names given here. Times an image are those of machines that did all that at once.

    Ctrl-C writes the page from what is there and raises KeyboardInterrupt. Raises ValueError where nothing can be drawn, for
    too few images, and where the folder holds a sweep of another protocol, naming the fields that differ.
    """
    if n < 1 or batch < 1 or shown < 1:
        raise ValueError(f"n = {n}, batch = {batch}, shown = {shown}: give 1 or more of each")
    if not metrics:
        raise ValueError("no metrics were named: give at least one, as fid")
    rank, size = processes.world()
    if ray is not None and size > 1:
        raise ValueError("torchrun and Ray both spread the settings: use one of them")
    job = _Job(
        str(run), checkpoint, against, str(extractor), tuple(sorted((reading or {}).items())), tuple(metrics), n, seed, batch,
        device, fast, guidance,
    )  # fmt: skip
    bench = _open(job, progress)
    wanted, left_out = settings(
        bench.model, samplers=samplers, calls=calls, steps=steps, etas=etas, plans=plans, grids=grids, clip=clip,
        threshold=threshold,
    )  # fmt: skip
    show = progress and rank == 0
    if show:
        for one in left_out:
            print(f"left out: {one}", file=sys.stderr)
    if not wanted:
        raise ValueError(f"no setting is left: {'; '.join(str(one) for one in left_out) or 'name samplers and calls'}")
    _check(bench)
    store = _Store(_folder(bench, name) if out is None else Path(out))
    with processes.rank_zero_first():
        store.claim(_protocol(bench), [s for s, _ in wanted])
    todo = [(setting, cost) for setting, cost in wanted if not store.finished(setting, metrics)]
    if not processes.alike(json.dumps([s.name for s, _ in todo])):  # nobody begins before everybody has looked
        raise ValueError(f"the processes do not find the same settings in {store.folder}: give a folder that all of them see")

    if ray is None and todo:
        for metric in job.metrics:  # all processes together; each then has it for the settings that it does alone
            bench.ruler._floor(metric, min(n, len(bench.ruler.real.pool)))
    bench.ruler.progress = False  # from here on there is one bar
    try:
        with _watched(store, wanted, todo, n, batch, show):
            if ray is not None:
                _over_ray(ray, bench, todo, store)
            elif todo:
                with processes.alone():
                    _warm(bench)
                    for setting, _ in dealt(todo, size)[rank]:
                        _finish(bench, setting, store, size, _fit(bench, setting))
                        if rank == 0:
                            store.write_results()
                while not all(store.told(setting, metrics) for setting, _ in todo):  # of other processes; no limit of time
                    time.sleep(0.2)
    except KeyboardInterrupt:
        there = _current(store.rows(metrics), [s for s, _ in wanted])
        if rank == 0 and there:
            store.write_results()
            _result(bench, store, there, [*left_out, *store.refused()], shown, finished=False)
        raise KeyboardInterrupt(f"{len(there)} settings are finished and kept in {store.folder}") from None

    refused = store.refused()
    if show:
        for one in refused:
            print(f"left out: {one}", file=sys.stderr)
    rows = _current(store.rows(metrics), [s for s, _ in wanted])
    if not rows:
        raise ValueError(f"every setting was refused: {'; '.join(str(one) for one in refused)}")
    with processes.rank_zero_first():
        if rank == 0:
            store.write_results()
            return _result(bench, store, rows, [*left_out, *refused], shown)
    return Sweep(store.folder, store.page, stand(rows, job.metrics, store.measured), [*left_out, *refused], store.protocol())


def dealt(todo: Sequence[tuple[Setting, float]], size: int) -> list[list[tuple[Setting, float]]]:
    """The settings of each of `size` processes: the dearest first, each to the one with the least to do so far."""
    shares: list[list[tuple[Setting, float]]] = [[] for _ in range(size)]
    for item in sorted(todo, key=lambda item: -item[1]):
        min(shares, key=lambda share: sum(cost for _, cost in share)).append(item)
    place = {setting: k for k, (setting, _) in enumerate(todo)}
    return [sorted(share, key=lambda item: place[item[0]]) for share in shares]  # the cheap ones first again, to see some soon


# ---- one setting


def _open(job: _Job, progress: bool = False) -> _Bench:
    model = load_model(job.run, job.checkpoint)
    ruler, real = judge.evaluator(job.against, job.extractor, reading=dict(job.reading), progress=progress)
    return _Bench(job, model, ruler, real)


def _check(bench: _Bench) -> None:
    """Whether the images of the model can be scored: told before any is drawn."""
    model, job = bench.model, bench.job
    if job.guidance != 1 and not every_class(model):
        raise ValueError(f"guidance {job.guidance:g}: {job.run} knows no classes, so there is nothing to guide to; leave it out")
    check_value_range({"value_range": getattr(model, "value_range", None)}, bench.real)
    bench.ruler.check_model(model, job.n, job.metrics)


def _drawing(bench: _Bench) -> dict[str, Any]:
    job = bench.job
    more: dict[str, Any] = {} if job.fast is None else {"fast": job.fast}
    more |= {} if job.guidance == 1 else {"guidance": job.guidance}
    return {
        "classes": every_class(bench.model),
        "device": job.device or best_device(),
        "channels_last": True,
        "progress": False,
        **more,
    }


def _warm(bench: _Bench) -> None:
    """One call, so that the first setting's time does not hold what is done once."""
    sample(bench.model, min(bench.job.batch, bench.job.n), steps=1, batch=bench.job.batch, **_drawing(bench))


def _fit(bench: _Bench, setting: Setting) -> Tuned | None:
    """The fitted sampler of a setting, where it has one: the very one that was there when the settings were found."""
    if setting.fit is None:
        return None
    there = all_tuned(folders_of(bench.model), str(fingerprint(bench.model)))
    if (found := next((fit for fit in there if fit.digest == setting.fit), None)) is None:
        raise ValueError(
            f"the fitted sampler {setting.fit} of {setting.steps} calls is gone since the sweep began: begin it again"
        )
    return found


def _finish(bench: _Bench, setting: Setting, store: "_Store", processes: int, fit: Tuned | None) -> None:
    """Draws and scores one setting and writes it down; or, where `sample` refuses it, why."""
    job = bench.job
    target = store.samples(setting.name)
    if target.exists():
        made = Samples.load(target)
    else:
        given = setting.arguments() if fit is None else {"tuned": fit}
        try:
            made = sample(bench.model, job.n, seed=job.seed, batch=job.batch, out=target, **given, **_drawing(bench))
        except ValueError as error:
            store.refuse(setting, str(error))
            return
    record = {**made.record, "value_range": getattr(bench.model, "value_range", None)}
    metrics = tuple(dict.fromkeys((*job.metrics, *store.metrics(setting))))  # none that was taken before is lost
    measured = judge.measure(bench.ruler, bench.real, SampleSet(setting.name, made.images, record), metrics)
    save_measured(store.measured_path(setting.name), measured)
    here = machine()
    where = {
        "cpu": here["cpu"], "cores": here["cores"], "device": made.record["device"], "processes": processes,
        "process": int(os.environ.get("RANK", "0")),
    }  # fmt: skip
    store.write_row({
        "name": setting.name, "setting": setting.to_json(), "nfe": made.record["nfe"],
        "seconds_per_image": made.record["seconds_per_image"], "samples": target.name, "machine": where,
        "model": made.record["model"], "extractor": bench.ruler.extractor.fingerprint,
        "reference": bench.ruler.real.reference_fingerprint, "record": made.record,
        "scores": [score.to_json() for score in measured.scores.values()],
    })  # fmt: skip


# ---- the folder


def _folder(bench: _Bench, name: str) -> Path:
    if not name or Path(name).name != name:
        raise ValueError(
            f"name = {name!r}: give a plain name, for a folder in the run's sweeps/; any other place is given by out"
        )
    home = None if bench.job.run == "bundled" else getattr(bench.model, "home", None)
    return Path("sweep") if home is None else home / "sweeps" / name


def _protocol(bench: _Bench) -> dict[str, Any]:
    """What all rows of a folder share, or they would not compare."""
    job, ruler = bench.job, bench.ruler
    return {
        "model": fingerprint(bench.model), "extractor": ruler.extractor.fingerprint,
        "reference": ruler.real.reference_fingerprint, "reference_name": ruler.real.reference_name,
        "floor": ruler.real.pool_source, "n": job.n, "seed": job.seed, "batch": job.batch, "fast": job.fast,
        "versions": versions(), **({"guidance": job.guidance} if every_class(bench.model) else {}),
    }  # fmt: skip


class _Store:
    """The folder of a sweep. A setting is finished when rows/SETTING.json is there, which is written last, and whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.page = folder / "index.html"
        self._rows = folder / "rows"
        self._note = folder / "protocol.json"

    def samples(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def measured_path(self, name: str) -> Path:
        return self._rows / f"{name}.npz"

    def measured(self, name: str) -> Any:
        return load_measured(self.measured_path(name))

    def claim(self, protocol: Mapping[str, Any], wanted: Sequence[Setting]) -> None:
        """Takes the folder for this protocol. Raises ValueError where it holds another's settings, or something else."""
        now = json.loads(json.dumps(protocol))
        if self._note.exists():
            there = self.protocol()
            if differ := [k for k in now | there if now.get(k) != there.get(k)]:
                first = differ[0]
                raise ValueError(
                    f"{self.folder} holds a sweep that differs in {', '.join(differ)} ({first} was {there.get(first)!r:.60}, is "
                    f"{now.get(first)!r:.60}): go on with its own arguments, choose another name or out, or remove it"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds files that are no sweep: choose an empty folder")
        self._rows.mkdir(parents=True, exist_ok=True)
        if not self._note.exists():
            write_atomically(self._note, json.dumps(now, indent=1) + "\n")
        for setting in wanted:  # what was refused is tried again: a fitted plan may be there now
            path = self._path(setting.name)
            if path.exists() and "refused" in json.loads(path.read_text()):
                path.unlink(missing_ok=True)

    def protocol(self) -> dict[str, Any]:
        out: dict[str, Any] = json.loads(self._note.read_text())
        return out

    def finished(self, setting: Setting, metrics: Sequence[str]) -> bool:
        row = self._read(setting.name)
        there = self.samples(setting.name).exists() and self.measured_path(setting.name).exists()
        return there and row is not None and set(metrics) <= set(self.metrics(setting))

    def told(self, setting: Setting, metrics: Sequence[str]) -> bool:
        """Whether it is finished, or was refused."""
        row = self._read(setting.name)
        return row is not None and ("refused" in row or self.finished(setting, metrics))

    def metrics(self, setting: Setting) -> tuple[str, ...]:
        """Those that there are scores of."""
        return tuple(s["metric"] for s in (self._read(setting.name) or {}).get("scores", ()))

    def write_row(self, row: Mapping[str, Any]) -> None:
        write_atomically(self._path(row["name"]), json.dumps(row))

    def refuse(self, setting: Setting, why: str) -> None:
        self.write_row({"name": setting.name, "setting": setting.to_json(), "refused": why})

    def refused(self) -> list[LeftOut]:
        every = [(Setting.from_json(row["setting"]), row["refused"]) for row in self._all() if "refused" in row]
        return [LeftOut(setting.method, f"{setting.steps} steps", why) for setting, why in every]

    def rows(self, metrics: Sequence[str]) -> list[Row]:
        """Of every setting that has these scores, the fewest calls first, and of as many calls the best one."""
        return read_rows(self.folder, metrics)

    def write_results(self) -> None:
        """results.jsonl, from the rows that there are."""
        rows = sorted((row for row in self._all() if "scores" in row), key=lambda row: (row["nfe"], row["name"]))
        write_atomically(self.folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def _path(self, name: str) -> Path:
        return self._rows / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self._path(name)
        return json.loads(path.read_text()) if path.exists() else None

    def _all(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self._rows.glob("[!.]*.json"))]


def _current(rows: Sequence[Row], wanted: Sequence[Setting]) -> list[Row]:
    """Without fitted samplers in whose place there are others now; their samples stay where they are."""
    now = {replace(s, fit=None): s.fit for s in wanted if s.fit is not None}
    return [row for row in rows if now.get(replace(row.setting, fit=None), row.setting.fit) == row.setting.fit]


def _result(
    bench: _Bench, store: _Store, rows: Sequence[Row], left_out: Sequence[LeftOut], shown: int, *, finished: bool = True
) -> Sweep:
    """The result, with its page written."""
    done = Sweep(
        store.folder, store.page, stand(rows, bench.job.metrics, store.measured), list(left_out), store.protocol(), finished
    )
    write_page(done, bench.job.metrics, bench.job.run, np.asarray(bench.ruler.real.reference[:shown]), shown)
    return done


@contextmanager
def _watched(
    store: _Store, wanted: Sequence[tuple[Setting, float]], todo: Sequence[tuple[Setting, float]], n: int, batch: int, show: bool
) -> Iterator[None]:
    """A bar in network calls over all settings and processes, read off the files that they write."""
    if not (show and todo):
        yield
        return
    total, rest = (n * sum(cost for _, cost in some) for some in (wanted, todo))
    stop = threading.Event()

    def seen() -> tuple[float, int]:
        amount, count = 0.0, 0
        for setting, cost in todo:
            if store.samples(setting.name).exists() or store.told(setting, ()):
                amount, count = amount + n * cost, count + 1
            else:
                parts = len(list((store.folder / f"{setting.name}.part").glob("*.npz")))
                amount += min(parts * batch, n) * cost
        return amount, count

    last, _ = seen()
    with track(total, f"sweep of {len(wanted)} settings", "calls", done=total - rest + last) as advance:

        def look() -> None:
            nonlocal last
            now, count = seen()
            advance(max(now - last, 0.0), f"{len(wanted) - len(todo) + count} of {len(wanted)} settings")
            last = max(now, last)

        def keep_looking() -> None:
            while not stop.wait(1.0):
                look()

        thread = threading.Thread(target=keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            look()


# ---- over machines


def _over_ray(address: str, bench: _Bench, todo: Sequence[tuple[Setting, float]], store: _Store) -> None:
    """The settings as tasks of Ray, each of one processor and, where there are any, one GPU; they give back files."""
    ray = import_ray("a sweep")
    own_job = bench.job
    job = replace(
        own_job, run=_absolute(own_job.run), extractor=_absolute(own_job.extractor), against=_absolute_set(own_job.against)
    )
    rest = []
    for setting, cost in todo:
        if store.samples(setting.name).exists():  # drawn before: only scores are missing
            _finish(bench, setting, store, 1, None)
        else:
            rest.append((setting, cost))
    if not rest:
        return
    with joined(ray, address):
        have = ray.cluster_resources()
        task = ray.remote(num_cpus=1, num_gpus=1 if have.get("GPU") else 0)(_elsewhere)
        together = max(int(have.get("GPU") or have.get("CPU") or 1), 1)
        fits = {s: None if (fit := _fit(bench, s)) is None else fit.to_json() for s, _ in rest}
        waiting = [task.remote(job, s.to_json(), fits[s], together) for s, _ in sorted(rest, key=lambda item: -item[1])]
        while waiting:
            (done, *_), waiting = ray.wait(waiting, num_returns=1)
            _take(store, ray.get(done))
            store.write_results()


def _elsewhere(job: _Job, setting: Mapping[str, Any], fit: Mapping[str, Any] | None, processes: int) -> dict[str, bytes]:
    """One setting, on whatever machine: the files that it makes, by their names in the folder of the sweep."""
    bench = _opened(job)
    with tempfile.TemporaryDirectory(prefix="alphabar-sweep-") as scratch:
        store = _Store(Path(scratch))
        store.claim(_protocol(bench), ())
        fitted = None if fit is None else Tuned.from_json(fit)
        _finish(bench, Setting.from_json(setting), store, processes, fitted)
        made = [*Path(scratch).rglob("*.npz"), *Path(scratch).glob("rows/*.json")]  # the row last: it says "finished"
        return {"protocol.json": (Path(scratch) / "protocol.json").read_bytes()} | {
            path.relative_to(scratch).as_posix(): path.read_bytes() for path in made
        }


@lru_cache(maxsize=1)
def _opened(job: _Job) -> _Bench:
    """For a worker that does one setting after another."""
    bench = _open(job)
    _warm(bench)
    return bench


def _take(store: _Store, files: Mapping[str, bytes]) -> None:
    """Puts the files of `_elsewhere` into the folder."""
    theirs, own = json.loads(files["protocol.json"]), store.protocol()
    if differ := [k for k in own if k != "versions" and theirs.get(k) != own[k]]:
        raise ValueError(
            f"a machine of the cluster has another {differ[0]} ({theirs.get(differ[0])!r:.60}, here {own[differ[0]]!r:.60}): the "
            "same files must lie under the same names on all machines"
        )
    if theirs["versions"] != own["versions"]:
        raise ValueError(f"a machine of the cluster runs {theirs['versions']}, this one {own['versions']}: install the same")
    for name, data in files.items():
        if name == "protocol.json":
            continue
        target = store.folder / name
        scratch = target.with_name(f".{target.name}.tmp")
        scratch.write_bytes(data)
        scratch.replace(target)


def _absolute(name: str) -> str:
    prefix, path = (PREFIX, name.removeprefix(PREFIX)) if name.startswith(PREFIX) else ("", name)
    return f"{prefix}{Path(path).resolve()}" if Path(path).exists() else name


def _absolute_set(text: str) -> str:
    name, split = parse_set(text)
    return f"{Path(name).resolve()}:{split}" if Path(name).exists() else text
