"""What the commands print: short by default, one line a run, times as h:mm:ss, and at the end what to do next."""

import io
import json
import re
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest

from alphabar.cli.main import main
from alphabar.core import progress
from alphabar.core.progress import track
from alphabar.training.config import shipped
from tests.fixtures.runs import fill


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == 0, words
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_run_takes_one_line_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        fill(Path(f"runs/{k}_a_name_of_forty_letters_and_more"), images=64_000, every=1_600, lr=1e-3 * (k + 1), previews=0)
    lines = printed(capsys, "runs")
    assert sum("finished" in line for line in lines) == 3 and all("1:49:03" in line for line in lines if "finished" in line)
    assert max(len(line.rstrip()) for line in lines[:-1]) <= 80 and "lr 0.003" in "".join(lines)
    assert lines[-1].startswith("next: alphabar report runs/")


@pytest.mark.parametrize(
    "words",
    [
        "runs", "runs runs", "runs runs --model 0123456789abcdef", "runs prune runs/a --keep none --yes",
        "train shapes.npy --out new --recipe garments --images 64 --dry-run",
        "experiment range --out range --dry-run",
        "sweep bundled --against fashion_mnist:test --dry-run", "samplers",
        "push bundled anna/garments --license mit --shown 1 --dry-run", "data shapes.npy",
        *(
            pytest.param(words, marks=pytest.mark.slow(5))  # by packages of extras, which `make test` does not install
            for words in ("sync runs/a --to tensorboard", "export bundled --to model.onnx", "export bundled --to page.html",
                          "app --export-space space")
        ),
    ],
)  # fmt: skip
def test_the_last_line_says_what_to_do_next(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "runs/a" in words or words.startswith("runs runs"):
        fill(Path("runs/a"), images=64_000, every=1_600, previews=0)
    np.save("shapes.npy", np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8))
    assert printed(capsys, *words.split())[-1].startswith("next: ")


def test_samples_in_five_lines_and_the_record_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    draw = ("sample", "bundled", "--n", 2, "--steps", 2, "--fast", "none", "--out", "two.npz")
    lines = printed(capsys, *draw)
    assert len(lines) == 5 and "2 images of 28x28x1" in lines[0] and "2 network calls" in lines[1]
    assert lines[-1] == "next: alphabar score two.npz --against fashion_mnist:test"
    assert any("versions" in line for line in printed(capsys, *draw, "-v"))
    assert "versions" in json.loads("".join(printed(capsys, *draw, "--json")))


def test_help_lists_all_recipes_and_completion_knows_the_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    listed = " ".join("".join(printed(capsys, "train", "--help")).replace("│", " ").split())
    assert all(name in listed for name in shipped())
    printed(capsys, "--install-completion", "--shell", "bash", "--output", tmp_path / "completion")
    script = (tmp_path / "completion").read_text()
    assert "--trained-on" in script and "distill" in script


def test_a_progress_line_has_times_of_hours_and_nothing_left_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with redirect_stderr(io.StringIO()) as out, track(0.3, "work") as advance:
        now[0] = 7300.0
        advance(0.1)
        now[0] = 14600.0
        advance(0.2)  # 0.1 + 0.2 is more than 0.3
    first, *_, last = out.getvalue().splitlines()
    assert "2:01:40, 4:03:20 left" in first
    assert "4:03:20" in last and "left" not in last and not re.search(r"(?<!e)-\d", last)


@pytest.mark.parametrize(
    "words", [["train", "x", "--out", "y", "--train.lrr", "1"], ["sample", "bundled", "--out", "x", "--seedd", "1"]]
)
def test_a_mistyped_option_is_blamed_on_the_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    shown = capsys.readouterr().err
    assert f"Unknown option: {words[-2]}. Did you mean {words[-2][:-1]}" in shown and ".toml" not in shown
