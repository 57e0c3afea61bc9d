"""Sharding over processes (FSDP2): each holds a part of the weights, gradients, moments and averages.

Whole tensors are gathered only for writing and for sampling, by all processes at once.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from alphabar.denoiser.model import Model


def shard(model: Model, device: torch.device, processes: int) -> None:
    """Shards a model's parameters over all processes, block by block, in place. All processes must call it.

    Weights must be contiguous: FSDP2 does not support channels-last.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    blocks = [child for m in model.network.modules() if isinstance(m, nn.ModuleList) for child in m]
    for block in reversed(blocks):  # inner ones first
        if next(block.parameters(), None) is not None:
            fully_shard(block, mesh=mesh)
    fully_shard(model.network, mesh=mesh)


def gathered(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered on every process; any other tensor is returned unchanged. All processes must call it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`gathered` for every tensor."""
    return {name: gathered(t.detach()) for name, t in state.items()}


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A copy of the whole tensor `value` with the memory layout, device and sharding of `like`, which has the same shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return torch.empty_like(like).copy_(value)
