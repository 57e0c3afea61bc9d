"""Schedules of integer timesteps, made from a table of betas: DDPM's linear one and those of diffusers."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.types import Times
from alphabar.schedule.base import Schedule

MOST_STEPS = 100_000  # a file that asks for a longer table is damaged or hostile


class Table(Schedule):
    """Integer timesteps 0 .. steps - 1 with one sigma each; log sigma is interpolated linearly between them, so that t(sigma)
    is the exact inverse of sigma(t)."""

    steps: int
    t_min = 0.0

    @property
    @abstractmethod
    def _log_sigma(self) -> NDArray[np.float64]:
        """log sigma of every timestep, rising."""

    @property
    def t_max(self) -> float:
        return self.steps - 1.0

    def sigma(self, t: Times) -> Times:
        x = np.interp(_host(t), np.arange(self.steps), self._log_sigma)
        return torch.from_numpy(np.asarray(np.exp(x))).to(t.device)

    def t(self, sigma: Times) -> Times:
        with np.errstate(divide="ignore"):  # sigma = 0 gives the first timestep
            x = np.interp(np.log(_host(sigma)), self._log_sigma, np.arange(self.steps, dtype=np.float64))
        return torch.from_numpy(np.asarray(x)).to(sigma.device)


@dataclass(frozen=True)
class Linear(Table):
    """DDPM's schedule: beta rises linearly over `steps` timesteps. Ho et al. 2020 (arXiv:2006.11239), sec. 4.

    Args:
        beta_min: beta of timestep 0, in (0, beta_max].
        beta_max: beta of the last timestep, below 1. The paper's 0.02 spends hundreds of timesteps on images of 28x28 or 32x32
            that are already pure noise; 0.01 keeps some signal to the end (alphabar about 0.006).
        steps: number of timesteps, at least 2.

    >>> Linear(beta_max=0.01).alphabar(torch.tensor([0.0, 999.0], dtype=torch.float64))
    tensor([0.9999, 0.0063], dtype=torch.float64)
    """

    beta_min: float = 1e-4
    beta_max: float = 0.02
    steps: int = 1000

    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.beta_min, self.beta_max
        if not 0 < low <= high < 1:
            raise ValueError(f"betas {low}..{high}: give 0 < beta_min <= beta_max < 1, as in Linear(1e-4, 0.02)")
        if not 2 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps = {self.steps}: a schedule has 2 to {MOST_STEPS} timesteps, as in Linear(steps=1000)")

    @cached_property
    def betas(self) -> Times:
        return torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64)

    @cached_property
    def _log_sigma(self) -> NDArray[np.float64]:
        log_ab = torch.log1p(-self.betas).cumsum(0)
        return np.asarray((0.5 * (torch.log(-torch.expm1(log_ab)) - log_ab)).numpy())


CURVES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "given")
LAST_ALPHABAR = 2.0**-64  # replaces 0 at zero terminal SNR, so that sigma_max is 2^32


@dataclass(frozen=True)
class Betas(Table):
    """A table of betas as diffusers' schedulers make it: alphabar(t) = (1 - beta_0) ... (1 - beta_t).

    1 - beta is rounded to float32, as in diffusers: networks were trained on the rounded values.

    Args:
        curve: "linear" and "sigmoid" (logistic, from -6 to 6) rise from beta_min to beta_max; "scaled_linear" rises linearly in
            sqrt(beta); "squaredcos_cap_v2" is the cosine of Nichol & Dhariwal (arXiv:2102.09672, eq. 17) with betas of at most
            0.999; "laplace" is alphabar^2 = logistic(-log-SNR) of a Laplace density; "given" takes the betas from `given`.
        beta_min: lowest beta, for linear, scaled_linear and sigmoid.
        beta_max: highest beta, for the same curves.
        steps: number of timesteps, 2 to 100,000.
        zero_snr: rescale so that no signal is left at the last timestep (Lin et al. 2024, arXiv:2305.08891, algorithm 1), where
            sigma is infinite; alphabar = 2^-64 replaces 0 there (diffusers' 2^-24 is less noise than timestep T - 2 can have).
        given: one beta per timestep, in (0, 1); the last may be 1.
    """

    curve: str = "linear"
    beta_min: float = 1e-4
    beta_max: float = 0.02
    steps: int = 1000
    zero_snr: bool = False
    given: tuple[float, ...] = ()

    kind: ClassVar[str] = "betas"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.curve not in CURVES:
            raise ValueError(f"beta curve {self.curve!r} is unknown: use one of {', '.join(CURVES)}")
        if not 2 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps = {self.steps}: a schedule has 2 to {MOST_STEPS} timesteps, as in Betas(steps=1000)")
        low, high = self.beta_min, self.beta_max
        if not (0 < low < 1 and 0 < high < 1):
            raise ValueError(f"betas {low}..{high}: give numbers between 0 and 1, as in Betas('linear', 1e-4, 0.02)")
        if len(self.given) != (self.steps if self.curve == "given" else 0):
            came = f"curve {self.curve!r} with {len(self.given)} given betas and {self.steps} steps"
            raise ValueError(f"{came}: curve 'given' takes as many betas as it has steps, the others none")
        for k, beta in enumerate(self.given):
            if not (0 < beta < 1 or (beta == 1 and k == self.steps - 1)):
                raise ValueError(f"beta {k} is {beta}: give numbers between 0 and 1 (the last may be 1)")
        levels = self._log_sigma
        if not (np.isfinite(levels).all() and (levels[1:] > levels[:-1]).all()):
            k = int(np.argmin(np.isfinite(levels[1:]) & np.isfinite(levels[:-1]) & (levels[1:] > levels[:-1])))
            where = f"from timestep {k} to {k + 1} (after rounding to float32)"
            raise ValueError(f"with these betas the noise does not rise {where}: give larger ones, or fewer steps")

    @property
    def zero_terminal_snr(self) -> bool:
        return self.zero_snr or bool(self._alphas[-1] == 0)

    @cached_property
    def betas(self) -> Times:
        """beta of every timestep, before `zero_snr`, float64."""
        return torch.from_numpy(self._betas())

    def _betas(self) -> NDArray[np.float64]:
        low, high = self.beta_min, self.beta_max
        if self.curve == "given":
            return np.array(self.given, dtype=np.float64)
        if self.curve == "linear":
            return np.linspace(low, high, self.steps)
        if self.curve == "scaled_linear":
            return np.linspace(low**0.5, high**0.5, self.steps) ** 2
        if self.curve == "sigmoid":
            return low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, self.steps)))
        alphabar = _cosine if self.curve == "squaredcos_cap_v2" else _laplace
        ab = alphabar(np.arange(self.steps + 1) / self.steps)
        return np.asarray(np.minimum(1 - ab[1:] / ab[:-1], 0.999))

    @property
    def _alphas(self) -> NDArray[np.float64]:
        return np.asarray(np.float32(1) - self._betas().astype(np.float32), dtype=np.float64)

    @cached_property
    def _log_sigma(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):  # log 0 is replaced at the last timestep and refused by __post_init__ elsewhere
            log_ab = np.log(self._alphas).cumsum()
            if self.zero_snr:  # shift and scale sqrt(alphabar) so that its last value is 0 and its first is unchanged
                root = np.exp(log_ab / 2)
                log_ab = 2 * np.log((root - root[-1]) * root[0] / (root[0] - root[-1]))
            if self.zero_terminal_snr:
                log_ab[-1] = math.log(LAST_ALPHABAR)
            return np.asarray(0.5 * (np.log(-np.expm1(log_ab)) - log_ab))


def _cosine(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """alphabar at the fraction u of the timesteps, up to a factor: Nichol & Dhariwal 2021, eq. 17."""
    return np.asarray(np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2)


def _laplace(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve that diffusers calls "laplace": sqrt(snr / (1 + snr)) with the Laplace quantile for half the log-SNR."""
    snr = np.exp(-0.5 * np.copysign(1, 0.5 - u) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-6))
    return np.asarray(np.sqrt(snr / (1 + snr)))


def _host(t: Times) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return t.detach().to("cpu", torch.float64).numpy()
