"""`alphabar train` as torchrun starts it, from the command line: two processes over gloo in place of two GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alphabar.cli.main import app
from alphabar.core.files import read_jsonl

WORDS = (
    "--images 384 --model.channels 8 --model.embedding 16 --train.batch 32 --train.log_every 64 --train.warmup 64 "
    "--train.checkpoint_every 128 --train.heldout_every 128 --watch.score_every 0 "
    "--watch.preview_every 384 --watch.preview_n 4 --watch.preview_steps 2 "
    "--model.conditional --train.augment 0.2 --train.ema-snapshots 3"
)
SMALL = WORDS.split()
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    "-m",
    "alphabar.cli.main",
    "--",
]


def train(command: list[str], out: str, where: Path, *more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    words = [*command, "train", "fashion_mnist", "--out", out, *SMALL, *more]
    return subprocess.run(words, cwd=where, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def alone(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that this process makes alone, by the same words."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as here:
        here.setenv("ALPHABAR_DATA", str(small_root))
        here.setenv("ALPHABAR_CACHE", str(folder / "cache"))
        app(["train", "fashion_mnist", "--out", str(folder / "one"), *SMALL], result_action="return_value")
    return folder / "one"


def test_two_processes_train_as_one_and_one_of_them_writes(small_data: Path, tmp_path: Path, alone: Path) -> None:
    done = train(TORCHRUN, "two", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = (alone, tmp_path / "two")
    one, two = (list(read_jsonl(run / "events.jsonl")) for run in runs)
    assert [e["event"] for e in one] == [e["event"] for e in two]  # each written once
    for kind in ("loss", "heldout"):
        a, b = ([e["loss"] for e in rows if e["event"] == kind] for rows in (one, two))
        assert len(a) >= 3 and a == pytest.approx(b, rel=1e-4)
    assert json.loads((alone / "data.json").read_text()) == json.loads((tmp_path / "two/data.json").read_text())
    for name in ("checkpoints/last/ema.safetensors", "averages/000000000384-0.100.safetensors"):
        a, b = (load_file(run / name) for run in runs)
        assert all(torch.allclose(a[k].float(), b[k].float(), atol=5e-3) for k in a), name
    again = train(TORCHRUN, "two", tmp_path)
    assert again.returncode != 0 and "already holds a run" in again.stderr


def test_sharded_weights_train_as_whole_ones(small_data: Path, tmp_path: Path, alone: Path) -> None:
    """Begun by two processes with a part of the weights each, gone on by two with all of them."""
    stop = stopping(tmp_path, 8)
    began = train([*TORCHRUN[:-3], str(stop)], "two", tmp_path, "--train.parallel", "fsdp")
    state = json.loads((tmp_path / "two/checkpoints/last/state.json").read_text())
    assert began.returncode != 0 and state["images"] == 256, began.stderr[-2000:]
    more = train(TORCHRUN, "two", tmp_path, "--resume")
    assert more.returncode == 0, more.stderr[-3000:]
    runs = (alone, tmp_path / "two")
    one, two = (list(read_jsonl(run / "events.jsonl")) for run in runs)
    for kind in ("loss", "heldout"):
        a, b = ([e["loss"] for e in rows if e["event"] == kind] for rows in (one, two))
        assert a == pytest.approx(b, rel=1e-4), kind
    for name in ("checkpoints/last/model.safetensors", "checkpoints/last/averages.safetensors"):
        a, b = (load_file(run / name) for run in runs)
        assert a.keys() == b.keys() and all(torch.allclose(a[k], b[k], atol=5e-3) for k in a), name
    moments = load_file(tmp_path / "two/checkpoints/last/optimizer.safetensors")
    assert {k: v.shape for k, v in moments.items()} == {
        k: v.shape for k, v in load_file(alone / "checkpoints/last/optimizer.safetensors").items()
    }
    assert list((tmp_path / "two/samples").glob("preview_*384.png"))
    refused = train(TORCHRUN, "three", tmp_path, "--train.parallel", "fsdp", "--train.optimizer", "muon")
    assert refused.returncode != 0 and "goes with adam or adamw" in refused.stderr


def stopping(folder: Path, step: int) -> Path:
    """A script that is `alphabar`, but asks itself to stop after so many steps."""
    script = folder / "stop.py"
    script.write_text(
        "import alphabar.training.step as step, sys, os, signal\n"
        "update = step.ema_update\nseen = [0]\n"
        "def stopping(*a):\n    update(*a)\n    seen[0] += 1\n"
        f"    if seen[0] == {step}:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "step.ema_update = stopping\n"
        "from alphabar.cli.main import main\nsys.argv = ['alphabar', *sys.argv[1:]]\nmain()\n"
    )
    return script


def test_a_run_goes_on_with_another_number_of_processes(small_data: Path, tmp_path: Path, alone: Path) -> None:
    """Begun by two, gone on by one: the order of images, their noise and levels are those of a run by one alone."""
    stop = stopping(tmp_path, 6)
    began = train([*TORCHRUN[:-3], str(stop)], "moved", tmp_path)
    assert began.returncode != 0
    state = json.loads((tmp_path / "moved/checkpoints/last/state.json").read_text())
    assert state["images"] == 192, began.stderr[-2000:]
    app(["train", "fashion_mnist", "--out", str(tmp_path / "moved"), *SMALL, "--resume"], result_action="return_value")
    runs = (alone, tmp_path / "moved")
    a, b = ([e["loss"] for e in read_jsonl(run / "events.jsonl") if e["event"] == "loss"] for run in runs)
    assert a == pytest.approx(b, rel=1e-4)
