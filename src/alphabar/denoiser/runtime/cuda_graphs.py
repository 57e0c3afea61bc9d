"""The network's kernel launches on a CUDA device, recorded once and replayed (torch.cuda.CUDAGraph)."""

import torch
from torch import Tensor

from alphabar.denoiser.runtime.fixed_batch import FixedBatch
from alphabar.denoiser.runtime.job import Job, Run
from alphabar.denoiser.runtime.pytorch import channels_last

WARM_UP = 3  # calls before the recording: they choose algorithms and allocate memory, which a recording must not


def recorded(job: Job) -> Run:
    return FixedBatch(_Recording(job), job, fallback=channels_last(job))


class _Recording:
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
        out: Tensor = self.out.clone()  # the next replay overwrites self.out
        return out
