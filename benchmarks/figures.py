"""Prints the size of the source: files over 400 lines, functions over 60 lines of code, import cycles, lines in all.

    make figures

A function's lines of code are those of its body without blank lines, comments and docstring; functions within it count as part
of it and on their own.
"""

import ast
import sys
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


def imports(tree: ast.Module, modules: set[str]) -> set[str]:
    """Modules of alphabar that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {name if (name := f"{node.module}.{a.name}") in modules else node.module for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found & modules


def main() -> int:
    paths = {"alphabar." + ".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(ROOT.rglob("*.py"))}
    graph, total, long_files, long_functions = {}, 0, [], []
    for module, path in paths.items():
        source = path.read_text()
        text, tree = source.splitlines(), ast.parse(source)
        total += len(text)
        graph[module] = imports(tree, set(paths))
        if len(text) > MOST_LINES:
            long_files.append(f"{path.relative_to(ROOT)}: {len(text)}")
        for node in ast.walk(tree):
            if isinstance(node, Function) and (n := code_lines(node, text)) > MOST_CODE:
                long_functions.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {n}")
    try:
        TopologicalSorter(graph).prepare()
        cycles = []
    except CycleError as error:
        cycles = [" -> ".join(error.args[1])]
    print(f"files over {MOST_LINES} lines: {len(long_files)}", *long_files, sep="\n  ")
    print(f"functions over {MOST_CODE} lines of code: {len(long_functions)}", *long_functions, sep="\n  ")
    print(f"import cycles: {len(cycles)}", *cycles, sep="\n  ")
    print(f"lines in all: {total}, in {len(paths)} files")
    return int(bool(cycles))


if __name__ == "__main__":
    sys.exit(main())
