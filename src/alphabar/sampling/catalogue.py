"""The samplers by name, with what each claims; tests/sampling/test_catalogue.py measures every claim.

To add one: a file with one function, one entry here, and the tests find it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from alphabar.sampling.ddim import ddim
from alphabar.sampling.ddpm import ddpm
from alphabar.sampling.euler import euler
from alphabar.types import Images


@dataclass(frozen=True)
class Entry:
    """name; fn(denoise, x, sigmas, *, noise, on_step, ...) -> x; order: the error falls as steps^-order.

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


def _one_a_step(n: int) -> int:
    return n


SAMPLERS: dict[str, Entry] = {
    e.name: e
    for e in (
        Entry("ddim", ddim, 1, False, _one_a_step, "eta 0: deterministic, for few calls; eta 1: DDPM", ("eta",)),
        Entry("ddpm", ddpm, 1, True, _one_a_step, "noise at every step, for many calls", ("variance", "data_range")),
        Entry("euler", euler, 1, False, _one_a_step, "Euler on the probability-flow ODE: ddim at eta 0, as a check"),
    )
}


def find(name: str) -> Entry:
    """The sampler called `name`. Raises ValueError with the nearest name and all of them."""
    if name in SAMPLERS:
        return SAMPLERS[name]
    near = get_close_matches(name.lower(), SAMPLERS, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"sampler {name!r} is unknown: {meant}use one of {', '.join(SAMPLERS)}")
