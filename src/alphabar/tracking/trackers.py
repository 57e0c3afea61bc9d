"""Trackers by name. All are accelerate's (`accelerate.tracking.GeneralTracker`); here is what they leave open: going on in the
same tracked run, sample sheets as uint8 PNG, checkpoints as artifacts, and where to look.

One of your own is a subclass of GeneralTracker with `name`, `requires_logging_directory`, `tracker`, `store_init_configuration`
and `log`, and is named "module:Class". Where it has `log_images(values, step)`, it gets sheets: {name: [(h, w, c) uint8]}.
"""

import importlib
import os
import re
import secrets
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from alphabar.core.run import Run

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Sheet = UInt8[np.ndarray, "h w 3"]
PROJECT = "alphabar"  # or what the tracker's own environment variable says


class Link(ABC):
    """A tracker and what is remembered of it. told: plain data that is kept with the run, and by which the next session finds
    the same tracked run again. `open` comes first, then `send`, `picture` and `files` in any order, then `close`."""

    name = ""
    package = ""
    tracker: "GeneralTracker"

    def __init__(self, run: Run, told: dict[str, Any]) -> None:
        self.run, self.told = run, told
        self.title = run.path.resolve().name

    @abstractmethod
    def open(self) -> None:
        """Reaches the tracker, and the tracked run of before where there was one."""

    def configure(self, values: dict[str, Any]) -> None:
        """Tells what decided the run, once."""
        self.tracker.store_init_configuration(values)

    def send(self, values: dict[str, float], step: int) -> None:
        self.tracker.log(values, step=step)

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        """A sheet of samples. Never floats, which some trackers rescale."""
        if hasattr(self.tracker, "log_images"):
            self.tracker.log_images({key: [pixels]}, step=step)

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:  # noqa: B027
        """Files under a name, as a new version of it. kind: dataset, model or samples. Nothing where a tracker keeps none."""

    def last(self, key: str) -> int | None:
        """The last step that the tracker has of a name, where it can say: asked for a message that a crash cut off."""
        return None

    def close(self, state: str) -> None:
        """state: finished, stopped, diverged, or open where a later session may go on."""
        self.tracker.finish()

    def where(self) -> str:
        """Where to look, or what to type in order to look."""
        return self.name


class WandB(Link):
    """Weights & Biases. Without a key, or with WANDB_MODE=offline, into a folder that `wandb sync` sends later."""

    name = package = "wandb"

    def open(self) -> None:
        import wandb
        from accelerate.tracking import WandBTracker

        self.told.setdefault("id", secrets.token_hex(4))
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb_key() else "offline")
        settings = wandb.Settings(console="off", silent=True)
        self.tracker = WandBTracker(
            os.environ.get("WANDB_PROJECT", PROJECT), id=self.told["id"], name=self.title, resume="allow", mode=mode,
            dir=os.environ.get("WANDB_DIR", str(self.run.path / "tracking")), settings=settings,
        )  # fmt: skip
        (self.run.path / "tracking").mkdir(parents=True, exist_ok=True)
        self.tracker.start()
        own = self.tracker.tracker
        self.offline = own.settings._offline
        if self.offline:
            self.told["folders"] = [*self.told.get("folders", []), str(own.settings.sync_dir)]
        else:
            self.told["url"] = own.url

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        from PIL import Image

        self.tracker.log_images({key: [Image.fromarray(pixels)]}, step=step)  # an array of floats would be rescaled

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:
        import wandb

        made = wandb.Artifact(title, type=kind, metadata=about)
        for path in paths:
            made.add_file(str(path))
        own = self.tracker.tracker
        if kind == "dataset" and not self.offline:
            own.use_artifact(made)  # an input of the run; without a connection there is no such call
        else:
            own.log_artifact(made, aliases=list(aliases))

    def close(self, state: str) -> None:
        self.tracker.tracker.finish(exit_code=1 if state == "diverged" else 0)

    def where(self) -> str:
        if url := self.told.get("url"):
            return str(url)
        return "offline; send it with: " + "; ".join(f"wandb sync {shlex.quote(f)}" for f in self.told.get("folders", []))


def wandb_key() -> bool:
    """Whether W&B knows who we are: without a key it would ask on the terminal, in the middle of a training."""
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


class TensorBoard(Link):
    """Event files in tracking/tensorboard of the run."""

    name = package = "tensorboard"

    def open(self) -> None:
        from accelerate.tracking import TensorBoardTracker

        self.tracker = TensorBoardTracker("tensorboard", str(self.run.path / "tracking"))
        self.tracker.start()

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        self.tracker.log_images({key: pixels[None]}, step=step, dataformats="NHWC")
        self.tracker.tracker.flush()

    def last(self, key: str) -> int | None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(self.run.path / "tracking" / "tensorboard"), {"scalars": 0, "images": 0})
        found.Reload()
        tags = found.Tags()
        events = found.Scalars(key) if key in tags["scalars"] else found.Images(key) if key in tags["images"] else []
        return max((e.step for e in events), default=None)

    def where(self) -> str:
        # it shows ten images of a name, picked at random, unless told otherwise
        folder = shlex.quote(str(self.run.path / "tracking" / "tensorboard"))
        return f"tensorboard --samples_per_plugin images=1000 --logdir {folder}"


class MLflow(Link):
    """MLflow, at MLFLOW_TRACKING_URI (its own default: mlflow.db here)."""

    name = package = "mlflow"

    def open(self) -> None:
        from accelerate.tracking import MLflowTracker

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        self.tracker = MLflowTracker(name, run_id=self.told.get("run_id"), run_name=self.title)
        self.tracker.start()
        self.told["run_id"] = self.tracker.tracker.info.run_id

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        import mlflow

        mlflow.log_image(pixels, key=key, step=step)

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:
        import mlflow

        for alias in aliases or (kind,):
            folder = f"{kind}/{alias}"
            for path in paths:
                mlflow.log_artifact(str(path), folder)
            mlflow.log_dict(about, f"{folder}/about.json")

    def last(self, key: str) -> int | None:
        import mlflow

        history = mlflow.MlflowClient().get_metric_history(self.told["run_id"], key)
        return max((m.step for m in history), default=None)

    def close(self, state: str) -> None:
        import mlflow

        mlflow.end_run({"diverged": "FAILED", "stopped": "KILLED", "open": "KILLED"}.get(state, "FINISHED"))

    def where(self) -> str:
        import mlflow

        return f"MLflow run {self.told.get('run_id')} at {mlflow.get_tracking_uri()}"


class Trackio(Link):
    """trackio: its own database, in TRACKIO_DIR or where Hugging Face keeps its things."""

    name = package = "trackio"

    def open(self) -> None:
        from accelerate.tracking import TrackioTracker

        self.told.setdefault("name", f"{self.title}-{secrets.token_hex(4)}")
        self.tracker = TrackioTracker(
            os.environ.get("TRACKIO_PROJECT", PROJECT), name=self.told["name"], resume="allow", embed=False,
            auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip
        self.tracker.start()

    def picture(self, key: str, pixels: Sheet, step: int) -> None:
        import trackio

        self.tracker.log({key: trackio.Image(pixels)}, step=step)

    def files(self, kind: str, title: str, paths: Sequence[Path], aliases: Sequence[str], about: dict[str, Any]) -> None:
        import trackio

        made = trackio.Artifact(title, type=kind, metadata=about)
        for path in paths:
            made.add_file(str(path))
        trackio.log_artifact(made, aliases=list(aliases))

    def where(self) -> str:
        return f"trackio show --project {os.environ.get('TRACKIO_PROJECT', PROJECT)}"


class Other(Link):
    """A tracker that accelerate knows by name, or one of the user's own."""

    def __init__(self, run: Run, told: dict[str, Any], name: str, kind: type["GeneralTracker"]) -> None:
        super().__init__(run, told)
        self.name, self.kind = name, kind

    def open(self) -> None:
        folder = (str(self.run.path / "tracking"),) if self.kind.requires_logging_directory else ()
        self.tracker = self.kind(self.title, *folder)
        self.tracker.start()


OURS: dict[str, type[Link]] = {kind.name: kind for kind in (WandB, TensorBoard, MLflow, Trackio)}


def link(name: str) -> Callable[[Run, dict[str, Any]], Link]:
    """What makes the link to a tracker: wandb, tensorboard, mlflow, trackio, another one of accelerate's, or "module:Class".

    Raises ValueError for an unknown name, ImportError for a package or module that is not there.
    """
    if kind := OURS.get(name):
        if find_spec(kind.package) is None:
            raise ImportError(f"track {name!r}: {kind.package} is not installed: pip install 'alphabar[{name}]'")
        return kind
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

    if name in LOGGER_TYPE_TO_CLASS:
        known = LOGGER_TYPE_TO_CLASS[name]
        return lambda run, told: Other(run, told, name, known)
    module, _, attribute = name.partition(":")
    if not attribute:
        near = get_close_matches(name, OURS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"track {name!r} is unknown{meant}: use some of {', '.join(OURS)}, or your own as module:Class")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        own = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as e:
        raise ImportError(f"track {name!r}: {e}; a module is looked for here ({here}) and where Python looks for others") from e
    finally:
        sys.path.remove(here)
    if not (isinstance(own, type) and issubclass(own, GeneralTracker)):
        raise ValueError(f"track {name!r}: {attribute} is no subclass of accelerate.tracking.GeneralTracker")
    return lambda run, told: Other(run, told, re.sub(r"[^A-Za-z0-9_.-]", "_", name), own)


def read_picture(path: Path) -> Sheet:
    """A sheet as uint8 (h, w, 3)."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
