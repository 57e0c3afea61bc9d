"""The settings of a sweep: combinations of sampler, steps and other options that a model and the samplers accept."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from alphabar.core.types import Images, Levels
from alphabar.sampling.catalogue import SAMPLERS, find, steps_for
from alphabar.sampling.model import Model
from alphabar.sampling.sample import sample

TUNED = "tuned"  # the sampler that was fitted to the model for that number of steps
CALLS = (5, 8, 10, 15, 20, 50)
# Tried if no samplers are named: the useful methods, without euler (ddim at eta 0) and those for hundreds of calls.
USUAL = ("ddim", "heun", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "unipc", "ipndm", "deis", TUNED)
_MOST = 1000  # steps that are tried with a call plan, for continuous time
OPTIONS = ("eta", "grid", "plan", "clip", "threshold")  # the fields of a setting that may be None, for `sample`'s default


@dataclass(frozen=True)
class Setting:
    """One way to sample, by fields of `SampleOptions`, in which None is the default.

    Attributes:
        options: further options of the sampler, sorted by name.
        fit: digest of a fitted sampler, which distinguishes it from others of that name and number of calls.
    """

    sampler: str
    steps: int
    eta: float | None = None
    grid: str | None = None
    plan: str | None = None
    clip: bool | None = None
    threshold: float | None = None
    options: tuple[tuple[str, Any], ...] = ()
    fit: str | None = None

    @property
    def name(self) -> str:
        """A file name: the same for the same setting, in every version and process."""
        parts = [self.sampler, str(self.steps), *self._parts(), self.fit or ""]
        parts = [part for part in parts if part]
        return "_".join(re.sub(r"[^\w.-]+", "_", part).strip("_") for part in parts)

    @property
    def method(self) -> str:
        """A text of everything except the number of steps."""
        return ", ".join([self.sampler, *self._parts()])

    def _parts(self) -> list[str]:
        parts = [f"{k} {v!r}" if not isinstance(v, str) else f"{k} {v}" for k, v in self.options]
        parts += [] if self.eta is None else [f"eta {_plain(self.eta)}"]
        parts += [] if self.grid is None else [f"grid {self.grid}"]
        parts += [] if self.plan is None else [self.plan]
        parts += [] if self.clip is None else ["clip" if self.clip else "no clip"]
        return parts + ([] if self.threshold is None else [f"threshold {_plain(self.threshold)}"])

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `sample`."""
        given: dict[str, Any] = {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}
        if self.options:
            given["options"] = dict(self.options)
        return {"sampler": self.sampler, "steps": self.steps} | given

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"options": dict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Setting":
        return cls(**{**data, "options": tuple(sorted(data["options"].items()))})


@dataclass(frozen=True)
class LeftOut:
    """A combination that is not tried: its method, its numbers of calls or steps, and the reason."""

    method: str
    at: str
    why: str

    def __str__(self) -> str:
        return f"{self.method}{' at ' if self.at else ''}{self.at}: {self.why}"


def settings(
    model: Model, *, samplers: Sequence[str] | None = None, calls: Sequence[int] = CALLS, steps: Sequence[int] = (),
    etas: Sequence[float | None] | None = None, plans: Sequence[str | None] = (None,), grids: Sequence[str | None] = (None,),
    clip: bool | None = None, threshold: float | None = None,
) -> tuple[list[tuple[Setting, float]], list[LeftOut]]:  # fmt: skip
    """Every combination that the model and the samplers accept.

    Network calls are counted in a dry run on an image of one pixel, in which `sample` also refuses what it does not accept.

    Args:
        model: the model.
        samplers: names, with options in brackets, such as "heun(s_churn=40)". None: `USUAL`.
        calls: largest numbers of network calls per image; a sampler takes as many steps as fit in, also with a call plan.
        steps: further settings have these numbers of steps.
        etas: for samplers with an eta. Other samplers are tried if None or their fixed eta is among them: 0 for deterministic
            and 1 for stochastic ones. None: 0 and 1, or the default of stochastic samplers.
        plans: call plans; "full" or None calls at every step.
        grids: names of grids; None is the default.
        clip: as in `SampleOptions`.
        threshold: as in `SampleOptions`.

    Returns:
        The settings with their network calls per image, the fewest calls first; and what was left out.

    Raises:
        ValueError: for an unknown sampler, and a number of calls or steps below 1.
    """
    if bad := [c for c in (*calls, *steps) if c < 1]:
        raise ValueError(f"{bad[0]} calls or steps: give 1 or more")
    usual = [s for s in USUAL if s in SAMPLERS or s == TUNED]
    kinds = [_parse(text) for text in (usual if samplers is None else samplers)]
    found: dict[Setting, float] = {}
    left: list[LeftOut] = []
    for name, options in kinds:
        made = _of_sampler(name, options, etas, plans, grids, left)
        for base in (kind if _fitted(name) else replace(kind, clip=clip, threshold=threshold) for kind in made):
            for budget in calls:
                _try(model, base, budget, found, left)
            for number in steps:
                _keep(model, replace(base, steps=number), found, left)
    order = sorted(found.items(), key=lambda item: item[1])  # stable: the samplers stay in their order
    return order, _gathered(left)


def calls_of(model: Model, setting: Setting) -> float:
    """Network calls per image, counted on an image of one pixel: an adaptive plan may need other numbers for real images.

    Raises ValueError if `sample` refuses the setting.
    """
    return _dry(model, setting)[1]


def dry_run(model: Model, **arguments: Any) -> dict[str, Any]:
    """The record of `sample(model, 1, **arguments)`, from an image of one pixel, which takes no time.

    Raises ValueError for everything that `sample` refuses.
    """
    return sample(_Pixel(model), 1, batch=1, progress=False, **arguments).record


def _dry(model: Model, setting: Setting) -> tuple[Setting, float]:
    """The setting with the digest of its fitted sampler, if any, and its calls."""
    record = dry_run(model, **setting.arguments())
    return replace(setting, fit=record.get("tuned", {}).get("digest")), float(record["nfe"])


def _fitted(sampler: str) -> bool:
    return sampler.partition(":")[0] == TUNED


class _Pixel:
    """The exact denoiser of standard normal data of one pixel, with all other attributes of a model."""

    image_shape, crop, pixels, value_range = (1, 1, 1), 0, "uint8", None

    def __init__(self, model: Model) -> None:
        self._model = model

    @cached_property
    def schedule(self) -> Any:
        return self._model.schedule

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Images, sigma: Levels, *more: Any) -> Images:
        """more: the classes of a conditional model, which do not matter here."""
        return x / (1 + sigma.reshape(-1, 1, 1, 1).to(x) ** 2)


def _parse(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """ "heun(s_churn=40, order=2)" -> ("heun", (("order", 2), ("s_churn", 40))), without evaluating expressions."""
    match = re.fullmatch(r"\s*(\w+|tuned:[\w.+]+)\s*(?:\((.*)\))?\s*", text)
    if not match:
        raise ValueError(f"sampler {text!r} cannot be read: write a name, as ddim, or with options, as heun(s_churn=40)")
    name = match[1]
    if not _fitted(name):
        find(name)
    options = {}
    for part in (match[2] or "").split(","):
        if not part.strip():
            continue
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not (sign and key.isidentifier() and value):
            raise ValueError(f"sampler {text!r}: cannot read {part.strip()!r}; options are written as heun(s_churn=40)")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value  # a word
    return name, tuple(sorted(options.items()))


def _of_sampler(
    name: str, options: tuple[tuple[str, Any], ...], etas: Sequence[float | None] | None, plans: Sequence[str | None],
    grids: Sequence[str | None], left: list[LeftOut],
) -> list[Setting]:  # fmt: skip
    """The settings of one sampler with 0 steps, which the caller replaces."""
    if _fitted(name):
        return [Setting(name, 0, options=options)]
    entry = find(name)
    wanted: list[float | None] = []
    if etas is None:
        etas = (0.0, 1.0) if "eta" in entry.options and not entry.stochastic else (None,)
    for eta in dict.fromkeys(etas):
        if eta is None or "eta" in entry.options:
            wanted.append(None if eta is None else float(eta))
        elif (eta > 0) == entry.stochastic:
            wanted.append(None)
        else:
            nature = "always draws its noise" if entry.stochastic else "is deterministic"
            left.append(LeftOut(f"{name}, eta {_plain(eta)}", "", f"it {nature} and takes no eta"))
    named, levels = [None if p == "full" else p for p in plans], [None if g == "default" else g for g in grids]
    return [
        Setting(name, 0, eta, grid, plan, options=options)
        for eta in dict.fromkeys(wanted)
        for grid in dict.fromkeys(levels)
        for plan in dict.fromkeys(named)
    ]


def _try(model: Model, base: Setting, budget: int, found: dict[Setting, float], left: list[LeftOut]) -> None:
    """Adds the setting with as many steps as fit in `budget` calls, or the reason why none do."""
    try:
        number = budget if _fitted(base.sampler) else steps_for(find(base.sampler), budget)
        if base.plan is not None:
            if base.plan.startswith("adaptive"):
                raise ValueError("the calls of an adaptive plan are not known before sampling: give steps instead of calls")
            number = _under_plan(model, replace(base, steps=number), budget)
        setting, cost = _dry(model, replace(base, steps=number))
        if setting in found:
            raise ValueError(f"the same {number} steps as with {found[setting]:g} calls")
        found[setting] = cost
    except ValueError as error:
        left.append(LeftOut(base.method, f"{budget} calls", str(error)))


def _keep(model: Model, setting: Setting, found: dict[Setting, float], left: list[LeftOut]) -> None:
    if setting in found:
        return
    try:
        setting, cost = _dry(model, setting)
        found[setting] = cost
    except ValueError as error:
        left.append(LeftOut(setting.method, f"{setting.steps} steps", str(error)))


def _under_plan(model: Model, first: Setting, budget: int) -> int:
    """The most steps that take at most `budget` calls with the plan, from the number that is possible without it."""

    def pays(steps: int) -> bool:
        return calls_of(model, replace(first, steps=steps)) <= budget

    most = model.schedule.steps or _MOST
    low, high = first.steps, min(2 * first.steps, most)
    while low < high and pays(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:  # calls rise with steps, if not at every step of every plan
        middle = (low + high) // 2
        low, high = (middle, high) if pays(middle) else (low, middle)
    if low == first.steps and calls_of(model, first) == calls_of(model, replace(first, plan=None)):
        raise ValueError("the plan skips none of so few calls, so this is the same as without a plan")
    return low


def _gathered(left: Sequence[LeftOut]) -> list[LeftOut]:
    """One entry per method and reason."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for one in left:
        grouped.setdefault((one.method, one.why), []).append(one.at)
    return [LeftOut(method, ", ".join(dict.fromkeys(at)), why) for (method, why), at in grouped.items()]


def _plain(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
