"""The type checker that the tests put on every function of alphabar: beartype, with int accepted where float is said.

A check costs more than many a call that it watches, so each test has the first MOST of its calls checked: more than it takes to
come by everything once, and no more where a loop takes ten thousand steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

MOST = 5_000
_left = MOST


def begin() -> None:
    """A test begins: its calls are checked again."""
    global _left
    _left = MOST
    jaxtyping.config.update("jaxtyping_disable", False)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    typed = beartype(conf=BeartypeConf(is_pep484_tower=True))(function)

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _left
        _left -= 1
        if _left < 0:
            jaxtyping.config.update("jaxtyping_disable", True)
        return typed(*args, **kwargs)

    return counted
