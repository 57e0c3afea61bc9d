"""The methods by name: what they cost, at which levels they call the network, and which one is taken where none is named."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Grid, Images
from alphabar.restoration.methods.daps import daps
from alphabar.restoration.methods.ddrm import ddrm
from alphabar.restoration.methods.diffpir import diffpir
from alphabar.restoration.methods.dps import dps
from alphabar.restoration.methods.gibbs import gibbs
from alphabar.restoration.methods.mmps import mmps
from alphabar.restoration.methods.repaint import repaint
from alphabar.restoration.operators import Mask, Operator, Spectral
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import karras

LOWEST = 0.01  # the last level before 0: noise of about one level of 8 bits


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        name: as in `restore(run, images, method=name)`.
        fn: the function (denoise, y, operator, sigma_y, sigmas, noise, x, *, on_step, ...) -> images.
        summary: one line.
        calls_a_level: the option that says how often a level calls the network, or None for once.
        spectral: whether it needs the singular values of the operator.
        gradient: whether it differentiates the network, which makes a call two to three times as expensive.
        highest: the level at which it starts, where the schedule reaches it.
    """

    name: str
    fn: Callable[..., Images]
    summary: str
    calls_a_level: str | None = None
    spectral: bool = False
    gradient: bool = False
    highest: float = 80.0

    @property
    def defaults(self) -> dict[str, Any]:
        """Its options with their defaults."""
        parameters = signature(self.fn).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "on_step"}


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        # mmps knows y from the start, so that levels above 20 tell nothing more; images span 2, and with noise of level 3 v of
        # gibbs is nearly noise
        Method("mmps", mmps, "the posterior mean at every level, by a gradient of the network", gradient=True, highest=20.0),
        Method("ddrm", ddrm, "follows y as far as its noise allows; for few calls without gradient", spectral=True),
        Method("diffpir", diffpir, "plug and play, near the mean of the posterior; for few calls and any operator"),
        Method("repaint", repaint, "replaces what is measured, and repeats each step", "resample", spectral=True),
        Method("dps", dps, "gradient of the misfit through the network", gradient=True),
        Method("daps", daps, "a clean image given y at every level, by an ODE; for hundreds of calls", "ode_steps"),
        Method("gibbs", gibbs, "split Gibbs sampling: exact in the limit of many calls", "prior_steps", highest=3.0),
    )
}  # fmt: skip


def find_method(name: str) -> Method:
    """The method of that name. Raises ValueError for an unknown one."""
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown: {did_you_mean(name.lower(), METHODS, 0.5)}")
    return METHODS[name]


def default_method(operator: Operator) -> str:
    """The method where none is named: mmps, and for images that are only noisy gibbs, which is one reverse diffusion then.

    Measured on garments at 20 calls, the mean of the draws of mmps is 2 to 6.8 dB better for missing pixels than that of ddrm and
    gibbs, and their intervals hold 0.89 of the pixels (docs/restore.md).
    """
    return "gibbs" if _sees_all(operator) else "mmps"


def plan(
    method: Method, schedule: Schedule, operator: Operator, sigma_y: float, calls: int, options: dict[str, Any]
) -> tuple[Grid, dict[str, Any]]:
    """The levels of a method for at most `calls` network calls, and all its options.

    Levels are those of Karras et al. 2022, eq. 5, from the highest of the schedule to 0.01. mmps starts at 20. gibbs runs from 3
    to sigma_y / s, s being the largest singular value, where it is exact; images that are only noisy are noise of level sigma_y
    themselves, and there it is one draw by reverse diffusion from that level, exact as its steps grow.

    Raises ValueError for an unknown option, and for fewer calls than a level takes.
    """
    known = method.defaults
    if unknown := sorted(options.keys() - known):
        hint = did_you_mean(unknown[0], known) if known else "it has none"
        raise ValueError(f"{unknown[0]} is no option of {method.name}: {hint}")
    arguments = known | options
    low, high = max(LOWEST, schedule.sigma_min), min(method.highest, schedule.sigma_max)
    if method.name == "gibbs":
        top = float(operator.s.abs().max()) if isinstance(operator, Spectral) else 1.0
        exact = sigma_y / max(top, 1e-12)
        if _sees_all(operator) and schedule.sigma_min < exact <= schedule.sigma_max and "prior_steps" not in options:
            reach = max(exact / low, min(2.0, exact / schedule.sigma_min)) if calls > 1 else 1.0
            return torch.tensor([exact, 0.0], dtype=torch.float64), arguments | {"prior_steps": calls, "reach": reach}
        low = min(max(low, exact), schedule.sigma_max)
        # both grow with the calls: the number of levels, for the chain to mix, and the steps of a draw, for its exactness
        arguments["prior_steps"] = options.get("prior_steps", min(max(3, round(0.4 * calls**0.5)), calls))
        arguments["reach"] = options.get("reach", max(2.0 * arguments["prior_steps"], 2.0))
    each = int(arguments[method.calls_a_level]) if method.calls_a_level else 1
    if each < 1 or calls < each:
        raise ValueError(f"{calls} calls, and a level of {method.name} takes {each}: give at least as many")
    return karras(schedule, calls // each, low=low, high=max(high, low * 1.01)), arguments


def _sees_all(operator: Operator) -> bool:
    """Whether y is the whole image with noise, as x is at level sigma_y."""
    return isinstance(operator, Mask) and bool(operator.keep.all())
