"""Weights in files of safetensors or PyTorch: read within bounds, put into a network only where names, shapes and values fit.

A .pth or .pt file is a pickle, and unpickling runs whatever its author wrote. Only torch's restricted loader
(`weights_only=True`) reads it here, which constructs tensors and plain containers and refuses every other name.
"""

import os
import re
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.core.messages import as_path, first_line, is_utf8

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


def read_weights(path: str | os.PathLike[str], part: str | None = None) -> dict[str, Tensor]:
    """Read tensors by name, onto the CPU, from a .safetensors file, or a .pth file in torch's zip format or its older one.

    part: key of the weights in a .pth that holds more than one dict ("state_dict", "model"); None means a file of one dict.
    Raises FileNotFoundError, and ValueError for a file that is damaged, of another kind, or holds other objects.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}: give the path of a .safetensors or .pth file")
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _read_safetensors(path, part)
    if head[:4] != b"PK\x03\x04" and head[:1] != b"\x80":
        raise ValueError(f"{path} is neither safetensors nor a .pth: save the network's state_dict in one of these formats")
    try:
        if head[:1] == b"P":
            _check_archive(path)
        # mmap=True would skip torch's check that each record has the size that its tensor needs
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the loader raises errors of many types for a damaged or crafted file
        raise ValueError(f"{path} was not read: {_reason(error)}") from error
    return _tensors(path, content, part)


def _read_safetensors(path: Path, part: str | None) -> dict[str, Tensor]:
    if part is not None:
        raise ValueError(f"{path} is safetensors, which has no parts: leave out part={part!r}")
    return read_tensors(path)[0]


def _check_archive(path: Path) -> None:
    """Raise for entries that are compressed, so that they could unpack to more than the file, or have a wrong checksum."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its entry {entry.filename!r} is compressed, which torch.save never does: fetch it again")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"its entry {damaged!r} has a wrong checksum: fetch or save it again")


def _reason(error: Exception) -> str:
    """One line about why a file was refused, in place of torch's long text, which recommends weights_only=False."""
    text = str(error)
    if name := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"it asks for {name[1]}, which weights do not need and which unpickling would run. Where you trust the file, load it "
            "and save its state_dict() as safetensors"
        )
    if isinstance(error, ValueError):
        return text
    detail = re.search(r"WeightsUnpickler error: (.+)", text)
    line = detail[1] if detail else (text.splitlines() or [""])[0]
    return f"it is damaged or no .pth of weights ({type(error).__name__}: {line}). Fetch or save it again"


def _tensors(path: Path, content: Any, part: str | None) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not tensors by name: save the network's state_dict()")
    if part is not None:
        if not isinstance(content.get(part), Mapping):
            raise ValueError(f"{path} has no dict under part={part!r}, but {_names(content)}")
        content = content[part]
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            hint = "; name the dict of tensors among them with part=" if part is None else ""
            raise ValueError(
                f"{reprlib.repr(name)} in {path} is a {type(value).__name__}, not a tensor. It holds {_names(content)}{hint}"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{name!r} in {path} has several elements in one place: save it as .contiguous()")
    return {name: value.detach() for name, value in content.items()}


def _names(content: Mapping[Any, Any]) -> str:
    names = [reprlib.repr(k) for k in content]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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
