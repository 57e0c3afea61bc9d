"""`alphabar train` under torchrun: two processes over gloo, in place of two GPUs, train as one process does."""

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

pytestmark = pytest.mark.slow(30)

WORDS = (
    "--images 384 --model.channels 8 --model.embedding 16 --train.batch 32 --train.log_every 64 --train.warmup 64 "
    "--train.checkpoint_every 128 --train.heldout_every 128 --watch.score_every 0 "
    "--watch.preview_every 384 --watch.preview_n 4 --watch.preview_steps 2 "
    "--recipe garments --model.conditional --train.augment 0.2 --train.ema-snapshots 3"
)
SMALL = WORDS.split()
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ALPHABAR = ["-m", "alphabar.cli.main", "--"]


def train(out: str, folder: Path, *more: str, program: list[str] = ALPHABAR) -> subprocess.CompletedProcess[str]:
    """`alphabar train` in two processes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    words = [*TORCHRUN, *program, "train", "fashion_mnist", "--out", out, *SMALL, *more]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


def stopping_at(step: int, folder: Path) -> list[str]:
    """A program that is `alphabar`, but sends itself SIGTERM after so many steps."""
    script = folder / "stop.py"
    script.write_text(
        "import alphabar.training.step as step, sys, os, signal\n"
        "update = step.ema_update\nsteps = [0]\n"
        "def stopping(*a):\n    update(*a)\n    steps[0] += 1\n"
        f"    if steps[0] == {step}:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "step.ema_update = stopping\n"
        "from alphabar.cli.main import main\nsys.argv = ['alphabar', *sys.argv[1:]]\nmain()\n"
    )
    return [str(script)]


@pytest.fixture(scope="module")
def alone(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHABAR_DATA", str(small_root))
        patch.setenv("ALPHABAR_CACHE", str(folder / "cache"))
        app(["train", "fashion_mnist", "--out", str(folder / "one"), *SMALL], result_action="return_value")
    return folder / "one"


def losses(run: Path, kind: str = "loss") -> list[float]:
    return [e["loss"] for e in read_jsonl(run / "events.jsonl") if e["event"] == kind]


def images_of(run: Path) -> int | None:
    """Images of the last checkpoint; None where there is none."""
    state = run / "checkpoints/last/state.json"
    return json.loads(state.read_text())["images"] if state.exists() else None


def assert_close(a: Path, b: Path) -> None:
    one, other = load_file(a), load_file(b)
    assert one.keys() == other.keys(), a.name
    assert all(torch.allclose(one[k].float(), other[k].float(), atol=5e-3) for k in one), a.name


def test_two_processes_train_as_one_and_one_of_them_writes(small_data: Path, tmp_path: Path, alone: Path) -> None:
    done = train("two", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "two"
    assert [e["event"] for e in read_jsonl(alone / "events.jsonl")] == [e["event"] for e in read_jsonl(two / "events.jsonl")]
    for kind in ("loss", "heldout"):
        assert len(losses(two, kind)) >= 3 and losses(two, kind) == pytest.approx(losses(alone, kind), rel=1e-4)
    assert json.loads((alone / "data.json").read_text()) == json.loads((two / "data.json").read_text())
    for name in ("checkpoints/last/ema.safetensors", "averages/000000000384-0.100.safetensors"):
        assert_close(alone / name, two / name)
    again = train("two", tmp_path)
    assert again.returncode != 0 and "already holds a run" in again.stderr


def test_sharded_weights_train_as_whole_ones(small_data: Path, tmp_path: Path, alone: Path) -> None:
    """Started with sharded weights, and resumed by processes that have all weights each."""
    stopped = train("two", tmp_path, "--train.parallel", "fsdp", program=stopping_at(8, tmp_path))
    two = tmp_path / "two"
    assert stopped.returncode != 0 and images_of(two) == 256, stopped.stderr[-3000:]
    resumed = train("two", tmp_path, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    for kind in ("loss", "heldout"):
        assert losses(two, kind) == pytest.approx(losses(alone, kind), rel=1e-4), kind
    for name in ("checkpoints/last/model.safetensors", "checkpoints/last/averages.safetensors"):
        assert_close(alone / name, two / name)
    one, other = (load_file(run / "checkpoints/last/optimizer.safetensors") for run in (alone, two))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    assert list((two / "samples").glob("preview_*384.png"))
    refused = train("three", tmp_path, "--train.parallel", "fsdp", "--train.optimizer", "muon")
    assert refused.returncode != 0 and "works with adam or adamw" in refused.stderr


def test_a_run_continues_with_another_number_of_processes(small_data: Path, tmp_path: Path, alone: Path) -> None:
    """Started by two processes and resumed by one: images, noise and noise levels are those of a run by one process."""
    stopped = train("moved", tmp_path, program=stopping_at(6, tmp_path))
    assert stopped.returncode != 0 and images_of(tmp_path / "moved") == 192, stopped.stderr[-3000:]
    app(["train", "fashion_mnist", "--out", str(tmp_path / "moved"), *SMALL, "--resume"], result_action="return_value")
    assert losses(tmp_path / "moved") == pytest.approx(losses(alone), rel=1e-4)
