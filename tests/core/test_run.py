from pathlib import Path

import pytest

from alphabar.core.files import append_jsonl, read_jsonl, write_atomically
from alphabar.core.machine import machine
from alphabar.core.run import Run


def test_only_a_truncated_line_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    append_jsonl(path, {"a": 1})
    with path.open("a") as f:
        f.write('{"a": 2, "b"')  # what a crash leaves
    append_jsonl(path, {"a": 3})
    assert [row["a"] for row in read_jsonl(path)] == [1, 3]
    assert "line 2 is truncated" in capsys.readouterr().err


def test_a_run_starts_with_recipe_and_machine(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.start("a = 1\n")
    run.event("loss", loss=0.5)
    assert run.recipe.read_text() == "a = 1\n"
    assert next(read_jsonl(run.events))["loss"] == 0.5
    assert machine()["cores"] >= 1
    assert "torch" in machine()["versions"]


def test_write_atomically_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
