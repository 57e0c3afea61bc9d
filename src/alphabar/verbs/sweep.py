"""`sweep`: sampler x calls x eta x grid x call plan on the same noise, scored, with the front of quality against cost."""

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alphabar.core import processes
from alphabar.core.files import locked
from alphabar.core.messages import as_path, say
from alphabar.core.options import takes
from alphabar.core.outputs import check_folder
from alphabar.core.progress import track
from alphabar.data.image_set import parse_set
from alphabar.report.sweep_page import write_page
from alphabar.results.sweeps import Row, Sweep, SweepFolder, with_standings
from alphabar.sampling.settings import LeftOut, Setting, settings
from alphabar.training.checkpoint import home_of
from alphabar.verbs.options import SweepOptions
from alphabar.verbs.sweep_setting import Job, LoadedJob, Todo, over_ray


@takes(SweepOptions)
def sweep(
    run: str | Path, against: str, *, options: SweepOptions = SweepOptions(), reading: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Sweep:  # fmt: skip
    """Sample n images under every setting from the same noise, score them, and write a page with the front.

    Everything is kept in RUN/sweeps/NAME, or `out`. The same call resumes a sweep that was stopped or killed; with further
    samplers, calls or metrics it adds to what the folder holds. Combinations that cannot be sampled are left out, and
    `Sweep.left_out` says why. Under torchrun the settings, not the images, are divided among the processes, which must all see
    the folder and all return the same result. Times an image are those of machines that sampled several settings at once.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH, lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        against: SET[:SPLIT] of real images.
        options: what is tried and how; each field is also a keyword.
        reading: options of `load` for the real images.
        progress: show a bar, and print what is left out.

    Returns:
        The finished settings, the fewest calls first, with their scores and standings.

    Raises:
        ValueError: where no setting can be sampled, for too few images, and where the folder holds a sweep of another protocol,
            naming the fields that differ.
        KeyboardInterrupt: at Ctrl-C, after the page of the finished settings was written.
    """
    rank, size = processes.world()
    if options.ray is not None and size > 1:
        raise ValueError("torchrun and Ray both divide the settings: use one of them")
    show = progress and rank == 0
    place = _place(run, options)
    check_folder(place, "sweep", [parse_set(against)[0]], ours=("protocol.json",))
    loaded = LoadedJob.load(Job(str(run), against, tuple(sorted((reading or {}).items())), options), progress)
    wanted, left_out = settings(loaded.model, **options.tried())
    _print_left_out(left_out, show)
    if not wanted:
        raise ValueError(f"no setting is left: {'; '.join(str(one) for one in left_out) or 'name samplers and calls'}")
    loaded.check()
    folder = SweepFolder(place)
    with locked(folder.path) if rank == 0 else nullcontext():
        with processes.rank_zero_first():
            folder.claim(loaded.protocol(), [s for s, _ in wanted])
        todo = [(setting, cost) for setting, cost in wanted if not folder.finished(setting, options.metrics)]
        if not processes.alike(json.dumps([s.name for s, _ in todo])):  # also: no process starts before all have looked
            raise ValueError(f"the processes do not find the same settings in {folder.path}: give a folder that all of them see")
        try:
            with _progress_bar(folder, wanted, todo, options, show):
                _finish_all(loaded, folder, todo, rank, size)
        except KeyboardInterrupt:
            rows = _current(folder.rows(options.metrics), wanted)
            if rank == 0 and rows:
                _result(loaded, folder, rows, [*left_out, *folder.refused()], finished=False)
            raise KeyboardInterrupt(f"{len(rows)} settings are finished and kept in {folder.path}") from None
        refused = folder.refused()
        _print_left_out(refused, show)
        rows = _current(folder.rows(options.metrics), wanted)
        if not rows:
            raise ValueError(f"every setting was refused: {'; '.join(str(one) for one in refused)}")
        with processes.rank_zero_first():
            return _result(loaded, folder, rows, [*left_out, *refused], write=rank == 0)


def _print_left_out(left_out: Sequence[LeftOut], show: bool) -> None:
    for one in left_out if show else ():
        say(f"left out: {one}", sys.stderr)


def _place(run: str | Path, options: SweepOptions) -> Path:
    """The folder of the sweep."""
    name = options.name
    if options.out is not None:
        return as_path(options.out)
    if not name or Path(name).name != name:
        raise ValueError(f"name = {name!r}: give a plain name, for a folder in sweeps/ of the run; use out for any other place")
    home = None if str(run) == "bundled" else home_of(run)
    return Path("sweep") if home is None else home / "sweeps" / name


def _finish_all(loaded: LoadedJob, folder: SweepFolder, todo: Todo, rank: int, size: int) -> None:
    """Samples and scores the settings: over Ray, or each process its share."""
    options = loaded.job.options
    if options.ray is None and todo:
        for metric in options.metrics:  # all processes compute the floor together; each then scores its settings alone
            loaded.evaluator._floor(metric, min(options.n, len(loaded.evaluator.real.pool)))
    loaded.evaluator.progress = False  # the sweep has one bar
    if options.ray is not None:
        over_ray(options.ray, loaded, todo, folder)
    elif todo:
        with processes.alone():
            loaded.warm_up()
            for setting, _ in divided(todo, size)[rank]:
                loaded.finish(setting, folder, size, loaded.fitted(setting))
                if rank == 0:
                    folder.write_results()
        while not all(folder.settled(setting, options.metrics) for setting, _ in todo):  # by other processes; no time limit
            time.sleep(0.2)


def divided(todo: Todo, size: int) -> list[list[tuple[Setting, float]]]:
    """The settings of each of `size` processes: the most expensive first, each to the process with the least work so far."""
    shares: list[list[tuple[Setting, float]]] = [[] for _ in range(size)]
    for item in sorted(todo, key=lambda item: -item[1]):
        min(shares, key=lambda share: sum(cost for _, cost in share)).append(item)
    place = {setting: k for k, (setting, _) in enumerate(todo)}
    return [sorted(share, key=lambda item: place[item[0]]) for share in shares]  # cheap settings first: early results


def _current(rows: Sequence[Row], wanted: Todo) -> list[Row]:
    """The rows without those of fitted samplers that were fitted again since; their samples stay in the folder."""
    now = {replace(s, fit=None): s.fit for s, _ in wanted if s.fit is not None}
    return [row for row in rows if now.get(replace(row.setting, fit=None), row.setting.fit) == row.setting.fit]


def _result(
    loaded: LoadedJob, folder: SweepFolder, rows: Sequence[Row], left_out: list[LeftOut], *, finished: bool = True,
    write: bool = True,
) -> Sweep:  # fmt: skip
    """The result. write: also write results.jsonl and the page."""
    options = loaded.job.options
    done = Sweep(folder.path, with_standings(rows, options.metrics, folder.measured), left_out, folder.protocol(), finished)
    if write:
        folder.write_results()
        real = np.asarray(loaded.evaluator.real.reference[: options.shown])
        write_page(done, options.metrics, loaded.job.run, real, options.shown)
    return done


@contextmanager
def _progress_bar(folder: SweepFolder, wanted: Todo, todo: Todo, options: SweepOptions, show: bool) -> Iterator[None]:
    """A bar in network calls over all settings and processes, computed from the files that they write."""
    if not (show and todo):
        yield
        return
    total, rest = (options.n * sum(cost for _, cost in some) for some in (wanted, todo))
    stop = threading.Event()

    def progress() -> tuple[float, int]:
        """(network calls, settings) done so far, of `todo`."""
        calls, count = 0.0, 0
        for setting, cost in todo:
            if folder.samples(setting.name).exists() or folder.settled(setting, ()):
                calls, count = calls + options.n * cost, count + 1
            else:
                batches = len(list((folder.path / f"{setting.name}.part").glob("*.npz")))
                calls += min(batches * options.batch, options.n) * cost
        return calls, count

    last, _ = progress()
    with track(total, f"sweep of {len(wanted)} settings", "calls", done=total - rest + last) as advance:

        def update() -> None:
            nonlocal last
            now, count = progress()
            advance(max(now - last, 0.0), f"{len(wanted) - len(todo) + count} of {len(wanted)} settings")
            last = max(now, last)

        def keep_updating() -> None:
            while not stop.wait(1.0):
                update()

        thread = threading.Thread(target=keep_updating, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            update()
