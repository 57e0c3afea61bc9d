"""Weights in safetensors files: read within bounds, and put into a network only where names, shapes and values fit."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from alphabar.core.messages import first_line, is_utf8

MAX_HEADER = 2**24  # bytes; headers of the largest public models have about 2^20


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, copied into memory, and the texts of its header.

    Nothing is unpickled, and no more memory is taken than the file has bytes. Raises FileNotFoundError where there is no file,
    PermissionError, and ValueError, naming the file, for any other that cannot be read.
    """
    from safetensors import safe_open

    try:
        with path.open("rb") as file:
            if (header := int.from_bytes(file.read(8), "little")) > MAX_HEADER:
                raise ValueError(f"a header of {header:,} bytes")
            # safetensors opens no name that is not UTF-8
            name = path if is_utf8(path) else Path(f"/dev/fd/{file.fileno()}")
            with safe_open(name, framework="pt") as opened:
                # copied, because a mapped file that another program shortens ends the process
                return {name: opened.get_tensor(name).clone() for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as e:  # safetensors and torch raise many types for a damaged header
        what = f"is not a safetensors file, or is truncated ({first_line(e):.200})"
        raise ValueError(f"{path} {what}: fetch or write it again") from e


def fill(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Makes weights the parameters of a network that was made on the device "meta", where it takes no memory.

    Raises ValueError, beginning with `where`, for the first tensor that is missing, unknown, of another shape or kind, or holds
    NaN or infinity.
    """
    wanted = network.state_dict()
    for names, what in ((wanted.keys() - weights.keys(), "is missing"), (weights.keys() - wanted.keys(), "is unknown")):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{where}: {min(names)!r:.100} {what}{more}")
    for name, like in wanted.items():
        given = weights[name]
        if given.shape != like.shape or given.is_floating_point() != like.is_floating_point():
            came, kind = (f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}" for t in (given, like))
            raise ValueError(f"{where}: {name!r} is {came}, wanted {kind}")
        if like.is_floating_point() and not bool(torch.isfinite(given.to(like.dtype)).all()):
            raise ValueError(f"{where}: {name!r} holds NaN or infinity: the training diverged, or the file is damaged")
    network.load_state_dict({name: weights[name].to(like.dtype) for name, like in wanted.items()}, assign=True)
