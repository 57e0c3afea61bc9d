"""The methods of running a network, which of them work here, and their preparation, which checks the output."""

import io
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor

from alphabar.core.messages import first_line
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.runtime.job import FixedBatch, Job, Prepared, Run
from alphabar.denoiser.runtime.mnn import Workers

MAX_DEVIATION = {"float32": 1e-3, "bf16": 0.25}  # largest accepted deviation of the network's output, relative to its scale
WARM_UP = 3  # calls before CUDA graphs are recorded: they choose algorithms and allocate memory, which a recording must not


def eager(job: Job, layout: torch.memory_format = torch.contiguous_format) -> Run:
    """PyTorch, in a memory layout of the convolutions."""
    network = job.network(layout)
    return lambda y, *more: cast(Tensor, network(y.contiguous(memory_format=layout), *more))


def channels_last(job: Job) -> Run:
    return eager(job, torch.channels_last)


def compiled(job: Job) -> Run:
    """torch.compile with frozen weights, for the job's batch size."""
    # `options` holds for this compilation only; torch._inductor.config.freezing = True would stay.
    network = torch.compile(job.network(), dynamic=False, options={"freezing": True})
    return FixedBatch(network, job, fallback=channels_last(job))


class _Recording:
    """The network's kernel launches on a CUDA device, recorded once and replayed (torch.cuda.CUDAGraph)."""

    def __init__(self, job: Job) -> None:
        self.network = job.network(torch.channels_last)  # kept alive: a replay reads the weights at their recorded address
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(job.device):
            self.inputs = [torch.zeros_like(v) for v in job.example()]
            self.inputs[0] = self.inputs[0].contiguous(memory_format=torch.channels_last)
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.network(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = self.network(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        for own, v in zip(self.inputs, inputs, strict=True):
            own.copy_(v)
        self.graph.replay()
        return cast(Tensor, self.out.clone())  # the next replay overwrites self.out


def onnx_session(job: Job) -> Run:
    """ONNX Runtime on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = ort.InferenceSession(job.onnx, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = dict(zip(names, (v.contiguous().numpy() for v in inputs), strict=True))
        return torch.from_numpy(session.run(None, arrays)[0])

    return run


def openvino_request(job: Job) -> Run:
    """OpenVINO on the CPU."""
    core = import_openvino().Core()
    model = core.read_model(io.BytesIO(job.onnx))
    model.reshape({i.get_any_name(): list(v.shape) for i, v in zip(model.inputs, job.example(), strict=True)})
    # Without the precision hint OpenVINO multiplies in bfloat16 wherever the processor can.
    precision = "f32" if job.precision == "float32" else "bf16"
    hints = {
        "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"
    }  # fmt: skip
    request = core.compile_model(model, "CPU", hints).create_infer_request()

    def run(*inputs: Tensor) -> Tensor:
        results = request.infer([v.numpy() for v in inputs], share_inputs=True, share_outputs=True)
        return torch.from_numpy(results[0].copy())  # the next call overwrites the shared output

    return FixedBatch(run, job, fallback=channels_last(job))


def import_openvino() -> Any:
    """The module openvino, imported without openvino_telemetry, which contacts an analytics host at import."""
    if "openvino" not in sys.modules:
        telemetry = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino  # importing the telemetry fails, and openvino replaces it by a stub that does nothing
        finally:
            del sys.modules["openvino_telemetry"]
            if telemetry is not None:
                sys.modules["openvino_telemetry"] = telemetry
    import openvino

    return openvino


def mnn_workers(job: Job) -> Run:
    return FixedBatch(Workers(job.onnx, job.example(), torch.get_num_threads()), job, fallback=channels_last(job))


def cuda_graphs(job: Job) -> Run:
    return FixedBatch(_Recording(job), job, fallback=channels_last(job))


@dataclass(frozen=True)
class Method:
    """One way of running a network."""

    make: Callable[[Job], Run]
    seconds: float = 0.0
    """Upper estimate of the preparation, with cold caches."""
    package: str | None = None
    """Package that runs an ONNX export of the network on the CPU."""
    precisions: tuple[str, ...] = ("float32", "bf16")


METHODS: dict[str, Method] = {
    "eager": Method(eager),
    "channels_last": Method(channels_last),
    "compile": Method(compiled, 40.0),
    "onnxruntime": Method(onnx_session, 10.0, "onnxruntime", ("float32",)),
    "openvino": Method(openvino_request, 10.0, "openvino"),
    "mnn": Method(mnn_workers, 10.0, "MNN", ("float32",)),
    "cuda_graphs": Method(cuda_graphs, 1.0),
}


def unavailable(name: str, device: torch.device, precision: str = "float32") -> str | None:
    """The reason why a method cannot run on a device in a precision, or None if it can."""
    if name == "cuda_graphs" and device.type != "cuda":
        return f"CUDA graphs need a CUDA device, and the model is on {device}: use channels_last or compile"
    method = METHODS[name]
    if method.package is None:
        return None
    if device.type != "cpu":
        return f"it runs on the CPU, and the model is on {device}: use compile or cuda_graphs"
    if precision not in method.precisions:
        return "it runs in float32 only: use channels_last, compile or openvino for bf16"
    if missing := [p for p in ("onnx", "onnxscript", method.package) if find_spec(p) is None]:
        return f"{', '.join(missing)} not installed: pip install 'alphabar[fast]'"
    return None


def prepare(job: Job, name: str) -> Prepared:
    """Prepares a method once per job and compares its output with the network's.

    Raises ImportError if a package is missing, RuntimeError if the method fails here or deviates by more than MAX_DEVIATION.
    """
    if name in job.prepared:
        return job.prepared[name]
    started = time.perf_counter()
    with eval_mode(job.model.network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters and compilers warn about their own internals
        try:
            run = METHODS[name].make(job)
            inputs = job.example()
            with torch.no_grad():
                wanted, got = job.model.network(*inputs), run(*inputs)
        except ImportError:
            raise
        except Exception as e:  # compilers and runtimes raise many types
            line = first_line(e)
            raise RuntimeError(f"{name} does not work here: {type(e).__name__}: {line:.200}") from e
    deviation = float((got.float() - wanted.float()).abs().max()) / max(1.0, float(wanted.abs().max()))
    if not deviation <= MAX_DEVIATION[job.precision]:
        raise RuntimeError(
            f"the output of {name} deviates from the network's by {deviation:.2g} of its scale: use method='eager', and report it"
        )
    job.prepared[name] = Prepared(run, deviation, time.perf_counter() - started)
    return job.prepared[name]
