"""A small model and its prepared runtimes, each made once per session: exporting and compiling take seconds.

The network is made of PyTorch's modules only, because the compiler cannot read code whose shapes are checked at run time, as
alphabar's is in tests.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.runtime.fast_model import FastModel
from alphabar.denoiser.runtime.job import Job
from alphabar.denoiser.runtime.methods import METHODS, prepare, unavailable
from alphabar.schedule.continuous import Cosine

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
BATCH = 4
FAST = ["eager", "channels_last"]
INSTALLED = [m for m in METHODS if METHODS[m].package and unavailable(m, CPU) is None]
ALL = [*FAST, *(pytest.param(m, marks=pytest.mark.slow) for m in [*INSTALLED, "compile"])]


class Small(nn.Module):
    """Convolutions, a group norm, dropout and the time: the parts of a denoising network."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.norm, self.film = nn.GroupNorm(4, 16), nn.Linear(2, 16)
        self.drop = nn.Dropout(0.5)

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        time = self.film(torch.stack([torch.cos(6 * t), torch.sin(6 * t)], 1))[:, :, None, None]
        out: Tensor = self.leave(self.drop(nn.functional.silu(self.norm(self.enter(y)) + time)))
        return out


def small_model() -> Preconditioned:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return Preconditioned(Small(), Cosine(), "v", 0.8, SHAPE).eval()


@pytest.fixture
def model() -> Preconditioned:
    return small_model()


@pytest.fixture
def noisy() -> tuple[Tensor, Tensor]:
    """Eleven noisy images and their levels."""
    return 2 * starting_noise(0, range(11), SHAPE), torch.logspace(-1.5, 1.5, 11)


@pytest.fixture(scope="session")
def job() -> Job:
    """The model with all that is prepared for it in the session: one ONNX export, one compilation."""
    return Job(small_model(), BATCH, CPU, "float32")


@pytest.fixture(scope="session")
def fast_model(job: Job) -> Callable[[str], FastModel]:
    def get(method: str) -> FastModel:
        prepare(job, method)
        return FastModel(job, method)

    return get
