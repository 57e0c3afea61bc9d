"""Call plans: at which steps a sampler calls the network, and at which the last eps_hat does.

A plan turns a number of steps and their timesteps into one truth value a step. It knows nothing of samplers or
networks: `wrap.SkipCalls` carries it out under any sampler.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from alphabar.core.types import Grid, Times
from alphabar.schedule.base import Schedule


@dataclass(frozen=True)
class Plan:
    """`name` says how to write it, as in "every(3, last=50)". at(step, n, t): does step 0 .. n - 1 call the network?

    needs_t: whether `at` looks at the timestep t; where it does not, t is nan when no timesteps are known.
    """

    name: str
    at: Callable[[int, int, float], bool] = field(repr=False)
    needs_t: bool = False

    def __call__(self, n: int, times: Times | None = None) -> Tensor:
        """bool, shape (n,): True where the network is called; the first step always is, having no eps_hat to reuse.

        times: the timestep of each step, for plans that look at it. Raises ValueError where it is needed and missing.
        """
        if times is None and self.needs_t:
            raise ValueError(f"the plan {self.name} looks at timesteps: pass times=timesteps(schedule, sigmas)")
        t = [float("nan")] * n if times is None else times.tolist()
        if len(t) != n:
            raise ValueError(f"{len(t)} times for {n} steps: give one a step, without the final 0 of the grid")
        return torch.tensor([k == 0 or bool(self.at(k, n, t[k])) for k in range(n)], dtype=torch.bool)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Adaptive:
    """Calls image by image, where it would move the image too far to go without: see `adaptive.AdaptiveCalls`, which
    carries it out. tolerance: by how much, root mean square over the pixels of images in [-1, 1], about."""

    tolerance: float

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"adaptive({self.tolerance:g}): give a tolerance of 0 or more, as in adaptive(0.02)")

    @property
    def name(self) -> str:
        return f"adaptive({self.tolerance:g})"

    def __call__(self, n: int, times: Times | None = None) -> Tensor:
        """Raises ValueError: which steps call is not known before the images are there."""
        raise ValueError(
            f"{self.name} decides image by image as it goes, so it cannot say beforehand which of {n} steps call: "
            "give a number of steps, as in --steps 200, and read the calls from the record; or take a fixed plan, as every(3)"
        )

    def __str__(self) -> str:
        return self.name


def full() -> Plan:
    """Every step calls: no skipping."""
    return Plan("full", lambda step, n, t: True)


def every(k: int, last: int = 0) -> Plan:
    """Steps 0, k, 2k, ... and all of the last `last` steps, where the details are made.

    every(3, last=50) of 1000 steps is the lesson's (t mod 3 = 0 or t < 50) with t counted down from 999.
    """
    if k < 1 or last < 0:
        raise ValueError(f"every({k}, last={last}): give k >= 1 and last >= 0, as in every(3, last=50)")
    name = f"every({k}, last={last})" if last else f"every({k})"
    return Plan(name, lambda step, n, t: step % k == 0 or step >= n - last)


def progressive() -> Plan:
    """The lesson's: timestep t calls when (t + 101) mod ((t + 101) // 100) = 0: every 10th at the noisiest end of a
    thousand, every 2nd from t = 197 to 99, all below: 296 calls. A real-valued t is rounded."""

    def at(step: int, n: int, t: float) -> bool:
        u = round(t) + 101
        return u % (u // 100) == 0

    return Plan("progressive", at, needs_t=True)


def adaptive(tolerance: float) -> Adaptive:
    """As many calls as each image needs for what is left out to move it by about `tolerance` (images in [-1, 1]): 0.01 to
    1 are of use (on a grid of 50 to 200 steps), 0 calls at every step."""
    return Adaptive(float(tolerance))


def predicate(fn: Callable[[int, float], bool], name: str = "predicate") -> Plan:
    """Any rule: fn(step, t) says whether step 0, 1, ... at timestep t calls. name: for the sampling record."""
    return Plan(name, lambda step, n, t: fn(step, t), needs_t=True)


def timesteps(schedule: Schedule, sigmas: Grid) -> Times:
    """The timesteps of a grid's levels, without its final 0: times of a schedule that counts 0 .. steps - 1.

    Continuous time is counted in thousandths, t_min being 0 and t_max 999, so that a plan made for DDPM's thousand
    steps means the same there.
    """
    t = schedule.t(sigmas[:-1])
    if schedule.steps is not None:
        return t
    return (t - schedule.t_min) / (schedule.t_max - schedule.t_min) * 999


_PLANS: dict[str, tuple[Callable[..., Plan | Adaptive], tuple[str, ...]]] = {
    "full": (full, ()),
    "every": (every, ("k", "last")),
    "progressive": (progressive, ()),
    "adaptive": (adaptive, ("tolerance",)),
}
_WANTED = 'write "full", "every(3)", "every(3, last=50)", "progressive" or "adaptive(0.02)"'
_WHOLE = r"-?\d+"
_REAL = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def parse_plan(text: str) -> Plan | Adaptive:
    """The plan that a text names, read without evaluating anything. Raises ValueError saying what can be written."""
    if not (match := re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)):
        raise ValueError(f"plan {text!r} cannot be read: {_WANTED}")
    name, inside = match[1], (match[2] or "").strip()
    if name not in _PLANS:
        near = get_close_matches(name, _PLANS, 1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        own = "; from Python, pass a rule of your own as plan=predicate(lambda step, t: ...)"
        raise ValueError(f"plan {name!r} is unknown{meant}: {_WANTED}{own if name == 'predicate' else ''}")
    make, names = _PLANS[name]
    real = name == "adaptive"
    values: dict[str, float] = {}
    for place, part in enumerate(inside.split(",") if inside else []):
        arg = re.fullmatch(rf"\s*(?:(\w+)\s*=\s*)?({_REAL if real else _WHOLE})\s*", part)
        key = arg and (arg[1] or (names[place] if place < len(names) else None))
        if not arg or key not in names or key in values:
            takes = (
                f"takes {', '.join(names)}, {'a number' if real else 'whole numbers'}" if names else "takes nothing in brackets"
            )
            raise ValueError(f"plan {text!r}: cannot read {part.strip()!r}; {name} {takes}: {_WANTED}")
        values[str(key)] = float(arg[2]) if real else int(arg[2])
    if name == "every" and "k" not in values:
        raise ValueError(f"plan {text!r} does not say how often: {_WANTED}")
    if name == "adaptive" and "tolerance" not in values:
        raise ValueError(f"plan {text!r} does not say how far an image may be off: {_WANTED}")
    return make(**values)
