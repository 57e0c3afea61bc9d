"""Prints the size of the source: files over 400 lines, functions over 60 lines of code, import cycles, lines in all.

    make figures

A function's lines of code are those of its body without blank lines, comments and docstring; functions within it count as part
of it and on their own.
"""

import ast
import sys
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "alphabar"
MOST_LINES, MOST_CODE = 400, 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(function: Function, text: list[str]) -> int:
    """Lines of code in the body of a function."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
        body = body[1:]
    if not body:
        return 0
    lines = text[body[0].lineno - 1 : function.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def module_paths(root: Path = ROOT) -> dict[str, Path]:
    """The files of the package by module name, "core.files"."""
    return {".".join(p.relative_to(root).with_suffix("").parts): p for p in sorted(root.rglob("*.py"))}


def imports(path: Path, modules: Collection[str]) -> list[tuple[int, str]]:
    """Line numbers and names of the modules of alphabar that a file imports, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alphabar"):
            package = (node.module or "").removeprefix("alphabar").lstrip(".")
            names = [f"{package}.{a.name}".lstrip(".") for a in node.names]
            found += [(node.lineno, name if name in modules else package) for name in names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, a.name.removeprefix("alphabar.")) for a in node.names if a.name.startswith("alphabar.")]
    return [(line, name) for line, name in found if name]


def cycle(graph: Mapping[str, Collection[str]]) -> list[str]:
    """The modules of one import cycle in their order, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def main() -> int:
    paths = module_paths()
    graph, total, long_files, long_functions = {}, 0, [], []
    for module, path in paths.items():
        source = path.read_text()
        text, tree = source.splitlines(), ast.parse(source)
        total += len(text)
        graph[module] = {name for _, name in imports(path, paths)}
        if len(text) > MOST_LINES:
            long_files.append(f"{path.relative_to(ROOT)}: {len(text)}")
        for node in ast.walk(tree):
            if isinstance(node, Function) and (n := code_lines(node, text)) > MOST_CODE:
                long_functions.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {n}")
    found = cycle(graph)
    print(f"files over {MOST_LINES} lines: {len(long_files)}", *long_files, sep="\n  ")
    print(f"functions over {MOST_CODE} lines of code: {len(long_functions)}", *long_functions, sep="\n  ")
    print(f"import cycles: {bool(found):d}", *([" -> ".join(found)] if found else []), sep="\n  ")
    print(f"lines in all: {total}, in {len(paths)} files")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
