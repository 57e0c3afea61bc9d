"""Call plans: at which steps a sampler calls the network, and at which it reuses the last eps_hat.

A plan turns a number of steps and their timesteps into one boolean per step. It knows nothing of samplers or networks:
`wrappers.SkipCalls` carries it out under any sampler.
"""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Grid, Times
from alphabar.schedule.base import Schedule


@dataclass(frozen=True)
class Plan:
    """A fixed plan.

    >>> every(3, last=2)(8).int().tolist()
    [1, 0, 0, 1, 0, 0, 1, 1]
    """

    name: str
    """How the plan is written, as "every(3, last=50)"; stored in the record of samples."""
    at: Callable[[int, int, float], bool] = field(repr=False)
    """at(step, n, t): whether step 0 .. n - 1 calls the network; t is the timestep, nan where none is known."""
    needs_t: bool = False
    """Whether `at` reads t."""

    def __call__(self, n: int, times: Times | None = None) -> Tensor:
        """bool, shape (n,): True where the network is called. The first step always calls, since it has no eps_hat to reuse.

        n: number of steps. times: the timestep of each step; ValueError if the plan needs them and has none or not n.
        """
        if times is None and self.needs_t:
            raise ValueError(f"the plan {self.name} depends on timesteps: pass times=timesteps(schedule, sigmas)")
        t = [math.nan] * n if times is None else times.tolist()
        if len(t) != n:
            raise ValueError(f"{len(t)} times for {n} steps: give one per step, without the final 0 of the grid")
        return torch.tensor([k == 0 or bool(self.at(k, n, t[k])) for k in range(n)], dtype=torch.bool)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Adaptive:
    """A plan that decides image by image while sampling; `adaptive.AdaptiveCalls` carries it out."""

    tolerance: float
    """Approximate error of the finished image that skipped calls may cause: root mean square over pixels in [-1, 1]."""

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"adaptive({self.tolerance:g}): give a tolerance of 0 or more, as in adaptive(0.02)")

    @property
    def name(self) -> str:
        return f"adaptive({self.tolerance:g})"

    def __call__(self, n: int, times: Times | None = None) -> Tensor:
        raise ValueError(
            f"{self.name} decides image by image while sampling, so the calls of {n} steps are not known in advance: give a "
            "number of steps, as in --steps 200, and read the calls from the record; or use a fixed plan, such as every(3)"
        )

    def __str__(self) -> str:
        return self.name


def full() -> Plan:
    """Every step calls."""
    return Plan("full", lambda step, n, t: True)


def every(k: int, last: int = 0) -> Plan:
    """Steps 0, k, 2k, ... and all of the last `last` steps, which form the details.

    every(3, last=50) of 1000 steps is the lesson's plan (t mod 3 = 0 or t < 50, with t counted down from 999).
    """
    if k < 1 or last < 0:
        raise ValueError(f"every({k}, last={last}): give k >= 1 and last >= 0, as in every(3, last=50)")
    name = f"every({k}, last={last})" if last else f"every({k})"
    return Plan(name, lambda step, n, t: step % k == 0 or step >= n - last)


def progressive() -> Plan:
    """The lesson's plan: timestep t calls when (t + 101) mod ((t + 101) // 100) = 0. Of a thousand timesteps these are 296: every
    10th at the noisiest end, every 2nd from t = 197 to 99, and all below. A real-valued t is rounded."""

    def at(step: int, n: int, t: float) -> bool:
        u = round(t) + 101
        return u % (u // 100) == 0

    return Plan("progressive", at, needs_t=True)


def adaptive(tolerance: float) -> Adaptive:
    """As many calls as each image needs for an error of about `tolerance`. Useful are 0.01 to 1 on 50 to 200 steps; 0 calls at
    every step."""
    return Adaptive(float(tolerance))


def predicate(fn: Callable[[int, float], bool], name: str = "predicate") -> Plan:
    """A custom rule: fn(step, t) says whether step 0, 1, ... at timestep t calls. name: for the record of samples."""
    return Plan(name, lambda step, n, t: fn(step, t), needs_t=True)


def timesteps(schedule: Schedule, sigmas: Grid) -> Times:
    """The timesteps of a grid's levels, without its final 0.

    Continuous time is mapped to 0 (t_min) .. 999 (t_max), so that plans made for DDPM's thousand steps apply to it.
    """
    t = schedule.t(sigmas[:-1])
    return t if schedule.steps is not None else (t - schedule.t_min) / (schedule.t_max - schedule.t_min) * 999


_PLANS: dict[str, Callable[..., Plan | Adaptive]] = {f.__name__: f for f in (full, every, progressive, adaptive)}
_EXAMPLES = 'write "full", "every(3)", "every(3, last=50)", "progressive" or "adaptive(0.02)"'
_WHOLE = r"-?\d+"
_REAL = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def parse_plan(text: str) -> Plan | Adaptive:
    """The plan that a text names. Nothing in the text is evaluated as code.

    >>> parse_plan("every(3, 50)").name
    'every(3, last=50)'

    Raises ValueError for an unknown plan or argument, with examples of what can be written.
    """
    if not (match := re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)):
        raise ValueError(f"plan {text!r} is not a name with arguments: {_EXAMPLES}")
    name, inside = match[1], (match[2] or "").strip()
    if name not in _PLANS:
        own = "; from Python, pass your own rule as plan=predicate(lambda step, t: ...)" if name == "predicate" else ""
        raise ValueError(f"plan {name!r} is unknown ({did_you_mean(name, _PLANS)}): {_EXAMPLES}{own}")
    make, signature = _PLANS[name], inspect.signature(_PLANS[name])
    number, convert = (_REAL, float) if name == "adaptive" else (_WHOLE, int)
    positional, named = [], {}
    for part in inside.split(",") if inside else []:
        argument = re.fullmatch(rf"\s*(?:(\w+)\s*=\s*)?({number})\s*", part)
        if not argument or argument[1] in named:
            kind = "a number" if convert is float else "whole numbers"
            raise ValueError(f"plan {text!r}: {part.strip()!r} is no argument of {name}, which takes {kind}: {_EXAMPLES}")
        if argument[1]:
            named[argument[1]] = convert(argument[2])
        else:
            positional.append(convert(argument[2]))
    try:
        signature.bind(*positional, **named)
    except TypeError as e:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise ValueError(f"plan {text!r}: {e} ({name} takes {takes}): {_EXAMPLES}") from e
    return make(*positional, **named)
