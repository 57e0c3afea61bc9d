"""The runs below a folder, by the names that a browser sends; nothing outside the folder is ever read."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import torch

from alphabar.core.bounds import short
from alphabar.core.machine import best_device
from alphabar.core.messages import as_path
from alphabar.denoiser.external import split_run
from alphabar.training.checkpoint import BUNDLED, find_checkpoint, has_checkpoint, load_model
from alphabar.web.request import choice

BUNDLED_RUN = "bundled"
_DEPTH = 3  # levels of folders that are searched for runs
_MOST_RUNS = 500
_MODELS = 4  # kept in memory


class RunsFolder:
    """The runs below `root`. Raises NotADirectoryError where there is no such folder."""

    def __init__(self, root: str | Path) -> None:
        self.typed = as_path(root)  # messages and commands repeat it
        if not self.typed.is_dir():
            raise NotADirectoryError(
                f"there is no folder {root}: give the one that holds your run folders, as: alphabar app runs"
            )
        self.root = self.typed.resolve()
        self._lock = threading.Lock()
        self._models: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def names(self) -> list[str]:
        """ "bundled", and the runs below the root by their paths from there."""
        return [BUNDLED_RUN, *islice(self._search(self.root, _DEPTH), _MOST_RUNS)]

    def _search(self, folder: Path, depth: int) -> Iterator[str]:
        if has_checkpoint(folder / "checkpoints" / "last"):
            name = folder.relative_to(self.root).as_posix()
            yield f"./{name}" if name == BUNDLED_RUN else name
        elif depth > 0:
            inside: list[Path] = []
            with suppress(OSError):  # this user may not read the folder
                inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
            for path in inside:
                if not path.is_symlink() or (self._inside(path) and depth == _DEPTH):
                    yield from self._search(path, 0 if path.is_symlink() else depth - 1)

    def _inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root)

    def _place(self, run: Any, checkpoint: str) -> tuple[Path, Path, str]:
        """The folder of a run, its file of weights, and what to type for the run on the command line.

        Raises ValueError for anything but a run inside the root, wherever links lead.
        """
        if not isinstance(run, str) or not run or len(run) > 1000 or "\0" in run:
            raise ValueError(f"run {short(run)}: choose one of the list")
        if run == BUNDLED_RUN:
            return BUNDLED, BUNDLED, BUNDLED_RUN
        outside = f"run {short(run)} lies outside {self.typed}, the folder that this page was started for: choose one of the list"
        folder = self.root / run
        if PurePath(run).is_absolute() or ".." in PurePath(run).parts or not self._inside(folder):
            raise ValueError(outside)
        try:
            weights = find_checkpoint(folder / "checkpoints" / checkpoint) / "ema.safetensors"
        except FileNotFoundError:
            what = f"no run {short(run)} with a checkpoint {checkpoint!r} under {self.typed}"
            raise ValueError(f"there is {what}; known are {', '.join(self.names()[:8])}") from None
        if not self._inside(weights):
            raise ValueError(outside)
        typed = str(self.typed / run)
        return folder.resolve(), weights, f"./{typed}" if split_run(typed)[0] or typed == BUNDLED_RUN else typed

    def load(self, run: Any, checkpoint: Any = "last") -> tuple[Any, str]:
        """The model of a run, from memory where its file has not changed, and what to type for the run."""
        folder, weights, typed = self._place(run, choice("checkpoint", checkpoint, ("last", "best")))
        try:
            about = weights.stat()
        except FileNotFoundError:
            raise ValueError(f"run {typed} has no {weights.name} in its checkpoint: train it again, or choose another") from None
        key = (folder, checkpoint, about.st_mtime_ns, about.st_size)
        with self._lock:
            if key not in self._models:
                # The memory layout is set here, once: two threads that sample at the same time would both move the weights.
                model: Any = load_model(BUNDLED_RUN if typed == BUNDLED_RUN else folder, checkpoint)
                self._models[key] = model.to(best_device()).to(memory_format=torch.channels_last)
            self._models.move_to_end(key)
            while len(self._models) > _MODELS:
                self._models.popitem(last=False)
            return self._models[key], typed
