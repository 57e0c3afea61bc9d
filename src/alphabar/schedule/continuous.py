"""Schedules of continuous time: the cosine, EDM's log sigma, and the straight path of flow matching."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from alphabar.core.types import Times
from alphabar.schedule.base import Schedule


class _Interval(Schedule):
    """A schedule whose times run from its field t_start to its field t_end."""

    t_start: float
    t_end: float

    @property
    def t_min(self) -> float:
        return self.t_start

    @property
    def t_max(self) -> float:
        return self.t_end


@dataclass(frozen=True)
class Cosine(_Interval):
    """alphabar(t) = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) * pi / 2). Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17.

    At t = 1 no signal is left and sigma is infinite, so training and grids end at t_end.

    Args:
        s: offset that keeps the steps near t = 0 from being too small; 0.008 is the paper's value.
        t_start: first time, 0 <= t_start < t_end.
        t_end: last time, below 1; sigma(0.992) = 79.

    >>> Cosine().alphabar(torch.tensor([0.0, 0.5], dtype=torch.float64))
    tensor([1.0000, 0.4938], dtype=torch.float64)
    """

    s: float = 0.008
    t_start: float = 1e-4
    t_end: float = 0.992

    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.t_start < self.t_end < 1:
            raise ValueError(f"times {self.t_start}..{self.t_end}: give 0 <= t_start < t_end < 1, as in Cosine()")
        if not 0 <= self.s <= 1:
            raise ValueError(f"s = {self.s}: give an offset from 0 to 1, as in Cosine(s=0.008)")

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
    """Time is log(sigma) / 4, which EDM conditions its network on (Karras et al. 2022, arXiv:2206.00364, table 1, "c_noise").

    With prediction "v" and data_range = 1 / sigma_data the model is exactly EDM's preconditioned denoiser.
    Levels are in units of the scaled images: low and high are sigma_min / sigma_data and sigma_max / sigma_data.
    """

    low: float = 0.004
    high: float = 160.0

    kind: ClassVar[str] = "log_sigma"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1e-9 <= self.low < self.high <= 1e9:
            raise ValueError(f"levels {self.low}..{self.high}: give 1e-9 <= low < high <= 1e9, as in LogSigma(0.004, 160)")

    @property
    def t_min(self) -> float:
        return float(np.log(self.low) / 4)

    @property
    def t_max(self) -> float:
        return float(np.log(self.high) / 4)

    def sigma(self, t: Times) -> Times:
        return torch.exp(4 * t)

    def t(self, sigma: Times) -> Times:
        return (torch.log(sigma) / 4).clamp(self.t_min, self.t_max)


@dataclass(frozen=True)
class Flow(_Interval):
    """The straight path of flow matching, y = (1 - t) x0 + t eps: sigma(t) = t / (1 - t).

    Lipman et al. 2023 (arXiv:2210.02747) and Liu et al. 2023 (arXiv:2209.03003), both with time reversed. At t = 1 no signal
    is left, so training and grids end at t_end. A normal density of log sigma = logit(t) is the logit-normal density of t
    (Esser et al. 2024, arXiv:2403.03206, eq. 19). Use it with prediction "flow", which scales the network's input to y.
    """

    t_start: float = 1e-3
    t_end: float = 0.9875  # sigma = 79

    kind: ClassVar[str] = "flow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.t_start < self.t_end < 1:
            raise ValueError(f"times {self.t_start}..{self.t_end}: give 0 < t_start < t_end < 1, as in Flow()")

    def sigma(self, t: Times) -> Times:
        return t / (1 - t)

    def t(self, sigma: Times) -> Times:
        return (sigma / (1 + sigma)).clamp(self.t_start, self.t_end)
