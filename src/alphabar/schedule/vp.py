"""Variance-preserving schedules: y = sqrt(alphabar) x0 + sqrt(1 - alphabar) eps, with sigma = sqrt((1 - alphabar) / alphabar).

A schedule is a frozen value with an inverse: alphabar(t), sigma(t) and t(sigma), all in float64.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core.types import Times


class Schedule(ABC):
    """What noise there is at time t. Times run from t_min (least noise) to t_max (most)."""

    kind: ClassVar[str]
    steps: int | None = None  # number of integer timesteps 0 .. steps - 1, or None where time is continuous

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether t_max is pure noise, with no signal left, where eps says nothing of x0 (Lin et al. 2024)."""
        return False

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
        return float(self.sigma(torch.tensor(self.t_min, dtype=torch.float64, device="cpu")))

    @property
    def sigma_max(self) -> float:
        return float(self.sigma(torch.tensor(self.t_max, dtype=torch.float64, device="cpu")))

    def spec(self) -> dict[str, Any]:
        """Plain data from which `schedule_from` makes the schedule again."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


class Table(Schedule):
    """Integer timesteps 0 .. steps - 1 with one sigma each. Between them log sigma is a straight line, so t(sigma) is the exact
    inverse of sigma(t)."""

    steps: int

    @property
    @abstractmethod
    def _log_sigma(self) -> NDArray[np.float64]:
        """log sigma of every timestep, rising."""

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return self.steps - 1.0

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
class Linear(Table):
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

    @cached_property
    def betas(self) -> Times:
        return torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64)

    @cached_property
    def _log_sigma(self) -> NDArray[np.float64]:
        log_ab = torch.log1p(-self.betas).cumsum(0)
        return np.asarray((0.5 * (torch.log(-torch.expm1(log_ab)) - log_ab)).numpy())


CURVES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "given")
MOST_STEPS = 100_000  # that a table may have: a file that asks for more is broken or hostile
LAST_ALPHABAR = 2.0**-64  # in place of 0 at zero terminal SNR: sigma_max is then 2^32


@dataclass(frozen=True)
class Betas(Table):
    """A table of betas, as diffusers' schedulers make it: alphabar(t) = (1 - beta_0) ... (1 - beta_t).

    curve says how they are made: "linear" and "sigmoid" (logistic, from -6 to 6) rise from beta_min to beta_max;
    "scaled_linear" rises linearly in sqrt(beta); "squaredcos_cap_v2" is Nichol & Dhariwal's cosine (arXiv:2102.09672, eq. 17)
    with betas of 0.999 at most; "laplace" is alphabar^2 = logistic(-log-SNR) of a Laplace density; "given" takes `given`,
    one a timestep, of which the last may be 1. beta_min and beta_max are not used by the last three.

    1 - beta is rounded to float32, in which diffusers holds it: at a beta of 0.999 that moves sigma by 6e-6 of itself, and
    the network was trained on what was rounded.

    zero_snr: rescaled so that no signal is left at the last timestep (Lin et al. 2024, arXiv:2305.08891, algorithm 1). sigma
    is infinite there; alphabar(T - 1) = 2^-64 stands for 0, and sigma_max = 2^32, beyond every other timestep's. (2^-24, which
    diffusers' DPM-Solver puts there, is less noise than its neighbour T - 2 has, alphabar 4e-9 on DDPM's betas.)
    """

    curve: str = "linear"
    beta_min: float = 1e-4
    beta_max: float = 0.02
    steps: int = 1000
    zero_snr: bool = False
    given: tuple[float, ...] = ()

    kind: ClassVar[str] = "betas"

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise ValueError(f"beta curve {self.curve!r} is unknown: use one of {', '.join(CURVES)}")
        if not 2 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps = {self.steps}: a schedule has 2 to {MOST_STEPS} timesteps, as in Betas(steps=1000)")
        if not (0 < self.beta_min < 1 and 0 < self.beta_max < 1):
            raise ValueError(
                f"betas {self.beta_min}..{self.beta_max}: give numbers between 0 and 1, as in Betas('linear', 1e-4, 0.02)"
            )
        if len(self.given) != (self.steps if self.curve == "given" else 0):
            raise ValueError(
                f"curve {self.curve!r} with {len(self.given)} given betas and {self.steps} steps: curve 'given' takes as many "
                "betas as it has steps, the others none"
            )
        for k, beta in enumerate(self.given):
            if not (0 < beta < 1 or (beta == 1 and k == self.steps - 1)):
                raise ValueError(f"beta {k} is {beta}: give numbers between 0 and 1 (the last may be 1)")
        levels = self._log_sigma
        if not (np.isfinite(levels).all() and (levels[1:] > levels[:-1]).all()):
            k = int(np.argmin(np.isfinite(levels[1:]) & np.isfinite(levels[:-1]) & (levels[1:] > levels[:-1])))
            raise ValueError(
                f"these betas do not make noise rise from timestep {k} to {k + 1} (in float32, in which they are held): give "
                "larger ones, or fewer steps"
            )

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
        share = _cosine_share if self.curve == "squaredcos_cap_v2" else _laplace_share
        ab = share(np.arange(self.steps + 1) / self.steps)
        capped: NDArray[np.float64] = np.minimum(1 - ab[1:] / ab[:-1], 0.999)
        return capped

    @property
    def _alphas(self) -> NDArray[np.float64]:
        alphas = np.float32(1) - self._betas().astype(np.float32)
        return np.asarray(alphas, dtype=np.float64)

    @cached_property
    def _log_sigma(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):  # log 0 at the last timestep is replaced; anywhere else __post_init__ refuses it
            log_ab = np.log(self._alphas).cumsum()
            if self.zero_snr:  # sqrt(alphabar) is moved and stretched so that it ends at 0 and begins where it did
                root = np.exp(log_ab / 2)
                log_ab = 2 * np.log((root - root[-1]) * root[0] / (root[0] - root[-1]))
            if self.zero_terminal_snr:
                log_ab[-1] = math.log(LAST_ALPHABAR)
            level: NDArray[np.float64] = 0.5 * (np.log(-np.expm1(log_ab)) - log_ab)
        return level


def _cosine_share(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """alphabar at the share u of the way, up to a factor: Nichol & Dhariwal 2021, eq. 17."""
    share: NDArray[np.float64] = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return share


def _laplace_share(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """What diffusers calls "laplace": sqrt(snr / (1 + snr)) with the Laplace quantile for half the log-SNR."""
    snr = np.exp(-0.5 * np.copysign(1, 0.5 - u) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-6))
    share: NDArray[np.float64] = np.sqrt(snr / (1 + snr))
    return share


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
class Flow(Schedule):
    """The straight path of flow matching, y = (1 - t) x0 + t eps: sigma(t) = t / (1 - t). Lipman et al. 2023
    (arXiv:2210.02747), Liu et al. 2023 (arXiv:2209.03003), both with time the other way round.

    At t = 1 there is no signal left and sigma is infinite, so training and grids end at t_end. A normal density of log sigma
    is the logit-normal one of t (Esser et al. 2024, arXiv:2403.03206, eq. 19): logit(t) = log sigma. It goes with prediction
    "flow", which scales the network's input to y.
    """

    t_start: float = 1e-3
    t_end: float = 0.9875  # sigma = 79

    kind: ClassVar[str] = "flow"

    def __post_init__(self) -> None:
        if not 0 < self.t_start < self.t_end < 1:
            raise ValueError(f"times {self.t_start}..{self.t_end}: give 0 < t_start < t_end < 1, as in Flow()")

    @property
    def t_min(self) -> float:
        return self.t_start

    @property
    def t_max(self) -> float:
        return self.t_end

    def sigma(self, t: Times) -> Times:
        return t / (1 - t)

    def alphabar(self, t: Times) -> Times:
        return 1 / (1 + self.sigma(t) ** 2)

    def t(self, sigma: Times) -> Times:
        return (sigma / (1 + sigma)).clamp(self.t_start, self.t_end)


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
        """The base schedule's alphabar, which is 1 / (1 + (data_range sigma)^2)."""
        return self.base.alphabar(t)

    def t(self, sigma: Times) -> Times:
        return self.base.t(sigma * self.data_range)


KINDS: dict[str, type[Linear] | type[Cosine] | type[LogSigma] | type[Flow] | type[Betas]] = {
    c.kind: c for c in (Linear, Cosine, LogSigma, Flow, Betas)
}


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
    return KINDS[kind](**_plain(args))


def _plain(args: dict[str, Any]) -> dict[str, Any]:
    """The values of a specification that was read from a file, each of the type that its field has.

    Raises ValueError, naming the key, for one that is not.
    """
    read: dict[str, Any] = {}
    for key, value in args.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # nor nan
        if key == "given":
            if not isinstance(value, (list, tuple)) or len(value) > MOST_STEPS:
                raise ValueError(f"schedule: given is {value!r:.60}; wanted a list of up to {MOST_STEPS} betas")
            read[key] = tuple(_plain({"beta": beta})["beta"] for beta in value)
        elif key in ("curve", "zero_snr"):
            if not isinstance(value, str if key == "curve" else bool):
                raise ValueError(f"schedule: {key} is {value!r:.60}")
            read[key] = value
        elif not number or (key == "steps" and value != int(value)):
            raise ValueError(f"schedule: {key} is {value!r:.60}; wanted a {'whole ' if key == 'steps' else ''}number")
        else:
            read[key] = int(value) if key == "steps" else float(value)
    return read


def _host(t: Times) -> "np.ndarray[Any, np.dtype[np.float64]]":
    return t.detach().to("cpu", torch.float64).numpy()
