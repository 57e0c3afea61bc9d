"""Any number of images by a runtime that takes one batch size."""

import torch
from torch import Tensor

from alphabar.denoiser.runtime.job import Job, Run

MIN_SHARE = 0.75  # of a batch that must be filled; a smaller part goes to the fallback


class FixedBatch:
    """Splits larger inputs into batches and pads a smaller one with the previous content, since images do not interact.

    Inputs are copied into fixed tensors: compiled code is specialised on the kind of a tensor, and tensors of inference mode are
    of another kind.

    Args:
        run: takes batches of job.batch images.
        job: gives the shapes of the inputs.
        fallback: takes any number of images; used for those that fill too little of a batch.
    """

    def __init__(self, run: Run, job: Job, fallback: Run) -> None:
        self.run, self.batch, self.fallback = run, job.batch, fallback
        with torch.inference_mode(False):
            self.inputs = [torch.zeros_like(v) for v in job.example()]

    def __call__(self, *inputs: Tensor) -> Tensor:
        n = len(inputs[0])
        if n > self.batch:
            return torch.cat([self(*(v[k : k + self.batch] for v in inputs)) for k in range(0, n, self.batch)])
        if n < MIN_SHARE * self.batch:
            return self.fallback(*inputs)
        with torch.inference_mode(False), torch.no_grad():
            for own, v in zip(self.inputs, inputs, strict=True):
                own[:n].copy_(v)
            return self.run(*self.inputs)[:n]
