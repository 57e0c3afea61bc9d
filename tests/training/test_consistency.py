"""Consistency tuning: the pair of levels, the loss at the closed form of Gaussian images, and exact resume."""

from itertools import pairwise

import pytest
import torch

from alphabar.denoiser.precondition import Preconditioned
from alphabar.schedule.continuous import Cosine
from alphabar.training.consistency import ConsistencyLoss, lower_level
from tests.fixtures.training import assert_same_weights, interrupted, small_model, small_training

C = 0.5  # standard deviation of Gaussian images, whose probability-flow ODE has the solution x c / sqrt(c^2 + sigma^2) at its end


class Gaussian(Preconditioned):
    """(x, sigma) -> scale(sigma) x, without a network."""

    def __init__(self, power: float) -> None:
        super().__init__(torch.nn.Identity(), Cosine(), "v", image_shape=(1, 2, 2))
        self.power = power

    def forward(self, x, sigma, labels=None, augment=None):
        return x * (C**2 / (C**2 + sigma**2))[:, None, None, None] ** self.power


def loss_of(power: float, q: float) -> float:
    """At sigma 1, on many images. power 0.5 is the exact consistency function, power 1 is E[x0 | x]."""
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4000, 1, 2, 2, generator=g) for _ in range(2))
    return float(ConsistencyLoss(Gaussian(power), (q,))(C * x0, torch.ones(4000), noise))


def test_gap_shrinks_with_q_and_the_lowest_level_is_clean():
    sigma = torch.tensor([0.02, 0.5, 3.0, 80.0])
    gaps = [sigma - lower_level(sigma, q, 0.01) for q in (4, 16, 64, 256)]
    assert all((a >= b).all() and (b > 0).all() for a, b in pairwise(gaps))
    assert lower_level(sigma, 4, 0.01)[0] == 0  # the clean image
    assert float(lower_level(sigma, 256, 0.01)[3]) == pytest.approx(80 * (1 - 1 / 256))


def test_loss_is_the_derivative_along_the_noise_once_the_gap_is_small():
    """For q -> infinity the loss is the length of dD/dsigma along x0 + sigma noise, here known in closed form."""
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4000, 1, 2, 2, generator=g) for _ in range(2))
    for power in (0.5, 1.0):
        a = (C**2 / (C**2 + 1)) ** power  # at sigma 1
        slope = a * (noise - 2 * power / (C**2 + 1) * (C * x0 + noise))
        assert loss_of(power, 5000.0) == pytest.approx(float(slope.flatten(1).norm(dim=1).mean()), rel=0.01)


def test_stages_follow_the_images_seen():
    loss, seen = ConsistencyLoss(small_model(), (4.0, 32.0, 64.0)), []
    for k in range(6):
        loss.done = k / 6
        seen.append(loss.q)
    assert seen == [4, 4, 32, 32, 64, 64]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_tuning_ends_with_the_same_weights(pixels, folder, dropout):
    changes = {"consistency": (4.0, 32.0), "dropout": dropout}
    small_training(pixels, folder / "whole", **changes)
    interrupted(pixels, folder / "stopped", 352, **changes)  # in the second stage
    small_training(pixels, folder / "stopped", resume=True, **changes)
    assert_same_weights(folder / "whole", folder / "stopped")
