"""What was sent and what is to be sent: for each tracker a place in the run's record, kept in tracking/NAME.json.

A tracker works in a thread of its own, behind training. It may fail, hang or be offline: what it has not got stays in the
record, is tried again, and can be sent later by `alphabar sync RUN`.
"""

import contextlib
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.core.files import write_atomically
from alphabar.core.run import ENDS, Run
from alphabar.tracking.messages import Message, configuration, messages
from alphabar.tracking.trackers import Link, link, read_picture
from alphabar.training.hooks import Hook, Training

LOOK = 1.0  # seconds between two looks at the record
FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0  # seconds before a tracker that failed is tried again
PATIENCE = 60.0  # seconds that the end of a training waits for its trackers
CHECKPOINTS = 600.0  # seconds between two checkpoints sent, but for the last one and the best one


class Outbox:
    """One tracker's place in the record of a run, and the way there. Used by one thread at a time."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name
        make = link(name)
        kept: dict[str, Any] = {"offset": 0, "sent": {}, "told": {}, "sending": None}
        file = run.path / "tracking" / f"{make(run, {}).name}.json"
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # nothing sent yet, or not readable: from the start
            kept |= json.loads(file.read_text(encoding="utf-8"))
        self.file, self.kept = file, kept
        self.link: Link = make(run, kept["told"])
        self.opened = False
        self.last_checkpoint = -CHECKPOINTS
        self.state = "open"

    def keep(self) -> None:
        write_atomically(self.file, json.dumps(self.kept, indent=1) + "\n")

    def open(self) -> None:
        """Reaches the tracker, and tells it once what the run is."""
        self.link.open()
        self.opened = True
        self.keep()
        if not self.kept.get("configured"):
            self.link.configure(configuration(self.run))
            if (data := self.run.path / "data.json").exists():
                about = json.loads(data.read_text(encoding="utf-8"))
                self.link.files("dataset", f"data-{about['fingerprint']}", [data], (), about)
            self.kept["configured"] = True
            self.keep()

    def pump(self, last: bool = False) -> None:
        """Sends what the record has and the tracker has not. last: no more will come, so nothing waits for its time."""
        for message in messages(self.run, self.kept["offset"]):
            if not self.opened:
                self.open()
            self._pass_on(message)
            self.kept["offset"] = message.end
            self.keep()
        if (last or time.monotonic() - self.last_checkpoint >= CHECKPOINTS) and self._newer():
            if not self.opened:
                self.open()
            self.kept["sent"]["latest"] = self._files(self.run.checkpoint(), "latest", {})
            self.last_checkpoint = time.monotonic()
            self.keep()

    def _newer(self) -> bool:
        """Whether the last checkpoint is younger than the one that was sent."""
        return _images_of(self.run.checkpoint()) > int(self.kept["sent"].get("latest", -1))

    def _pass_on(self, m: Message) -> None:
        """A run that was resumed repeats what came after its checkpoint, number for number, and may end again where it ended
        before: that was sent already."""
        if m.kind in ENDS:
            self.state = m.kind
        if m.images <= self.kept["sent"].get(m.kind, -1):
            return
        if m.folder is not None:
            self._files(m.folder, "best", m.notes)
        elif m.picture is not None:
            if m.picture.exists():
                pixels = read_picture(m.picture)
                self._once(m, ["samples"], lambda _: self.link.picture("samples", pixels, m.images))
        elif m.values:
            self._once(m, list(m.values), lambda keys: self.link.send({k: m.values[k] for k in keys}, m.images))
        self.kept["sent"][m.kind] = max(m.images, self.kept["sent"].get(m.kind, -1))

    def _once(self, m: Message, keys: list[str], send: Callable[[list[str]], None]) -> None:
        """Sends, with a note before it: of what a crash cut off, only the part goes again that has not arrived."""
        mark = [m.kind, m.images]
        if self.kept["sending"] == mark:
            keys = [k for k in keys if (last := self.link.last(k)) is None or last < m.images]
        self.kept["sending"] = mark
        self.keep()
        if keys:
            send(keys)
        self.kept["sending"] = None

    def _files(self, checkpoint: Path, alias: str, notes: Mapping[str, Any]) -> int:
        """A checkpoint's averaged weights and the recipe, with what they come from; gives the images that they have seen."""
        with _staged(checkpoint, self.run.path / "tracking") as (weights, images):
            if weights is None:  # it has been removed since
                return images
            about: dict[str, Any] = {k: v for k, v in notes.items() if k not in ("event", "time")} | {"images": images}
            with contextlib.suppress(OSError, ValueError):
                about["data"] = json.loads((self.run.path / "data.json").read_text(encoding="utf-8"))["fingerprint"]
            scores = [e for e in messages(self.run) if e.kind == "score" and e.images <= images]
            if scores:
                about["score"] = {"images": scores[-1].images, **scores[-1].values}
            safe = re.sub(r"[^A-Za-z0-9_.-]", "_", self.link.title)  # what all trackers take for a name
            title = f"{safe}-checkpoint"
            self.link.files("model", title, [weights, self.run.recipe], (alias,), about)
        sheets = sorted(self.run.samples.glob("preview_*.png"))
        if alias == "latest" and sheets:
            self.link.files("samples", f"{safe}-samples", [sheets[-1]], ("latest",), {"of": title, **about})
        return images

    def close(self) -> None:
        if self.opened:
            self.link.close(self.state)
            self.opened = False

    def left(self) -> int:
        """Messages that were not sent."""
        return sum(1 for _ in messages(self.run, self.kept["offset"])) + self._newer()


@contextlib.contextmanager
def _staged(folder: Path, scratch: Path) -> Iterator[tuple[Path | None, int]]:
    """The averaged weights of a checkpoint and the images they have seen, under a name that training does not replace
    meanwhile; None where there is no checkpoint any more."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".sending-") as own:
        weights, images = Path(own) / "ema.safetensors", -1
        for _ in range(5):  # training may put the next one in its place between two lines
            before = _images_of(folder)
            with contextlib.suppress(OSError):
                shutil.copyfile(folder / "ema.safetensors", weights)
                if _images_of(folder) == before:
                    images = before
                    break
            time.sleep(0.2)
        yield (weights if images >= 0 else None), images


def _images_of(checkpoint: Path) -> int:
    """Images that a checkpoint has seen; -1 where there is none."""
    try:
        return int(json.loads((checkpoint / "state.json").read_text(encoding="utf-8")).get("images", 0))
    except (OSError, ValueError, AttributeError):
        return -1


class Tracking(Hook):
    """A training's trackers. Threads begin with training; `end` gives them a while to catch up."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self.boxes = [Outbox(run, name) for name in names]
        self.run = run
        self.ending = threading.Event()
        self.threads: list[threading.Thread] = []
        self.trouble: dict[str, str] = {}

    def on_start(self, training: Training) -> None:
        self.begin()

    def begin(self) -> None:
        """Starts the threads; not before accelerate knows of all processes, since its trackers ask it."""
        # daemons: a tracker that hangs does not keep the program from ending
        self.threads = [threading.Thread(target=self._keep_up, args=(box,), daemon=True) for box in self.boxes]
        for thread in self.threads:
            thread.start()

    def _keep_up(self, box: Outbox) -> None:
        wait = FIRST_WAIT
        while True:
            last = self.ending.is_set()
            try:
                box.pump(last)
                if last:
                    where = box.link.where()
                    box.close()
                    print(f"{box.name}: {where}", file=sys.stderr)
                    self.trouble.pop(box.name, None)
                    return
                if self.trouble.pop(box.name, None):
                    print(f"{box.name} is back, and has all of the record", file=sys.stderr)
                wait = FIRST_WAIT
                self.ending.wait(LOOK)
            except (Exception, SystemExit) as e:  # whatever a tracker comes to must not reach training
                if box.name not in self.trouble:
                    line = (str(e).strip() or type(e).__name__).splitlines()[0]
                    print(
                        f"{box.name} does not answer ({type(e).__name__}: {line:.200}): training goes on, the record is kept in "
                        f"{self.run.path}, and the rest is tried again",
                        file=sys.stderr,
                    )
                self.trouble[box.name] = type(e).__name__
                if last:
                    return
                self.ending.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)

    def end(self) -> None:
        """Waits up to PATIENCE for what is on its way, and says how the rest can be sent."""
        self.ending.set()
        until = time.monotonic() + PATIENCE
        for thread in self.threads:
            thread.join(min(2.0, max(0.0, until - time.monotonic())))
        if waiting := [box.name for box, thread in zip(self.boxes, self.threads, strict=False) if thread.is_alive()]:
            print(f"sending the rest to {', '.join(waiting)}; Ctrl-C leaves it for later", file=sys.stderr)
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))
        late = [
            box.name
            for box, thread in zip(self.boxes, self.threads, strict=False)
            if thread.is_alive() or box.name in self.trouble
        ]
        if late:
            print(
                f"{', '.join(late)}: not all was sent; send the rest with: alphabar sync {self.run.path} --to {' '.join(late)}",
                file=sys.stderr,
            )


def sync(path: str | Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sends what trackers have not got of a run's record, also of one that had none while it was trained.

    Gives, by tracker, how many events were sent and where to look. Raises FileNotFoundError for a folder without a record,
    ValueError and ImportError as `trackers.link`, and whatever a tracker raises that does not answer.
    """
    run = Run(path)
    if not run.events.exists():
        raise FileNotFoundError(f"{run.path} has no record: wanted a run folder, as `alphabar train SET --out RUN` makes them")
    from accelerate import PartialState

    boxes = [Outbox(run, name) for name in names]
    PartialState()  # which accelerate's trackers ask who is to write
    found = {}
    for box in boxes:
        before = box.left()
        try:
            box.open()
            box.pump(last=True)
        finally:
            box.close()
        found[box.name] = {"sent": before - box.left(), "where": box.link.where()}
    return found
