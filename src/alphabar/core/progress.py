"""One progress bar for all long work: rate and time left on a terminal, a line every half minute elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from alphabar.core.messages import console, printable, say


def duration(seconds: float | None) -> str:
    """A time: from a minute on as hours:minutes:seconds; None -> "unknown".

    >>> duration(0.0123), duration(7.25), duration(40), duration(90), duration(6600)
    ('12.3 ms', '7.2 s', '40 s', '0:01:30', '1:50:00')
    """
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole >= 60:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole} s" if seconds >= 10 or not seconds else f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


@contextmanager
def track(
    total: float, description: str, unit: str = "images", *, done: float = 0.0, show: bool = True, every: float = 30.0
) -> Iterator[Callable[..., None]]:
    """A progress bar: `with track(1000, "sampling") as advance: advance(64)`; `advance(64, "loss 0.03")` adds a note.

    Args:
        total: amount of work.
        description: what is done.
        unit: what is counted.
        done: amount that was done before (resumed work); it does not count in the rate.
        show: False prints nothing.
        every: seconds between two lines if standard error is not a terminal; a last line is printed at the end.
    """
    if not show:
        yield lambda amount, note="": None
        return
    if sys.stderr is None or not sys.stderr.isatty():
        yield from _lines(total, description, unit, done, every)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    text = partial(TextColumn, markup=False)
    start = time.monotonic()
    columns = (
        text("{task.description}"), BarColumn(), TaskProgressColumn(), text("{task.completed:.0f}/{task.total:.0f}"), text(unit),
        text("{task.fields[rate]}"), TimeElapsedColumn(), "left", TimeRemainingColumn(), text("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(printable(description), total=total, completed=int(done), rate="", note="")

        def advance(amount: float, note: str = "") -> None:
            bar.advance(task, amount)
            rate = (bar.tasks[task].completed - done) / max(time.monotonic() - start, 1e-9)
            bar.update(task, rate=f"{rate:.3g}/s", note=note)

        yield advance


def _lines(total: float, description: str, unit: str, done: float, every: float) -> Iterator[Callable[..., None]]:
    start = last = time.monotonic()
    amount, tail = done, ""

    def line(now: float) -> None:
        rate = (amount - done) / max(now - start, 1e-9)
        left = f", {duration((total - amount) / rate) if rate > 0 else 'unknown time'} left"
        left = left if amount < total * (1 - 1e-9) else ""
        text = f"{description}: {amount:.0f}/{total:.0f} {unit}, {rate:.3g}/s, {duration(now - start)}{left}{tail}"
        say(text, sys.stderr)

    def advance(more: float, note: str = "") -> None:
        nonlocal last, amount, tail
        amount, tail = amount + more, f"  {note}" if note else ""
        now = time.monotonic()
        if now - last >= every:
            last = now
            line(now)

    try:
        yield advance
    finally:
        line(time.monotonic())
