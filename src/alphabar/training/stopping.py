"""What ends a training early: signals, after a step and with a checkpoint, a loss that diverges, a held-out loss that turns."""

import math
import signal
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from jaxtyping import Float64
from torch import Tensor

from alphabar.core.messages import say, signals_to

REMEDIES = "a lower learning rate (--train.lr), a longer warm-up (--train.warmup) or stronger clipping (--train.clip)"

PATIENCE = 3  # measurements without a new lowest held-out loss, after which a rise can end a training
FEWEST_HELDOUT = 20  # images whose losses have an interval that can be trusted, and of which one is in the tail of 5 %


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Inside the block, Ctrl-C, SIGTERM and SIGHUP (a closed terminal) set the event instead of ending the process; a second
    Ctrl-C raises at once.

    In a thread other than the main one, which cannot handle signals, the event is never set.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()
        say("\nstopping after this step, with a checkpoint", sys.stderr)

    with signals_to(handle):
        yield stop


class Diverged(FloatingPointError):
    """The loss became NaN or exploded. The last good checkpoint is kept."""


class LossMonitor:
    """Checks the training losses of a session, one for each record of the log."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.warned = False

    def add(self, loss: float) -> None:
        """Adds a loss. Raises Diverged where it is not finite or, from the fourth on, over 10 times the median of the last 20."""
        if not math.isfinite(loss):
            raise Diverged("is not a number")
        if len(self.losses) >= 3 and loss > 10 * (usual := statistics.median(self.losses[-20:])):
            raise Diverged(f"rose to {loss:.3g} from {usual:.3g}")
        self.losses.append(loss)

    def stays_risen(self) -> tuple[float, float] | None:
        """(lowest loss, last loss) once the last three all exceed 1.5 times the lowest one before; None otherwise and afterwards.

        At too high a learning rate a network can lose what it has learned; the loss then stays at its starting value.
        """
        before, last = self.losses[:-3], self.losses[-3:]
        if self.warned or not before or min(last) <= 1.5 * min(before):
            return None
        self.warned = True
        return min(before), last[-1]


def rise(best: Float64[Tensor, " n"], now: Float64[Tensor, " n"]) -> tuple[float, float, float]:
    """How much the mean loss has risen, relative to the best one, and the ends of its interval of three standard errors.

    Both have the losses of the same images at the same levels with the same noise, so that only the difference of each image
    varies: the interval is that of a mean of paired differences. Three, because the best of some twenty losses is low by chance.

    >>> import torch
    >>> [round(v, 3) for v in rise(torch.ones(4).double(), torch.tensor([1.1, 1.2, 1.1, 1.2]).double())]
    [0.15, 0.063, 0.237]
    """
    mean, off = float(best.mean()), now - best
    middle, half = float(off.mean()), 3 * float(off.std()) / len(off) ** 0.5
    return middle / mean, (middle - half) / mean, (middle + half) / mean


def turned(rises: Sequence[Sequence[float]]) -> bool:
    """Whether a loss has turned, by PATIENCE rises or more since the lowest one, the last two beyond their intervals."""
    return len(rises) >= PATIENCE and all(low > 0 for _, low, _ in rises[-2:])
