"""The glossary's names exist."""

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NAMES = re.findall(r"^\|.*?\|.*?\| `(alphabar[\w.]+)` \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)


def test_the_glossary_was_read() -> None:
    assert len(NAMES) > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_glossary_exists(name: str) -> None:
    parts = name.split(".")
    for cut in range(len(parts), 1, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        assert found is not None
        return
    raise AssertionError(name)
