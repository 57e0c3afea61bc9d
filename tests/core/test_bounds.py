"""Every number of a recipe, an option and a command has bounds, which are checked before anything is done."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
from cyclopts import App

from alphabar.cli.extractor import TrainOptions
from alphabar.cli.images import CommandOptions
from alphabar.cli.main import app
from alphabar.cli.options import Reading
from alphabar.cli.train import ReadingOfRecipe
from alphabar.core.bounds import UNCHECKED, Batch, Bounds, Checked, Count, Share, checks_numbers, hints_of
from alphabar.features.options import ExtractorOptions, SimCLROptions, SupervisedOptions
from alphabar.fitting.options import TuneOptions
from alphabar.results.experiments import Budget, Scoring
from alphabar.sampling.options import SampleOptions
from alphabar.schedule.betas import Linear
from alphabar.schedule.continuous import Cosine
from alphabar.schedule.density import LogNormal
from alphabar.training.config import DataRecipe, ModelRecipe, Recipe, ScheduleRecipe, TrainRecipe, WatchRecipe
from alphabar.training.options import AutoencoderOptions
from alphabar.verbs import options as verbs
from alphabar.verbs.options import AppOptions

KINDS = [
    Recipe, DataRecipe, ModelRecipe, ScheduleRecipe, TrainRecipe, WatchRecipe, SampleOptions, CommandOptions, TuneOptions,
    ExtractorOptions, SupervisedOptions, SimCLROptions, TrainOptions, AppOptions, Reading, ReadingOfRecipe, Scoring, LogNormal,
    AutoencoderOptions, *(k for k in vars(verbs).values() if is_dataclass(k) and k is not Bounds),
]  # fmt: skip


def numbers(hint: Any, bounds: Bounds | None = None) -> Iterator[tuple[type, Bounds | None]]:
    """The types of number in an annotation, each with its bounds."""
    if get_origin(hint) is Annotated:
        if UNCHECKED in hint.__metadata__:
            return
        bounds = next((m for m in hint.__metadata__ if isinstance(m, Bounds)), bounds)
        hint = hint.__origin__
    if hint in (int, float):
        yield hint, bounds
    elif get_origin(hint) not in (Literal, dict):
        for part in get_args(hint):
            yield from numbers(part, bounds)


def commands(of: App) -> Iterator[Any]:
    for name in of:
        if not name.startswith("-"):
            yield from commands(of[name])
    if of.default_command is not None:
        yield of.default_command


def test_every_field_that_is_a_number_has_bounds() -> None:
    for kind in KINDS:
        assert issubclass(kind, Checked), f"{kind.__name__} does not check its fields"
        for name, hint in hints_of(kind).items():
            bare = [n for n, bounds in numbers(hint) if bounds is None]
            assert not bare, f"{kind.__name__}.{name} is a number without bounds"


def test_every_number_of_a_command_has_bounds_and_is_checked() -> None:
    found = list(commands(app))
    assert len(found) > 15
    for command in found:
        for p in inspect.signature(command).parameters.values():
            bare = [n for n, bounds in numbers(p.annotation) if bounds is None]
            assert not bare, f"{command.__name__}: {p.name} is a number without bounds"
            kind = p.default if is_dataclass(p.default) else None
            assert kind is None or isinstance(kind, Checked), f"{command.__name__}: {p.name} is not checked"
        bounded = [p for p in inspect.signature(command).parameters.values() if any(numbers(p.annotation))]
        assert not bounded or hasattr(command, "__wrapped__"), f"{command.__name__} does not check its arguments"


def wrong(kind: type, bounds: Bounds) -> list[Any]:
    step = 1 if kind is int else 1e-3
    found: list[Any] = [bounds.low - step, True, "7", None, 10**400, math.nan]
    found += [bounds.high * (1 + 1e-3) + 1] if math.isfinite(bounds.high) else []
    found += [bounds.low] if bounds.above else []
    found += [bounds.high] if bounds.below else []
    found += [math.inf, -math.inf] if math.isfinite(bounds.high) else [-math.inf]
    return [*found, 1.5] if kind is int else found


FIELDS = [
    pytest.param(kind, name, wrong(number, bounds), id=f"{kind.__name__}.{name}")
    for kind in KINDS
    for name, hint in hints_of(kind).items()
    for number, bounds in list(numbers(hint))[:1]
    if bounds is not None
]


@pytest.mark.parametrize(("kind", "name", "values"), FIELDS)
def test_a_number_out_of_bounds_is_refused_by_its_name(kind: type, name: str, values: list[Any]) -> None:
    good, hint = kind(), hints_of(kind)[name]
    before = getattr(good, name)
    several = "tuple" in str(hint) or "Sequence" in str(hint)
    optional = type(None) in get_args(hint) or type(None) in get_args(get_args(hint)[0] if get_args(hint) else hint)
    if optional and not several:
        values.remove(None)
        assert getattr(replace(good, **{name: None}), name) is None
    for value in values:
        given = [value, *(before or (value, value))[1:]] if several else value
        made = object.__new__(kind)  # the tests' own checks of types would refuse some of these values first
        for key, present in (vars(good) | {name: given}).items():
            object.__setattr__(made, key, present)
        with pytest.raises(ValueError, match=rf"^{kind.section}{name} = .*: give "):  # type: ignore[attr-defined]
            made.__post_init__()


@dataclass(frozen=True)
class Example(Checked):
    n: Count = 1
    words: tuple[str, ...] = ()
    sizes: tuple[Batch, ...] = ()
    flag: bool = False
    share: Share | None = None
    clip: Annotated[bool, Bounds(0, 10)] = False
    way: Literal["a", "b"] = "a"


def test_values_that_fit_become_plain() -> None:
    made = Example(n=np.int64(3), words=["a"], sizes=[1, 2], share=np.float32(0.5), clip=2.5)  # type: ignore[arg-type]
    assert made == Example(3, ("a",), (1, 2), False, 0.5, 2.5)  # type: ignore[arg-type]
    assert type(made.n) is int and type(made.share) is float and hash(made)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("words", "fid", "words = 'fid': give a list of values"), ("sizes", 3, "sizes = 3: give a list of values"),
        ("flag", 1, "flag = 1: give True or False"), ("flag", "no", "flag = 'no': give True or False"),
        ("clip", 11, r"clip = 11: give True or False, or a number from 0 to 10"), ("way", "c", "way = 'c': give one of a, b"),
        ("n", int("9" * 4000), "n = a whole number of 13,288 bits: give a whole number from 1 to"),
    ],
)  # fmt: skip
def test_other_types_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Example(**{name: value})


@pytest.mark.parametrize(
    ("good", "values", "message"),
    [
        (Budget(1), {"images": -1}, "budget.images = -1: give a whole number from 0"),
        (Budget(1), {"minutes": math.inf}, "budget.minutes = inf: give a number from 0"),
        (Budget(1), {"images": True}, "budget.images = True: give a whole number"),
        (Budget(1), {"images": 0}, "the budget is in images or in minutes"),
        (Linear(), {"steps": 10.5}, "steps = 10.5: give a whole"), (Cosine(), {"s": math.nan}, "s = nan: give"),
        (Linear(), {"beta_max": "0.01"}, "beta_max = '0.01': give a number"),
    ],
)  # fmt: skip
def test_budgets_and_schedules_check_types_and_ranges(good: Any, values: dict[str, Any], message: str) -> None:
    made = object.__new__(type(good))  # as above
    for key, value in (vars(good) | values).items():
        object.__setattr__(made, key, value)
    with pytest.raises(ValueError, match=f"^{message}"):
        made.__post_init__()


def test_arguments_of_a_function() -> None:
    @checks_numbers
    def draw(n: Count, *, share: Share | None = None, other: int = 0) -> tuple[int, float | None, int]:
        return n, share, other

    assert draw(2, share=1, other=-1) == (2, 1, -1)
    with pytest.raises(ValueError, match=r"^n = 0: give a whole number from 1 to 1,000,000,000,000$"):
        draw(0)
    with pytest.raises(ValueError, match=r"^share = nan: give a number from 0 to 1$"):
        draw(1, share=math.nan)


def test_the_command_line_rounds_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--n", "2.5"], ["--steps", "2.5"], ["--calls", "5", "7.5"]):
        command = ["tune", "bundled"] if "--calls" in words else ["sample", "bundled", "--out", "x.npz"]
        with pytest.raises(SystemExit):
            app([*command, *words])
        assert f"{words[-1]} is no whole number" in capsys.readouterr().err
