"""A module imports from its own layer and lower ones only."""

import ast
from pathlib import Path

import pytest

import alphabar

ROOT = Path(alphabar.__file__).parent
LAYERS = ["words", "data", "schedule", "denoiser", "training", "sampling", "evaluation", "tracking", "report", "door"]
WORDS, DOOR = (
    {"types", "seeds", "record", "progress"},
    {
        "recipe",
        "api",
        "judge",
        "sweeping",
        "tuning",
        "averaging",
        "cluster",
        "hypothesis",
        "experimenting",
        "trial",
        "cli",
        "app",
        "playground",
        "demo",
        "__init__",
    },
)


def layer(parts: tuple[str, ...]) -> int:
    first = parts[0]
    if first in WORDS:
        return 0
    return LAYERS.index("door" if first in DOOR else first)


def imports(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "alphabar" else [f"alphabar.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found += [(node.lineno, tuple(n.split(".")[1:])) for n in names if n.startswith("alphabar.")]
    return found


def offenders(path: Path, own: tuple[str, ...]) -> list[str]:
    return [
        f"{path}:{line} imports alphabar.{'.'.join(parts)}, which is a layer above its own"
        for line, parts in imports(path)
        if layer(parts) > layer(own)
    ]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts
    assert offenders(path, own) == []


def test_an_offender_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("from alphabar.sampling.sample import sample\n")
    assert offenders(bad, ("schedule", "bad")) == [f"{bad}:1 imports alphabar.sampling.sample, which is a layer above its own"]
