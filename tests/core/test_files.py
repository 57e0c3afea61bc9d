"""Files are written whole or not at all, also on a full disk, and one process at a time writes a folder."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphabar.core.files import (
    append_jsonl,
    locked,
    read_jsonl,
    remove_leftovers,
    replacing,
    temporary,
    write_atomically,
    write_json,
    write_npz,
)
from alphabar.core.outputs import save_picture
from alphabar.core.stored_values import read_object, read_toml
from alphabar.data.formats import write_png

NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)


@pytest.mark.parametrize("write", [
    lambda path: write_atomically(path, "x" * 40_000), lambda path: write_npz(path, {"a": np.zeros(10_000)}),
    lambda path: append_jsonl(path, {"a": "x" * 40_000}), lambda path: write_json(path, {"a": "x" * 40_000}),
    lambda path: save_picture(Image.fromarray(NOISE), path),
])  # fmt: skip
def test_a_full_disk_is_named_and_leaves_the_file_as_it_was(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    append_jsonl(path, {"a": 1})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"{path} was not written: the disk is full"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write(path)
    assert len(path.read_bytes()) > 20_000


def test_a_picture_for_which_there_is_no_room_is_not_left_in_half(tmp_path: Path) -> None:
    """Of a folder of samples, whose pictures are written one by one, without waiting for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for image in (NOISE, NOISE.astype(np.uint16) * 257):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(OSError, match=r"000000\.png was not written: the disk is full"):
                write_png(tmp_path / "000000.png", image)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_disk_before_it_is_renamed_and_its_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file through a handle that may write: Windows synchronises no other."""
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        target = Path(f"/proc/self/fd/{fd}").resolve()
        flags = int(Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:")[1].split()[0], 8)
        assert target.is_dir() or flags & os.O_ACCMODE != os.O_RDONLY
        calls.append("folder" if target.is_dir() else "file")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("rename"), replace(*a))[1])
    write_npz(tmp_path / "a.npz", {"a": np.zeros(3)})
    assert calls == ["file", "rename", "folder"]


def test_temporary_files_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = temporary("a")
    left, others = own.replace(str(os.getpid()), str(ended.pid)), [own, ".a.123", ".hidden", "a.npz"]
    for name in (left, *others):
        (tmp_path / name).write_text("")
    (tmp_path / left.replace(".a.", ".b.")).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")

    def fail() -> None:
        with replacing(tmp_path / "a") as part:
            part.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


HOLD = """
import sys, time
from pathlib import Path
from alphabar.core.files import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_the_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "in\n"
    for _ in range(2):  # and the third
        with (
            pytest.raises(OSError, match=rf"{folder} is being written by another process \(process {child.pid} on"),
            locked(folder),
        ):
            pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with locked(folder):
        assert (folder / ".lock").exists()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", [
    b"", b"\xff\xfe", b"[1]", b"3", b"{", b'{"a": ' + b"[" * 100_000, b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
    b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "' + b"x" * 2**24 + b'"}', b"\x00" * 100,
])  # fmt: skip
def test_a_damaged_json_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ValueError, match=str(path)):
        read_object(path)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("content", [
    b"a = ", b"\xff\xfe", b"a = " + b"[" * 100_000, b"a = 1\na = 2", b"a = " + b"9" * 5000, b"#" * 2**21, b"\x00",
    b"a" + b".a" * 50_000 + b" = 1",
])  # fmt: skip
def test_a_damaged_toml_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        read_toml(path)


def test_lines_that_cannot_be_read_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\n\xff\xfe\n\x00\x00\n' + b"[" * 100_000 + b'\n{"a": 2}\n{"a"')
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}]
    assert capsys.readouterr().err.count("was skipped") == 4
    append_jsonl(path, {"a": 3})
    assert json.loads(path.read_bytes().splitlines()[-1]) == {"a": 3}
