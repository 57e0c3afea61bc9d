"""The fine trajectory and its levels."""

import pytest
import torch

from alphabar.fitting.trajectory import fine_grid, fine_trajectory
from alphabar.sampling.samplers.heun import heun
from alphabar.schedule.betas import Betas, Linear
from alphabar.schedule.continuous import Cosine
from tests.fitting.shared import FINE, LEVELS, starts


@pytest.mark.parametrize(
    "schedule",
    [Linear(), Linear(beta_max=0.5, steps=12), Betas("squaredcos_cap_v2"), Betas(zero_snr=True), Cosine(), LEVELS],
    ids=["linear", "short", "cosine-betas", "zero-snr", "cosine", "log-sigma"],
)
def test_fine_levels(schedule):
    for levels in (3, 80):
        grid = fine_grid(schedule, levels)
        assert (grid[1:] < grid[:-1]).all() and grid[-1] == 0 and grid.dtype == torch.float64
        assert float(grid[0]) == pytest.approx(schedule.sigma_max, rel=1e-12) and len(grid) <= levels + 1
        assert float(grid[-2]) == pytest.approx(schedule.sigma_min, rel=1e-12)
        if schedule.steps is None:
            steps = grid[:-1].log().diff()
            assert torch.allclose(steps, steps[:1].expand(len(steps)), rtol=1e-6) and len(grid) == levels + 1
        else:
            t = schedule.t(grid[:-1])
            assert (t - t.round()).abs().max() < 1e-9
    assert schedule.steps is None or len(grid) > min(schedule.steps, 40) / 2


def test_the_trajectory_is_the_teachers(mixture):
    unit = starts(10)
    fine = fine_trajectory(mixture, unit, FINE, batch=4, progress=False)
    assert torch.equal(fine.end, heun(mixture, unit * FINE[0], FINE)) and len(fine) == 10
    assert len(fine.x) == len(fine.x0_hat) == 40 and torch.equal(fine.x[0], unit * float(FINE[0]))
    for k in (0, 17, 39):
        assert torch.allclose(mixture(fine.x[k], FINE[k].expand(10).float()), fine.x0_hat[k], atol=1e-6)
    assert torch.equal(fine.state(17), fine.x[17]) and torch.equal(fine.state(40), fine.end)
    part = fine.part(3, 7)
    assert torch.equal(part.state(5), fine.x[5][3:7]) and torch.equal(part.end, fine.end[3:7]) and len(part) == 4
