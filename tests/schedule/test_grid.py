"""Grids: for every number of steps, each level is the schedule's sigma at its time."""

import inspect

import numpy as np
import pytest
import torch

from alphabar.schedule.base import Scaled
from alphabar.schedule.betas import Betas, Linear
from alphabar.schedule.continuous import Cosine, LogSigma
from alphabar.schedule.grid import GRIDS, at_times, check_grid, default_grid, every_kth, karras, make_grid, timesteps_of

INTEGER = ("leading", "trailing", "linspace")
COUNTS = [*range(1, 61), 250, 300, 333, 350, 500, 501, 600, 750, 999, 1000]


def times(schedule, grid):
    return schedule.t(grid[:-1])


@pytest.mark.parametrize("name", INTEGER)
def test_every_level_is_that_of_a_timestep(name):
    # diffusers' DDIM steps by T // n, which misses its own time list on linspace and trailing grids
    schedule = Linear()
    for n in COUNTS:
        grid = make_grid(schedule, n, name)
        check_grid(grid)
        assert len(grid) == n + 1
        t = times(schedule, grid).round()
        assert torch.equal(grid[:-1], schedule.sigma(t))
        assert len(set(t.tolist())) == n and t.min() >= 0 and t.max() <= 999


@pytest.mark.parametrize("name", ["trailing", "linspace"])
def test_grids_start_at_the_noisiest_timestep(name):
    assert all(make_grid(Linear(), n, name)[0] == Linear().sigma_max for n in COUNTS)


def test_leading_does_not_start_at_the_noisiest_timestep_as_in_diffusers():
    first = {n: round(float(times(Linear(), make_grid(Linear(), n, "leading"))[0])) for n in (10, 300, 350, 501, 600)}
    assert first == {10: 900, 300: 897, 350: 698, 501: 500, 600: 599}


@pytest.mark.parametrize("spacing", [*INTEGER, "leading+1"])
def test_timesteps_are_those_of_diffusers(spacing):
    diffusers = pytest.importorskip("diffusers")
    name, _, offset = spacing.partition("+")
    theirs = diffusers.DDPMScheduler(timestep_spacing=name, steps_offset=int(offset or 0))
    one_more = []
    for n in range(1 if name != "linspace" else 2, 1000):  # its linspace of one step starts at timestep 0, a clean image
        theirs.set_timesteps(n)
        wanted = theirs.timesteps.tolist()
        if len(wanted) != n:  # its trailing list of 61 has 62, of which the last is -1, the table's noisiest
            assert wanted[-1] == -1 and len(wanted) == n + 1
            one_more.append(n)
        assert timesteps_of(Linear(), make_grid(Linear(), n, spacing)) == wanted[:n], n
    assert (61 in one_more) == (spacing == "trailing")


def test_timesteps_of_a_fitted_grid():
    schedule = Scaled(Betas("squaredcos_cap_v2"), 0.5)
    own = at_times(schedule, [999, 640, 333, 20, 0])
    near = torch.cat([own[:-1] * torch.tensor([1, 1.001, 0.999, 1.002, 1], dtype=torch.float64), own[-1:]])
    assert timesteps_of(schedule, near) == timesteps_of(schedule, own) == [999, 640, 333, 20, 0]


def test_timesteps_of_levels_that_share_one():
    grid = at_times(Linear(), [999, 500, 5.3, 4.9, 4.7, 0.4, 0.2, 0.1])
    with pytest.raises(ValueError, match=r"levels 2 and 3 .* timestep 5.*distinct=True"):
        timesteps_of(Linear(), grid)
    assert timesteps_of(Linear(), grid, distinct=True) == [999, 500, 6, 5, 4, 2, 1, 0]
    crowded = at_times(Linear(steps=10), [9, 8.9, 8.8, 8.7])
    assert timesteps_of(Linear(steps=10), crowded, distinct=True) == [9, 8, 7, 6]
    with pytest.raises(ValueError, match="continuous"):
        timesteps_of(Cosine(), make_grid(Cosine(), 5))
    for n in (5, 20, 50, 300):  # for every grid, distinct timesteps in range
        found = timesteps_of(Linear(), karras(Linear(), n), distinct=True)
        check_grid(at_times(Linear(), found))
        assert len(found) == n


def test_every_kth():
    assert times(Linear(), every_kth(Linear(), 3)).round().tolist() == list(range(999, -1, -3))
    assert len(every_kth(Linear(), 1)) == 1001
    assert times(Linear(), every_kth(Linear(), 400)).round().tolist() == [999, 599, 199]


def test_any_times_written_by_hand():
    grid = at_times(Linear(), [999, 500, 20, 3])
    assert grid.tolist() == [*Linear().sigma(torch.tensor([999.0, 500, 20, 3], dtype=torch.float64)).tolist(), 0]
    real = at_times(Cosine(), [0.9, 0.41, 0.05])
    assert real[1] == Cosine().sigma(torch.tensor(0.41, dtype=torch.float64))


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), LogSigma(), Scaled(Cosine(), 0.5)], ids=str)
@pytest.mark.parametrize("name", ["time", "log_sigma", "karras", "karras_few"])
@pytest.mark.parametrize("n", [1, 2, 10, 999])
def test_real_valued_grids(schedule, name, n):
    grid = make_grid(schedule, n, name)
    check_grid(grid)
    assert len(grid) == n + 1
    assert grid[0] == pytest.approx(min(schedule.sigma_max, 80) if "karras" in name else schedule.sigma_max, rel=1e-9)
    assert grid[-2] >= schedule.sigma_min * (1 - 1e-9)
    if name == "time" and n > 1:
        gaps = times(schedule, grid).diff()
        assert torch.allclose(gaps, gaps[0], rtol=1e-6)
    if name == "log_sigma" and n > 1:
        gaps = grid[:-1].log().diff()
        assert torch.allclose(gaps, gaps[0], rtol=1e-9)


def test_karras_is_the_papers_equation_5():
    i = np.arange(18)
    wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert karras(LogSigma(0.002, 80.0), 18)[:-1].numpy() == pytest.approx(wanted, rel=1e-12)


def test_the_default_depends_on_the_kind_of_time():
    assert default_grid(Linear()) == "trailing" and default_grid(Scaled(Cosine(), 0.5)) == "time"
    assert torch.equal(make_grid(Linear(), 10), GRIDS["trailing"](Linear(), 10))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (torch.tensor([1.0, 0.0]), "float64.*sigmas.double"),
        (torch.tensor([1.0, 0.5]).double(), "ends in 0.*append a 0"),
        (torch.tensor([1.0, 2.0, 0.0]).double(), "falls strictly.* 1, 2 at 0, 1"),
        (torch.tensor([1.0, 1.0, 0.0]).double(), "falls strictly"),
        (torch.tensor([float("inf"), 1.0, 0.0]).double(), "inf or nan"),
        (torch.tensor([0.0]).double(), "at least 2 levels"),
    ],
)
def test_bad_grids_are_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(check_grid)(grid)  # without the type checks of the tests, which would fail first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_grid(Linear(), 1001), "1001 steps of a schedule of 1000"),
        (lambda: make_grid(Linear(), 0), "0 steps"),
        (lambda: make_grid(Cosine(), 0), "0 steps: give at least 1"),
        (lambda: make_grid(Cosine(), 10, "leading"), "continuous.*'time'"),
        (lambda: make_grid(Linear(), 10, "karas"), "'karas' is unknown: use one of leading"),
        (lambda: at_times(Linear(), [1000, 5]), "1000 lies outside 0..999"),
        (lambda: at_times(Linear(), [5, 10]), "falls strictly"),
        (lambda: every_kth(Linear(), 0), "k >= 1"),
    ],
)
def test_impossible_grids_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
