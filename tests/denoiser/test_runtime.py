"""The fast path: the same answers by every way of running, nothing of the user's changed, and a choice made by measurement.

Most networks here are made of PyTorch's modules alone, since the compiler cannot read code that checks its shapes, as ours
does in tests.
"""

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alphabar.core.seeds import starting_noise
from alphabar.data.images import to_pixels
from alphabar.data.toy import Gaussian
from alphabar.denoiser.adaptive import AdaptiveCalls
from alphabar.denoiser.exact import GaussianDenoiser
from alphabar.denoiser.model import build
from alphabar.denoiser.model_recipe import ModelRecipe
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.runtime import choose
from alphabar.denoiser.runtime import methods as methods_module
from alphabar.denoiser.runtime.fast_model import FastModel, speed_up
from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.runtime.methods import METHODS, prepare, unavailable
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.continuous import Cosine
from alphabar.schedule.grid import even_time

SHAPE = (1, 8, 8)
BATCH = 4
INSTALLED = [m for m in ("onnxruntime", "openvino", "mnn") if unavailable(m, torch.device("cpu")) is None]
ALL = ["eager", "channels_last", *INSTALLED, "compile"]
CPU = torch.device("cpu")


class Small(nn.Module):
    """Convolutions, a group norm, and the time: what a denoising network is made of."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.norm, self.film = nn.GroupNorm(4, 16), nn.Linear(2, 16)
        self.drop = nn.Dropout(0.5)

    def forward(self, y, t):
        time = self.film(torch.stack([torch.cos(6 * t), torch.sin(6 * t)], 1))[:, :, None, None]
        return self.leave(self.drop(nn.functional.silu(self.norm(self.enter(y)) + time)))


def small_model():
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return Preconditioned(Small(), Cosine(), "v", 0.8, SHAPE).eval()


@pytest.fixture
def model():
    return small_model()


@pytest.fixture
def some():
    return 2 * starting_noise(0, range(11), SHAPE), torch.logspace(-1.5, 1.5, 11)


@pytest.fixture(scope="module")
def prepared():
    """Every method that there is, each prepared once: exporting and compiling take seconds."""
    made = {}

    def get(method):
        if method not in made:
            made[method] = speed_up(small_model(), method, batch=BATCH)
        return made[method]

    return get


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("n", [1, 3, BATCH, 11])
def test_every_method_answers_as_the_model_does(prepared, model, some, method, n):
    x, sigma = some[0][:n], some[1][:n]
    fast = prepared(method)
    compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.inference_mode():
        wanted = model(x, sigma)
        assert torch.allclose(fast(x.clone(), sigma.clone()), wanted, rtol=0, atol=1e-5)
    assert torch.allclose(fast(x, sigma), wanted, rtol=0, atol=1e-5)  # tensors of another kind
    assert fast.method == method and fast.deviation < 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compilations  # one compilation is enough


def test_compiling_leaves_no_setting_behind(prepared):
    import torch._inductor.config as settings

    prepared("compile")
    assert settings.freezing is False


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("steps", [10, 50])
def test_finished_images_differ_by_a_level_of_few_pixels(prepared, model, method, steps):
    grid = even_time(Cosine(), steps)
    x = grid[0].float() * starting_noise(0, range(6), SHAPE)
    got, wanted = ddim(prepared(method), x, grid), ddim(model, x, grid)
    assert (got - wanted).abs().max() < 1e-4
    a, b = (to_pixels(v, np.uint8).astype(int) for v in (got, wanted))
    assert np.abs(a - b).max() <= 1 and (a != b).mean() < 0.01


@pytest.mark.parametrize("method", ALL)
def test_an_answer_is_not_overwritten_by_the_next(prepared, some, method):
    y, t = some[0][:BATCH], torch.linspace(0.1, 0.9, BATCH)
    network = prepared(method)._denoise.network
    with torch.no_grad():
        out = network(y, t)
        kept = out.clone()
        network(-y, t)
    assert torch.equal(out, kept)


@pytest.mark.parametrize("method", ["eager", "channels_last"])
def test_the_model_is_left_as_it_was(model, some, method):
    model.network.to(memory_format=torch.contiguous_format)
    model.network.train()
    before = {k: (v.clone(), v.stride(), v.data_ptr()) for k, v in model.state_dict().items()}
    fast = speed_up(model, method, batch=BATCH)
    model.network.train()
    with torch.no_grad():
        out = fast(*some)
        again = fast(*some)
    assert torch.equal(out, again)  # no dropout, whatever the model is set to
    assert all(m.training for m in model.network.modules())
    assert all(p.requires_grad for p in model.parameters())
    for k, v in model.state_dict().items():
        value, stride, place = before[k]
        assert torch.equal(v, value) and v.stride() == stride and v.data_ptr() == place
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
        assert torch.equal(fast(*some), out)  # and what is trained later does not come in


def test_it_says_of_itself_what_the_model_says():
    model = build(ModelRecipe("unet", (8,), groups=4, embedding=8), {"kind": "cosine"}, (1, 8, 8), crop=2, pixels="uint16")
    fast = speed_up(model, "eager", batch=2)
    for name in ("schedule", "own_schedule", "image_shape", "crop", "pixels", "value_range", "data_range", "prediction", "spec"):
        assert getattr(fast, name) == getattr(model, name)
    assert fast.fingerprint == model.fingerprint
    fingerprint = fast.fingerprint
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert fast.fingerprint == fingerprint != model.fingerprint
    assert fast.device == CPU and "eager" in repr(fast)
    assert speed_up(fast, "channels_last", batch=2).model is model  # made of the model, not of what was made of it
    record = fast.record()
    assert record.pop("prepare_seconds") > 0
    assert record == {"method": "eager", "precision": "float32", "deviation": 0.0}
    with pytest.raises(AttributeError):
        fast.nonsense  # noqa: B018


def test_weights_of_a_trained_model_are_taken_not_those_it_was_compiled_with(model, some):
    """Training replaces the forward of the network; a copy that kept it would run the weights of then."""
    plain = model.network.forward
    model.network.forward = lambda y, t: plain(y, t)
    fast = speed_up(model, "channels_last", batch=BATCH)
    with torch.no_grad():
        wanted = model(*some)
        for p in model.parameters():
            p.mul_(0.5)
        assert torch.allclose(fast(*some), wanted, atol=1e-5)


def test_bf16_is_another_precision_and_says_so(model, some):
    fast = speed_up(model, "channels_last", batch=BATCH, precision="bf16")
    off = (fast(*some) - model(*some)).abs().max()
    assert fast.precision == "bf16" and fast(*some).dtype == torch.float32
    assert 1e-4 < off < 0.2 and fast.deviation > 1e-4
    if "onnxruntime" in INSTALLED:
        with pytest.raises(ValueError, match="onnxruntime: it runs in float32 only"):
            speed_up(model, "onnxruntime", batch=BATCH, precision="bf16")


def test_an_adaptive_plan_asks_for_few_of_a_batch(model):
    grid = even_time(Cosine(), 40)
    x = grid[0].float() * starting_noise(0, range(6), SHAPE)
    wanted, fast = AdaptiveCalls(model, 0.05, grid), AdaptiveCalls(speed_up(model, "channels_last", batch=6), 0.05, grid)
    assert torch.allclose(ddim(fast, x, grid), ddim(wanted, x, grid), atol=1e-3)
    assert torch.equal(fast.calls, wanted.calls)


# The choice.


def timed(monkeypatch, **seconds):
    """Puts figures in the place of a clock's, so that a choice can be foretold."""
    asked = []

    def time_(job, methods):
        asked.append(list(methods))
        for m in methods:
            prepare(job, m)
        return {m: seconds[m] for m in methods}

    monkeypatch.setattr(choose, "measure", time_)
    return asked


def replace_compile(monkeypatch, make):
    monkeypatch.setitem(METHODS, "compile", replace(METHODS["compile"], make=make))


@pytest.fixture
def only(monkeypatch):
    """Two methods are there, and one that costs much to prepare: onnxruntime, whose place channels_last takes."""
    usable = ("eager", "channels_last", "compile")
    monkeypatch.setattr(choose, "unavailable", lambda name, *_: None if name in usable else "not in this test")
    replace_compile(monkeypatch, METHODS["channels_last"].make)


def test_auto_takes_the_fastest_and_remembers(model, tmp_path, monkeypatch, only):
    asked = timed(monkeypatch, eager=3e-3, channels_last=2e-3, compile=1e-3)
    fast = speed_up(model, batch=BATCH, cache=tmp_path)
    assert fast.method == "compile" and fast.milliseconds == pytest.approx({"eager": 3, "channels_last": 2, "compile": 1})
    assert asked == [["eager", "channels_last"], ["channels_last", "compile"]]
    again = speed_up(model, batch=BATCH, cache=tmp_path)
    assert again.method == "compile" and len(asked) == 2
    assert speed_up(model, batch=BATCH + 1, cache=tmp_path).method == "compile" and len(asked) == 4  # another batch, another key
    assert set(json.loads((tmp_path / "fast.json").read_text())) and len(json.loads((tmp_path / "fast.json").read_text())) == 2


def test_compiling_is_tried_only_where_it_may_pay(model, tmp_path, monkeypatch, only):
    asked = timed(monkeypatch, eager=1e-3, channels_last=2e-3, compile=0.5e-3)
    # 40 s to compile for a tenth of 100 s: not tried
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=100_000).method == "eager"
    assert asked == [["eager", "channels_last"]]
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=1_000_000).method == "compile"
    assert asked[1:] == [["eager", "compile"]]


def test_preparation_is_weighed_once_it_is_known(model, tmp_path, monkeypatch, only):
    timed(monkeypatch, eager=1e-3, channels_last=2e-3, compile=0.5e-3)
    speed_up(model, batch=BATCH, cache=tmp_path)
    file = tmp_path / "fast.json"
    (key,) = (found := json.loads(file.read_text()))
    found[key]["compile"]["prepare"] = 30.0
    file.write_text(json.dumps(found))
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=50_000).method == "eager"  # saves 25 s of 50
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=70_000).method == "compile"


def test_little_work_is_not_timed_at_all(model, tmp_path, monkeypatch):
    asked = timed(monkeypatch)
    assert speed_up(model, batch=BATCH, cache=tmp_path, work=8).method == "channels_last"
    assert asked == [] and not list(tmp_path.iterdir())


def test_a_real_clock_chooses_something(model, tmp_path, some):
    fast = speed_up(model, batch=BATCH, cache=tmp_path, work=2_000)
    assert fast.method in ("eager", "channels_last") and set(fast.milliseconds) == {"eager", "channels_last"}
    assert all(v > 0 for v in fast.milliseconds.values()) and "cuda_graphs" in fast.failed
    assert torch.allclose(fast(*some), model(*some).detach(), atol=1e-5)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"eager": {"seconds": "x"}}}'])
def test_a_broken_file_of_timings_is_made_anew(model, tmp_path, monkeypatch, only, text):
    timed(monkeypatch, eager=3e-3, channels_last=2e-3, compile=1e-3)
    (tmp_path / "fast.json").write_text(text)
    assert speed_up(model, batch=BATCH, cache=tmp_path).method == "compile"
    assert json.loads((tmp_path / "fast.json").read_text())


def test_a_method_that_fails_is_passed_over_with_its_reason(model, tmp_path, monkeypatch, only):
    def broken(job):
        raise RuntimeError("no C++ compiler was found")

    replace_compile(monkeypatch, broken)
    timed(monkeypatch, eager=3e-3, channels_last=2e-3)
    fast = speed_up(model, batch=BATCH, cache=tmp_path)
    assert fast.method == "channels_last" and "no C++ compiler" in fast.failed["compile"]
    with pytest.raises(RuntimeError, match="compile does not work here: RuntimeError: no C\\+\\+ compiler"):
        speed_up(model, "compile", batch=BATCH)


def test_wrong_answers_are_noticed(model, tmp_path, monkeypatch, only):
    replace_compile(monkeypatch, lambda job: lambda y, t: 1.01 * job.model.network(y, t) + 0.01)
    with pytest.raises(RuntimeError, match=r"the output of compile deviates from the network's by 0.0"):
        speed_up(model, "compile", batch=BATCH)
    timed(monkeypatch, eager=3e-3, channels_last=2e-3)
    assert speed_up(model, batch=BATCH, cache=tmp_path).method == "channels_last"


# What is refused.


def test_nonsense_is_refused(model):
    with pytest.raises(ValueError, match="method 'complie' is unknown: did you mean 'compile'"):
        speed_up(model, "complie", batch=4)
    with pytest.raises(ValueError, match="precision 'fp8' is unknown"):
        speed_up(model, precision="fp8", batch=4)
    with pytest.raises(ValueError, match="batch = 0: give 1 or more"):
        speed_up(model, batch=0)
    with pytest.raises(ValueError, match="GaussianDenoiser has no network"):
        speed_up(GaussianDenoiser(Gaussian(torch.zeros(SHAPE).double(), torch.ones(SHAPE).double())), batch=4)
    with pytest.raises(ValueError, match="the model is on cpu and not on meta: move it there first"):
        speed_up(model, "eager", batch=4, device="meta")
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device"):
        speed_up(model, "cuda_graphs", batch=4)


def test_a_missing_package_is_named_with_the_command(model, monkeypatch):
    monkeypatch.setattr(methods_module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnxruntime: onnx, .*, onnxruntime not installed: pip install 'alphabar\[fast\]'"):
        speed_up(model, "onnxruntime", batch=4)


# Processes of their own.


def child(code, **environment):
    env = {k: v for k, v in os.environ.items() if k != "CI"} | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif("openvino" not in INSTALLED, reason="openvino is not installed")
def test_openvino_asks_nobody_on_the_network(tmp_path):
    """As it comes it looks up an analytics host when it is imported, and writes a file into the home folder."""
    out = child(
        "import socket\n"
        "def refuse(*a, **k): print('LOOKED UP', a[:2]); raise OSError\n"
        "socket.getaddrinfo = refuse; socket.socket.connect = refuse\n"
        "import sys\n"
        "from alphabar.denoiser.runtime.openvino import import_openvino\n"
        "assert hasattr(import_openvino(), 'Core')\n"
        "assert 'openvino_telemetry' not in sys.modules\n",
        HOME=str(tmp_path),
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert out.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.fixture
def workers(prepared):
    """Two processes, one a half of the batch."""
    if "mnn" not in INSTALLED:
        pytest.skip("MNN is not installed")
    from alphabar.denoiser.runtime.mnn import MIN_SHARE, Workers

    with torch.random.fork_rng():
        torch.random.manual_seed(1)
        network = Small().eval()
    job = Job(Preconditioned(network, Cosine(), "v", 0.8, SHAPE), 2 * MIN_SHARE + 1, CPU, "float32")
    inputs = job.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        exported = job.onnx
    made = Workers(exported, inputs, 2)
    yield made, network, inputs
    made.close()


def test_two_processes_share_a_batch_and_leave_nothing_behind(workers):
    made, network, inputs = workers
    assert len(made.processes) == 2
    with torch.no_grad():
        for sign in (1, -1):
            assert torch.allclose(made(sign * inputs[0], inputs[1]), network(sign * inputs[0], inputs[1]), atol=1e-5)
    processes, folder = made.processes, made.folder
    assert folder.is_dir() and all(p.poll() is None for p in processes)
    made.close()
    assert not folder.exists() and all(p.poll() == 0 for p in processes)


def test_a_process_that_is_killed_is_noticed(workers):
    made, _, inputs = workers
    made.processes[1].kill()
    with pytest.raises(RuntimeError, match="a process of MNN has ended"):
        made(*inputs)
    assert not made.folder.exists() and made.processes[0].poll() is not None


@pytest.mark.skipif("mnn" not in INSTALLED, reason="MNN is not installed")
def test_mnn_ends_with_the_program_and_reports_to_nobody(tmp_path):
    """Its own converter command installs a package and sends what it is used for; we go past it. A program that is killed
    leaves no process: the end of the pipe ends them."""
    out = child(
        "import os, signal, sys, torch\n"
        "from torch import nn\n"
        "from alphabar.denoiser.runtime.fast_model import speed_up\n"
        "from alphabar.denoiser.model import build\n"
        "from alphabar.denoiser.model_recipe import ModelRecipe\n"
        "model = build(ModelRecipe('unet', (8,), groups=4, embedding=8), {'kind': 'cosine'}, (1, 8, 8))\n"
        "fast = speed_up(model, 'mnn', batch=2)\n"
        "assert not any(m.startswith(('MNN', 'aliyun')) for m in sys.modules)\n"
        "print(fast.network.run.run.processes[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        TMPDIR=str(tmp_path),
    )
    assert out.returncode == -9 and out.stdout.strip().isdigit(), out.stderr
    for _ in range(100):
        if not alive(int(out.stdout)):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process of MNN outlives its program")
    assert not list(tmp_path.glob("alphabar-mnn-*"))


def alive(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:  # one that has ended and that nobody waits for
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_the_compiler_sees_our_network_as_one_graph_and_no_runtime_is_imported_for_nothing():
    """Without C++, which takes half a minute; benchmarks/calls.py compiles it in earnest."""
    out = child(
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


@pytest.mark.parametrize(("method", "classes"), [(m, 0 if m == "onnxruntime" else 3) for m in INSTALLED])
def test_our_own_network_is_exported_as_it_is(method, classes):
    recipe = ModelRecipe("unet", (8, 16), groups=4, embedding=8, attention=(1,), conditional=classes > 0)
    model = build(recipe, {"kind": "cosine"}, (1, 8, 8), 0, classes=("shoe", "bag", "coat")[:classes])
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p, std=0.2)
    fast = speed_up(model.eval(), method, batch=3)
    x, sigma = starting_noise(0, range(5), SHAPE), torch.logspace(-1, 1, 5)
    labels = [torch.tensor([0, 1, 2, 3, 0])] if classes else []
    assert torch.allclose(fast(x, sigma, *labels), model(x, sigma, *labels), atol=1e-5)
    if classes:
        assert not torch.allclose(fast(x, sigma, labels[0].flip(0)), model(x, sigma, *labels), atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device; this machine has none")
@pytest.mark.parametrize("n", [1, 3, BATCH, 11])
def test_cuda_graphs_answer_as_the_model_does(model, some, n):
    model = model.to("cuda")
    x, sigma = some[0][:n].to("cuda"), some[1][:n].to("cuda")
    fast = speed_up(model, "cuda_graphs", batch=BATCH)
    with torch.inference_mode():
        assert torch.allclose(fast(x, sigma), model(x, sigma), rtol=0, atol=1e-3)  # TF32 may be on
        assert torch.equal(fast(x, sigma), fast(x, sigma))
    assert isinstance(fast, FastModel) and fast.device.type == "cuda" and set(METHODS) > {"cuda_graphs"}
