"""Options of a verb stand once, in a frozen dataclass: the function, the command line and the record take them from there."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar, get_type_hints

from alphabar.core.bounds import checks_numbers
from alphabar.core.suggest import did_you_mean

R = TypeVar("R")


def takes(kind: type) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Decorator for a function with a parameter `options: kind`: callers may pass the fields of `kind` as keywords.

    `sample(model, 8, steps=5)` is `sample(model, 8, options=SampleOptions(steps=5))`; with both, keywords replace fields of
    `options`. Numbers are checked (`checks_numbers`). The signature that `help` and editors show lists every field with its
    default. `kind` is a frozen dataclass whose fields all have defaults. An unknown keyword raises TypeError, naming the most
    similar one.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        own, checked = inspect.signature(function), checks_numbers(function)
        # a field that is also a parameter is left to the function; one called `options` is passed by keyword
        names = [f.name for f in fields(kind) if f.name == "options" or f.name not in own.parameters]
        accepted = [*own.parameters, *names]

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> R:
            if unknown := [k for k in keywords if k not in accepted]:
                raise TypeError(f"{function.__name__} has no argument {unknown[0]!r}: {did_you_mean(unknown[0], accepted)}")
            whole = {"options": keywords.pop("options")} if isinstance(keywords.get("options"), kind) else {}
            changes = {k: keywords.pop(k) for k in names if k in keywords}
            keywords |= whole  # a field may be called `options` as well: only a value of `kind` is the parameter
            bound = own.bind(*args, **keywords)
            if changes or "options" not in bound.arguments:
                bound.arguments["options"] = replace(bound.arguments.get("options", kind()), **changes)
            return checked(*bound.args, **bound.kwargs)

        hints = get_type_hints(kind)
        flat = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(kind(), name), annotation=hints[name])
            for name in names
        ]
        kept = [p for p in own.parameters.values() if p.name != "options"]
        order = sorted([*kept, *flat], key=lambda p: p.kind)  # stable: the function's own keywords come before the fields
        call.__signature__ = own.replace(parameters=order)  # type: ignore[attr-defined]
        return call

    return decorate
