"""The record of a run as messages for a tracker, which is a copy of the record: what has been sent and what is still to be sent,
by a position in the record that is kept in tracking/NAME.json."""

import contextlib
import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from alphabar.core.files import json_text, locked, temporary, write_json
from alphabar.core.messages import as_path
from alphabar.core.places import without_places
from alphabar.core.run import ENDS, Run, flat
from alphabar.core.stored_names import TRACKING, renamed
from alphabar.core.stored_values import read_object, read_toml
from alphabar.tracking.trackers import Tracker, error_line, read_picture, tracker_factory
from alphabar.training.checkpoint import read_state

CHECKPOINT_SECONDS = 600.0  # between two checkpoints sent, except for the last one and the best one
LOGGED = ("loss", "lr", "images_per_second", "frechet_1", "frechet_2")  # of a training step


@dataclass(frozen=True)
class Message:
    """One event of a run."""

    kind: str
    images: int  # trained on so far; a tracker's step
    end: int  # position in the record, in bytes, after this event
    values: dict[str, float] = field(default_factory=dict)  # finite numbers by name
    picture: Path | None = None  # a sheet of samples as PNG
    folder: Path | None = None  # the best checkpoint so far
    notes: Mapping[str, Any] = field(default_factory=dict)  # the whole event


def read_messages(run: Run, offset: int = 0) -> Iterator[Message]:
    """The events after the first `offset` bytes of the record, without lines that a crash has truncated. A last line without its
    end is still being written and is left for later."""
    if not run.events.exists():
        return
    with run.events.open("rb") as f:
        f.seek(offset)
        for line in f:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("event"), str) and isinstance(row.get("images"), int):
                yield _message(run, row, offset)


def _message(run: Run, row: Mapping[str, Any], end: int) -> Message:
    kind, images = str(row["event"]), int(row["images"])
    if kind == "preview" and isinstance(row.get("path"), str):
        return Message(kind, images, end, picture=run.path / row["path"], notes=row)
    if kind == "best":
        return Message(kind, images, end, folder=run.checkpoint("best"), notes=row)
    return Message(kind, images, end, _numbers(kind, row), notes=row)


def _numbers(kind: str, row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an event as Python floats, which every tracker accepts."""
    found: dict[str, Any] = {}
    if kind == "loss":
        found = {f"train/{key}": row.get(key) for key in LOGGED}
    elif kind == "heldout":
        found = {f"heldout/{key}": row.get(key) for key in ("loss", "se")}
        for band in row.get("bands") or []:
            low, high = band["sigma"]
            found[f"heldout/sigma_{low:.2g}_to_{high:.2g}"] = band.get("loss")
    elif kind == "score":
        for score in row.get("scores") or []:
            name = f"score/{score.get('metric')}"
            low, high = score.get("interval") or (None, None)
            found |= {name: score.get("value"), f"{name}_low": low, f"{name}_high": high, f"{name}_floor": score.get("floor")}
    elif kind in ENDS:
        found = {"seconds": row.get("seconds")}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)}


def configuration(run: Run) -> dict[str, bool | int | float | str]:
    """The resolved recipe, the data and the machine, flat, in the few types that every tracker accepts."""
    found = run.recipe_keys()
    for file, key in (("data.json", "data_seen"), ("machine.json", "machine")):
        if (path := run.path / file).exists():
            found |= flat({key: read_object(path)})
    found = without_places(found)
    return {k: v if isinstance(v, bool | int | float | str) else json_text(v) for k, v in found.items()}


class Outbox:
    """One tracker's position in the record of a run, and the tracker. For one thread at a time. Raises as `tracker_factory`."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        make = tracker_factory(name)
        self.file = run.path / "tracking" / f"{make(run, {}).name}.json"
        self.position: dict[str, Any] = {"offset": 0, "sent": {}, "tracked_run": {}, "sending": None}
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, AttributeError):  # absent or damaged: from the start
            self.position |= renamed(read_object(self.file), TRACKING)
        self.tracker: Tracker = make(run, self.position["tracked_run"])
        self.opened = False
        self.last_checkpoint = -CHECKPOINT_SECONDS
        self.state = "open"

    def open(self) -> None:
        """Connects to the tracker, unless it is connected, and once per run sends the configuration and the data card."""
        if self.opened:
            return
        self.tracker.open()
        self.opened = True
        self._save()
        if not self.position.get("configured"):
            self.tracker.configure(configuration(self.run))
            if (data := self.run.path / "data.json").exists():
                about = without_places(read_object(data))
                self.tracker.files("dataset", f"data-{about['fingerprint']}", [data], (), about)
            self.position["configured"] = True
            self._save()

    def send_new(self, last: bool = False) -> None:
        """Sends what the record has and the tracker has not. last: no more will come, so the last checkpoint goes too."""
        for message in read_messages(self.run, self.position["offset"]):
            self.open()
            self._send(message)
            self.position["offset"] = message.end
            self._save()
        if (last or time.monotonic() - self.last_checkpoint >= CHECKPOINT_SECONDS) and self._has_new_checkpoint():
            self.open()
            self.position["sent"]["latest"] = self._send_checkpoint(self.run.checkpoint(), "latest", {})
            self.last_checkpoint = time.monotonic()
            self._save()

    def close(self) -> None:
        if self.opened:
            self.tracker.close(self.state)
            self.opened = False

    def unsent(self) -> int:
        """Number of events and checkpoints that were not sent."""
        return sum(1 for _ in read_messages(self.run, self.position["offset"])) + self._has_new_checkpoint()

    def _save(self) -> None:
        write_json(self.file, self.position)

    def _has_new_checkpoint(self) -> bool:
        return _images_of(self.run.checkpoint()) > int(self.position["sent"].get("latest", -1))

    def _send(self, m: Message) -> None:
        """Sends one message, unless a message of its kind with as many images was sent already: a resumed run repeats the events
        after its checkpoint, number for number."""
        if m.kind in ENDS:
            self.state = m.kind
        if m.images <= self.position["sent"].get(m.kind, -1):
            return
        if m.folder is not None:
            self._send_checkpoint(m.folder, "best", m.notes)
        elif m.picture is not None:
            if m.picture.exists():
                pixels = read_picture(m.picture)
                self._send_once(m, ["samples"], lambda _: self.tracker.picture("samples", pixels, m.images))
        elif m.values:
            self._send_once(m, list(m.values), lambda keys: self.tracker.send({k: m.values[k] for k in keys}, m.images))
        self.position["sent"][m.kind] = m.images

    def _send_once(self, m: Message, keys: list[str], send: Callable[[list[str]], None]) -> None:
        """Sends the values named by `keys`. The position says so beforehand, so that after a crash in between only those are sent
        again that the tracker does not have."""
        sending = [m.kind, m.images]
        if self.position["sending"] == sending:
            keys = [k for k in keys if (last := self.tracker.last_step(k)) is None or last < m.images]
        self.position["sending"] = sending
        self._save()
        if keys:
            send(keys)
        self.position["sending"] = None

    def _send_checkpoint(self, checkpoint: Path, alias: str, notes: Mapping[str, Any]) -> int:
        """Sends averaged weights with recipe, data fingerprint and last score. Returns the images they were trained on."""
        with _copied_weights(checkpoint, self.run.path / "tracking") as (weights, images):
            if weights is None:  # the checkpoint has been removed
                return images
            about: dict[str, Any] = {k: v for k, v in notes.items() if k not in ("event", "time")} | {"images": images}
            with contextlib.suppress(OSError, ValueError):
                about["data"] = read_object(self.run.path / "data.json")["fingerprint"]
            if scores := [e for e in read_messages(self.run) if e.kind == "score" and e.images <= images]:
                about["score"] = {"images": scores[-1].images, **scores[-1].values}
            recipe = weights.with_name(self.run.recipe.name)
            recipe.write_text(tomli_w.dumps(without_places(read_toml(self.run.recipe))), encoding="utf-8")
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", self.tracker.title)  # characters that all trackers accept
            self.tracker.files("model", title := f"{name}-checkpoint", [weights, recipe], (alias,), about)
        sheets = sorted(self.run.samples.glob("preview_*.png"))
        if alias == "latest" and sheets:
            self.tracker.files("samples", f"{name}-samples", [sheets[-1]], ("latest",), {"of": title, **about})
        return images


@contextlib.contextmanager
def _copied_weights(checkpoint: Path, scratch: Path) -> Iterator[tuple[Path | None, int]]:
    """(a copy of the averaged weights, images they were trained on), which training cannot replace during the upload; (None, -1)
    where there is no checkpoint."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".sending-", suffix=temporary("")) as folder:
        weights, images = as_path(folder) / "ema.safetensors", -1
        for _ in range(5):  # training may replace the checkpoint between two lines
            before = _images_of(checkpoint)
            with contextlib.suppress(OSError):
                shutil.copyfile(checkpoint / "ema.safetensors", weights)
                if _images_of(checkpoint) == before:
                    images = before
                    break
            time.sleep(0.2)
        yield (weights if images >= 0 else None), images


def _images_of(checkpoint: Path) -> int:
    """Images that a checkpoint was trained on; -1 where there is none."""
    try:
        return int(read_state(checkpoint)["images"])
    except (OSError, ValueError):
        return -1


def sync(path: str | Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sends to trackers what they do not have of a run's record, even if the run was trained without them.

    Args:
        path: the run folder.
        names: trackers, as `tracker_factory` reads them and with its errors.

    Returns:
        By tracker: "sent", the number of events and checkpoints, and "where", the place to look.

    Raises:
        FileNotFoundError: if the folder has no record.
        ConnectionError: if a tracker does not respond.
        OSError: if another process is sending the run's record.
    """
    run = Run(path)
    if not run.events.exists():
        raise FileNotFoundError(f"{run.path} has no record: wanted a run folder, as `alphabar train SET --out RUN` makes them")
    from accelerate import PartialState

    found = {}
    with locked(run.path / "tracking"):
        boxes = [Outbox(run, name) for name in names]
        PartialState()  # accelerate's trackers ask it which process writes
        for box in boxes:
            before = box.unsent()
            try:
                box.open()
                box.send_new(last=True)
                box.close()
            except (Exception, SystemExit) as e:
                again = "nothing is lost: the same command sends the rest"
                raise ConnectionError(f"{box.name} does not respond ({error_line(e)}); {again}") from e
            found[box.name] = {"sent": before - box.unsent(), "where": box.tracker.where()}
    return found
