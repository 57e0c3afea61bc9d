"""What a runtime is prepared for: a model, a batch size, a device and a precision."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.runtime.onnx_export import export_onnx

Run = Callable[..., Tensor]  # (y, t), and labels for a class-conditional network -> the network's output


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
        return y, t, (torch.arange(self.batch) % (self.model.classes + 1)).to(self.device)

    def network(self, layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
        """A frozen copy of the network in the given memory layout, in the job's precision."""
        network = self._copy().to(memory_format=layout)  # type: ignore[call-overload]
        return network if self.precision == "float32" else _Autocast(network, self.device.type)

    @cached_property
    def onnx(self) -> bytes:
        """The network as an ONNX model of any batch size."""
        return export_onnx(self._copy(), self.example())

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
            out: Tensor = self.network(*inputs)
        return out.float()
