"""The packages of alphabar form one chain: a module imports from its own package and from those before it, without cycles."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import alphabar

ROOT = Path(alphabar.__file__).parent
CHAIN = [
    "core", "data", "schedule", "denoiser", "training", "sampling", "features", "evaluation", "fitting", "results", "report",
    "tracking", "verbs", "web", "cli",
]  # fmt: skip
TOP = {"__init__", "__main__"}  # may import from everywhere
MODULES = {path.relative_to(ROOT).with_suffix("").parts: path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Line numbers and parts of every module of alphabar that a file imports, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            below = [(*node.module.split(".")[1:], a.name) for a in node.names] if node.module.startswith("alphabar") else []
            found += [(node.lineno, parts if parts in MODULES else parts[:-1]) for parts in below]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, tuple(a.name.split(".")[1:])) for a in node.names if a.name.startswith("alphabar.")]
    return [(line, parts) for line, parts in found if parts]


def offenders(path: Path, package: str) -> list[str]:
    """Sentences that name the imports from packages after `package` in the chain."""
    later = CHAIN[CHAIN.index(package) + 1 :]
    return [
        f"{path}:{line} imports alphabar.{'.'.join(parts)}, which comes after {package} in the chain"
        for line, parts in imports(path)
        if parts[0] in later
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle in their order, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_module_lives_in_a_package_of_the_chain() -> None:
    assert {parts[0] for parts in MODULES} == {*CHAIN, *TOP}


@pytest.mark.parametrize("parts", [p for p in MODULES if p[0] not in TOP], ids="/".join)
def test_a_module_imports_only_from_packages_before_its_own(parts: tuple[str, ...]) -> None:
    assert offenders(MODULES[parts], parts[0]) == []


def test_an_offender_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("from alphabar.sampling import sample\n")
    assert offenders(bad, "schedule") == [f"{bad}:1 imports alphabar.sampling.sample, which comes after schedule in the chain"]


def test_there_is_no_import_cycle() -> None:
    graph = {
        ".".join(parts): {".".join(found) for _, found in imports(path)} for parts, path in MODULES.items() if parts[0] not in TOP
    }
    assert cycle(graph) == []
    assert cycle({**graph, "core.types": {"data.split"}, "data.split": {"core.types"}}) != []
