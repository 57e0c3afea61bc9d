"""Options of `experiment`, for Python and for the command line. Imports no torch, so that --help stays fast."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExperimentOptions:
    """How the trainings of an experiment are carried out; none of this changes their results."""

    reuse: tuple[Path, ...] = ()
    """Folders of other experiments: finished trainings of the same recipe, seed, budget and images are copied from them."""
    at_once: int = 1
    """Trainings that run side by side here, each in its own process: small networks leave a GPU idle most of the time."""
    ray: str | None = None
    """local, or the address of a Ray cluster whose machines all see the folder of the experiment under the same name."""
    device: str | None = None
    """Device for sampling: cpu, cuda or mps. None: the fastest there is."""
    shown: int = 16
    """Images of every variant on the page."""

    def __post_init__(self) -> None:
        if self.at_once < 1 or (self.ray is not None and self.at_once > 1):
            raise ValueError(
                f"at_once = {self.at_once}: give 1 or more, and leave it out with ray, which has its own share of machines"
            )
