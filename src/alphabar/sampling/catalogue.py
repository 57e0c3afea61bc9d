"""The samplers by name, with what each claims; tests/sampling/test_catalogue.py measures every claim.

To add one: a file with one function, one entry here, and the tests find it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from typing import Any

from alphabar.core.types import Images
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.sampling.samplers.deis import deis
from alphabar.sampling.samplers.dpmpp_2m import dpmpp_2m, dpmpp_2m_sde
from alphabar.sampling.samplers.dpmpp_2s import dpmpp_2s, dpmpp_sde
from alphabar.sampling.samplers.dpmpp_3m import dpmpp_3m, dpmpp_3m_sde
from alphabar.sampling.samplers.euler import euler
from alphabar.sampling.samplers.euler_ancestral import euler_ancestral
from alphabar.sampling.samplers.heun import heun
from alphabar.sampling.samplers.ipndm import ipndm
from alphabar.sampling.samplers.unipc import unipc


@dataclass(frozen=True)
class Entry:
    """name; fn(denoise, x, sigmas, *, noise, on_step, ...) -> x; order: the error falls as steps^-order.

    The order is that of the defaults, on grids that are smooth and whose steps are small at both ends, as methods that
    look back begin and end with lower ones; of a stochastic sampler it is that of the variance.
    stochastic: draws noise with its default options. calls(n): network calls for n steps. summary: one line.
    options: the keyword options it takes besides noise and on_step; `sample` fills data_range from the model.
    """

    name: str
    fn: Callable[..., Images]
    order: int
    stochastic: bool
    calls: Callable[[int], int]
    summary: str
    options: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, Any]:
        """The options with their defaults, as the function's signature has them."""
        parameters = signature(self.fn).parameters
        return {name: parameters[name].default for name in self.options if name in parameters}


def _one_a_step(n: int) -> int:
    return n


def _two_but_one_at_the_end(n: int) -> int:
    return 2 * n - 1


SAMPLERS: dict[str, Entry] = {
    e.name: e
    for e in (
        Entry("ddim", ddim, 1, False, _one_a_step, "eta 0: deterministic, for few calls; eta 1: DDPM", ("eta",)),
        Entry("ddpm", ddpm, 1, True, _one_a_step, "noise at every step, for many calls", ("variance", "data_range")),
        Entry("euler", euler, 1, False, _one_a_step, "Euler on the probability-flow ODE: ddim at eta 0, as a check"),
        Entry("euler_ancestral", euler_ancestral, 1, True, _one_a_step, "Euler with noise: ddim at eta 1, as a check", ("eta",)),
        Entry(
            "heun", heun, 2, False, _two_but_one_at_the_end, "EDM's sampler, with churn on request; for 30 calls or more",
            ("s_churn", "s_tmin", "s_tmax", "s_noise"),
        ),
        Entry("dpmpp_2s", dpmpp_2s, 2, False, _two_but_one_at_the_end, "DPM-Solver++(2S): two calls a step, no memory"),
        Entry("dpmpp_2m", dpmpp_2m, 2, False, _one_a_step, "DPM-Solver++(2M): the usual fast sampler elsewhere"),
        Entry("dpmpp_3m", dpmpp_3m, 3, False, _one_a_step, "DPM-Solver++ multistep of true third order", ("order",)),
        Entry("dpmpp_sde", dpmpp_sde, 2, True, _two_but_one_at_the_end, "DPM-Solver++(2S) with noise", ("eta",)),
        Entry("dpmpp_2m_sde", dpmpp_2m_sde, 2, True, _one_a_step, "DPM-Solver++(2M) with noise", ("eta",)),
        Entry("dpmpp_3m_sde", dpmpp_3m_sde, 2, True, _one_a_step, "the third-order multistep with noise", ("eta", "order")),
        Entry("unipc", unipc, 3, False, _one_a_step, "predictor and corrector in one call a step", ("order", "bh")),
        Entry("ipndm", ipndm, 2, False, _one_a_step, "Adams-Bashforth on eps_hat, for few calls", ("order", "coefficients")),
        Entry("deis", deis, 3, False, _one_a_step, "tAB-DEIS, for few calls", ("order", "variable", "data_range")),
    )
}  # fmt: skip


def find(name: str) -> Entry:
    """The sampler called `name`. Raises ValueError with the nearest name and all of them."""
    if name in SAMPLERS:
        return SAMPLERS[name]
    near = get_close_matches(name.lower(), SAMPLERS, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"sampler {name!r} is unknown: {meant}use one of {', '.join(SAMPLERS)}")


def steps_for(entry: Entry, calls: int) -> int:
    """The most steps that `entry` takes for at most `calls` network calls.

    Raises ValueError where even one step costs more.
    """
    if entry.calls(1) > calls:
        raise ValueError(f"{calls} calls do not pay for one step of {entry.name}, which costs {entry.calls(1)}")
    n = 1
    while entry.calls(n + 1) <= calls:
        n += 1
    return n
