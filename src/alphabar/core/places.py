"""Places on this machine: what is shared names a file or folder by its last part alone; a run keeps the whole in private.json."""

import getpass
import platform
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from alphabar.core.files import write_json
from alphabar.core.stored_values import read_object

PRIVATE = "private.json"  # in a run: the recipe's keys that name a place, which resuming needs; not uploaded, not shown
# an absolute path, one in the home folder, or one above the current folder, also after diffusers: and before :test
_PLACE = re.compile(r"((?:[a-z]{2,}:)?)((?:/(?!/)|~|\.\.[/\\]|[A-Za-z]:[/\\]|\\\\)[^\n]*)", re.DOTALL)


def without_places(value: Any) -> Any:
    """Plain data in which every text that is such a path is its last part.

    >>> without_places({"set": "/home/anna/photos", "from": ["diffusers:/data/pipe", "hf:owner/name", "photos/"]})
    {'set': 'photos', 'from': ['diffusers:pipe', 'hf:owner/name', 'photos/']}
    """
    if isinstance(value, str):
        return f"{found[1]}{PureWindowsPath(found[2]).name}" if (found := _PLACE.fullmatch(value)) else value
    if isinstance(value, Mapping):
        return {without_places(k): without_places(v) for k, v in value.items()}
    return [without_places(v) for v in value] if isinstance(value, list | tuple) else value


def write_private(run: Path, recipe: Mapping[str, Any]) -> None:
    """Keeps in a run the values of a recipe with flat keys that its recipe.toml names by their last part."""
    if hidden := {k: v for k, v in recipe.items() if without_places(v) != (list(v) if isinstance(v, tuple) else v)}:
        write_json(run / PRIVATE, hidden)


def with_places(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """A recipe as it was before `without_places`, where private.json next to its file has what the file has not."""
    if not (private := file.with_name(PRIVATE)).is_file():
        return dict(values)
    out = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for key, value in read_object(private).items():
        section, _, name = key.partition(".")
        inside = out.get(section)
        if isinstance(inside, dict) and name in inside and inside[name] == without_places(value):
            inside[name] = value
    return out


def private_words(*places: Path) -> dict[str, str]:
    """What tells of this machine and its user, by what it is: the user's and the machine's name, folders, those of `places`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        user = ""
    folders = {str(p.absolute()) for p in (Path.home(), Path.cwd(), *places)}
    words = {user: "the user name", platform.node(): "the name of this machine"} | dict.fromkeys(folders, "a path")
    return {word: what for word, what in words.items() if len(word) > 1}


def check_not_private(texts: Mapping[str, str], words: Mapping[str, str], known: str = "") -> None:
    """Raises ValueError, naming the file, where a text to be shared holds one of `private_words`. known: what may hold them."""
    for name, text in texts.items():
        text = text.replace(known, "") if known else text
        for word, what in words.items():
            if found := re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text):
                near = " ".join(text[max(0, found.start() - 40) : found.end() + 40].split())
                raise ValueError(f"{name} holds {what}, {word!r}, and is to be shared: remove it there (…{near}…)")
