"""The commands of README and of docs/tour.md run in their order, with a small data set and small numbers, otherwise as typed."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README, TOUR = (ROOT / "README.md").read_text(), (ROOT / "docs" / "tour.md").read_text()
SMALL_TRAINING = shlex.split(
    "--images 256 --model.channels 8 --model.embedding 16 --watch.preview_steps 2 --watch.preview_n 4 "
    "--watch.score_n 520 --watch.preview_every 256"
)

# All commands in one process, each as the program itself would carry it out: torch is loaded once, not forty times.
PROGRAM = """
import json, sys, time
from alphabar.cli.main import main
for words in json.load(sys.stdin):
    start = time.monotonic()
    try:
        main(words)
    except SystemExit as e:
        if e.code:
            raise SystemExit(f"{' '.join(words)} ended with {e.code}")
    print(f"{time.monotonic() - start:.1f} s: {' '.join(words)}", file=sys.stderr, flush=True)
"""


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


def commands(page: str, program: str = "alphabar") -> list[list[str]]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def shrunk(command: list[str]) -> list[str]:
    """The same command with smaller numbers: no word is left out, an option that is given gets another value."""
    out = list(command)

    def put(option: str, value: str) -> None:
        if option in out:
            out[out.index(option) + 1] = value
        else:
            out.extend([option, value])

    if out[1] == "train":  # with --dry-run as well, which measures
        of_bundled = "--train.init-from" in out  # which decides the network
        for option, value in zip(SMALL_TRAINING[::2], SMALL_TRAINING[1::2], strict=True):
            if not (of_bundled and option.startswith("--model")):
                put(option, value)
    if out[1] == "sample":
        put("--n", "520" if int(out[out.index("--n") + 1]) > 1000 else "4")
        if "tuned" not in out:  # a fitted sampler is found by its number of calls
            put("--steps", "60" if "--plan" in out else "2")
    if out[1:3] == ["extractor", "train"]:
        put("--epochs", "1")
        out += ["--widths", "8", "16", "16"]
    if out[1:3] == ["extractor", "check"]:
        put("--n", "100")
    if out[1] == "anomaly":
        put("--n", "8")
        put("--usual-n", "40")
    if out[1] == "tune":
        put("--n", "8")
    if out[1] == "sweep":
        put("--n", "520")
        out[out.index("--calls") + 1 : out.index("--calls") + 3] = ["2", "10"]
        out[out.index("--samplers") + 1 : out.index("--samplers") + 5] = ["unipc", "tuned"]
    if out[1] == "app":
        put("--port", str(free_port()))
    if out[1] == "loss":
        put("--n", "32")
    if out[1] in ("restore", "vary", "invert", "interpolate", "likelihood"):
        put("--n", "2")
        put({"restore": "--calls", "likelihood": "--draws"}.get(out[1], "--steps"), "2")
    return out


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(words: list[list[str]], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(words), cwd=folder, capture_output=True, text=True, timeout=900
    )
    print(done.stderr)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def serves(command: list[str], folder: Path) -> None:
    """A command that serves a page until it is stopped: the page is there, and Ctrl-C ends the program with status 0."""
    log = folder / "app.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "alphabar", *command[1:]], cwd=folder, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
        end = time.monotonic() + 240
        while url not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        assert url in log.read_text(), log.read_text()
        with urllib.request.urlopen(f"{url}/config", timeout=60) as page:
            assert json.load(page)["title"] == "alphabar"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()


def test_every_command_of_the_readme_runs(small_data: Path, tmp_path: Path) -> None:
    (script,) = commands(README, "python")
    subprocess.run([sys.executable, str(ROOT / script[1]), *script[2:], "40"], cwd=tmp_path, check=True)
    run([shrunk(command)[1:] for command in commands(README)], tmp_path)
    for path in ("cells.png", "cells_drawn.npz", "cells_drawn.png", "cells.html", "runs/cells/recipe.toml", "two_calls.npz"):
        assert (tmp_path / path).exists(), path


@pytest.mark.slow(40)
def test_every_command_of_the_tour_runs(small_data: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    g = np.random.default_rng(0)
    for k in range(80):
        Image.fromarray(g.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(photos / f"{k}.png")
    served = [command for command in commands(TOUR) if command[1] == "app"]
    run([shrunk(command)[1:] for command in commands(TOUR) if command[1] != "app"], tmp_path)
    assert len(served) == 1
    serves(shrunk(served[0]), tmp_path)
    for path in (
        "garments.npz", "garments.html", "runs/garments/recipe.toml", "photos_out/000000.png", "skipped.npz", "karras.png",
        "garments.score.png", "garments.score.pairs_pixels.png", "compare.png", "runs/garments/loss.png",
        "runs/garments/comparisons.jsonl", "runs/garments/samples/trajectory.npz", "runs/garments/sweeps/default/index.html",
        "ten_calls.npz", "ten_fitted.npz", "classes.png", "inpainted.html", "variations.html", "way.gif",
    ):  # fmt: skip
        assert (tmp_path / path).exists(), path


def test_the_python_of_the_readme_runs(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks(README, "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("640", "520").replace("steps=25", "steps=2"), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "FID" in printed
    assert "KID" in printed


def test_make_knows_the_commands_of_the_readme() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
    assert named == ["demo", "test"]
    assert all(f"\n{name}:" in makefile for name in named)
