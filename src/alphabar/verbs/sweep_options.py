"""Options of `sweep`, for Python and for the command line. Imports no torch, so that --help stays fast."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter


@dataclass(frozen=True)
class SweepOptions:
    """Which settings a sweep tries, and how each of them is sampled and scored."""

    samplers: tuple[str, ...] | None = None
    """Names of samplers (`alphabar samplers` lists them), tuned, or tuned:NAME; with options as "heun(s_churn=40)". None: ddim,
    the usual fast samplers, and tuned where the run has fitted samplers."""
    calls: tuple[int, ...] | None = None
    """The most network calls an image; each sampler takes as many steps as they pay for. None: 5 8 10 15 20 50, or none of them
    where steps are given."""
    steps: tuple[int, ...] = ()
    """Numbers of steps to try in addition to those that follow from calls."""
    etas: Annotated[tuple[float, ...] | None, Parameter(alias="--eta")] = None
    """Values of eta for the samplers that take it. None: 0 and 1 for ddim and samplers like it, 1 for stochastic ones."""
    plans: tuple[str, ...] = ("full",)
    """Call plans: full calls the network at every step, "every(3)" at every third. A plan takes as many steps as calls allow."""
    grids: tuple[str, ...] = ("default",)
    """Grids of noise levels, named as for `sample`; default is the model's."""
    clip: bool | None = None
    """Clip x0_hat to [-1, 1] at every step. None: as the model says."""
    threshold: float | None = None
    """Dynamic thresholding of x0_hat: the share of pixels that is kept unclipped, such as 0.995."""
    guidance: float = 1.0
    """Weight of classifier-free guidance of a class-conditional model, which samples all classes in turns. 1 is none; any other
    doubles the network calls."""
    n: int = 2000
    """Images a setting."""
    seed: int = 0
    """Seed of the noise, the same under every setting."""
    batch: int = 64
    """Images in one network call."""
    extractor: str | Path = "bundled"
    """Feature extractor of the scores: bundled, a path, inception:original or inception:clean."""
    metrics: tuple[str, ...] = ("fid", "kid")
    """Metrics, as for `score`. The first one sorts the table."""
    name: str = "default"
    """The sweep is kept in RUN/sweeps/NAME."""
    out: Path | None = None
    """Folder to keep the sweep in, in place of RUN/sweeps/NAME. None, for bundled and for a single file: sweep/."""
    checkpoint: str = "last"
    """last or best."""
    device: str | None = None
    """cpu, cuda or mps. None: the fastest there is."""
    fast: str | None = None
    """How the network is run, as for `sample`. None: as a plain PyTorch module."""
    ray: str | None = None
    """local, or the address of a Ray cluster, whose machines sample and score the settings. They must find run, extractor and
    real images under the names given here. Needs pip install 'alphabar[ray]'."""
    shown: int = 16
    """Images of every setting on the page."""

    def __post_init__(self) -> None:
        for field in fields(self):  # a worker caches by options, so they must be hashable
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        if self.n < 1 or self.batch < 1 or self.shown < 1:
            raise ValueError(f"n = {self.n}, batch = {self.batch}, shown = {self.shown}: give 1 or more of each")
        if not self.metrics:
            raise ValueError("no metrics were named: give at least one, as fid")

    def tried(self) -> dict[str, Any]:
        """What `alphabar.sampling.settings.settings` takes: the combinations to try."""
        names = ("samplers", "steps", "etas", "plans", "grids", "clip", "threshold")
        calls = {} if self.calls is None and not self.steps else {"calls": self.calls or ()}
        return {name: getattr(self, name) for name in names} | calls
