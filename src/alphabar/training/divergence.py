"""Divergence: a loss that is NaN or explodes stops the run; a loss that has risen and stays high gives a warning."""

import math
import statistics

REMEDIES = "a lower learning rate (--train.lr), a longer warm-up (--train.warmup) or stronger clipping (--train.clip)"


class Diverged(FloatingPointError):
    """The loss became NaN or exploded. The last good checkpoint is kept."""


class LossMonitor:
    """The training losses of a session, one for each record of the log, and the two rules that they are checked by."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.warned = False

    def add(self, loss: float) -> None:
        """Adds a loss. Raises Diverged where it is not finite, or over ten times the median of the last twenty.

        Until three losses are known, only finiteness is checked.
        """
        usual = statistics.median(self.losses[-20:]) if self.losses else math.inf
        if not math.isfinite(loss):
            raise Diverged("is not a number")
        if len(self.losses) >= 3 and loss > 10 * usual:
            raise Diverged(f"rose to {loss:.3g} from {usual:.3g}")
        self.losses.append(loss)

    def stays_risen(self) -> tuple[float, float] | None:
        """(lowest loss, last loss) once the last three losses all exceed 1.5 times the lowest one before them.

        None otherwise, and after the first time, so that a run gets one warning. A network at too high a learning rate can
        lose what it has learned; the loss then stays at its starting value until the end of the run.
        """
        before, last = self.losses[:-3], self.losses[-3:]
        if self.warned or not before or min(last) <= 1.5 * min(before):
            return None
        self.warned = True
        return min(before), last[-1]
