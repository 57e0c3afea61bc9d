"""The type checker that the tests put on every function of alphabar: beartype, which accepts int where float is annotated.

A check costs more than many of the calls that it watches, so only the first MOST calls of each test are checked: 500 in
`make test`, 5,000 in `make test-slow`, all of them where ALPHABAR_CHECKED_CALLS=all.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_asked = os.environ.get("ALPHABAR_CHECKED_CALLS", "500")
MOST = math.inf if _asked == "all" else int(_asked)
_left: float = MOST


def begin() -> None:
    """Called before each test: its first MOST calls are checked."""
    global _left
    _left = MOST
    jaxtyping.config.update("jaxtyping_disable", False)


def off() -> None:
    """Leaves the rest of a test unchecked: for tests that pass what the annotations forbid, as a user's script may."""
    global _left
    _left = 0
    jaxtyping.config.update("jaxtyping_disable", True)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    if function.__qualname__.endswith("Options.__init__"):  # annotated with what a command line can give: Python accepts more
        return function
    typed: Callable[..., Any] | None = None  # made at the first call: most functions of a process are never called

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _left
        nonlocal typed
        _left -= 1
        if _left >= 0:
            if typed is None:
                typed = beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
            return typed(*args, **kwargs)
        jaxtyping.config.update("jaxtyping_disable", True)
        return function(*args, **kwargs)

    return counted
