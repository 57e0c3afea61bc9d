"""The network run by PyTorch: as it stands, in either memory layout of the convolutions, or compiled by TorchInductor."""

import torch
from torch import Tensor

from alphabar.denoiser.runtime.fixed_batch import FixedBatch
from alphabar.denoiser.runtime.job import Job, Run


def eager(job: Job, layout: torch.memory_format = torch.contiguous_format) -> Run:
    network = job.network(layout)

    def run(y: Tensor, *more: Tensor) -> Tensor:
        out: Tensor = network(y.contiguous(memory_format=layout), *more)
        return out

    return run


def channels_last(job: Job) -> Run:
    return eager(job, torch.channels_last)


def compiled(job: Job) -> Run:
    """torch.compile with frozen weights, for the job's batch size."""
    # `options` holds for this compilation only; torch._inductor.config.freezing = True would stay.
    network = torch.compile(job.network(), dynamic=False, options={"freezing": True})
    return FixedBatch(network, job, fallback=channels_last(job))
