"""The packages of alphabar form one chain: a module imports from its own package and from those before it, without cycles."""

from pathlib import Path

import pytest

from benchmarks.figures import cycle, imports, module_paths

CHAIN = [
    "core", "data", "schedule", "denoiser", "training", "sampling", "features", "evaluation", "restoration", "fitting",
    "results", "report", "tracking", "verbs", "web", "cli",
]  # fmt: skip
TOP = {"__init__", "__main__"}  # may import from everywhere
MODULES = module_paths()
IN_CHAIN = [name for name in MODULES if name not in TOP]


def offenders(path: Path, package: str) -> list[str]:
    """Sentences that name the imports from packages after `package` in the chain."""
    later = CHAIN[CHAIN.index(package) + 1 :]
    return [
        f"{path}:{line} imports alphabar.{name}, which comes after {package} in the chain"
        for line, name in imports(path, MODULES)
        if name.split(".")[0] in later
    ]


def test_every_module_lives_in_a_package_of_the_chain() -> None:
    assert {name.split(".")[0] for name in MODULES} == {*CHAIN, *TOP}


@pytest.mark.parametrize("name", IN_CHAIN)
def test_a_module_imports_only_from_packages_before_its_own(name: str) -> None:
    assert offenders(MODULES[name], name.split(".")[0]) == []


def test_an_offender_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("from alphabar.sampling import sample\n")
    assert offenders(bad, "schedule") == [f"{bad}:1 imports alphabar.sampling.sample, which comes after schedule in the chain"]


def test_there_is_no_import_cycle() -> None:
    graph = {name: {found for _, found in imports(MODULES[name], MODULES)} for name in IN_CHAIN}
    assert cycle(graph) == []
    assert cycle({**graph, "core.types": {"data.split"}, "data.split": {"core.types"}}) != []
