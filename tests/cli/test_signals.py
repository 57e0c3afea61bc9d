"""What stops a command from outside: signals, a closed terminal, and output that nobody reads any more. Real processes."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.core.files import read_jsonl
from alphabar.training.checkpoint import load_checkpoint

ALPHABAR = [sys.executable, "-m", "alphabar"]
TRAIN = [
    *ALPHABAR, "train", "pixels.npy", "--out", "run", "--images", "1000000", "--model.channels", "8", "--model.groups", "8",
    "--model.embedding", "16", "--train.batch", "32", "--train.log-every", "32", "--watch.preview-every", "0",
]  # fmt: skip
Begin = Callable[..., "subprocess.Popen[bytes]"]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", COLUMNS="100")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def begin() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts a process, which is killed where a test leaves it behind."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(words: list[str], **streams: Any) -> "subprocess.Popen[bytes]":
        heard = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which a child would ignore where this process does (nohup)
        processes.append(subprocess.Popen(words, env=ENVIRONMENT, **streams))
        signal.signal(signal.SIGHUP, heard)
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def started(process: "subprocess.Popen[bytes]", more: int = 3) -> None:
    """Waits until the training has made some steps, or some more."""
    rows = Path("run/events.jsonl")
    wanted = more + (len(rows.read_bytes().splitlines()) if rows.exists() else 0)
    while not (rows.exists() and len(rows.read_bytes().splitlines()) >= wanted):
        assert process.poll() is None
        time.sleep(0.1)


def saved() -> None:
    """Asserts that the training was stopped between two steps and has saved a checkpoint."""
    assert [e["event"] for e in read_jsonl(Path("run/events.jsonl"))][-1] == "stopped"
    assert load_checkpoint(Path("run/checkpoints/last")).state["images"] > 0
    assert not Path("run/.lock").exists()


@pytest.mark.slow(15)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint(number: signal.Signals, code: int, begin: Begin) -> None:
    process = begin(TRAIN, stderr=subprocess.PIPE)
    started(process)
    process.send_signal(number)
    printed = process.communicate(timeout=120)[1].decode()
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    assert "continue with: alphabar train pixels.npy --out run --resume" in printed
    saved()


LEADER = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow(15)
@pytest.mark.parametrize("leader", [True, False])
def test_a_closed_terminal_saves_a_checkpoint(leader: bool, begin: Begin) -> None:
    """With a progress bar that is being drawn. A process of another session gets no signal, and goes on without the bar."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    words = [sys.executable, "-c", LEADER, *TRAIN] if leader else TRAIN
    process = begin(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while not re.search(rb"training.*%", shown):  # what nobody reads stops its writer after some minutes
        shown += os.read(ours, 4096)
    started(process)
    os.close(ours)
    if not leader:
        started(process, 10)
        process.terminate()
    assert process.wait(timeout=120) == (129 if leader else 143)
    saved()


@pytest.mark.slow(10)
def test_messages_that_nobody_reads_stop_the_training_with_a_checkpoint(begin: Begin) -> None:
    """`alphabar train ... 2>&1 | head`: at the next message, which here is that of a signal."""
    process = begin(TRAIN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    started(process)
    assert process.stdout is not None
    process.stdout.close()
    process.terminate()
    assert process.wait(timeout=120) in (129, 143)
    saved()


@pytest.mark.slow(8)
@pytest.mark.parametrize("words", [["samplers"], ["samplers", "--json"]])
def test_output_that_nobody_reads_ends_quietly(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*ALPHABAR, *words], stdout=write, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
