"""What the commands print: tables, JSON, and the sentence after Ctrl-C."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from alphabar.core.files import json_text, plain
from alphabar.core.messages import cells, command, console, printable, say, stop_code


def as_json_line(value: Any) -> None:
    print(json_text(plain(value)))


def done(value: Any, as_json: bool) -> bool:
    """Whether nothing is left to print: `value` was printed as JSON, or this is not the first process, which prints for all."""
    from alphabar.core.processes import world

    first = world()[0] == 0
    if first and as_json:
        as_json_line(value)
    return as_json or not first


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str, one_line: bool = False) -> None:
    """A table for the terminal, with a header unless all names of columns are empty. one_line: each row takes one line, in which
    the first and the last column are cut where they are too long."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    texts = [cells(columns), *map(cells, rows)]
    heads, terminal = [Column(name) for name in texts[0]], console()
    if one_line:
        *wide, _ = (max(len(text[k]) for text in texts) for k in range(len(heads)))
        wide[0] = min(wide[0], max(24, terminal.width - sum(wide[1:]) - 40))
        for head, width in zip(heads, [*wide, max(8, terminal.width - sum(wide) - 2 * len(wide) - 1)], strict=True):
            head.no_wrap, head.overflow, head.max_width = True, "ellipsis", width
    made = Table(*heads, title=printable(title), title_justify="left", show_header=any(columns))
    if one_line:
        made.box, made.padding, made.pad_edge = SIMPLE_HEAD, (0, 1, 0, 0), False
    for row in texts[1:]:
        made.add_row(*row)
    terminal.print(made)


def line(text: str) -> None:
    """A sentence, wrapped at the width of the terminal."""
    console().print(printable(text))


def record(values: Mapping[str, Any], as_json: bool, title: str, look_at: object = None) -> None:
    """A record as a table of names and values, with `look(look_at)` below it, or as JSON."""
    if done(values, as_json):
        return
    table(("", ""), [(k, words(v)) for k, v in values.items()], title)
    if look_at is not None:
        look(look_at)


def hint(*words: object) -> None:
    """The last line of a command: the command that usually follows."""
    say(f"next: {command('alphabar', *words)}")


def look(path: object) -> None:
    """The last line of a command whose result is a picture or a page."""
    say(f"next: look at {path}")


def without_dry_run() -> None:
    """The last line of a dry run."""
    say("next: the same command without --dry-run")


def words(value: Any) -> str:
    """A value of a record for a reader: numbers in four digits, lists and mappings as words, "none" where there is nothing.

    >>> words([0.12345678, 7]), words({"cat": 3, "dog": 2}), words(None), words(())
    ('0.1235, 7', 'cat 3, dog 2', 'none', 'none')
    """
    if isinstance(value, Mapping):
        value = [f"{name} {words(v)}" for name, v in value.items()]
    if isinstance(value, list | tuple):
        value = ", ".join(map(words, value)) or None
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def interval(ends: tuple[float, float] | None, form: str = " [{:.4g}, {:.4g}]") -> str:
    """The ends of an interval, or nothing where there is none."""
    return "" if ends is None else form.format(*ends)


@contextmanager
def stopped_by_ctrl_c(words: str) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the command with `words` on stderr; "{}" in them is the message of the interrupted verb."""
    try:
        yield
    except KeyboardInterrupt as stop:
        say(words.replace("{}", str(stop) or "stopped", 1), sys.stderr)
        raise SystemExit(stop_code()) from None
