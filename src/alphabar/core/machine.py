"""The machine and the versions that a number was measured with, and the device to use."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """Versions of the software that decides a number: alphabar, torch, numpy, Python."""
    found = {"python": platform.python_version()}
    for name in ("alphabar", "torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerators and versions, as plain data."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "platform": platform.platform(), "cpu": cpu, "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(), "memory_gib": round(memory / 2**30, 1),
        "accelerators": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())], "versions": versions(),
    }  # fmt: skip


def best_device() -> str:
    """The fastest device of this process: "cuda" (under torchrun "cuda:K", one for each process), "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK")
        return "cuda" if rank is None else f"cuda:{int(rank) % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_of(name: Any = None) -> Any:
    """The torch.device of that name (None: `best_device`). Raises ValueError, with those that are here, for another."""
    import torch

    there = [
        "cpu",
        *(f"cuda:{k}" for k in range(torch.cuda.device_count())),
        *(f"xpu:{k}" for k in range(torch.xpu.device_count())),
    ]
    there += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(best_device() if name is None else name)
        if any(known in (str(device), f"{device}:0") or known.startswith(f"{device}:") for known in there):
            return device
    except (RuntimeError, TypeError):  # no name of a device
        pass
    raise ValueError(f"device {str(name)!r} is not on this machine, which has {', '.join(there)}: leave it out for the fastest")


@contextmanager
def memory_for(what: str, less: str) -> Iterator[None]:
    """Makes an error of too little memory a ValueError, with `what` does not fit and how to take `less`."""
    try:
        yield
    except (MemoryError, RuntimeError) as e:  # torch raises RuntimeError on the CPU, and a subclass of it on a GPU
        line = (str(e).splitlines() or ["out of memory"])[0]
        if not isinstance(e, MemoryError) and not any(
            word in line.lower() for word in ("out of memory", "can't allocate memory", "not enough memory")
        ):
            raise
        raise ValueError(f"{what} does not fit into memory: {less} ({line:.120})") from e


def free_memory() -> int:
    """Bytes that are free on the best device: of the GPU, or of the machine."""
    import psutil
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else int(psutil.virtual_memory().available)


def peak_memory() -> int:
    """Largest number of bytes that this process has held until now, on the GPU or in the machine's memory."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    info = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:  # Windows
        return int(info.peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
