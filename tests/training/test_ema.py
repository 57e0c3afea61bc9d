"""Averages of the weights: decay, profile, and averages of any length made from snapshots."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alphabar.core import seeds
from alphabar.training.ema import (
    PowerAverages,
    ema_decay,
    ema_update,
    exponent_of,
    mixture,
    post_hoc,
    power_decay,
    save_snapshots,
    snapshots,
)


def test_half_of_the_weight_is_older_than_the_half_life() -> None:
    average, one = [torch.zeros(1)], [torch.ones(1)]
    for _ in range(1000 // 50):  # 1000 images in batches of 50
        ema_update(average, one, ema_decay(50, 10**9, half_life=1000, ramp=1.0))
    assert float(average[0]) == pytest.approx(0.5, abs=1e-6)


def test_batch_size_does_not_change_the_average() -> None:
    assert ema_decay(100, 10**9, 1000, 1.0) == pytest.approx(ema_decay(50, 10**9, 1000, 1.0) ** 2)


def test_early_in_training_the_half_life_is_a_share_of_the_images_seen() -> None:
    assert ema_decay(10, 1000, half_life=10**6, ramp=0.05) == pytest.approx(0.5 ** (10 / 50))


# ---- averages whose length is chosen after training


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.10, 6.94), (12**-0.5 - 1e-9, 0.0)])
def test_exponents_are_the_papers(length: float, gamma: float) -> None:
    assert exponent_of(length) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("length", [0.02, 0.1, 0.2])
def test_the_length_is_the_relative_width_of_the_profile(length: float) -> None:
    g = exponent_of(length)
    tau = (np.arange(200_000) + 0.5) / 200_000
    p = tau**g / (tau**g).sum()
    mean = (p * tau).sum()
    assert float(np.sqrt((p * (tau - mean) ** 2).sum())) == pytest.approx(length, rel=1e-4)


def test_the_running_average_has_its_profile() -> None:
    """Weights that are the time itself: the average of tau^gamma over 0 .. t is (gamma + 1) / (gamma + 2) t."""
    module = nn.Linear(1, 1)
    averages = PowerAverages(module)
    with torch.no_grad():
        for step in range(1, 2001):
            module.weight.fill_(step * 32)
            averages.update(32, step * 32)
    for length, average in averages.averages.items():
        g = exponent_of(length)
        assert float(average["weight"]) == pytest.approx((g + 1) / (g + 2) * 64_000, rel=2e-3)


def random_walk(folder: Path, lengths: tuple[float, ...]) -> dict[float, float]:
    """Writes snapshots of one weight that follows a random walk. Returns its averages of some lengths, computed at every step."""
    module, steps = nn.Linear(1, 1, bias=False), 1600
    averages, truth = PowerAverages(module), dict.fromkeys(lengths, 0.0)
    value = np.cumsum(seeds.generator(0).standard_normal(steps)) / 40 + np.arange(steps) / steps
    with torch.no_grad():
        for step in range(1, steps + 1):
            module.weight.fill_(float(value[step - 1]))
            averages.update(8, 8 * step)
            for k in lengths:
                keep = power_decay(8, 8 * step, k)
                truth[k] = keep * truth[k] + (1 - keep) * float(value[step - 1])
            if step % 100 == 0:
                save_snapshots(folder, averages, {"format": 1}, 8 * step)
    return truth


def test_snapshots_give_an_average_of_any_length(tmp_path: Path) -> None:
    truth = random_walk(tmp_path, (0.03, 0.05, 0.07, 0.13, 0.2))
    for length, wanted in truth.items():
        weights, spec = post_hoc(tmp_path, length)
        assert float(weights["weight"]) == pytest.approx(wanted, abs=0.01), length
        assert spec == {"format": 1}
    assert max(truth.values()) - min(truth.values()) > 0.1  # so that the length matters
    known = [(s.images, s.length) for s in snapshots(tmp_path)]
    assert len(known) == 32 and mixture(known, 12_800, 0.13).sum() == pytest.approx(1, abs=1e-9)


def test_missing_and_damaged_snapshots_and_impossible_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train with --train\.ema-snapshots 16"):
        post_hoc(tmp_path, 0.1)
    random_walk(tmp_path, ())
    with pytest.raises(ValueError, match=r"length = 0\.3: give more than 0 and less than 0\.289"):
        post_hoc(tmp_path, 0.3)
    (tmp_path / "000000012800-0.050.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"000000012800-0\.050\.safetensors is not a snapshot of this run, or is truncated"):
        post_hoc(tmp_path, 0.1)
    with pytest.raises(ValueError, match=r"no snapshot in .* was made by image 10"):
        post_hoc(tmp_path, 0.1, images=10)
