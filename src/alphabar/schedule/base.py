"""What every noise schedule offers: alphabar(t), sigma(t) and the inverse t(sigma), all in float64. A schedule is a frozen
value that describes y = sqrt(alphabar) x0 + sqrt(1 - alphabar) eps, with sigma = sqrt((1 - alphabar) / alphabar)."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from alphabar.core.bounds import Checked
from alphabar.core.types import Times


class Schedule(Checked, ABC):
    """The noise at time t. Times run from t_min (least noise) to t_max (most). A subclass defines `sigma` or `alphabar`."""

    kind: ClassVar[str]
    steps: int | None = None  # number of integer timesteps 0 .. steps - 1, or None if time is continuous

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether t_max is pure noise, without any signal, so that eps does not determine x0 there (Lin et al. 2024)."""
        return False

    @property
    @abstractmethod
    def t_min(self) -> float: ...

    @property
    @abstractmethod
    def t_max(self) -> float: ...

    def alphabar(self, t: Times) -> Times:
        """Share of the signal in the variance at time t, in (0, 1]."""
        return 1 / (1 + self.sigma(t) ** 2)

    def sigma(self, t: Times) -> Times:
        """Noise level at time t, for clean images of scale 1."""
        ab = self.alphabar(t)
        return ((1 - ab) / ab).sqrt()

    @abstractmethod
    def t(self, sigma: Times) -> Times:
        """The time at which the noise level is sigma: the inverse of `sigma`, clamped to t_min..t_max."""

    @property
    def sigma_min(self) -> float:
        return float(self.sigma(torch.tensor(self.t_min, dtype=torch.float64, device="cpu")))

    @property
    def sigma_max(self) -> float:
        return float(self.sigma(torch.tensor(self.t_max, dtype=torch.float64, device="cpu")))

    def spec(self) -> dict[str, Any]:
        """Plain data from which `alphabar.schedule.kinds.schedule_from` makes the schedule again."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Scaled(Schedule):
    """A schedule in the one coordinate, for a model whose network is given data_range * x0.

    y = sqrt(alphabar) data_range x0 + sqrt(1 - alphabar) eps is x = x0 + sigma eps with
    sigma = sqrt((1 - alphabar) / alphabar) / data_range: half the range means twice the noise at the same t.
    """

    base: Schedule
    data_range: float = 1.0

    kind: ClassVar[str] = "scaled"

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        return self.base.steps

    @property
    def zero_terminal_snr(self) -> bool:
        return self.base.zero_terminal_snr

    @property
    def t_min(self) -> float:
        return self.base.t_min

    @property
    def t_max(self) -> float:
        return self.base.t_max

    def sigma(self, t: Times) -> Times:
        return self.base.sigma(t) / self.data_range

    def alphabar(self, t: Times) -> Times:
        return self.base.alphabar(t)  # 1 / (1 + (data_range sigma)^2)

    def t(self, sigma: Times) -> Times:
        return self.base.t(sigma * self.data_range)
