"""The machine and the versions that a number was measured with, and the device to use."""

import os
import platform
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
