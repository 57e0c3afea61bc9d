"""The fast path of sampling: the same network by whichever way of running it is fastest on the machine at hand.

    fast = fasten(model, batch=64)             # a denoiser like `model`; measures, and remembers what it measured
    fast.method, fast.milliseconds             # "compile", {"eager": 0.91, "channels_last": 0.82, "compile": 0.68, ...}

eager and channels_last are PyTorch as it comes, in either memory layout of the convolutions. compile is TorchInductor with
frozen weights. onnxruntime, openvino and mnn run an ONNX export on the CPU (`pip install 'alphabar[fast]'`), mnn in a process
of its own for each core. cuda_graphs replays the launches of one batch on a GPU. Each sums in an order of its own, so that
x0_hat differs in its last digits (about 1e-6).
"""

import copy
import hashlib
import io
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.core.files import write_atomically
from alphabar.core.machine import machine
from alphabar.core.seeds import starting_noise
from alphabar.core.types import Denoiser, Images, Labels, Levels
from alphabar.data.cache import cache_folder
from alphabar.denoiser.precondition import Preconditioned

METHODS = ("eager", "channels_last", "compile", "onnxruntime", "openvino", "mnn", "cuda_graphs")
PRECISIONS = ("float32", "bf16")
LARGEST = 1e-3  # difference of the network's output, whose scale is 1, beyond which a method is not trusted in float32
ROUNDS = 5  # timed calls of each method, in turns
PAUSE = 0.05  # seconds before each of them: threads of the method before may still be spinning
# Before a method is tried: seconds that it may take to prepare, cold, and the share of the time it may save (5 to 15 % were
# seen beside channels_last).
COST = {
    "eager": 0.0,
    "channels_last": 0.0,
    "cuda_graphs": 1.0,
    "onnxruntime": 10.0,
    "openvino": 10.0,
    "mnn": 10.0,
    "compile": 40.0,
}
SAVING = 0.1
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "mnn": "MNN"}  # that run an ONNX export

Run = Callable[..., Tensor]  # (y, t), and labels where the network knows classes -> its output


class Fast:
    """A model whose network runs another way. Whatever else the model says of itself (schedule, image_shape, crop, ...) it
    says as well; its fingerprint is that of the weights it was made from, which later training does not change here.

    method: how it runs. precision: "float32" or "bf16". device. batch: what it was made for; more images are cut up into
    as many, fewer work too. deviation: largest difference of the network's output from the model's own, as checked once.
    prepared: seconds that making it took. milliseconds: an image and call, of each method that was timed (by "auto").
    failed: why others could not be.
    """

    def __init__(
        self,
        model: Preconditioned,
        run: Run,
        method: str,
        precision: str,
        batch: int,
        deviation: float = 0.0,
        prepared: float = 0.0,
        milliseconds: Mapping[str, float] | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.method, self.precision, self.batch = method, precision, batch
        self.device = _device_of(model)
        self.deviation, self.prepared = deviation, prepared
        self.milliseconds, self.failed = dict(milliseconds or {}), dict(failed or {})
        own = getattr(model, "fingerprint", None)
        self.fingerprint: str | None = None if own is None else str(own() if callable(own) else own)
        # The arithmetic round the network is the model's own: a shallow copy of it that holds another network.
        self._denoise = copy.copy(model)
        self._denoise._modules = {**model._modules, "network": _Network(run)}

    def __call__(self, x: Images, sigma: Levels, labels: Labels | None = None) -> Images:
        with torch.no_grad():
            out: Tensor = self._denoise(x, sigma, labels)
        return out

    @property
    def network(self) -> nn.Module:
        """The network as it runs here: (y, t) -> output."""
        network: nn.Module = self._denoise.network
        return network

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "model" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["model"], name)

    def record(self) -> dict[str, Any]:
        """How it runs, as plain data for the record of samples."""
        return {
            "method": self.method, "precision": self.precision, "deviation": self.deviation, "prepare_seconds": self.prepared
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Fast({self.method}, {self.precision}, batch {self.batch}, {self.device})"


def fasten(
    model: Denoiser | Fast,
    method: str = "auto",
    *,
    batch: int,
    device: torch.device | str | None = None,
    precision: str = "float32",
    work: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Fast:
    """`model` with its network run by `method`, for batches of `batch` images. The model itself is left as it is.

    method: one of METHODS, or "auto": the one that is measured to finish soonest here, its preparation included.
    device: None is where the model is, and another is refused. precision: "bf16" multiplies in bfloat16, which changes
    images (by up to 0.1 in [-1, 1] here) and is faster only where the processor has it; "auto" never chooses it by itself.
    work: images times calls that are to come; a method is tried only where it may save more than trying it costs. None: as
    many as you like. cache: the folder where measurements are kept (None: $ALPHABAR_CACHE, ~/.cache/alphabar).

    Raises ValueError for unknown names, a model without a network, or a method that cannot run on this device, ImportError
    where a package is missing, RuntimeError where a method fails here or answers otherwise than the model.
    """
    begun = time.perf_counter()
    if isinstance(model, Fast):
        model = model.model
    if not isinstance(model, Preconditioned):
        raise ValueError(f"{type(model).__name__} has no network that could run another way: leave the fast path out")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if method != "auto" and method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: use auto or one of {', '.join(METHODS)}")
    if batch < 1:
        raise ValueError(f"batch = {batch}: give 1 or more")
    place = _device_of(model)
    if device is not None and torch.device(device).type != place.type:
        raise ValueError(f"the model is on {place} and not on {device}: move it there first, model.to({str(device)!r})")
    job = Job(model, batch, place, precision)
    if method != "auto":
        if why := unavailable(method, place, precision):
            raise (ImportError if "pip install" in why else ValueError)(f"{method}: {why}")
        run = job.prepare(method)
        return Fast(model, run, method, precision, batch, job.deviation[method], time.perf_counter() - begun)
    fast = _auto(job, work, cache_folder(cache) / "fast.json")
    fast.prepared = time.perf_counter() - begun
    return fast


def unavailable(method: str, device: torch.device, precision: str = "float32") -> str | None:
    """Why a method cannot run here, or None."""
    if method == "cuda_graphs" and device.type != "cuda":
        return f"CUDA graphs need a CUDA device, and the model is on {device}: use channels_last or compile"
    if package := PACKAGES.get(method):
        if device.type != "cpu":
            return f"it runs on the CPU, and the model is on {device}: use compile or cuda_graphs"
        if method in ("onnxruntime", "mnn") and precision != "float32":
            return "it runs in float32 only: use channels_last, compile or openvino for bf16"
        if missing := [p for p in ("onnx", "onnxscript", package) if find_spec(p) is None]:
            return f"{', '.join(missing)} not installed: pip install 'alphabar[fast]'"
    return None


@dataclass
class Job:
    """What is to be run, and what was prepared for it."""

    model: Preconditioned
    batch: int
    device: torch.device
    precision: str
    runs: dict[str, Run] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # that preparing took
    deviation: dict[str, float] = field(default_factory=dict)
    _onnx: bytes | None = None

    def prepare(self, method: str) -> Run:
        """Makes a method ready and checks its answers against the model's own network."""
        if method in self.runs:
            return self.runs[method]
        begun = time.perf_counter()
        with evaluating(self.model.network), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of exporters and compilers, about their own insides
            try:
                run: Run = getattr(self, f"_{method}")()
                inputs = self.example()
                with torch.no_grad():
                    wanted, got = self.model.network(*inputs), run(*inputs)
            except ImportError:
                raise
            except Exception as e:  # of many types, from compilers and runtimes
                line = (str(e).strip() or type(e).__name__).splitlines()[0]
                raise RuntimeError(f"{method} does not work here: {type(e).__name__}: {line:.200}") from e
        off = float((got.float() - wanted.float()).abs().max()) / max(1.0, float(wanted.abs().max()))
        if not off <= (LARGEST if self.precision == "float32" else 0.25):
            raise RuntimeError(
                f"{method} answers otherwise than the network, by {off:.2g} of a scale of 1: use method='eager', and report it"
            )
        self.runs[method], self.deviation[method] = run, off
        self.seconds[method] = time.perf_counter() - begun
        return run

    def example(self) -> tuple[Tensor, ...]:
        """A batch of noise at levels of every height, as the network gets it, of every class where it knows some."""
        shape = tuple(self.model.image_shape)
        y = starting_noise(0, range(self.batch), shape).to(self.device)
        low, high = self.model.own_schedule.t_min, self.model.own_schedule.t_max
        t = torch.linspace(low, high, self.batch).to(self.device)
        if not self.model.classes:
            return y, t
        return y, t, (torch.arange(self.batch) % (self.model.classes + 1)).to(self.device)

    def copy(self) -> nn.Module:
        """The network, to change at will."""
        own = copy.deepcopy(self.model.network).eval().requires_grad_(False)
        for module in own.modules():
            vars(module).pop("forward", None)  # training's compiled one, which is bound to the weights it was made with
        return own

    def network(self, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
        own = self.copy().to(memory_format=layout)  # type: ignore[call-overload]
        return own if self.precision == "float32" else _Autocast(own, self.device.type)

    def _eager(self, layout: torch.memory_format = torch.contiguous_format) -> Run:
        network = self.network(layout)
        return lambda y, *more: network(y.contiguous(memory_format=layout), *more)

    def _channels_last(self) -> Run:
        return self._eager(torch.channels_last)

    def _compile(self) -> Run:
        # Options hold for this compilation alone, where torch._inductor.config.freezing = True would stay.
        compiled = torch.compile(self.network(), dynamic=False, options={"freezing": True})
        return _Fixed(compiled, self, spare=self._channels_last())

    def _cuda_graphs(self) -> Run:
        return _Fixed(_Graph(self.network(torch.channels_last), self), self, spare=self._channels_last())

    def _onnxruntime(self) -> Run:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = ort.InferenceSession(self.onnx(), options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]

        def run(*inputs: Tensor) -> Tensor:
            fed = dict(zip(names, (v.contiguous().numpy() for v in inputs), strict=True))
            return torch.from_numpy(session.run(None, fed)[0])

        return run

    def _openvino(self) -> Run:
        openvino = _import_openvino()
        model = openvino.Core().read_model(io.BytesIO(self.onnx()))
        model.reshape({i.get_any_name(): list(v.shape) for i, v in zip(model.inputs, self.example(), strict=True)})
        # Without the hint it multiplies in bfloat16 of its own accord wherever the processor can.
        hints = {
            "INFERENCE_PRECISION_HINT": "f32" if self.precision == "float32" else "bf16",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()

        def run(*inputs: Tensor) -> Tensor:
            answer = request.infer([v.numpy() for v in inputs], share_inputs=True, share_outputs=True)
            return torch.from_numpy(answer[0].copy())  # the next call writes where this one did

        return _Fixed(run, self, spare=self._channels_last())

    def _mnn(self) -> Run:
        import onnx

        from alphabar.denoiser.runtime.mnn import Workers

        exported = self.onnx()
        graph = onnx.load_from_string(exported).graph
        names = [i.name for i in graph.input], graph.output[0].name
        inputs = self.example()
        return _Fixed(Workers(exported, inputs, inputs[0], names, torch.get_num_threads()), self, spare=self._channels_last())

    def onnx(self) -> bytes:
        """The network as an ONNX model of any batch."""
        if self._onnx is None:
            # a batch of 1 would be taken for fixed
            inputs = tuple(v[:2] if len(v) > 1 else v.repeat(2, *[1] * (v.ndim - 1)) for v in self.example())
            some = torch.export.Dim.DYNAMIC
            with _quiet():
                program = torch.onnx.export(
                    self.copy(), inputs, dynamo=True, dynamic_shapes=tuple({0: some} for _ in inputs), verbose=False,
                    optimize=True,
                )  # fmt: skip
            if program is None:
                raise RuntimeError("the exporter of torch.onnx gave no program: use another method, as channels_last")
            self._onnx = program.model_proto.SerializeToString()
        return self._onnx


class _Network(nn.Module):
    """A way of running as a module, which is what a model holds. Cuts nothing and copies nothing."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, y: Images, t: Tensor, *more: Tensor) -> Images:
        out: Tensor = self.run(y, t, *more)
        return out


class _Autocast(nn.Module):
    """A network that multiplies in bfloat16; float32 comes out."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            out: Tensor = self.network(*inputs)
        return out.float()


class _Fixed:
    """A run of one batch size for any number of images: more are cut up, and fewer are padded with whatever stood there
    before, since no image of a batch looks at another. Few go to `spare`, which takes any number and wastes nothing.

    Inputs are copied to a place of their own: compiled code is made for tensors of one kind, and those of inference mode
    are of another.
    """

    def __init__(self, run: Run, job: Job, spare: Run) -> None:
        self.run, self.batch, self.spare = run, job.batch, spare
        with torch.inference_mode(False):
            self.inputs = [torch.zeros_like(v) for v in job.example()]

    def __call__(self, *inputs: Tensor) -> Tensor:
        n = len(inputs[0])
        if n > self.batch:
            return torch.cat([self(*(v[k : k + self.batch] for v in inputs)) for k in range(0, n, self.batch)])
        if 4 * n < 3 * self.batch:
            return self.spare(*inputs)
        with torch.inference_mode(False), torch.no_grad():
            for mine, v in zip(self.inputs, inputs, strict=True):
                mine[:n].copy_(v)
            return self.run(*self.inputs)[:n]


class _Graph:
    """One call's launches on a CUDA device, recorded once and replayed (torch.cuda.CUDAGraph)."""

    def __init__(self, network: nn.Module, job: Job) -> None:
        self.network = network  # a replay reads the weights where they were when it was recorded
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(job.device):
            self.inputs = [torch.zeros_like(v) for v in job.example()]
            self.inputs[0] = self.inputs[0].contiguous(memory_format=torch.channels_last)
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # first calls choose algorithms and take memory, which a recording must not
                for _ in range(3):
                    network(*self.inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = network(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for mine, v in zip(self.inputs, inputs, strict=True):
            mine.copy_(v)
        self.graph.replay()
        out: Tensor = self.out.clone()  # the next replay writes where this one did
        return out


def _auto(job: Job, work: int | None, file: Path) -> Fast:
    """Times what is worth timing and takes what finishes `work` soonest. Measurements are kept for the next job."""
    failed = {m: why for m in METHODS if (why := unavailable(m, job.device, job.precision))}
    usable = [m for m in METHODS if m not in failed]
    key = _key(job)
    known = {m: v for m, v in _recall(file).get(key, {}).items() if m in usable}
    timing = (ROUNDS + 2) * job.batch  # image calls that it takes to time one method

    def worth(m: str) -> bool:
        """Whether a method that is not known may save more than it costs to try it."""
        if m in known or work is None:
            return m not in known
        if not known:
            return work > 10 * timing
        saved = SAVING * (work - timing) * min(v["seconds"] for v in known.values())
        return saved > COST[m]

    for stage in (("eager", "channels_last"), ("cuda_graphs", "onnxruntime", "openvino", "mnn"), ("compile",)):
        ready = []
        for m in [m for m in stage if m in usable and worth(m)]:
            try:
                job.prepare(m)
                ready.append(m)
            except (RuntimeError, ImportError) as e:
                failed[m] = str(e)
        if ready:
            # beside the best so far, so that a busy minute tells on both
            best = min(known, key=lambda m: known[m]["seconds"]) if known else ready[0]
            taken = _time(job, [*dict.fromkeys([best, *ready])])
            scale = known[best]["seconds"] / taken[best] if known else 1.0
            known |= {m: {"seconds": taken[m] * scale, "prepare": job.seconds[m]} for m in ready}
            _remember(file, key, known)

    def total(m: str) -> float:
        """Seconds that all the work takes by a method, what is still to prepare included."""
        prepare = 0.0 if m in job.runs or work is None else known[m]["prepare"]
        return prepare + known[m]["seconds"] * (work or 1)

    order = sorted(known, key=total) or ["channels_last", "eager"]
    for method in [*order, *(m for m in ("channels_last", "eager") if m not in order)]:
        try:
            run = job.prepare(method)
        except (RuntimeError, ImportError) as e:  # it worked when it was measured
            failed[method] = str(e)
            continue
        milliseconds = {m: 1e3 * v["seconds"] for m, v in known.items()}
        return Fast(job.model, run, method, job.precision, job.batch, job.deviation[method], 0.0, milliseconds, failed)
    raise RuntimeError("no way of running the network works here: " + "; ".join(f"{m}: {w}" for m, w in failed.items()))


def _time(job: Job, methods: list[str]) -> dict[str, float]:
    """Seconds an image and call, the median of ROUNDS in which the methods take turns."""
    inputs = job.example()
    taken: dict[str, list[float]] = {m: [] for m in methods}
    with torch.no_grad():
        for m in methods:
            job.prepare(m)(*inputs)
        for _ in range(ROUNDS):
            for m in methods:
                _wait(job.device)
                time.sleep(PAUSE)
                begun = time.perf_counter()
                job.runs[m](*inputs)
                _wait(job.device)
                taken[m].append((time.perf_counter() - begun) / job.batch)
    return {m: statistics.median(v) for m, v in taken.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _key(job: Job) -> str:
    """What a measurement is true of: the machine, the versions, the network's shape (not its weights), the batch."""
    here = machine()
    about = {
        **{k: here[k] for k in ("cpu", "cores", "capability", "accelerators")},
        "system": platform.system(), "threads": torch.get_num_threads(), "device": str(job.device),
        "torch": torch.__version__, **{p: _version(p) for p in ("onnxruntime", "openvino", "MNN", "onnxscript")},
        "network": type(job.model.network).__name__,
        "weights": {k: list(v.shape) for k, v in sorted(job.model.network.state_dict().items())},
        "image": list(job.model.image_shape), "batch": job.batch, "precision": job.precision,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _recall(file: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The measurements on file; nothing where there are none or they cannot be read: they are made again."""
    try:
        found = json.loads(file.read_text())
        return {
            key: {m: {k: float(v[k]) for k in ("seconds", "prepare")} for m, v in methods.items() if m in METHODS}
            for key, methods in found.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _remember(file: Path, key: str, known: Mapping[str, Mapping[str, float]]) -> None:
    try:
        write_atomically(file, json.dumps({**_recall(file), key: known}, indent=1) + "\n")
    except OSError as e:  # a cache that cannot be written costs time, not images
        warnings.warn(
            f"{file} cannot be written ({e}): timings are not kept; set ALPHABAR_CACHE to a folder of yours", stacklevel=2
        )


def _device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """No dropout, and every module back as it was afterwards. Anything that is no module is left alone."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints and logs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _import_openvino() -> Any:
    """openvino without its telemetry, which otherwise looks up an analytics host as soon as it is imported."""
    if "openvino" not in sys.modules:
        there = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino  # its imports of the telemetry fail, and it takes a stub that does nothing
        finally:
            del sys.modules["openvino_telemetry"]
            if there is not None:
                sys.modules["openvino_telemetry"] = there
    import openvino

    return openvino
