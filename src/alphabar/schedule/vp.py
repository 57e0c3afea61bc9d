"""Variance-preserving schedules: y = sqrt(alphabar) x0 + sqrt(1 - alphabar) eps, with sigma = sqrt((1 - alphabar) / alphabar).

A schedule is a frozen value with an inverse: alphabar(t), sigma(t) and t(sigma), all in float64.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from alphabar.types import Times


class Schedule(ABC):
    """What noise there is at time t. Times run from t_min (least noise) to t_max (most)."""

    kind: ClassVar[str]
    steps: int | None = None  # number of integer timesteps 0 .. steps - 1, or None where time is continuous

    @property
    @abstractmethod
    def t_min(self) -> float: ...

    @property
    @abstractmethod
    def t_max(self) -> float: ...

    @abstractmethod
    def alphabar(self, t: Times) -> Times:
        """Share of the signal's variance at time t, in (0, 1]."""

    @abstractmethod
    def t(self, sigma: Times) -> Times:
        """The time at which the noise is sigma: the inverse of `sigma`; outside the range its nearest end."""

    def sigma(self, t: Times) -> Times:
        """Noise level at time t, for clean images of scale 1."""
        ab = self.alphabar(t)
        return ((1 - ab) / ab).sqrt()

    @property
    def sigma_min(self) -> float:
        return float(self.sigma(torch.tensor(self.t_min, dtype=torch.float64)))

    @property
    def sigma_max(self) -> float:
        return float(self.sigma(torch.tensor(self.t_max, dtype=torch.float64)))

    def spec(self) -> dict[str, Any]:
        """Plain data from which `schedule_from` makes the schedule again."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Linear(Schedule):
    """DDPM's schedule: beta rises in a straight line over `steps` timesteps. Ho et al. 2020 (arXiv:2006.11239), sec. 4.

    beta_max = 0.02 is the paper's value. At 28x28 or 32x32 it spends hundreds of steps on images that are
    already pure noise; beta_max = 0.01 keeps some signal to the end (alphabar about 0.006).
    Between integer timesteps log sigma is a straight line, so t(sigma) is the exact inverse of sigma(t).
    """

    beta_min: float = 1e-4
    beta_max: float = 0.02
    steps: int = 1000

    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < 1:
            raise ValueError(
                f"betas {self.beta_min}..{self.beta_max}: give 0 < beta_min <= beta_max < 1, as in Linear(1e-4, 0.02)"
            )
        if self.steps < 2:
            raise ValueError(f"steps = {self.steps}: a schedule needs at least 2, as in Linear(steps=1000)")

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return self.steps - 1.0

    @cached_property
    def betas(self) -> Times:
        return torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64)

    @cached_property
    def _log_sigma(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        log_ab = torch.log1p(-self.betas).cumsum(0)
        return (0.5 * (torch.log(-torch.expm1(log_ab)) - log_ab)).numpy()

    def sigma(self, t: Times) -> Times:
        x = np.interp(_host(t), np.arange(self.steps), self._log_sigma)
        return torch.from_numpy(np.asarray(np.exp(x))).to(t.device)

    def alphabar(self, t: Times) -> Times:
        return 1 / (1 + self.sigma(t) ** 2)

    def t(self, sigma: Times) -> Times:
        with np.errstate(divide="ignore"):  # sigma = 0 is before the first timestep, whose time np.interp gives
            x = np.interp(np.log(_host(sigma)), self._log_sigma, np.arange(self.steps, dtype=np.float64))
        return torch.from_numpy(np.asarray(x)).to(sigma.device)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alphabar(t) = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) * pi / 2). Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17.

    Time is continuous. At t = 1 there is no signal left and sigma is infinite, so training and grids end at t_end.
    """

    s: float = 0.008  # keeps the steps near t = 0 from being too small; the paper's value
    t_start: float = 1e-4
    t_end: float = 0.992  # sigma = 79

    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        if not 0 <= self.t_start < self.t_end < 1:
            raise ValueError(f"times {self.t_start}..{self.t_end}: give 0 <= t_start < t_end < 1, as in Cosine()")

    @property
    def t_min(self) -> float:
        return self.t_start

    @property
    def t_max(self) -> float:
        return self.t_end

    def _f(self, t: Times) -> Times:
        return torch.cos((t + self.s) / (1 + self.s) * torch.pi / 2) ** 2

    def alphabar(self, t: Times) -> Times:
        t = t.to(torch.float64) if t.device.type != "mps" else t
        return self._f(t) / self._f(torch.zeros_like(t))

    def t(self, sigma: Times) -> Times:
        f = self._f(torch.zeros_like(sigma)) / (1 + sigma**2)
        t = torch.acos(f.sqrt()) * 2 / torch.pi * (1 + self.s) - self.s
        return t.clamp(self.t_start, self.t_end)


@dataclass(frozen=True)
class LogSigma(Schedule):
    """Time is log(sigma) / 4, the conditioning of EDM (Karras et al. 2022, arXiv:2206.00364, table 1, "c_noise").

    With prediction "v" and data_range = 1 / sigma_data this makes a denoiser of EDM's preconditioning, exactly.
    Levels are in the units of the scaled images: low and high are sigma_min / sigma_data and sigma_max / sigma_data.
    """

    low: float = 0.004
    high: float = 160.0

    kind: ClassVar[str] = "log_sigma"

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"levels {self.low}..{self.high}: give 0 < low < high, as in LogSigma(0.004, 160)")

    @property
    def t_min(self) -> float:
        return float(np.log(self.low) / 4)

    @property
    def t_max(self) -> float:
        return float(np.log(self.high) / 4)

    def sigma(self, t: Times) -> Times:
        return torch.exp(4 * t)

    def alphabar(self, t: Times) -> Times:
        return 1 / (1 + self.sigma(t) ** 2)

    def t(self, sigma: Times) -> Times:
        return (torch.log(sigma) / 4).clamp(self.t_min, self.t_max)


@dataclass(frozen=True)
class Scaled(Schedule):
    """A schedule in the one coordinate, for a model whose network sees data_range * x0.

    y = sqrt(alphabar) data_range x0 + sqrt(1 - alphabar) eps is x = x0 + sigma eps with
    sigma = sqrt((1 - alphabar) / alphabar) / data_range: a narrower range is more noise at the same t.
    """

    base: Schedule
    data_range: float = 1.0

    kind: ClassVar[str] = "scaled"

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        return self.base.steps

    @property
    def t_min(self) -> float:
        return self.base.t_min

    @property
    def t_max(self) -> float:
        return self.base.t_max

    def sigma(self, t: Times) -> Times:
        return self.base.sigma(t) / self.data_range

    def alphabar(self, t: Times) -> Times:
        """The base schedule's alphabar, which is 1 / (1 + (data_range sigma)^2)."""
        return self.base.alphabar(t)

    def t(self, sigma: Times) -> Times:
        return self.base.t(sigma * self.data_range)


KINDS: dict[str, type[Linear] | type[Cosine] | type[LogSigma]] = {c.kind: c for c in (Linear, Cosine, LogSigma)}


def schedule_from(spec: dict[str, Any]) -> Schedule:
    """The schedule that `spec` describes: {"kind": "linear", "beta_max": 0.01} and so on.

    Raises ValueError for an unknown kind or key, naming those there are.
    """
    args = dict(spec)
    kind = args.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"schedule kind {kind!r} is unknown: use one of {', '.join(KINDS)}")
    known = list(KINDS[kind].__dataclass_fields__)
    if unknown := sorted(set(args) - set(known)):
        raise ValueError(f"schedule {kind!r} has no {', '.join(unknown)}: it takes {', '.join(known)}")
    return KINDS[kind](**args)


def _host(t: Times) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return t.detach().to("cpu", torch.float64).numpy()
