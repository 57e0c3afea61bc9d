"""The network run by OpenVINO on the CPU, without its telemetry."""

import io
import sys
from typing import Any

import torch
from torch import Tensor

from alphabar.denoiser.runtime.fixed_batch import FixedBatch
from alphabar.denoiser.runtime.job import Job, Run
from alphabar.denoiser.runtime.pytorch import channels_last


def openvino_request(job: Job) -> Run:
    core = import_openvino().Core()
    model = core.read_model(io.BytesIO(job.onnx))
    model.reshape({i.get_any_name(): list(v.shape) for i, v in zip(model.inputs, job.example(), strict=True)})
    # Without the precision hint OpenVINO multiplies in bfloat16 wherever the processor can.
    hints = {
        "INFERENCE_PRECISION_HINT": "f32" if job.precision == "float32" else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
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
