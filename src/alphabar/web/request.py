"""One setting as the page sends it, and the checks of its values: anybody can send anything to the page."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from alphabar.core.bounds import short

MOST_IMAGES = 256  # shown
MOST_SCORED = 10_000  # images of a score
MOST_STEPS = 1000  # or calls, of one image
MOST_SEED = 2**53 - 1  # the largest whole number that a browser keeps exactly
MOST_TEXT = 200  # characters of a plan or of classes


@dataclass(frozen=True)
class Setting:
    """One way to sample, as the page sends it. Nothing of it has been checked."""

    run: Any = "bundled"
    """bundled, or a name in `RunsFolder.names`."""
    sampler: Any = "ddim"
    """A name in the catalogue, tuned, or tuned:NAME."""
    amount: Any = 25
    """Number of calls or steps."""
    counted: Any = "calls"
    """What `amount` counts: calls or steps. A sampler takes as many steps as the calls pay for."""
    eta: Any = None
    """0 to 1, as a number or its text; None or "" is the sampler's default."""
    plan: Any = ""
    """A call plan; "" is none."""
    grid: Any = ""
    """Name of a grid; "" is the model's."""
    clip: Any = ""
    """yes or no; "" is the model's."""
    classes: Any = ""
    """Names or numbers between commas, or all; "" is none."""
    guidance: Any = None
    """A weight, as a number or its text; None or "" is none."""
    checkpoint: Any = "last"
    """last or best."""


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number from low to high, as a browser sends it. Raises ValueError with what came for anything else."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high or int(value) != value:  # NaN fails the comparison
        raise ValueError(f"{name} = {short(value)}: give a whole number from {low:,} to {high:,}")
    return int(value)


def number(name: str, value: Any) -> float | None:
    """A number or its text; None where the field is empty. Raises ValueError with what came for anything else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, int | float | str) and not isinstance(value, bool) and len(str(value)) <= MOST_TEXT:
        with suppress(ValueError, OverflowError):
            if abs(found := float(value)) <= 1e6:
                return found
    raise ValueError(f"{name} = {short(value)}: give a number, as 0.5, or leave it empty")


def text(name: str, value: Any) -> str:
    """A short text without spaces at its ends; "" for None. Raises ValueError with what came for anything else."""
    if value is not None and (not isinstance(value, str) or len(value) > MOST_TEXT):
        raise ValueError(f"{name} {short(value)}: give at most {MOST_TEXT} characters of text")
    return (value or "").strip()


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of the known words. Raises ValueError with what came for anything else."""
    if value not in known:
        raise ValueError(f"{name} {short(value)}: choose {' or '.join(known)}")
    return str(value)
