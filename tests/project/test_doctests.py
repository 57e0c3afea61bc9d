"""The examples in docstrings run and print what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import alphabar

ROOT = Path(alphabar.__file__).parent
MODULES = [
    "alphabar." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


SECONDS = {"alphabar.verbs.tune": 75}  # its example walks the bundled model's fine trajectory


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow(SECONDS[name])) if name in SECONDS else name for name in MODULES]
)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0
