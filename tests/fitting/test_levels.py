"""Levels by dynamic programming, against brute force."""

from itertools import combinations

import numpy as np
import pytest
import torch

from alphabar.fitting.levels import best_levels, shortest_path, step_costs
from alphabar.fitting.trajectory import Trajectory, fine_grid, fine_trajectory
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.grid import make_grid
from tests.fitting.shared import (
    FINE,
    LEVELS,
    apart,
    starts,
)
from tests.fixtures.exact import GaussianDenoiser
from tests.fixtures.toy import Gaussian


def cheapest(cost, calls):
    """By trying every path from 0 to K."""
    k = cost.shape[1]
    paths = [(0, *middle, k) for middle in combinations(range(1, k), calls - 1)]
    return min(paths, key=lambda p: sum(float(cost[h, i, j]) for h, i, j in zip((0, *p), p, p[1:], strict=False)))


@pytest.mark.parametrize("k", [1, 2, 3, 6, 7])
def test_the_cheapest_path_is_that_of_an_exhaustive_search(k):
    rng = np.random.default_rng(k)
    for _ in range(5):
        cost = torch.from_numpy(rng.exponential(size=(k, k, k + 1)))
        h, i, j = torch.meshgrid(torch.arange(k), torch.arange(k), torch.arange(k + 1), indexing="ij")
        cost[~(((h < i) | ((h == 0) & (i == 0))) & (i < j))] = torch.inf
        for calls in range(1, k + 1):
            assert shortest_path(cost, calls) == list(cheapest(cost, calls))


def direct(fine, i, j, h=None):
    """RMS of what the best step misses, weighted direction by direction with what is left of it at the end (numpy, float64)."""
    end = fine.end.flatten(1).double().numpy()
    c2, directions = np.linalg.eigh(np.cov(end.T))
    s = fine.sigmas.numpy()
    weight = np.sqrt(c2 / (c2 + s[j] ** 2))

    def seen(x):
        return (x.flatten(1).double().numpy() @ directions * weight).ravel()

    x_i, a_i = seen(fine.x[i]), seen(fine.x0_hat[i])
    euler = a_i + s[j] / s[i] * (x_i - a_i)
    missed = seen(fine.state(j)) - euler
    if h is not None:
        basis = torch.from_numpy(np.stack([x_i, a_i, *([seen(fine.x0_hat[h])] if h < i else [])], 1))
        best = torch.linalg.lstsq(basis, torch.from_numpy(missed)[:, None], driver="gelsd").solution
        missed = missed - (basis @ best)[:, 0].numpy()
    return np.sqrt((missed**2).mean())


@pytest.mark.parametrize("back", [0, 1])
def test_costs_are_what_a_step_misses(back, mixture):
    sigmas = fine_grid(LEVELS, 9)
    fine = fine_trajectory(mixture, starts(50), sigmas, progress=False)  # more images than pixels: every direction is known
    cost = step_costs(fine, back)
    assert cost.shape == (9, 9, 10)
    for i in range(9):
        for j in range(10):
            if j <= i:
                assert torch.isinf(cost[:, i, j]).all()
                continue
            for h in range(i) if i else [0]:
                wanted = direct(fine, i, j, h if back else None)
                assert float(cost[h, i, j]) == pytest.approx(wanted, rel=2e-3, abs=2e-6), (h, i, j)
    if back:  # no way round by a level that comes later
        assert all(torch.isinf(cost[h, i]).all() for i in range(9) for h in range(max(i, 1), 9))


def test_costs_of_more_pixels_than_images():
    """What lies outside the known directions counts as the smallest of them."""
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.zeros(1, 4, 4), torch.rand(1, 4, 4, generator=generator)
    oracle = GaussianDenoiser(Gaussian(mean.double(), std.double()), LEVELS)
    sigmas = fine_grid(LEVELS, 6)
    fine = fine_trajectory(oracle, starts(8, (1, 4, 4)), sigmas, progress=False)
    end = fine.end.flatten(1).double().numpy()
    _, singular, directions = np.linalg.svd(end - end.mean(0), full_matrices=False)
    c2, directions = singular[:7] ** 2 / 7, directions[:7]
    cost = step_costs(fine, 0)
    for i, j in combinations(range(7), 2):
        s_i, s_j = (float(s) for s in sigmas[[i, j]])
        euler = fine.x0_hat[i] + s_j / s_i * (fine.x[i] - fine.x0_hat[i])
        missed = (fine.state(j) - euler).flatten(1).double().numpy()
        inside = missed @ directions.T
        outside = (missed**2).sum() - (inside**2).sum()
        total = (inside**2 * c2 / (c2 + s_j**2)).sum() + outside * c2[-1] / (c2[-1] + s_j**2)
        assert float(cost[0, i, j]) == pytest.approx((total / missed.size) ** 0.5, rel=2e-3, abs=1e-6)


def test_pixels_that_never_change_do_no_harm():
    """A black border, held by clipping: no variance at all in some directions."""
    std = torch.tensor([[0.5, 0.0], [0.3, 0.0]], dtype=torch.float64)[None]
    oracle = GaussianDenoiser(Gaussian(torch.tensor([[0.0, -1.0], [0.2, -1.0]], dtype=torch.float64)[None], std), LEVELS)
    fine = fine_trajectory(oracle, starts(32, (1, 2, 2)), FINE, progress=False)
    fine = Trajectory(fine.sigmas, fine.x, fine.x0_hat, torch.where(std > 0, fine.end, -1.0))
    for back in (0, 1):
        cost = step_costs(fine, back)
        assert not cost.isnan().any()
        grid = best_levels(fine, cost, 4)
        assert len(grid) == 5 and grid[0] == FINE[0] and grid[-1] == 0


def test_best_levels_are_better_than_the_usual_ones(mixture, fine, unseen):
    unit, end = unseen
    for calls in (4, 6):
        grid = best_levels(fine, step_costs(fine, 0), calls)
        assert len(grid) == calls + 1 and all((s == FINE).any() for s in grid)
        ours = apart(ddim(mixture, unit * grid[0], grid), end)
        for name in ("time", "log_sigma", "karras"):
            usual = make_grid(LEVELS, calls, name)
            assert ours < 0.8 * apart(ddim(mixture, unit * usual[0], usual), end), name
    assert torch.equal(best_levels(fine, step_costs(fine, 1), 40), FINE)
    for calls in (0, 41):
        with pytest.raises(ValueError, match=f"{calls} calls on a fine trajectory of 40 levels: give 1 to 40"):
            best_levels(fine, step_costs(fine, 0), calls)
