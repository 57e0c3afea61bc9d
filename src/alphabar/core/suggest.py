"""Suggestions for a misspelt name."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """The end of an error message: "did you mean 'ddim'?", or all known names where none is similar."""
    names = [str(name) for name in known]
    near = get_close_matches(word, names, 3, cutoff)
    near.sort(key=lambda name: sorted(name) != sorted(word))  # stable; swapped letters are the most frequent slip
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names) or 'none'}"
