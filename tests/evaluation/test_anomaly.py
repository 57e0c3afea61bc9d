"""Scores of unusual images: both directions count, the scale of a level does not, and likelihood misses what is too smooth."""

import pytest
import torch

from alphabar.evaluation.anomaly import anomaly_scores
from alphabar.evaluation.memorisation import auc

SIGMAS = torch.tensor([0.05, 0.5, 2.0, 10.0], dtype=torch.float64)


def losses(n, seed, shift=0.0):
    z = torch.randn((4, n), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    mixed = torch.tensor([[1, 0, 0, 0], [0.9, 0.4, 0, 0], [0, 0.5, 1, 0], [0, 0, 0, 2]], dtype=torch.float64) @ z
    return (0.3 * mixed + shift).exp() * (SIGMAS**2 / (1 + SIGMAS**2))[:, None]


def area(kind, shift):
    usual, others, shifted = losses(2000, 0), losses(1000, 1), losses(1000, 2, shift)
    scores = [anomaly_scores(x, usual, SIGMAS, kind) for x in (others, shifted)]
    return auc(*scores).value


@pytest.mark.parametrize("shift", [-0.8, 0.8])
def test_the_distance_finds_losses_that_are_too_low_or_too_high(shift: float) -> None:
    assert area("levels", shift) > 0.75


def test_the_mean_loss_takes_images_with_a_low_loss_for_usual() -> None:
    assert area("all", 0.8) > 0.75 and area("all", -0.8) < 0.25
    assert area("middle", 0.8) > 0.75 and area("middle", -0.8) < 0.25


def test_the_distance_does_not_depend_on_the_scale_of_a_level() -> None:
    factor = torch.tensor([3.0, 1.0, 0.1, 7.0], dtype=torch.float64)[:, None]
    a = anomaly_scores(losses(5, 1), losses(50, 0), SIGMAS)
    assert torch.allclose(anomaly_scores(factor * losses(5, 1), factor * losses(50, 0), SIGMAS), a)


def test_too_few_usual_images_are_refused() -> None:
    with pytest.raises(ValueError, match="7 usual images for 4 levels: give at least 8"):
        anomaly_scores(losses(5, 1), losses(7, 0), SIGMAS)
