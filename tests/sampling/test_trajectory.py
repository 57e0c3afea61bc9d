"""x0_hat along the way: kept at the steps that were chosen, as what the sampler saw."""

import numpy as np
import pytest
import torch

from alphabar.core.seeds import starting_noise
from alphabar.sampling.batches import KeepX0, chosen
from alphabar.sampling.model import cropped
from alphabar.sampling.sample import sample
from alphabar.schedule.grid import make_grid


@pytest.mark.parametrize(
    ("keep", "steps"),
    [(True, (0, 1, 2, 3)), (False, ()), ([0, -1], (0, 3)), ([3, 1, 1], (1, 3)), ((), ()), (range(0, 4, 2), (0, 2))],
)
def test_steps_are_chosen(keep, steps):
    assert chosen(keep, 4) == steps


@pytest.mark.parametrize("step", [4, -5])
def test_steps_that_are_not_there_are_refused(step):
    with pytest.raises(ValueError, match=f"step {step}: there are steps 0 to 3"):
        chosen([0, step], 4)


def test_the_first_estimate_is_the_denoisers_and_the_last_is_the_image(network):
    samples = sample(network, 5, steps=4, batch=2, keep_x0=True, progress=False)
    assert len(samples.x0) == 4 and samples.record["x0_steps"] == [0, 1, 2, 3]
    s = make_grid(network.schedule, 4)[0]
    with torch.no_grad():
        first = network(float(s) * starting_noise(0, range(5), (1, 8, 8)), torch.full((5,), float(s)))
    first = ((first.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(samples.x0[0] - first).max() <= 1
    assert np.array_equal(samples.x0[-1], samples.images)
    assert not np.array_equal(samples.x0[0], samples.x0[1])


def test_some_steps_are_the_same_as_in_all(network):
    whole = sample(network, 3, steps=4, keep_x0=True, progress=False)
    some = sample(network, 3, steps=4, keep_x0=[-1, 1], progress=False)
    assert some.record["x0_steps"] == [1, 3]
    assert np.array_equal(some.x0[0], whole.x0[1]) and np.array_equal(some.x0[1], whole.x0[3])
    assert sample(network, 3, steps=4, progress=False).x0 is None


def test_batches_follow_one_another():
    keep = KeepX0([1])
    for value in (-1.0, 1.0):
        for step in range(3):
            x0 = torch.full((2, 1, 2, 2), value if step == 1 else 0.0)
            keep(step, 1.0, x0, x0)
    (pixels,) = keep.x0()
    assert pixels[:, 0, 0, 0].tolist() == [0, 0, 255, 255]


def test_cropping():
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert cropped(x, 2).flatten().tolist() == [14, 15, 20, 21]
    assert cropped(x, 0) is x
