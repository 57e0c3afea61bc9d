import pytest
import torch

from alphabar.training.average import ema_decay, ema_update


def test_half_of_the_weight_is_older_than_the_half_life() -> None:
    average, one = [torch.zeros(1)], [torch.ones(1)]
    for _ in range(1000 // 50):  # 1000 images in batches of 50
        ema_update(average, one, ema_decay(50, 10**9, half_life=1000, ramp=1.0))
    assert float(average[0]) == pytest.approx(0.5, abs=1e-6)


def test_batch_size_does_not_change_the_average() -> None:
    assert ema_decay(100, 10**9, 1000, 1.0) == pytest.approx(ema_decay(50, 10**9, 1000, 1.0) ** 2)


def test_early_on_the_half_life_is_a_share_of_what_was_seen() -> None:
    assert ema_decay(10, 1000, half_life=10**6, ramp=0.05) == pytest.approx(0.5 ** (10 / 50))
