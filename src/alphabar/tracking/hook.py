"""Tracking while a model trains: one background thread per tracker, whose failures never reach training."""

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from alphabar.core.files import locked
from alphabar.core.messages import command, say
from alphabar.core.run import Run
from alphabar.tracking.outbox import Outbox
from alphabar.tracking.trackers import error_line
from alphabar.training.hooks import Hook, Training

POLL_SECONDS = 1.0  # between two looks at the record
FIRST_RETRY, LAST_RETRY = 5.0, 300.0  # seconds before a failed tracker is tried again, doubled each time
NOTICE_SECONDS = 2.0  # per tracker at the end of training, before a message says that sending continues
END_SECONDS = 60.0  # that the end of training waits for all trackers


class Tracking(Hook):
    """Sends the record to trackers during training. What a tracker has not received can be sent later with `alphabar sync`."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self.boxes = [Outbox(run, name) for name in names]
        self.run = run
        self.ending = threading.Event()
        self.failing: set[str] = set()
        self.lock = ExitStack()
        # daemon threads: a tracker that hangs does not keep the program from ending
        self.threads = [threading.Thread(target=self._run, args=(box,), daemon=True) for box in self.boxes]

    def on_start(self, training: Training) -> None:
        self.start()

    def start(self) -> None:
        """Starts the threads. accelerate must know all processes by then, since its trackers ask it. Raises OSError where another
        process sends the same record."""
        self.lock.enter_context(locked(self.run.path / "tracking"))
        for thread in self.threads:
            thread.start()

    def _run(self, box: Outbox) -> None:
        retry = FIRST_RETRY
        while True:
            last = self.ending.is_set()
            try:
                box.send_new(last)
                if last:
                    where = box.tracker.where()
                    box.close()
                    say(f"{box.name}: {where}", sys.stderr)
                    self.failing.discard(box.name)
                    return
                if box.name in self.failing:
                    self.failing.discard(box.name)
                    say(f"{box.name} responds again and has received the whole record", sys.stderr)
                retry = FIRST_RETRY
                self.ending.wait(POLL_SECONDS)
            except (Exception, SystemExit) as e:  # no failure of a tracker may stop training
                if box.name not in self.failing:
                    then = f"training continues, the record stays in {self.run.path}, and sending is tried again"
                    say(f"{box.name} does not respond ({error_line(e)}): {then}", sys.stderr)
                self.failing.add(box.name)
                if last:
                    return
                self.ending.wait(retry)
                retry = min(2 * retry, LAST_RETRY)

    def end(self) -> None:
        """Waits up to END_SECONDS for the trackers, and prints how the rest can be sent."""
        self.ending.set()
        started = [(box.name, thread) for box, thread in zip(self.boxes, self.threads, strict=True) if thread.ident is not None]
        until = time.monotonic() + END_SECONDS
        for _, thread in started:
            thread.join(min(NOTICE_SECONDS, max(0.0, until - time.monotonic())))
        if sending := [name for name, thread in started if thread.is_alive()]:
            say(f"sending the rest to {', '.join(sending)}; Ctrl-C leaves it for later", sys.stderr)
        for _, thread in started:
            thread.join(max(0.0, until - time.monotonic()))
        if late := [name for name, thread in started if thread.is_alive() or name in self.failing]:
            again = command("alphabar", "sync", self.run.path, "--to", *late)
            say(f"{', '.join(late)}: not everything was sent; send the rest with: {again}", sys.stderr)
        self.lock.close()
