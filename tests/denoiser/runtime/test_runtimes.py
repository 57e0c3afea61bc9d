"""ONNX export, OpenVINO, MNN and the compiler: what goes beyond the output of a small network."""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.runtime.fast_model import FastModel
from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.runtime.methods import prepare
from tests.denoiser.runtime.conftest import CPU, INSTALLED, SHAPE

pytestmark = pytest.mark.slow
NEEDS_MNN = pytest.mark.skipif("mnn" not in INSTALLED, reason="MNN is not installed")


def run_python(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {k: v for k, v in os.environ.items() if k != "CI"} | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def conditional_job() -> Job:
    recipe = ModelRecipe("unet", (8, 16), groups=4, embedding=8, attention=(1,), conditional=True)
    model = build(recipe, {"kind": "cosine"}, SHAPE, 0, classes=("shoe", "bag", "coat"))
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p, std=0.2)
    return Job(model.eval(), 3, CPU, "float32")


@pytest.mark.parametrize("method", INSTALLED)
def test_a_conditional_unet_is_exported(conditional_job: Job, method: str) -> None:
    prepare(conditional_job, method)
    fast, model = FastModel(conditional_job, method), conditional_job.model
    x, sigma, labels = starting_noise(0, range(5), SHAPE), torch.logspace(-1, 1, 5), torch.tensor([0, 1, 2, 3, 0])
    assert torch.allclose(fast(x, sigma, labels), model(x, sigma, labels), atol=1e-5)
    assert not torch.allclose(fast(x, sigma, labels.flip(0)), model(x, sigma, labels), atol=1e-3)


@pytest.mark.skipif("openvino" not in INSTALLED, reason="openvino is not installed")
def test_openvino_contacts_no_server(tmp_path: Path) -> None:
    """By default it looks up an analytics host at import, and writes a file into the home folder."""
    out = run_python(
        "import socket\n"
        "def refuse(*a, **k): print('LOOKED UP', a[:2]); raise OSError\n"
        "socket.getaddrinfo = refuse; socket.socket.connect = refuse\n"
        "import sys\n"
        "from alphabar.denoiser.runtime.methods import import_openvino\n"
        "assert hasattr(import_openvino(), 'Core')\n"
        "assert 'openvino_telemetry' not in sys.modules\n",
        HOME=str(tmp_path),
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert out.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.fixture
def workers(job: Job) -> Iterator[tuple[object, nn.Module, tuple[torch.Tensor, ...]]]:
    """Two MNN processes, each with half of the batch."""
    from alphabar.denoiser.runtime.mnn import MIN_SHARE, Workers

    inputs = Job(job.model, 2 * MIN_SHARE + 1, CPU, "float32").example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised in the exporter
        made = Workers(job.onnx, inputs, 2)
    yield made, job.model.network, inputs
    made.close()


@NEEDS_MNN
def test_two_processes_share_a_batch_and_leave_nothing_behind(workers) -> None:
    made, network, inputs = workers
    assert len(made.processes) == 2
    with torch.no_grad():
        for sign in (1, -1):
            assert torch.allclose(made(sign * inputs[0], inputs[1]), network(sign * inputs[0], inputs[1]), atol=1e-5)
    processes, folder = made.processes, made.folder
    assert folder.is_dir() and all(p.poll() is None for p in processes)
    made.close()
    assert not folder.exists() and all(p.poll() == 0 for p in processes)


@NEEDS_MNN
def test_a_killed_process_is_reported(workers) -> None:
    made, _, inputs = workers
    made.processes[1].kill()
    with pytest.raises(RuntimeError, match="a process of MNN has ended"):
        made(*inputs)
    assert not made.folder.exists() and made.processes[0].poll() is not None


@NEEDS_MNN
def test_mnn_ends_with_the_program_and_contacts_no_server(tmp_path: Path) -> None:
    """MNN's converter command, which reports its use, is not run. The processes of a killed program end with its pipes."""
    out = run_python(
        "import os, signal, sys, torch\n"
        "from alphabar.denoiser.model import build\n"
        "from alphabar.denoiser.model_spec import ModelRecipe\n"
        "from alphabar.denoiser.runtime.fast_model import speed_up\n"
        "model = build(ModelRecipe('unet', (8,), groups=4, embedding=8), {'kind': 'cosine'}, (1, 8, 8))\n"
        "fast = speed_up(model, 'mnn', batch=2)\n"
        "assert not any(m.startswith(('MNN', 'aliyun')) for m in sys.modules)\n"
        "print(fast.network.run.run.processes[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        TMPDIR=str(tmp_path),
    )
    assert out.returncode == -9 and out.stdout.strip().isdigit(), out.stderr
    for _ in range(100):
        if not _is_running(int(out.stdout)):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process of MNN outlives its program")
    assert not list(tmp_path.glob("alphabar-mnn-*"))


def _is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_the_unet_compiles_to_one_graph_and_no_runtime_is_imported_early() -> None:
    """Without Inductor's C++, which takes half a minute; benchmarks/calls.py compiles it fully."""
    out = run_python(
        "import sys, torch, alphabar.denoiser.runtime.fast_model\n"
        "from alphabar.denoiser.unet import UNet\n"
        "assert not {'onnx', 'onnxruntime', 'openvino', 'MNN', 'torch._inductor', 'torch.onnx'} & set(sys.modules)\n"
        "network = UNet(channels=(8, 16), group_size=4, embedding=8, t_scale=1.0).eval()\n"
        "compiled = torch.compile(network, fullgraph=True, backend='eager')\n"
        "with torch.no_grad():\n"
        "    y, t = torch.randn(2, 1, 8, 8), torch.rand(2)\n"
        "    assert torch.equal(compiled(y, t), network(y, t))\n"
    )
    assert out.returncode == 0, out.stderr
