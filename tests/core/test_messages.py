"""Names as data, commands to type, what errors say, and streams of any encoding."""

import errno
import io
import sys
from pathlib import Path

import pytest

from alphabar.core.messages import as_path, cells, command, expanded, explain, open_streams, printable, say


def test_commands_are_quoted_where_a_shell_needs_it() -> None:
    assert command("alphabar", "train", "my photos", "--out", Path("a'b")) == "alphabar train 'my photos' --out 'a'\"'\"'b'"
    assert command("alphabar", "sample", Path("-run"), "--n", 3) == "alphabar sample ./-run --n 3"


@pytest.mark.parametrize(
    ("word", "there"),
    [
        ("~/a", "/h/a"), ("~", "/h"), ("--out=~/a", "/h/a"), ("--data.set=~/a", "/h/a"), ("diffusers:~/a", "/h/a"),
        ("inception:~/a", "/h/a"), ("--extractor=inception:~/a", "/h/a"),
        ("a/~/b", None), ("~nobody-of-that-name/a", None), ("every(~)", None), ("./~", None), ("", None), ("--a", None),
    ],
)  # fmt: skip
def test_a_tilde_is_the_home_folder(word: str, there: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expanded(word) == (word if there is None else word[: word.index("~")] + there)
    if word.startswith("~"):
        assert as_path(word) == Path(word if there is None else there)


def test_control_characters_and_bytes_are_written_as_escapes() -> None:
    assert printable("a\x1b[31m\u202eb\udce9\nc") == "a\\x1b[31m\\u202eb\\xe9\nc"
    assert cells(["a\nb", 3, "[red]x[/red]"]) == ["a\\nb", "3", "[red]x[/red]"]
    assert printable("café 🧵 مرحبا") == "café 🧵 مرحبا"


class OutOfMemoryError(RuntimeError):
    """Named as that of torch, which needs a device to be raised."""


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (ValueError("eta = 2: give 0 to 1"), "eta = 2: give 0 to 1", 2),
        (ValueError(), "unexpected ValueError (this is a fault of alphabar)", 70),
        (KeyError("x"), "unexpected KeyError: 'x' (this is a fault of alphabar). Run again with --debug", 70),
        (RecursionError("maximum\ndepth"), "unexpected RecursionError: maximum depth", 70),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"), "unexpected UnicodeDecodeError", 70),
        (MemoryError(), "out of memory (no more could be had): use a smaller --batch", 2),
        (OutOfMemoryError("CUDA out of memory. Tried\nmore"), "out of memory (CUDA out of memory. Tried)", 2),
        (PermissionError(errno.EACCES, "Permission denied", "a b"), "'a b': permission denied: change its permissions", 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "'a': is a directory: name a file", 2),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device: free some space", 2),
        (FileNotFoundError("there is no run at a"), "there is no run at a", 2),
    ],
)
def test_an_error_in_a_line(error: Exception, words: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHABAR_DEBUG", raising=False)
    message, found = explain(error)
    assert message.startswith(words)
    assert (found, "\n" in message) == (code, False)


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ALPHABAR_DEBUG", "1")
    with pytest.raises(KeyError) as caught:
        {}["x"]
    assert "--debug" not in explain(caught.value)[0]
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16"])
def test_every_encoding_prints_every_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    open_streams()
    say("… – − × é 🧵 \udce9 \x00")
    sys.stdout.flush()
    text = raw.getvalue().decode(encoding)
    assert "\\xe9 \\x00" in text
    if encoding == "ascii":
        assert text == "... - - x \\xe9 \\U0001f9f5 \\xe9 \\x00\n"


def test_streams_that_are_closed_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    open_streams()
    print("nowhere")
    assert not sys.stdin.read()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()
