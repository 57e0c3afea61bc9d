"""Names in stored files that were renamed since: old name -> new name, one table for each kind of file.

Readers pass what they parsed through `renamed`, so files written under the old names still open. Writers use only new names.
A name is a dotted path from the top of the file; the tables and arrays that enclose it carry their new names.
"""

from collections.abc import Mapping
from typing import Any

RECIPE = {"train.begin": "train.init_from"}
"""recipe.toml, and recipes stored in checkpoints and experiments."""
SCORE = {"warrant": "check_result"}
"""Lines of scores.jsonl and comparisons.jsonl."""
FITTED = {"how.began with": "how.start", "how.judge": "how.heldout"}
"""JSON files of fitted samplers."""
EXTRACTOR = {"check.ladders": "check.corruptions"}
"""Headers of extractor files."""
TRACKING = {"told": "tracked_run"}
"""tracking/NAME.json of a run: what was sent to a tracker."""


def renamed(stored: Mapping[str, Any], aliases: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """A copy of what was read from a file, with old names replaced by new ones at every depth. The order is kept.

    Args:
        stored: parsed TOML or JSON. Keys may be nested ({"train": {"begin": ""}}) or flat ({"train.begin": ""}).
        aliases: old path -> new path. Both lie in the same table, as "train.begin" and "train.init_from" do.
        prefix: the path of `stored` in its file, with a final dot.

    Raises:
        ValueError: if a table has a value under the old and under the new name.

    >>> renamed({"train": {"begin": "bundled", "lr": 0.002}}, RECIPE)
    {'train': {'init_from': 'bundled', 'lr': 0.002}}
    """
    out: dict[str, Any] = {}
    for old, value in stored.items():
        new = aliases.get(prefix + old, prefix + old).removeprefix(prefix)
        if new != old and new in stored:
            raise ValueError(f"{prefix}{old} is the old name of {prefix}{new}, and both are given: delete {prefix}{old}")
        out[new] = _inside(value, aliases, f"{prefix}{new}.")
    return out


def _inside(value: Any, aliases: Mapping[str, str], prefix: str) -> Any:
    if isinstance(value, list):
        return [_inside(item, aliases, prefix) for item in value]
    return renamed(value, aliases, prefix) if isinstance(value, Mapping) else value
