"""Code and pages use the words of the glossary, and none of those that it lists as retired."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
# The table itself, the history of changes, the names in stored files and this test may contain retired words.
EXEMPT = {"docs/glossary.md", "CHANGELOG.md", "src/alphabar/core/stored_names.py", "tests/project/test_words.py"}
FOLDERS = ("src", "tests", "docs", "examples", "benchmarks")
SUFFIXES = {".py", ".md", ".toml", ".j2", ".js"}


def retired() -> list[str]:
    table = GLOSSARY.read_text().partition("## Retired words")[2]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])]


@cache
def pages() -> dict[str, str]:
    """The text of every page, by its name."""
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES] + [ROOT / "README.md"]
    names = {p.relative_to(ROOT).as_posix(): p for p in found if "history" not in p.parts and "stored" not in p.parts}
    return {name: p.read_text(encoding="utf-8") for name, p in names.items() if name not in EXEMPT}


def uses(word: str, text: str) -> list[str]:
    """Lines with the word, also as a part of a name such as `_told`; not those that are marked as being about an old name."""
    pattern = re.compile(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])", re.IGNORECASE)
    if word.lower() not in text.lower():
        return []
    text = re.sub(r"\b(torch|np)\.eye\(", "", text)  # the identity matrix
    return [line.strip() for line in text.splitlines() if pattern.search(line) and "old name" not in line]


def test_the_table_is_read() -> None:
    assert len(retired()) > 15
    assert uses("told", "x = _told(3)\nunfold") == ["x = _told(3)"]


@pytest.mark.parametrize("word", retired())
def test_a_retired_word_is_not_used(word: str) -> None:
    assert [f"{name}: {line}" for name, text in pages().items() for line in uses(word, text)] == []
