"""The samplers by name, with their order and their network calls, which tests/sampling/test_catalogue.py measures."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from itertools import count
from typing import Any

from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Images
from alphabar.sampling.samplers.consistency import consistency
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.sampling.samplers.deis import deis
from alphabar.sampling.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, dpmpp_3m, dpmpp_3m_sde, dpmpp_sde
from alphabar.sampling.samplers.euler import euler, euler_ancestral
from alphabar.sampling.samplers.heun import heun
from alphabar.sampling.samplers.ipndm import ipndm
from alphabar.sampling.samplers.unipc import unipc


@dataclass(frozen=True)
class Entry:
    """A sampler.

    Attributes:
        name: as in `sample(model, n, sampler=name)`.
        fn: the function (denoise, x, sigmas, *, noise, on_step, ...) -> images.
        order: the error falls as steps^-order, with default options, on smooth grids with small steps at both ends, where
            multistep methods have a lower order; for a stochastic sampler, the error of the variance.
        stochastic: whether noise is drawn with default options.
        calls_a_step: network calls of a step; the last one has one.
        summary: one line.
        options: names of the keyword options, without noise and on_step; `sample` takes data_range from the model.
    """

    name: str
    fn: Callable[..., Images]
    order: int
    stochastic: bool
    calls_a_step: int
    summary: str
    options: tuple[str, ...] = ()

    def calls(self, n: int) -> int:
        """Network calls for n steps."""
        return self.calls_a_step * (n - 1) + 1

    @property
    def defaults(self) -> dict[str, Any]:
        """The options with their defaults, as the function's signature has them."""
        parameters = signature(self.fn).parameters
        return {name: parameters[name].default for name in self.options if name in parameters}


CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
SAMPLERS: dict[str, Entry] = {  # name, function, order, stochastic, calls a step, purpose, options
    e.name: e
    for e in (
        Entry("ddim", ddim, 1, False, 1, "eta 0: deterministic, for few calls; eta 1: DDPM", ("eta",)),
        Entry("ddpm", ddpm, 1, True, 1, "noise at every step, for many calls", ("variance", "data_range")),
        Entry("euler", euler, 1, False, 1, "Euler on the probability-flow ODE: ddim at eta 0, as a check"),
        Entry("euler_ancestral", euler_ancestral, 1, True, 1, "Euler with noise: ddim at eta 1, as a check", ("eta",)),
        Entry("heun", heun, 2, False, 2, "EDM's sampler, with churn on request; for 30 calls or more", CHURN),
        Entry("dpmpp_2s", dpmpp_2s, 2, False, 2, "DPM-Solver++(2S): two calls a step, no memory"),
        Entry("dpmpp_2m", dpmpp_2m, 2, False, 1, "DPM-Solver++(2M): the usual fast sampler elsewhere"),
        Entry("dpmpp_3m", dpmpp_3m, 3, False, 1, "DPM-Solver++ multistep of true third order", ("order",)),
        Entry("dpmpp_sde", dpmpp_sde, 2, True, 2, "DPM-Solver++(2S) with noise", ("eta",)),
        Entry("dpmpp_2m_sde", dpmpp_2m_sde, 2, True, 1, "DPM-Solver++(2M) with noise", ("eta",)),
        Entry("dpmpp_3m_sde", dpmpp_3m_sde, 2, True, 1, "the third-order multistep with noise", ("eta", "order")),
        Entry("unipc", unipc, 3, False, 1, "predictor and corrector in one call a step", ("order", "bh")),
        Entry("ipndm", ipndm, 2, False, 1, "Adams-Bashforth on eps_hat, for few calls", ("order", "coefficients")),
        Entry("deis", deis, 3, False, 1, "tAB-DEIS, for few calls", ("order", "variable", "data_range")),
    )
}  # fmt: skip


# Of models that are no longer E[x0 | x], which the samplers above need.
CONSISTENCY = Entry("consistency", consistency, 0, True, 1, "of distilled models alone: 1 or 2 calls")


def default_sampler(model: object) -> str:
    """The sampler where none is named."""
    return CONSISTENCY.name if getattr(model, "consistency", False) else "ddim"


def find(name: str) -> Entry:
    """The sampler of that name. Raises ValueError for an unknown one."""
    if name == CONSISTENCY.name:
        return CONSISTENCY
    if name in SAMPLERS:
        return SAMPLERS[name]
    raise ValueError(f"sampler {name!r} is unknown: {did_you_mean(name.lower(), SAMPLERS, 0.6)} (`alphabar samplers` lists all)")


def own_sampler(fn: Callable[..., Images]) -> Entry:
    """The entry of a sampler of yours, which records name MODULE:FUNCTION.

    Args:
        fn: (denoise, x, sigmas, *, noise, on_step, ...) -> images, as docs/adding-a-sampler.md describes it: x is noise of level
            sigmas[0], denoise(x, sigma) the estimate of the clean image, noise(draw, x) fresh noise; on_step(i, sigma, x, x0_hat)
            is to be called once a step. Further keywords with defaults are its options.

    Raises:
        ValueError: for a function that cannot be called so.
    """
    name = f"{getattr(fn, '__module__', '')}:{getattr(fn, '__qualname__', type(fn).__name__)}"
    parameters = signature(fn).parameters
    try:
        signature(fn).bind(None, None, None, noise=None, on_step=None)
    except TypeError as e:
        raise ValueError(f"the sampler {name} ({e}): write def name(denoise, x, sigmas, *, noise, on_step) -> images") from e
    options = [k for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY and k not in ("noise", "on_step")]
    return Entry(name, fn, 0, True, 1, "a function that was passed", tuple(options))


def steps_for(entry: Entry, calls: int) -> int:
    """The most steps for at most `calls` network calls. Raises ValueError if one step costs more."""
    if entry.calls(1) > calls:
        raise ValueError(f"{calls} calls are too few for one step of {entry.name}, which needs {entry.calls(1)}")
    return next(n for n in count(1) if entry.calls(n + 1) > calls)
