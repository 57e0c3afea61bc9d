"""Coefficients of samplers, by least squares and with more calls, against closed forms."""

import numpy as np
import pytest
import torch

from alphabar.fitting.coefficients import Coefficients, least_squares
from alphabar.fitting.levels import best_levels, step_costs
from alphabar.fitting.trajectory import Trajectory, fine_grid, fine_trajectory
from alphabar.fitting.unroll import unroll
from alphabar.sampling.catalogue import find
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.betas import Betas
from tests.fitting.shared import (
    FINE,
    LEVELS,
    apart,
    carried_out,
    smooth_model,
    smooth_models,
    some_coefficients,
    starts,
)
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.toy import Gaussian


@pytest.mark.parametrize("calls", [1, 2, 3, 5])
def test_least_squares_solves_an_isotropic_gaussian(calls):
    """There the exact step is a sum of x and x0_hat, so that any number of calls is enough; DDIM does not know it."""
    oracle = GaussianDenoiser(
        Gaussian(torch.full((1, 2, 2), 0.3, dtype=torch.float64), torch.full((1, 2, 2), 0.4, dtype=torch.float64)), LEVELS
    )
    unit, new = starts(64, (1, 2, 2)).double(), starts(64, (1, 2, 2), seed=1).double()
    high = float(FINE[0])
    states = [oracle.flow(unit * high, high, float(s)) for s in FINE]
    fine = Trajectory(FINE, states[:-1], [oracle(x, s.expand(64)) for x, s in zip(states, FINE, strict=False)], states[-1])
    grid = torch.cat([FINE[torch.linspace(0, 30, calls).long()], FINE[-1:]])
    c = least_squares(oracle, unit, grid, fine, progress=False)
    exact = oracle.flow(new * high, high, 0.0)
    assert apart(carried_out(c, oracle, new), exact) < 1e-4
    assert apart(ddim(oracle, new * high, grid), exact) > 0.02


def test_least_squares_beat_the_usual_solvers_on_unseen_noise(mixture, fine, unseen):
    unit, end = unseen
    for calls in (4, 6, 8):
        grid = best_levels(fine, step_costs(fine, 1), calls)
        ours = apart(carried_out(least_squares(mixture, starts(192), grid, fine, progress=False), mixture, unit), end)
        for name in ("ddim", "dpmpp_2m", "ipndm"):
            assert ours < 0.9 * apart(find(name).fn(mixture, unit * grid[0], grid), end), (calls, name)


def test_a_row_of_least_squares_is_the_regression(mixture, fine):
    """The second step, with the ridge off, against numpy's least squares; memory says how many answers it may use."""
    grid = FINE[[0, 12, 25, 40]]
    g = (1 + grid**2).sqrt()
    c = least_squares(mixture, starts(192), grid, fine, memory=2, ridge=1e-14, progress=False)
    assert c.mix[2, 0] == 0 and (c.mix.triu(1) == 0).all() and (c.fresh == 0).all()
    short = Coefficients(grid[:2], c.keep[:2], c.mix[:2, :2], c.fresh[:2])
    y, outputs = starts(192) * float(grid[0] / g[0]), []
    for i in range(2):
        outputs.append(mixture(y * float(g[i]), grid[i].expand(192).float()))
        if i == 1:
            basis = np.stack([v.flatten().double().numpy() for v in (y, *outputs)], 1)
            wanted = np.linalg.lstsq(basis, (fine.x[25].flatten().double() / g[2]).numpy(), rcond=None)[0]
            assert [float(short.keep[1]), *short.mix[1].tolist()] == pytest.approx(wanted.tolist(), abs=1e-4)
        y = float(c.keep[i]) * y + sum(float(c.mix[i, j]) * a for j, a in enumerate(outputs))


def test_levels_that_the_fine_trajectory_has_not(mixture, fine):
    with pytest.raises(ValueError, match=r"level 1\.5 is not on the fine trajectory: take the grid from best_levels"):
        least_squares(mixture, starts(192), torch.tensor([float(FINE[0]), 1.5, 0.0], dtype=torch.float64), fine, progress=False)


@smooth_models
def test_a_grown_sampler_does_what_it_did(prediction, schedule):
    model, c = smooth_model(prediction, schedule), some_coefficients(schedule, eta=0.0)
    unit = starts(5, (1, 2, 2)).double()
    more = c.grown(9)
    assert len(more.sigmas) == 9 and bool((more.sigmas.diff() < 0).all()) and set(c.sigmas.tolist()) <= set(more.sigmas.tolist())
    assert torch.allclose(unroll(model, unit, more), unroll(model, unit, c), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="a sampler of 4 calls does not grow to 3"):
        c.grown(3)


def test_a_grown_sampler_draws_as_much_noise():
    c = some_coefficients(LEVELS, eta=0.7)
    more = c.grown(11)

    def variance(c):
        """Of the end, where every answer is 0."""
        total = torch.zeros((), dtype=torch.float64)
        for keep, fresh in zip(c.keep, c.fresh, strict=True):
            total = keep**2 * total + fresh**2
        return float(total)

    assert variance(more) == pytest.approx(variance(c), rel=1e-9) and int((more.fresh > 0).sum()) > int((c.fresh > 0).sum())


def test_zero_terminal_snr():
    """From pure noise at level 2^32: the trajectory is there, and a few calls of a fit end where it does."""
    schedule = Betas(zero_snr=True)
    oracle = GaussianDenoiser(
        Gaussian(torch.full((1, 2, 2), 0.3, dtype=torch.float64), torch.full((1, 2, 2), 0.4, dtype=torch.float64)), schedule
    )
    sigmas, unit, new = fine_grid(schedule, 60), starts(64, (1, 2, 2)), starts(64, (1, 2, 2), seed=1)
    fine = fine_trajectory(oracle, unit, sigmas, progress=False)
    assert apart(fine.end, oracle.flow(unit.double() * sigmas[0], float(sigmas[0]), 0.0)) < 2e-3
    for back in (0, 1):
        cost = step_costs(fine, back)
        assert not cost.isnan().any() and float(cost[0, 0, 1:].min()) < 1e-3
        grid = best_levels(fine, cost, 5)
        c = least_squares(oracle, unit, grid, fine, progress=False)
        exact = oracle.flow(new.double() * sigmas[0], float(sigmas[0]), 0.0)
        assert apart(carried_out(c, oracle, new), exact) < 3e-3 < apart(ddim(oracle, new * grid[0], grid), exact)
        if back:  # a step that is exact for this data misses nothing, from pure noise neither
            assert float(cost[0, 0, 1:].max()) < 3e-3
