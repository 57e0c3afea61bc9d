"""Text for people: names as data, commands to type, what an error says, and streams of any encoding."""

import _thread
import codecs
import errno
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

EXPECTED = (ValueError, OSError, ImportError, FloatingPointError)  # of a wrong input or machine: the message says what to do
EXPECTED_CODE, FAULT_CODE = 2, 70  # exit codes
_TWINS = {"–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "→": "->", "’": "'", "ᾱ": "alphabar", "σ": "sigma"}
# what would move the cursor, change colours, or turn the direction of the text round; and bytes that are not UTF-8
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LOGIN = re.compile(r"(?<=://)[^\s'\"<>]*@(?=[\w.\[-])")  # user:password@, also where the password holds / or @
_TOKEN = re.compile(r"(?i)(?<=[?&])((?:access_|api_?|auth_?)?(?:token|key|password|secret)=)[^&\s'\"<>]+")
_HEADER = re.compile(r"(?i)\b((?:basic|bearer) )[\w+/=.~-]{8,}")  # of a request
_SECRET = re.compile(r"(?i)(token|api_?key|password|secret)$")  # names of environment variables
_ADVICE = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change its permissions, or name another place"),
    **dict.fromkeys((errno.EROFS, errno.ENOTDIR), "name another place"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or name another place"),
    errno.EISDIR: "name a file", errno.ENAMETOOLONG: "choose a shorter name", errno.EMFILE: "raise the limit with ulimit -n",
}  # fmt: skip


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path as a person writes it: ~ is the home folder."""
    return Path(os.path.expanduser(path))


def is_utf8(path: Path) -> bool:
    """Whether other libraries can open the path: some take UTF-8 only."""
    return not any("\ud800" <= c <= "\udfff" for c in str(path))


def expanded(word: str) -> str:
    """A word of a command line with ~ as the home folder, at its start, after --option= or after a prefix like diffusers:."""
    head, tilde, rest = word.partition("~")
    inside = re.fullmatch(r"|--[\w.-]+=|(--[\w.-]+=)?(diffusers|lucidrains|inception):", head)
    return head + os.path.expanduser(tilde + rest) if tilde and inside else word


def command(*words: object) -> str:
    """A command to type: words with spaces, brackets and other special characters are quoted."""
    return shlex.join(f"./{w}" if isinstance(w, Path) and str(w).startswith("-") else str(w) for w in words)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: object) -> str:
    """Text whose control characters, and bytes that are not UTF-8, are written as \\x1b; lines stay lines. Without secrets."""
    return _HIDDEN.sub(lambda found: _escape(found[0]), without_secrets(str(text)))


def without_secrets(text: str) -> str:
    """Text without user and password in addresses, and without the tokens and passwords of environment variables."""
    text = _HEADER.sub(r"\1***", text)
    if "@" in text or "=" in text:
        text = _TOKEN.sub(r"\1***", _LOGIN.sub("", text))
    for name, value in os.environ.items():
        if len(value) >= 6 and value in text and _SECRET.search(name):
            text = text.replace(value, "***")
    return text


def plural(n: float, noun: str) -> str:
    """1 call, 2 calls, 2.5 calls, 2 classes."""
    return f"{int(n) if n == int(n) else round(n, 1):,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"


def cells(values: Iterable[object]) -> list[str]:
    """The cells of a row of a table, each in one line."""
    return [printable(value).replace("\n", "\\n").replace("\t", "\\t") for value in values]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Messages:
    """Standard error: text that cannot be written is lost. One that is closed (`2>&1 | head`) stops the work, with `stops`."""

    def __init__(self, stream: Any, stops: bool) -> None:
        self.stream, self.stops = stream, stops

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        self._try(self.stream.write, text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, call: Callable[..., object], *text: str) -> None:
        try:
            call(*text)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                return
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), self.stream.fileno())
            if self.stops:
                closed = getattr(signal, "SIGHUP", signal.SIGINT)
                _thread.interrupt_main(closed if callable(signal.getsignal(closed)) else signal.SIGINT)


def say(text: object, file: Any = None) -> None:
    """Prints a message in which names may hold anything.

    Standard error that cannot be written loses the message; one that is closed (`2>&1 | head`) stops the work as SIGHUP does.
    """
    print(printable(text), file=_Messages(file, True) if file is not None and file is sys.stderr else file, flush=True)


_signals: list[int] = []  # those that were handled


def stop_code() -> int:
    """The exit code of what a signal has stopped, as shells give it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (_signals[-1] if _signals else signal.SIGINT)


@contextmanager
def signals_to(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside the block, Ctrl-C, SIGTERM and SIGHUP (a closed terminal) call `handle`, but no SIGHUP that nohup ignores.

    Changes nothing in a thread other than the main one, which cannot handle signals.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    main = threading.current_thread() is threading.main_thread()
    earlier = {n: signal.getsignal(n) for n in numbers if main and (n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN)}

    def keep(number: int, frame: Any) -> None:
        _signals[:] = [number]
        handle(number, frame)

    for number in earlier:
        signal.signal(number, keep)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def console(width: int | None = None, stderr: bool = False) -> "Console":
    """Where tables and progress bars are drawn: square brackets and colons in names are text, not markup."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            """Rich would end the process."""
            raise BrokenPipeError

    file: Any = _Messages(sys.stderr, False) if stderr else None  # a terminal that is closed sends SIGHUP to those it belongs to
    return Terminal(file=file, width=width, stderr=stderr, markup=False, emoji=False, highlight=False)


def open_streams() -> None:
    """Makes standard output and error print every text in any encoding, and stand in for streams that are closed."""
    codecs.register_error("alphabar", _encoded)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="alphabar")


def _encoded(error: UnicodeError) -> tuple[str, int]:
    """For characters that a stream cannot encode: ASCII that means the same, else an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_TWINS.get(c) or _escape(c) for c in error.object[error.start : error.end]), error.end


def debugging() -> bool:
    """Whether errors are shown with their tracebacks: --debug, or ALPHABAR_DEBUG=1."""
    return os.environ.get("ALPHABAR_DEBUG", "") not in ("", "0")


def explain(error: BaseException) -> tuple[str, int]:
    """What an error says in a line, and the exit code: 2 for what was to be expected, 70 for a fault of alphabar.

    The traceback is printed on standard error where `debugging`.
    """
    if debugging():
        print(printable("".join(traceback.format_exception(error))), file=sys.stderr)
    words = str(error).strip()
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if short or ("can't allocate memory" in words and not isinstance(error, ValueError)):  # not one that has its advice
        return (
            f"out of memory ({words.partition(chr(10))[0] or 'no more could be had'}): use a smaller --batch or --n",
            EXPECTED_CODE,
        )
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        what = " and ".join(repr(os.fsdecode(f)) if isinstance(f, str | bytes) else str(f) for f in _files(error))
        advice = f": {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
        return f"{what + ': ' if what else ''}{error.strerror.lower()}{advice}", EXPECTED_CODE
    if isinstance(error, EXPECTED) and words and not isinstance(error, UnicodeError):
        return words, EXPECTED_CODE
    what = f"{type(error).__name__}: {words}" if words else type(error).__name__
    hint = "" if debugging() else ". Run again with --debug for the traceback, and report it"
    return f"unexpected {' '.join(what.split())[:500]} (this is a fault of alphabar){hint}", FAULT_CODE


def _files(error: OSError) -> list[object]:
    return [f for f in (error.filename, error.filename2) if f is not None]
