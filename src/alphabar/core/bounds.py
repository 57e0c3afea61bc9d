"""Types and bounds of options: declared once, in the annotation of a field or a parameter, and checked when the value is given.

A dataclass that inherits from `Checked` refuses what does not fit when it is made, by whichever way its values came: from Python,
a TOML file, the command line or `dataclasses.replace`. A function that is decorated with `checks_numbers` does the same.
"""

import functools
import inspect
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")
MOST = 10**12  # images, steps, bytes: more than any training has


@dataclass(frozen=True)
class Bounds:
    """Lowest and highest value of a number, as in `Annotated[int, Bounds(1, 100)]`, or of every number in a tuple.

    Of `bool`, `Annotated[bool, Bounds(0, 1)]`, a number within the bounds is allowed as well as True and False.

    >>> check("train.clip", Annotated[float, Bounds(0, 100, "0 does not clip")], -1)
    Traceback (most recent call last):
    ValueError: train.clip = -1: give a number from 0 to 100 (0 does not clip)
    """

    low: float
    high: float = MOST
    note: str = ""  # for the message: what a special value means
    above: bool = False  # the lowest value itself is refused
    below: bool = False  # the highest value itself is refused

    def fit(self, value: float) -> bool:
        good = self.low < value if self.above else self.low <= value
        good = good and (not isinstance(value, int) or value.bit_length() <= 1000)  # a larger one is no float
        return good and (value < self.high if self.below else value <= self.high)  # NaN fails the comparison

    def __str__(self) -> str:
        low, high = (f"{v:,}" if isinstance(v, int) else f"{v:g}" for v in (self.low, self.high))
        range_ = f"above {low} and" if self.above else f"from {low}"
        range_ += f" below {high}" if self.below else f" to {high}" if not self.above else f" at most {high}"
        return range_ + (f" ({self.note})" if self.note else "")


UNCHECKED = object()
"""In an annotation: Python callers may pass other types than the command line, which the function checks."""

Count = Annotated[int, Bounds(1)]
CountOrZero = Annotated[int, Bounds(0)]
Batch = Annotated[int, Bounds(1, 10**6)]
Steps = Annotated[int, Bounds(1, 100_000)]
Seed = Annotated[int, Bounds(0, 2**63 - 1)]
Share = Annotated[float, Bounds(0, 1)]
Positive = Annotated[float, Bounds(0, MOST, above=True)]
NotNegative = Annotated[float, Bounds(0)]


def check(key: str, hint: Any, value: Any, bounds: Bounds | None = None) -> Any:
    """`value` if it fits the annotation `hint`: as a tuple for a list, as Python's own number for one of NumPy.

    Checked are numbers, True and False, words of a Literal, None, and tuples of them. Raises ValueError, with `key`, the value
    and what is wanted. `bounds` holds for all numbers whose annotation has none.
    """
    if get_origin(hint) is Annotated:
        if UNCHECKED in hint.__metadata__:
            return value
        bounds = next((m for m in hint.__metadata__ if isinstance(m, Bounds)), bounds)
        hint = hint.__origin__
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        kinds = [a for a in arguments if a is not types.NoneType]
        return check(key, kinds[0], value, bounds) if len(kinds) == 1 else value
    if hint in (int, float, bool):
        return _number(key, hint, value, bounds)
    if origin is Literal and value not in arguments:
        raise ValueError(f"{key} = {short(value)}: give one of {', '.join(map(str, arguments))}")
    if origin in (tuple, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{key} = {short(value)}: give a list of values")
        kinds = [arguments[0]] * len(value) if origin is Sequence or arguments[-1] is ... else [*arguments]
        if len(kinds) != len(value):
            raise ValueError(f"{key} = {short(value)}: give {len(kinds)} values")
        return tuple(check(key, kind, v, bounds) for kind, v in zip(kinds, value, strict=True))
    return value


def _number(key: str, kind: type, value: Any, bounds: Bounds | None) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # of NumPy or torch
    wanted = {int: "a whole number", float: "a number", bool: "True or False" + (", or a number" if bounds else "")}[kind]
    if isinstance(value, bool):
        good = kind is bool
    else:
        good = isinstance(value, int if kind is int else (int, float)) and (kind is not bool or bounds is not None)
        good = good and (bounds or Bounds(-math.inf, math.inf, above=True, below=True)).fit(value)
    if not good:
        raise ValueError(f"{key} = {short(value)}: give {wanted}" + (f" {bounds}" if bounds else ""))
    return value


def short(value: Any) -> str:
    """A value for a message, at most about 60 characters."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a whole number of {value.bit_length():,} bits"
    words = str(value) if isinstance(value, int | float) else repr(value)
    return words if len(words) <= 60 else f"{words[:60]}..."


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass, with their bounds."""
    return get_type_hints(kind, include_extras=True)


class Checked:
    """Base of dataclasses of options. A subclass with a `__post_init__` calls this one first."""

    section: ClassVar[str] = ""  # of a recipe: "train." in "train.clip", for messages

    def __post_init__(self) -> None:
        hints = hints_of(type(self))  # type: ignore[arg-type]
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if (fitting := check(self.section + field.name, hints[field.name], value)) is not value:
                object.__setattr__(self, field.name, fitting)


def has_bounds(hint: Any) -> bool:
    """Whether an annotation, or a part of it, has bounds."""
    return any(isinstance(m, Bounds) for m in getattr(hint, "__metadata__", ())) or any(map(has_bounds, get_args(hint)))


def checks_numbers(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: arguments whose annotation has bounds are checked at every call."""
    signature = inspect.signature(function)
    bounded = {name: p.annotation for name, p in signature.parameters.items() if has_bounds(p.annotation)}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        for name in bounded.keys() & given.arguments.keys():
            given.arguments[name] = check(name, bounded[name], given.arguments[name])
        return function(*given.args, **given.kwargs)

    return call


def exact(hint: Any, tokens: Any) -> Any:
    """Converter of the command line, which alone would round 1.5 to 2 where a whole number is wanted."""
    from cyclopts import convert

    for token in tokens if not isinstance(tokens, dict) and _whole_only(hint) else ():
        if "." in token.value and not float(token.value).is_integer():
            raise ValueError(f"{token.value} is no whole number")
    return convert(hint, tokens)


def _whole_only(hint: Any) -> bool:
    """Whether int is the only type of number in an annotation."""
    return hint is int or (bool(get_args(hint)) and any(map(_whole_only, get_args(hint))) and float not in get_args(hint))
