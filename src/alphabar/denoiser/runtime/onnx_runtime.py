"""The network run by ONNX Runtime on the CPU."""

import torch
from torch import Tensor

from alphabar.denoiser.runtime.job import Job, Run


def onnx_session(job: Job) -> Run:
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
