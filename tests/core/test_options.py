"""A function that takes an options dataclass also takes its fields as keywords."""

import inspect
from dataclasses import dataclass

import pytest

from alphabar.core.options import takes


@dataclass(frozen=True)
class Drawing:
    steps: int = 50
    eta: float | None = None


@takes(Drawing)
def draw(n: int, options: Drawing = Drawing(), *, out: str = "") -> tuple[int, Drawing, str]:
    return n, options, out


def test_fields_are_keywords() -> None:
    assert draw(3) == (3, Drawing(), "")
    assert draw(3, steps=5, out="a") == (3, Drawing(steps=5), "a")
    assert draw(3, Drawing(eta=1.0), steps=5) == (3, Drawing(5, 1.0), "")
    assert draw(n=3, options=Drawing(7)) == (3, Drawing(7), "")


def test_a_misspelt_keyword_is_named() -> None:
    with pytest.raises(TypeError, match=r"draw has no argument 'step': did you mean 'steps'\?"):
        draw(3, step=5)


def test_the_signature_shows_every_field() -> None:
    shown = inspect.signature(draw).parameters
    assert list(shown) == ["n", "out", "steps", "eta"]
    assert shown["steps"].default == 50
