"""The choice of the method that finishes the work soonest on this machine, by measurement."""

from collections.abc import Sequence

from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.runtime.methods import METHODS, prepare, unavailable
from alphabar.denoiser.runtime.timings import ROUNDS, Timing, TimingFile, measure

# Methods in order of the cost of trying them; a stage is tried only where it can pay, given the results of those before.
STAGES = (("eager", "channels_last"), ("cuda_graphs", "onnxruntime", "openvino", "mnn"), ("compile",))
EXPECTED_SAVING = 0.1  # share of the time that a method of a later stage saves; 5 to 15 % against channels_last were measured
WITHOUT_TIMINGS = ("channels_last", "eager")


class Choice:
    """Measures what is worth measuring and chooses. `timings` and `failed` (reasons by method) say how it came about.

    Args:
        job: what is to be run.
        work: images times network calls that are to come; None: unlimited.
        file: timings of earlier sessions.
    """

    def __init__(self, job: Job, work: int | None, file: TimingFile) -> None:
        self.job, self.work, self.file = job, work, file
        self.failed = {m: reason for m in METHODS if (reason := unavailable(m, job.device, job.precision))}
        self.timings = {m: v for m, v in file.read().items() if m not in self.failed}
        for stage in STAGES:
            self._try([m for m in stage if m not in self.failed and self._worth_trying(m)])
        self.method = self._first_that_works()

    def _worth_trying(self, name: str) -> bool:
        """Whether a method without timing may save more time than its preparation and measurement take."""
        if name in self.timings:
            return False
        if self.work is None:
            return True
        measuring = (ROUNDS + 2) * self.job.batch  # images times calls
        if not self.timings:
            return self.work > 10 * measuring
        fastest = min(v.seconds for v in self.timings.values())
        return EXPECTED_SAVING * (self.work - measuring) * fastest > METHODS[name].seconds

    def _try(self, names: Sequence[str]) -> None:
        """Prepares and times methods, and stores the results."""
        ready = []
        for name in names:
            try:
                prepare(self.job, name)
                ready.append(name)
            except (RuntimeError, ImportError) as e:
                self.failed[name] = str(e)
        if not ready:
            return
        # The fastest method so far is timed again along with them, so that a change in the machine's load cancels out.
        fastest = min(self.timings, key=lambda m: self.timings[m].seconds) if self.timings else ready[0]
        taken = measure(self.job, [*dict.fromkeys([fastest, *ready])])
        scale = self.timings[fastest].seconds / taken[fastest] if self.timings else 1.0
        self.timings |= {m: Timing(taken[m] * scale, self.job.prepared[m].seconds) for m in ready}
        self.file.write(self.timings)

    def _total(self, name: str) -> float:
        """Seconds for the whole work, with the preparation if it is still to come."""
        remaining = 0.0 if name in self.job.prepared or self.work is None else self.timings[name].prepare
        return remaining + self.timings[name].seconds * (self.work or 1)

    def _first_that_works(self) -> str:
        order = sorted(self.timings, key=self._total)
        for name in dict.fromkeys([*order, *WITHOUT_TIMINGS]):
            try:
                prepare(self.job, name)
                return name
            except (RuntimeError, ImportError) as e:  # it worked when it was measured
                self.failed[name] = str(e)
        raise RuntimeError("no method can run the network here: " + "; ".join(f"{m}: {w}" for m, w in self.failed.items()))
