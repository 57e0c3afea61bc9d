"""Weighting of the loss by noise level."""

from typing import Any

import pytest
import torch

from alphabar.schedule.noising import PREDICTIONS, snr, target
from alphabar.training.loss import weight


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.05, 0.7, 9.0])
@pytest.mark.parametrize("kind", ["min_snr", "soft_min_snr"])
@pytest.mark.parametrize("gamma", [5.0, 1.5])
def test_an_error_in_x0_has_the_same_weight_for_every_prediction(kind: Any, prediction: str, sigma: float, gamma: float) -> None:
    """Two estimates of x0 whose squared error is d^2: the weighted loss is w(sigma) d^2 for all predictions."""
    s, d = torch.tensor([sigma], dtype=torch.float64), 0.3
    x0, eps = torch.full((1, 1, 1, 1), 0.2, dtype=torch.float64), torch.full((1, 1, 1, 1), -0.5, dtype=torch.float64)
    x = x0 + sigma * eps
    wrong_x0 = x0 + d
    wrong_eps = (x - wrong_x0) / sigma
    error = (target(prediction, wrong_x0, wrong_eps, s) - target(prediction, x0, eps, s)).square().sum()
    weighted = weight(kind, prediction, snr(s), gamma) * error
    wanted = {"min_snr": min(sigma**-2, gamma), "soft_min_snr": 1 / (sigma**2 + 1 / gamma)}[kind]
    assert float(weighted) == pytest.approx(wanted * d**2, rel=1e-9)


def test_plain_weights_are_one() -> None:
    assert weight("plain", "v", torch.tensor([0.1, 100.0])).tolist() == [1.0, 1.0]
