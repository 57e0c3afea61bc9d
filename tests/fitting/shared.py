"""Models, starting noise and coefficients that the tests of fitting share."""

import pytest
import torch
from torch import nn

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.precondition import Preconditioned
from alphabar.fitting.coefficients import coefficients_of
from alphabar.fitting.trajectory import fine_grid
from alphabar.sampling.catalogue import find
from alphabar.sampling.fitted import Tuned, run_tuned
from alphabar.schedule.betas import Linear
from alphabar.schedule.continuous import Cosine, LogSigma

LEVELS = LogSigma(0.01, 10.0)
FINE = fine_grid(LEVELS, 40)


def starts(n, shape=(1, 1, 2), seed=0):
    return starting_noise(seed, range(n), shape)


def apart(a, b):
    return float((a - b).double().square().mean().sqrt())


def carried_out(c, denoise, unit, noise=None):
    fit = Tuned("mine", "m", *c.plain())
    return run_tuned(denoise, unit * fit.sigmas[0], fit.grid, fit=fit, noise=noise)


class Smooth(nn.Module):
    """A network in double precision with a derivative everywhere, in y and in t."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        generator = torch.Generator().manual_seed(0)
        self.mix = nn.Parameter(torch.randn((4, 4), generator=generator, dtype=torch.float64))

    def forward(self, y, t):
        flat = y.flatten(1).double() @ self.mix + torch.sin(self.scale * t.double())[:, None]
        return torch.tanh(flat).reshape(y.shape)


def smooth_model(prediction, schedule, data_range=0.7):
    return Preconditioned(Smooth(3 / schedule.t_max), schedule, prediction, data_range, (1, 2, 2))


SMOOTH = [("v", Cosine()), ("eps", Cosine()), ("x0", LogSigma(0.02, 20.0)), ("v", Linear())]
smooth_models = pytest.mark.parametrize(("prediction", "schedule"), SMOOTH, ids=["v", "eps", "x0", "linear"])


def some_coefficients(schedule, n=4, eta=0.5):
    """Levels within the schedule's, memory of all answers, noise."""
    grid = torch.cat([torch.logspace(0.8, -1, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    return coefficients_of(find("ipndm").fn, grid).with_noise(eta)
