"""Print the lowest versions that pyproject.toml allows, as constraints for pip: `python benchmarks/lowest.py test fast`.

The arguments are extras. `--keep NAME` takes the version of constraints.txt instead.
"""

import argparse
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"alphabar\[([\w,]+)\]|([\w-]+)(?:\[.*\])?>=([\w.]+)")


def lowest(project: dict, extras: list[str]) -> dict[str, str]:
    """Version by name, of the core and `extras`; a dependency without a lower bound is an error."""
    found: dict[str, str] = {}
    for text in project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]:
        match = NAME.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} of pyproject.toml has no lower bound: write NAME>=VERSION")
        found |= lowest(project, match[1].split(",")) if match[1] else {match[2]: match[3]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--keep", action="append", default=[], metavar="NAME", help="take the version of constraints.txt")
    options = parser.parse_args()
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    bounds = lowest(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], options.extras)
    for name, version in sorted((bounds | {name: pinned[name] for name in options.keep}).items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
