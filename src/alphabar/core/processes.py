"""Work over several processes, as `torchrun` starts them: who does what, and how all of them end with the same numbers.

Every process calls the same functions in the same order, and what they give back is the same in all of them. With one
process nothing is started and nothing is sent. `torchrun --nproc_per_node 2 script.py` starts two processes;
`accelerate launch` does so where it finds two GPUs, while `accelerate launch --cpu --num_processes 2` runs one process
alone, without a word.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def world() -> tuple[int, int]:
    """(rank, size): the number of this process and how many there are; (0, 1) without torchrun.

    Joins the processes at the first call under torchrun, the way training does (accelerate's PartialState), through
    NCCL where there are GPUs, else through gloo. ACCELERATE_USE_CPU=true: gloo in any case.
    """
    distributed = torch.distributed
    if _alone.get() or not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        gpus = torch.cuda.is_available() or torch.xpu.is_available()
        wanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
        PartialState(cpu=wanted or not gpus)  # left to itself it would start no group where there is no GPU
    if not distributed.is_initialized():
        return 0, 1
    _leave_at_exit()
    return distributed.get_rank(), distributed.get_world_size()


def share(n_chunks: int) -> range:
    """The numbers, of 0 .. n_chunks - 1, that fall to this process: every size-th, from its rank on."""
    rank, size = world()
    return range(rank, n_chunks, size)


def deal(items: Sequence[T]) -> list[T]:
    """The items that fall to this process; over all processes every item falls to exactly one."""
    return [items[k] for k in share(len(items))]


def gather_rows(rows: Shaped[Tensor, "n d"]) -> list[Tensor]:
    """The rows of every process, in the order of their ranks, on the CPU of each. Any number of rows may come, 0 as well."""
    _, size = world()
    if size == 1:
        return [rows]
    place = _device()
    mine = torch.tensor([len(rows)], device=place)
    lengths = [torch.empty_like(mine) for _ in range(size)]
    torch.distributed.all_gather(lengths, mine)
    most = max(int(k) for k in lengths)
    padded = torch.zeros((most, rows.shape[1]), dtype=rows.dtype, device=place)  # all_gather wants one shape
    padded[: len(rows)] = rows.to(place)
    parts = [torch.empty_like(padded) for _ in range(size)]
    torch.distributed.all_gather(parts, padded)
    return [part[: int(k)].cpu() for part, k in zip(parts, lengths, strict=True)]


def total(values: Shaped[Tensor, "..."]) -> Tensor:
    """The sum over the processes of one tensor each, added up in the order of ranks; as partial sums of tiles need it."""
    parts = gather_rows(values.detach().cpu().reshape(1, -1))
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    return out.reshape(values.shape)


def everyone(yes: bool) -> bool:
    """Whether all processes say yes. No process passes this line before the last one has reached it."""
    _, size = world()
    if size == 1:
        return yes
    flag = torch.tensor(float(yes), device=_device())
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
    return bool(flag > 0)


def from_first(number: int) -> int:
    """The number that process 0 holds."""
    return int(gather_rows(torch.tensor([[number]]))[0])


def alike(text: str) -> bool:
    """Whether all processes hold the same text."""
    texts = gather_rows(torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)[:, None])
    return all(torch.equal(t, texts[0]) for t in texts)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works as if it were the only one: for what not all processes do, as a hook of process 0.

    Without it, such work would wait for the others, which never come.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """What stands inside is done by process 0 first, then by the others: they find what it has put into a cache.

    Where process 0 raises, the others are let in all the same, and meet the same error. The wait is bounded by the
    processes' own time limit, which is 10 minutes (NCCL) or 30 (gloo).
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
    """Lets the group go before Python ends: its threads, when still alive then, make the process abort now and then."""

    def leave() -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(leave)


def _device() -> torch.device:
    """Where tensors must lie to be sent: NCCL sends from GPUs alone."""
    if "gloo" in str(torch.distributed.get_backend()):
        return torch.device("cpu")
    from accelerate import PartialState

    place: torch.device = PartialState().device
    return place
