"""The table of runtimes, which of them work here, and their preparation, which checks the output against the network's."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.runtime import cuda_graphs, mnn, onnx_runtime, openvino, pytorch
from alphabar.denoiser.runtime.job import Job, Prepared, Run

# Largest accepted deviation of the network's output, relative to its scale.
MAX_DEVIATION = {"float32": 1e-3, "bf16": 0.25}


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
    "eager": Method(pytorch.eager),
    "channels_last": Method(pytorch.channels_last),
    "compile": Method(pytorch.compiled, 40.0),
    "onnxruntime": Method(onnx_runtime.onnx_session, 10.0, "onnxruntime", ("float32",)),
    "openvino": Method(openvino.openvino_request, 10.0, "openvino"),
    "mnn": Method(mnn.mnn_workers, 10.0, "MNN", ("float32",)),
    "cuda_graphs": Method(cuda_graphs.recorded, 1.0),
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

    Raises:
        ImportError: if a package is missing.
        RuntimeError: if the method fails here, or its output deviates by more than MAX_DEVIATION.
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
            line = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise RuntimeError(f"{name} does not work here: {type(e).__name__}: {line:.200}") from e
    deviation = float((got.float() - wanted.float()).abs().max()) / max(1.0, float(wanted.abs().max()))
    if not deviation <= MAX_DEVIATION[job.precision]:
        raise RuntimeError(
            f"the output of {name} deviates from the network's by {deviation:.2g} of its scale: use method='eager', and report it"
        )
    job.prepared[name] = Prepared(run, deviation, time.perf_counter() - started)
    return job.prepared[name]
