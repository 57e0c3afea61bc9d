"""Which noise levels training uses: a density maps uniform numbers in [0, 1) to levels, so that randomness is an argument."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import torch

from alphabar.core.bounds import Bounds, Checked
from alphabar.core.types import Times
from alphabar.schedule.base import Schedule


class Density(Checked, ABC):
    """A distribution of noise levels, given by its inverse distribution function."""

    kind: ClassVar[str]

    @abstractmethod
    def sigma(self, u: Times, schedule: Schedule) -> Times:
        """Levels for uniform numbers u in [0, 1), in the one coordinate; `schedule` is the model's."""

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class UniformTime(Density):
    """t uniform over the integers 0 .. steps - 1 if the schedule has timesteps (DDPM, algorithm 1), else over [t_min, t_max]."""

    kind: ClassVar[str] = "time"

    def sigma(self, u: Times, schedule: Schedule) -> Times:
        if schedule.steps is not None:
            return schedule.sigma((u * schedule.steps).floor())
        return schedule.sigma(schedule.t_min + u * (schedule.t_max - schedule.t_min))


@dataclass(frozen=True)
class LogNormal(Density):
    """log sigma ~ N(mean, std^2), clamped to the schedule's levels. EDM (Karras et al. 2022, table 1): -1.2 and 1.2."""

    mean: Annotated[float, Bounds(-20, 20)] = -1.2
    std: Annotated[float, Bounds(0, 20, above=True)] = 1.2

    kind: ClassVar[str] = "log_normal"

    def sigma(self, u: Times, schedule: Schedule) -> Times:
        z = torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))
        return torch.exp(self.mean + self.std * z).clamp(schedule.sigma_min, schedule.sigma_max)


KINDS: dict[str, type[UniformTime] | type[LogNormal]] = {c.kind: c for c in (UniformTime, LogNormal)}
