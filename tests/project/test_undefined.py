"""No function reads a name that nothing defines. Ruff's rule is off, because it takes the shapes of jaxtyping for names."""

import builtins
import symtable
from pathlib import Path

import alphabar


def undefined(source: str, where: str) -> list[str]:
    """The global names that functions and classes of a module read, and that neither the module nor Python defines."""
    module = symtable.symtable(source, where, "exec")
    known = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    found, tables = [], [module]
    for table in tables:
        tables += table.get_children()
        found += [s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced() and s.get_name() not in known]
    return [f"{where}: {name}" for name in found if not hasattr(builtins, name) and not name.startswith("__")]


def test_every_name_is_defined() -> None:
    files = sorted(Path(alphabar.__file__).parent.rglob("*.py"))
    assert [name for file in files for name in undefined(file.read_text(encoding="utf-8"), str(file))] == []


def test_an_undefined_name_is_found() -> None:
    assert undefined("import math\n\ndef f(x):\n    return math.sin(x) / total\n", "m") == ["m: total"]
