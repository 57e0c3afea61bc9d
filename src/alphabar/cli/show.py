"""What the commands print: tables, JSON, and the sentence after Ctrl-C."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON instead of a table.")]
Flag = Annotated[bool, Parameter(negative="")]  # an option that is only ever switched on


def as_json_line(value: Any) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(value))


def table(columns: Iterable[str], rows: Iterable[Sequence[str]], title: str) -> None:
    """A table for the terminal."""
    from rich.console import Console
    from rich.table import Table

    made = Table(*columns, title=title, title_justify="left")
    for row in rows:
        made.add_row(*row)
    Console().print(made)


def line(text: str) -> None:
    """A sentence, wrapped at the width of the terminal."""
    from rich.console import Console

    Console().print(text, markup=False, highlight=False)


def record(values: Mapping[str, Any], as_json: bool, title: str) -> None:
    """A record as a table of names and values, or as JSON."""
    if as_json:
        as_json_line(values)
        return
    from rich.console import Console
    from rich.table import Table

    made = Table(title=title, show_header=False, title_justify="left")
    for key, value in values.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        made.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(made)


def interval(ends: tuple[float, float] | None, form: str = " [{:.4g}, {:.4g}]") -> str:
    """The ends of an interval, or nothing where there is none."""
    return "" if ends is None else form.format(*ends)


@contextmanager
def stopped_by_ctrl_c(words: str) -> Iterator[None]:
    """Ctrl-C ends the command with `words` on stderr and exit code 130; "{}" in them is the message of the interrupted verb."""
    try:
        yield
    except KeyboardInterrupt as stop:
        print(words.format(stop), file=sys.stderr)
        raise SystemExit(130) from None
