"""Trackers by name. All build on accelerate's (`accelerate.tracking.GeneralTracker`) and add what those leave open: resuming the
same tracked run, sample sheets as uint8 images, checkpoints as artifacts, and where to look.

A custom tracker is a subclass of GeneralTracker with `name`, `requires_logging_directory`, `tracker`, `store_init_configuration`
and `log`, named as "module:Class". If it has `log_images(values, step)`, it receives sheets: {name: [(h, w, c) uint8]}.
"""

import importlib
import os
import re
import secrets
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from alphabar.core.messages import first_line, without_secrets
from alphabar.core.run import Run
from alphabar.core.suggest import did_you_mean

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Sheet = UInt8[np.ndarray, "h w 3"]
PROJECT = "alphabar"  # unless the tracker's own environment variable names another


class Tracker(ABC):
    """A tracker of one run. `open` comes first, then `send`, `picture` and `files` in any order, then `close`.

    tracked_run: plain data, stored with the run, by which the next session finds the same tracked run again.
    """

    name = package = ""
    tracker: "GeneralTracker"

    def __init__(self, run: Run, tracked_run: dict[str, Any]) -> None:
        self.run, self.tracked_run = run, tracked_run
        self.title = run.path.resolve().name
        self.folder = run.path / "tracking"

    @abstractmethod
    def open(self) -> None:
        """Connects to the tracker, and to the tracked run of earlier sessions if there is one."""

    def configure(self, values: dict[str, Any]) -> None:
        """Sends the configuration of the run; called once."""
        self.tracker.store_init_configuration(values)

    def send(self, values: dict[str, float], step: int) -> None:
        self.tracker.log(values, step=step)

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        """Sends a sheet of samples as uint8; some trackers rescale floats."""
        if hasattr(self.tracker, "log_images"):
            self.tracker.log_images({key: [pixels]}, step=step)

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:  # noqa: B027
        """Sends files as a new version of `title`. kind: dataset, model or samples. No effect where a tracker keeps no files."""

    def last_step(self, key: str) -> int | None:
        """The last step that the tracker has of a name; None where it cannot say."""
        return None

    def close(self, state: str) -> None:
        """state: finished, stopped_early, stopped, diverged, or open if a later session may continue the run."""
        self.tracker.finish()

    def where(self) -> str:
        """Where to look, or the command that shows the tracked run."""
        return self.name


class WandB(Tracker):
    """Weights & Biases. Without a key, or with WANDB_MODE=offline, into a folder that `wandb sync` sends later."""

    name = package = "wandb"

    def open(self) -> None:
        import wandb
        from accelerate.tracking import WandBTracker

        self.tracked_run.setdefault("id", secrets.token_hex(4))
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline")
        settings = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, x_disable_meta=True)
        self.tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT", PROJECT), id=self.tracked_run["id"], name=self.title, resume="allow", mode=mode,
            dir=os.environ.get("WANDB_DIR", str(self.folder)), settings=settings,
        )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tracker.start()
        own = self.tracker.tracker
        self.offline = own.settings._offline
        if self.offline:
            self.tracked_run["folders"] = [*self.tracked_run.get("folders", []), str(own.settings.sync_dir)]
        else:
            self.tracked_run["url"] = own.url

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        from PIL import Image

        self.tracker.log_images({key: [Image.fromarray(pixels)]}, step=step)

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:
        import wandb

        artifact, own = _artifact(wandb, kind, title, paths, about), self.tracker.tracker
        if kind == "dataset" and not self.offline:
            own.use_artifact(artifact)  # an input of the run; this call does not exist offline
        else:
            own.log_artifact(artifact, aliases=list(aliases))

    def close(self, state: str) -> None:
        self.tracker.tracker.finish(exit_code=1 if state == "diverged" else 0)

    def where(self) -> str:
        if url := self.tracked_run.get("url"):
            return str(url)
        return "offline; send it with: " + "; ".join(f"wandb sync {shlex.quote(f)}" for f in self.tracked_run.get("folders", []))


def wandb_key() -> bool:
    """Whether W&B has a key. Without one it would ask on the terminal, in the middle of a training."""
    import netrc
    from urllib.parse import urlparse

    import wandb

    settings = wandb.setup().settings
    if settings.api_key or os.environ.get("WANDB_API_KEY") or settings.identity_token_file:
        return True
    try:
        return netrc.netrc().authenticators(urlparse(settings.base_url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _artifact(package: Any, kind: str, title: str, paths: Sequence[Path], about: dict[str, Any]) -> Any:
    artifact = package.Artifact(title, type=kind, metadata=about)
    for path in paths:
        artifact.add_file(str(path))
    return artifact


@contextmanager
def _nameless_machine() -> Iterator[None]:
    """The names of TensorBoard's event files would hold the name of this machine."""
    from tensorboard.summary.writer import event_file_writer

    library, event_file_writer.socket = event_file_writer.socket, SimpleNamespace(gethostname=lambda: PROJECT)
    try:
        yield
    finally:
        event_file_writer.socket = library


class TensorBoard(Tracker):
    """Event files in tracking/tensorboard of the run."""

    name = package = "tensorboard"

    def open(self) -> None:
        from accelerate.tracking import TensorBoardTracker

        self.tracker = TensorBoardTracker("tensorboard", str(self.folder))
        with _nameless_machine():
            self.tracker.start()

    def configure(self, values: dict[str, Any]) -> None:
        with _nameless_machine():  # this writes another event file
            super().configure(values)

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        self.tracker.log_images({key: pixels[None]}, step=step, dataformats="NHWC")
        self.tracker.tracker.flush()

    def last_step(self, key: str) -> int | None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(self.folder / "tensorboard"), {"scalars": 0, "images": 0})
        found.Reload()
        tags = found.Tags()
        events = found.Scalars(key) if key in tags["scalars"] else found.Images(key) if key in tags["images"] else []
        return max((e.step for e in events), default=None)

    def where(self) -> str:
        # without the option TensorBoard shows ten images per name, picked at random
        return f"tensorboard --samples_per_plugin images=1000 --logdir {shlex.quote(str(self.folder / 'tensorboard'))}"


class MLflow(Tracker):
    """MLflow, at MLFLOW_TRACKING_URI (its own default: mlflow.db in the current folder)."""

    name = package = "mlflow"

    def open(self) -> None:
        import mlflow
        from accelerate.tracking import MLflowTracker

        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # an address that may hold a password
        self.mlflow = mlflow
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        nobody = {"mlflow.user": "", "mlflow.source.name": PROJECT}  # in place of the login name and the path of the program
        self.tracker = MLflowTracker(name, run_id=self.tracked_run.get("run_id"), run_name=self.title, tags=nobody)
        self.tracker.start()
        self.tracked_run["run_id"] = self.tracker.tracker.info.run_id

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        self.mlflow.log_image(pixels, key=key, step=step)

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:
        for alias in aliases or (kind,):
            folder = f"{kind}/{alias}"
            for path in paths:
                self.mlflow.log_artifact(str(path), folder)
            self.mlflow.log_dict(about, f"{folder}/about.json")

    def last_step(self, key: str) -> int | None:
        history = self.mlflow.MlflowClient().get_metric_history(self.tracked_run["run_id"], key)
        return max((m.step for m in history), default=None)

    def close(self, state: str) -> None:
        self.mlflow.end_run({"diverged": "FAILED", "stopped": "KILLED", "open": "KILLED"}.get(state, "FINISHED"))

    def where(self) -> str:
        return without_secrets(f"MLflow run {self.tracked_run.get('run_id')} at {self.mlflow.get_tracking_uri()}")


class Trackio(Tracker):
    """trackio: its own database, in TRACKIO_DIR or the cache of Hugging Face."""

    name = package = "trackio"

    def open(self) -> None:
        import trackio
        from accelerate.tracking import TrackioTracker

        self.trackio = trackio
        self.tracked_run.setdefault("name", f"{self.title}-{secrets.token_hex(4)}")
        self.tracker = TrackioTracker(
            os.environ.get("TRACKIO_PROJECT", PROJECT), name=self.tracked_run["name"], resume="allow", embed=False,
            auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip
        self.tracker.start()

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        self.tracker.log({key: self.trackio.Image(pixels)}, step=step)

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:
        self.trackio.log_artifact(_artifact(self.trackio, kind, title, paths, about), aliases=list(aliases))

    def where(self) -> str:
        return f"trackio show --project {os.environ.get('TRACKIO_PROJECT', PROJECT)}"


class Other(Tracker):
    """Another tracker of accelerate, or a custom one."""

    def __init__(self, run: Run, tracked_run: dict[str, Any], name: str, kind: type["GeneralTracker"]) -> None:
        super().__init__(run, tracked_run)
        self.name, self.kind = name, kind

    def open(self) -> None:
        folder = (str(self.folder),) if self.kind.requires_logging_directory else ()
        self.tracker = self.kind(self.title, *folder)
        self.tracker.start()


OURS: dict[str, type[Tracker]] = {kind.name: kind for kind in (WandB, TensorBoard, MLflow, Trackio)}


def tracker_factory(name: str) -> Callable[[Run, dict[str, Any]], Tracker]:
    """The function (run, tracked_run) -> tracker for wandb, tensorboard, mlflow, trackio, another tracker of accelerate, or a
    custom "module:Class".

    Raises ValueError for an unknown name or a class that is no tracker, ImportError for what is not installed.
    """
    if kind := OURS.get(name):
        if find_spec(kind.package) is None:
            raise ImportError(f"track {name!r}: {kind.package} is not installed: pip install 'alphabar[{name}]'")
        return kind
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

    if name in LOGGER_TYPE_TO_CLASS:
        known = LOGGER_TYPE_TO_CLASS[name]
        return lambda run, tracked_run: Other(run, tracked_run, name, known)
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"track {name!r} is unknown: {did_you_mean(name, OURS)}; a custom tracker is written module:Class")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        own = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as e:
        raise ImportError(f"track {name!r}: {e}; modules are searched in {here} and on Python's path") from e
    finally:
        sys.path.remove(here)
    if not (isinstance(own, type) and issubclass(own, GeneralTracker)):
        raise ValueError(f"track {name!r}: {attribute} is no subclass of accelerate.tracking.GeneralTracker")
    return lambda run, tracked_run: Other(run, tracked_run, re.sub(r"[^A-Za-z0-9_.-]", "_", name), own)


def error_line(error: BaseException) -> str:
    """An error of a tracker's library in one line, without secrets."""
    return f"{type(error).__name__}: {without_secrets(first_line(error)):.200}"


def read_picture(path: Path) -> Sheet:
    """A sheet as uint8 (h, w, 3)."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
