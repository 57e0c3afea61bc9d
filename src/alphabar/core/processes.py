"""Work over several processes that `torchrun` starts. Every process calls the same functions in the same order and gets the
same results. With one process nothing is started and nothing is sent. (`accelerate launch` starts several processes only if it
finds several GPUs; `accelerate launch --cpu --num_processes 2` silently runs one.) Ray spreads work over machines."""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, reduce
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def world() -> tuple[int, int]:
    """(rank, size): the number of this process and how many there are; (0, 1) without torchrun.

    The first call under torchrun joins the processes as training does (accelerate's PartialState), through NCCL if there
    are GPUs, else through gloo. ACCELERATE_USE_CPU=true uses gloo in any case.
    """
    distributed = torch.distributed
    if _alone.get() or not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        gpus = torch.cuda.is_available() or torch.xpu.is_available()
        wanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
        PartialState(cpu=wanted or not gpus)  # its default starts no group without a GPU
    if not distributed.is_initialized():
        return 0, 1
    _leave_at_exit()
    return distributed.get_rank(), distributed.get_world_size()


def share(n_chunks: int) -> range:
    """The numbers of 0 .. n_chunks - 1 that belong to this process: every size-th, starting at its rank."""
    rank, size = world()
    return range(rank, n_chunks, size)


def deal(items: Sequence[T]) -> list[T]:
    """The items that belong to this process; every item belongs to exactly one process."""
    return [items[k] for k in share(len(items))]


def gather(value: T) -> list[T]:
    """The value of every process, in the order of their ranks. A tensor must be on the CPU."""
    values: list[T] = [value] * world()[1]
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def gather_rows(rows: Shaped[Tensor, "n d"]) -> list[Tensor]:
    """The rows of every process, in the order of their ranks, on the CPU. A process may have any number of rows, also 0."""
    return [rows] if world()[1] == 1 else gather(rows.detach().cpu().clone())  # a clone, or a view would send its whole base


def total(values: Shaped[Tensor, "..."]) -> Tensor:
    """The sum over the processes of one tensor each, added in the order of ranks, so that every process gets the same bits."""
    return reduce(torch.add, gather(values.detach().cpu().clone()))


def everyone(yes: bool) -> bool:
    """Whether `yes` is true in all processes. No process returns before the last one has called."""
    return all(gather(yes))


def from_first(number: int) -> int:
    """The number that process 0 passed."""
    return gather(number)[0]


def alike(text: str) -> bool:
    """Whether all processes passed the same text."""
    return len(set(gather(text))) == 1


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works as if it were the only one, for work that not all processes do, such as a hook of process 0:
    otherwise it would wait forever for the other processes."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Process 0 runs the block first, then the others, which find what it has put into a cache.

    If process 0 raises, the others run the block too and meet the same error. The wait is bounded by the time limit of the
    process group, 10 minutes (NCCL) or 30 (gloo).
    """
    rank, _ = world()
    if rank != 0:
        everyone(True)
    try:
        yield
    finally:
        if rank == 0:
            everyone(True)


@cache
def _leave_at_exit() -> None:
    """Ends the process group before Python exits: threads of the group that are still alive then may abort the process."""

    def leave() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(leave)


def import_ray(what: str) -> Any:
    """The package ray. `what` names the work that needs it in the ImportError that says how to install it."""
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends no usage statistics
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about a future default
        import ray
    except ImportError as error:
        raise ImportError(f"{what} over machines needs Ray: pip install 'alphabar[ray]', or leave --ray out") from error
    return ray


@contextmanager
def joined(ray: Any, address: str) -> Iterator[None]:
    """Connects to a cluster. "local" starts one node on this machine; a connection that exists already is used and kept."""
    connect = not ray.is_initialized()
    if connect and address == "local":
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    elif connect:
        ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        if connect:
            ray.shutdown()
