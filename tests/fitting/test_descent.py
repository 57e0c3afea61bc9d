"""Descent by the gradient of a loss on the finished images."""

import numpy as np
import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.descent import FreeParameters, TrajectoryLoss, descend
from alphabar.fitting.levels import best_levels, step_costs
from alphabar.fitting.trajectory import fine_trajectory
from alphabar.fitting.unroll import kept_bytes
from alphabar.sampling.fitted import Tuned
from alphabar.sampling.model import fingerprint
from alphabar.sampling.sample import sample
from alphabar.schedule.grid import make_grid
from tests.fitting.shared import FINE, LEVELS, apart, carried_out, some_coefficients, starts
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.oracles import smooth_grid
from tests.fixtures.toy import Gaussian


def test_what_is_free():
    c = some_coefficients(LEVELS, 6)
    assert FreeParameters(c, memory=1, noise=False, levels=False).size == 6 + int((c.mix != 0).sum())  # what is in use stays so
    plain = Coefficients.ddim(smooth_grid(6))
    free = FreeParameters(plain, memory=2, noise=True)
    assert free.size == 5 + 6 + 11  # no noise where there is none
    same = free.at(torch.zeros(free.size, dtype=torch.float64))
    assert all(torch.equal(getattr(same, k), getattr(plain, k)) for k in ("sigmas", "keep", "mix", "fresh"))
    moved = free.at(torch.full((free.size,), 0.1, dtype=torch.float64))
    assert moved.sigmas[0] == plain.sigmas[0] and torch.allclose(moved.sigmas[1:], plain.sigmas[1:] * np.exp(0.1))
    assert (moved.mix.triu(1) == 0).all() and moved.mix[5, 3] == 0 and moved.mix[5, 4] == 0.1 and (moved.fresh == 0).all()


@pytest.mark.parametrize("pool", [None, 192])
def test_descent_comes_nearer_on_unseen_noise(pool, mixture, fine, unseen):
    unit, end = unseen
    begin = Coefficients.ddim(best_levels(fine, step_costs(fine, 0), 4))
    teacher = TrajectoryLoss(fine)
    if pool is None:  # new noise at every step, whose end is worked out for the occasion

        def loss(images, rows):
            return (
                (images - fine_trajectory(mixture, starting_noise(0, rows, (1, 1, 2)), FINE[::2], progress=False).end)
                .square()
                .mean()
            )

    else:
        loss = teacher
    found = descend(mixture, begin, loss, shape=(1, 1, 2), steps=25, batch=64, seed=0, pool=pool, progress=False)
    before, after = (apart(carried_out(c, mixture, unit), end) for c in (begin, found.coefficients))
    assert after < 0.7 * before
    assert len(found.losses) == 25 and np.mean(found.losses[-5:]) < 0.5 * np.mean(found.losses[:2])
    assert found.coefficients.sigmas[0] == begin.sigmas[0] and (found.coefficients.sigmas[1:] != begin.sigmas[1:]).all()
    assert (found.coefficients.fresh == 0).all()


def test_descent_is_the_same_twice_and_leaves_torchs_randomness_alone(network):
    begin = Coefficients.ddim(make_grid(network.schedule, 2), eta=0.3)
    state = torch.get_rng_state()
    made = [
        descend(network, begin, lambda images, rows: images.square().mean(), shape=(1, 8, 8), steps=3, batch=4, progress=False)
        for _ in range(2)
    ]
    assert made[0].losses == made[1].losses and torch.equal(made[0].coefficients.mix, made[1].coefficients.mix)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_in_parts_is_the_batch(network):
    """Whole; in parts that fit; whole again, with calls made twice, where hardly anything fits."""
    begin = Coefficients.ddim(make_grid(network.schedule, 2), eta=0.3)
    image = 2 * kept_bytes(network, (1, 8, 8), torch.device("cpu"))
    sizes: list[list[int]] = []
    made = []
    for room in (1e10, 20.5 * image, 3.5 * image):
        sizes.append([])

        def loss(images, rows, seen=sizes[-1]):
            seen.append(len(images))
            return (images.square().mean((1, 2, 3)) * (1 + torch.tensor(rows))).mean()

        made.append(descend(network, begin, loss, shape=(1, 8, 8), steps=3, batch=48, room=room, progress=False))
    assert sizes == [[48] * 3, [20, 20, 8] * 3, [48] * 3]
    for other in made[1:]:
        assert other.losses == pytest.approx(made[0].losses, rel=1e-5)
        torch.testing.assert_close(other.coefficients.mix, made[0].coefficients.mix, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(other.coefficients.sigmas, made[0].coefficients.sigmas, rtol=1e-4, atol=1e-6)


def test_ctrl_c_keeps_what_was_found(mixture, fine):
    begin = Coefficients.ddim(best_levels(fine, step_costs(fine, 0), 3))

    class Stopped(TrajectoryLoss):
        def __init__(self, after):
            super().__init__(fine)
            self.left = after

        def __call__(self, images, rows):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__call__(images, rows)

    options = {"shape": (1, 1, 2), "batch": 32, "seed": 0, "pool": 192, "progress": False}
    found = descend(mixture, begin, Stopped(4), steps=400, **options)
    assert len(found.losses) == 4 and (found.coefficients.keep != begin.keep).any()
    assert found.losses == descend(mixture, begin, Stopped(9), steps=400, **options).losses[:4]
    with pytest.raises(KeyboardInterrupt):  # nothing was found
        descend(mixture, begin, Stopped(0), steps=400, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_it(bad, mixture):
    with pytest.raises(FloatingPointError, match=f"the loss of step 0 is {bad}: start again with a smaller rate than 0.02"):
        descend(
            mixture, Coefficients.ddim(smooth_grid(2)), lambda images, rows: images.sum() * bad, shape=(1, 1, 2), steps=2,
            batch=2, rate=0.02, progress=False,
        )  # fmt: skip


def test_a_loss_without_a_gradient_is_refused(mixture):
    with pytest.raises(ValueError, match="the loss does not depend on the sampler: it has to be made of the images"):
        descend(
            mixture, Coefficients.ddim(smooth_grid(2)), lambda images, rows: images.detach().sum(), shape=(1, 1, 2), steps=2,
            batch=2, progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("sign", [1, -1])
def test_levels_stay_within_the_models(network, sign):
    """What is found can be sampled with."""
    grid = make_grid(network.schedule, 3, "karras")
    assert float(grid[-2]) == pytest.approx(max(network.schedule.sigma_min, 0.002))
    grid = torch.cat([grid[:-2], torch.tensor([network.schedule.sigma_min, 0.0], dtype=torch.float64)])
    found = descend(
        network,
        Coefficients.ddim(grid),
        lambda images, rows: sign * images.sum(),
        shape=(1, 8, 8),
        steps=3,
        batch=2,
        progress=False,
    )
    sigmas = found.coefficients.sigmas
    assert float(sigmas[-1]) >= network.schedule.sigma_min * (1 - 1e-6)
    fit = Tuned("mine", fingerprint(network), *found.coefficients.plain())
    assert sample(network, 1, tuned=fit, progress=False).record["nfe"] == 3


def test_fresh_noise_is_fitted():
    """By images of Gaussian data of std 0.5 that should have another spread: nothing but the noise may move far."""
    oracle = GaussianDenoiser(
        Gaussian(torch.zeros((1, 1, 1), dtype=torch.float64), torch.full((1, 1, 1), 0.5, dtype=torch.float64)), LEVELS
    )
    begin = Coefficients.ddim(torch.tensor([10.0, 1.0, 0.3, 0.0], dtype=torch.float64), eta=0.5)

    def spread(c):
        return float(carried_out(c, oracle, starts(4000, (1, 1, 1), seed=9), SeededNoise(9, range(4000))).std())

    assert spread(begin) < 0.42
    found = descend(
        oracle, begin, lambda images, rows: (images.std() - 0.5).square(), shape=(1, 1, 1), steps=30, batch=256, progress=False
    ).coefficients
    assert spread(found) == pytest.approx(0.5, abs=0.02)
    assert (found.fresh[:-1] > 1.005 * begin.fresh[:-1]).all() and found.fresh[-1] == 0
    still = descend(
        oracle,
        begin,
        lambda images, rows: images.std(),
        shape=(1, 1, 1),
        steps=3,
        batch=64,
        noise=False,
        levels=False,
        progress=False,
    ).coefficients
    assert torch.equal(still.fresh, begin.fresh) and torch.equal(still.sigmas, begin.sigmas)
