"""What a runtime is prepared for: a model, a batch size, a device and a precision; and runtimes of a fixed batch size."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.to_onnx import traced

Run = Callable[..., Tensor]  # (y, t), and labels for a class-conditional network -> the network's output
MIN_SHARE = 0.75  # of a batch that must be filled; a smaller part goes to the fallback


@dataclass(frozen=True)
class Prepared:
    """A network made ready for one runtime."""

    run: Run
    deviation: float
    """Largest difference of its output from the network's, relative to the output's scale."""
    seconds: float
    """Time that the preparation took."""


@dataclass
class Job:
    """A model to be run in batches, and what has been prepared for it."""

    model: Preconditioned
    batch: int
    device: torch.device
    precision: str
    prepared: dict[str, Prepared] = field(default_factory=dict)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the network for one batch: noise at times over the whole range, and labels of every class."""
        y = starting_noise(0, range(self.batch), tuple(self.model.image_shape)).to(self.device)
        low, high = self.model.own_schedule.t_min, self.model.own_schedule.t_max
        t = torch.linspace(low, high, self.batch).to(self.device)
        if not self.model.classes:
            return y, t
        return y, t, (torch.arange(self.batch) % (self.model.classes + self.model.null_class)).to(self.device)

    def network(self, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
        """A frozen copy of the network in the given memory layout, in the job's precision."""
        network = self._copy().to(memory_format=layout)  # type: ignore[call-overload]
        return network if self.precision == "float32" else _Autocast(network, self.device.type)

    @cached_property
    def onnx(self) -> bytes:
        """The network as an ONNX model of any batch size."""
        examples = tuple(v[:2] if len(v) > 1 else v.repeat(2, *[1] * (v.ndim - 1)) for v in self.example())
        return bytes(traced(self._copy(), examples).SerializeToString())

    def _copy(self) -> nn.Module:
        network = copy.deepcopy(self.model.network).eval().requires_grad_(False)
        for module in network.modules():
            vars(module).pop("forward", None)  # a forward that training has compiled is bound to the original's weights
        return network


class _Autocast(nn.Module):
    """A network that multiplies in bfloat16; its output is float32."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return cast(Tensor, self.network(*inputs)).float()


class FixedBatch:
    """Runs any number of images by a runtime that takes one batch size: splits more, and pads fewer with the previous content,
    since images do not interact.

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
