"""A computation in a thread, read as a stream of news that ends with its result."""

import math
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Tell = Callable[[Callable[[], Any]], None]


@dataclass(frozen=True, eq=False)
class Result(Generic[T]):
    """The last item of a stream: what the work returned."""

    value: T


class _Stopped(Exception):
    """Raised in the thread of the work once nobody reads the stream any more."""


def stream(work: Callable[[Tell], T], every: float) -> Generator[Any, None, None]:
    """What `work(tell)` reports, and then a `Result` with what it returns.

    Args:
        work: calls `tell(make)` as often as it likes. `make` is called for the news at most once in `every` seconds, and only
            after the last news was read. An exception of the work is raised to the reader.
        every: seconds.

    Closing the iterator ends the work at its next `tell`.
    """
    news: SimpleQueue[Any] = SimpleQueue()
    stop = threading.Event()
    last = -math.inf

    def tell(make: Callable[[], Any]) -> None:
        nonlocal last
        if stop.is_set():
            raise _Stopped
        if news.empty() and time.monotonic() - last >= every:
            news.put(make())
            last = time.monotonic()

    def run() -> None:
        try:
            news.put(Result(work(tell)))
        except _Stopped:
            pass
        except BaseException as error:
            news.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            item = news.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Result):
                return
    finally:
        stop.set()
