"""Trainings of a network that becomes one file: stopped or killed, the same call continues them exactly where they were."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from alphabar.core.files import json_text
from alphabar.core.parts import Parts
from alphabar.core.stored_values import naming
from alphabar.training.checkpoint import optimizer_tensors, restore_optimizer
from alphabar.training.stopping import stop_signals

SAVE_SECONDS = 60.0  # between two states
STATE = "state.npz"


@contextmanager
def unfinished(
    part: Path | None, what: str, protocol: Mapping[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator["Unfinished"]:  # fmt: skip
    """In the block, `network` is trained from where an earlier call was stopped; a signal ends it after its step, with the state.

    Args:
        part: folder for the state, removed where the block ends without an error. None: none is kept, and signals do as ever.
        what: in the plural, for messages.
        protocol: what decides the training, as plain data.

    Raises:
        ValueError: where `part` holds the state of another training, or a damaged one.
    """
    if part is None:
        yield Unfinished(None, threading.Event(), network, optimizer)
        return
    parts = Parts(part, f"unfinished {what}")
    with parts.locked(), stop_signals() as stop:
        parts.claim(protocol)
        yield Unfinished(parts, stop, network, optimizer)
        parts.clear()


class Unfinished:
    """A training in progress. step: steps that earlier calls have done; more: what they have kept in addition to
    weights and moments."""

    def __init__(
        self, parts: Parts | None, stop: threading.Event, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:  # fmt: skip
        self.parts, self.stop, self.network, self.optimizer = parts, stop, network, optimizer
        self.step, self.before, self.more = 0, 0.0, dict[str, Any]()
        if parts is not None and (stored := parts.load(STATE)) is not None:
            with naming(f"{parts.path(STATE)} is damaged: delete {parts.folder}, and the training starts again"):
                tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in stored.items()}
                network.load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("w.")})
                restore_optimizer(optimizer, {k[2:]: v for k, v in tensors.items() if k.startswith("m.")})
                self.step, self.before = int(stored["step"]), float(stored["seconds"])
                self.more = json.loads(stored["more"].tobytes()) if "more" in stored else {}
        self.started = self.saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, those of earlier calls included."""
        return self.before + time.monotonic() - self.started

    def after(self, step: int, steps: int, batch: int, more: Callable[[], Mapping[str, Any]] = dict) -> None:
        """To be called after every step, when `step` of `steps` are done; `more` gives plain data and arrays, which the next
        call finds as lists.

        Raises KeyboardInterrupt after a signal.
        """
        stopped, now = self.stop.is_set(), time.monotonic()
        if self.parts is None or not (stopped or now - self.saved > SAVE_SECONDS):
            return
        tensors = {f"w.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"m.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}
        text = json_text(more(), default=np.ndarray.tolist)
        known = {"step": step, "seconds": self.seconds, "more": np.frombuffer(text.encode(), np.uint8)}
        self.parts.save(STATE, known | {k: v.detach().cpu().numpy() for k, v in tensors.items()})
        self.saved = now
        if stopped and step < steps:
            raise KeyboardInterrupt(f"stopped after {step * batch} images")
