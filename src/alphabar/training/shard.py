"""Sharding over processes (FSDP2): each holds a part of the weights, gradients, moments and averages. Whole tensors are
gathered only for writing and for sampling, by all processes at once."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from alphabar.denoiser.model import Model


def shard(model: Model, device: torch.device, processes: int) -> None:
    """Shards a model's parameters, which must be contiguous, block by block and in place. All processes must call it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (processes,))
    blocks = [child for m in model.network.modules() if isinstance(m, nn.ModuleList) for child in m]
    for block in reversed(blocks):  # inner ones first
        if next(block.parameters(), None) is not None:
            fully_shard(block, mesh=mesh)
    fully_shard(model.network, mesh=mesh)


def gathered_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without gradients; sharded ones are gathered on every process, all of which must call this function."""
    from torch.distributed.tensor import DTensor

    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach() for name, t in state.items()}


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """A copy of the whole tensor `value` with the memory layout, device and sharding of `like`, which has the same shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return torch.empty_like(like).copy_(value)
