"""The adaptive plan against closed forms: the meaning of the tolerance, and the independence of the images of a batch."""

import numpy as np
import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.adaptive import MAX_GAP, MAX_GROWTH, AdaptiveCalls, apply_plan, call_statistics
from alphabar.denoiser.plan import adaptive, every
from alphabar.denoiser.wrappers import ClipX0, CountCalls, SkipCalls
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.sampling.samplers.heun import heun
from alphabar.schedule.betas import Linear
from alphabar.schedule.continuous import Cosine, LogSigma
from alphabar.schedule.grid import even_time
from tests.fixtures.exact import GaussianDenoiser, MixtureDenoiser
from tests.fixtures.toy import Gaussian, Mixture

GRID = even_time(Cosine(), 200)
SHAPE = (1, 4, 4)
N = 12


@pytest.fixture(scope="module")
def oracle():
    """Six components, so that the trajectories are curved, each at different levels."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    weights = torch.full((6,), 1 / 6, dtype=torch.float64)
    return MixtureDenoiser(Mixture(weights, means, torch.full((6,), 0.15, dtype=torch.float64)), LogSigma(0.001, 100.0))


@pytest.fixture(scope="module")
def x():
    return GRID[0] * starting_noise(0, range(N), SHAPE).double()


@pytest.fixture(scope="module")
def whole(oracle, x):
    return ddim(oracle, x, GRID)


def rms(a, b):
    return (a - b).square().flatten(1).mean(1).sqrt()


@pytest.mark.parametrize("sampler", [ddim, heun])
def test_tolerance_0_always_calls_and_changes_nothing(oracle, x, sampler):
    count, plain = CountCalls(oracle), CountCalls(oracle)
    skip = AdaptiveCalls(count, 0.0, GRID)
    assert torch.equal(sampler(skip, x, GRID), sampler(plain, x, GRID))
    assert count.calls == plain.calls and skip.calls.tolist() == [plain.calls] * N


def test_a_huge_tolerance_calls_as_rarely_as_the_limits_of_a_gap_allow(oracle, x):
    skip = AdaptiveCalls(oracle, 1e6, GRID)
    ddim(skip, x, GRID)
    angles = torch.atan(GRID[:-1].float().double()).tolist()
    called = [0, 1]  # then the last step within reach of both limits, and the one after it calls
    for k in range(2, 200):
        h = angles[called[-1]] - angles[k]
        if h > MAX_GAP or h > MAX_GROWTH * (angles[called[-2]] - angles[called[-1]]) * (1 + 1e-6):
            called.append(k)
    assert skip.calls.tolist() == [len(called)] * N
    assert len(called) <= 9


def test_the_error_is_about_the_tolerance_and_falls_with_it_as_calls_rise(oracle, x, whole):
    errors, calls = [], []
    for tolerance in (0.1, 0.03, 0.01, 0.003, 0.001):
        skip = AdaptiveCalls(oracle, tolerance, GRID)
        error = rms(ddim(skip, x, GRID), whole)
        assert error.median() < tolerance
        errors.append(float(error.median()))
        calls.append(float(skip.calls.double().mean()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 20 * errors[-1]
    assert calls == sorted(calls) and calls[0] < 20 and calls[-1] > 2 * calls[0]


def test_it_is_more_accurate_than_a_fixed_plan_with_more_calls(oracle, x, whole):
    skip = AdaptiveCalls(oracle, 0.02, GRID)
    error = rms(ddim(skip, x, GRID), whole)
    fixed = rms(ddim(SkipCalls(oracle, every(5), GRID), x, GRID), whole)
    assert skip.calls.max() < 40 == every(5)(200).sum()
    assert error.median() < 0.5 * fixed.median()


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_an_image_is_the_same_in_any_batch(oracle, x, stochastic, batch):
    def draw(rows):
        skip = AdaptiveCalls(oracle, 0.02, GRID)
        if stochastic:
            return ddpm(skip, x[rows], GRID, noise=SeededNoise(0, rows)), skip.calls
        return ddim(skip, x[rows], GRID), skip.calls

    together, calls = draw(range(N))
    parts = [draw(range(k, min(k + batch, N))) for k in range(0, N, batch)]
    assert len(calls.unique()) > 1  # otherwise the test would show nothing
    assert torch.equal(torch.cat([c for _, c in parts]), calls)
    assert torch.allclose(torch.cat([y for y, _ in parts]), together, rtol=0, atol=1e-10)


def test_the_order_of_the_images_does_not_matter(oracle, x):
    back = torch.arange(N - 1, -1, -1)
    one, other = (AdaptiveCalls(oracle, 0.02, GRID) for _ in range(2))
    assert torch.allclose(ddim(one, x, GRID)[back], ddim(other, x[back], GRID), rtol=0, atol=1e-10)
    assert torch.equal(one.calls[back], other.calls)


def test_the_network_sees_only_the_images_that_need_it(oracle, x):
    count = CountCalls(oracle)
    skip = AdaptiveCalls(count, 0.02, GRID)
    ddim(skip, x, GRID)
    assert count.images == skip.calls.sum() < N * count.calls


def test_each_batch_starts_anew(oracle, x):
    skip = AdaptiveCalls(oracle, 0.02, GRID)
    first = ddim(skip, x, GRID)
    calls = skip.calls
    ddim(skip, x[:3] / 2, GRID)
    assert torch.equal(ddim(skip, x, GRID), first) and torch.equal(skip.calls, calls)
    skip(x, torch.full((N,), 1.0).double())
    skip.reset()
    assert skip.calls.tolist() == []


def test_images_may_be_at_different_levels(oracle, x):
    """Two images at the middle of the grid and two at its start, in one batch: each as if alone."""
    alone = [AdaptiveCalls(oracle, 0.02, GRID) for _ in range(2)]
    both = AdaptiveCalls(oracle, 0.02, GRID)
    late, y = x[:2] * GRID[100] / GRID[0], x[2:4]
    for k in range(60):
        a, b = GRID[100 + k].expand(2), GRID[k].expand(2)
        wanted = torch.cat([alone[0](late, a), alone[1](y, b)])
        assert torch.allclose(both(torch.cat([late, y]), torch.cat([a, b])), wanted, rtol=0, atol=1e-10)
        late, y = late * GRID[101 + k] / GRID[100 + k], y * GRID[k + 1] / GRID[k]
    assert torch.equal(both.calls, torch.cat([a.calls for a in alone]))
    new = AdaptiveCalls(oracle, 0.02, GRID)  # the last two start anew while the first two continue
    for k in range(30):
        a, b = GRID[160 + k].expand(2), GRID[k].expand(2)
        wanted = torch.cat([alone[0](late, a), new(x[4:6] * GRID[k] / GRID[0], b)])
        both_now = both(torch.cat([late, x[4:6] * GRID[k] / GRID[0]]), torch.cat([a, b]))
        assert torch.allclose(both_now, wanted, rtol=0, atol=1e-10)
        late = late * GRID[161 + k] / GRID[160 + k]
    assert torch.equal(both.calls, torch.cat([alone[0].calls, new.calls]))


def test_float32_and_float64_images_call_alike(oracle, x):
    one, other = AdaptiveCalls(oracle, 0.05, GRID), AdaptiveCalls(oracle, 0.05, GRID)
    y = ddim(one, x, GRID)
    y32 = ddim(other, x.float(), GRID)
    assert y32.dtype == torch.float32 and torch.equal(one.calls, other.calls)
    assert torch.allclose(y32.double(), y, atol=1e-4)


def test_a_second_order_sampler_stays_accurate(x):
    gaussian = GaussianDenoiser(Gaussian(torch.full(SHAPE, 0.2).double(), torch.full(SHAPE, 0.5).double()))
    grid = even_time(Linear(), 200)
    start = x / x.std() * grid[0]
    count = CountCalls(gaussian)
    y = heun(AdaptiveCalls(count, 0.01, grid), start, grid)
    assert count.images < 100 * N  # of 399
    assert rms(y, gaussian.flow(start, float(grid[0]), 0.0)).max() < 0.01


def test_it_works_inside_clipping(oracle, x):
    skip = AdaptiveCalls(oracle, 0.02, GRID)
    y = ddim(ClipX0(skip, -0.1, 0.1), x, GRID)
    assert y.abs().max() <= 0.1 + 1e-9 and skip.calls.max() < 100


def test_output_of_nan_is_not_extrapolated(x):
    """With an output of nan the error is unknown, so every step calls and the result is nan."""
    skip = AdaptiveCalls(lambda x, sigma: x * torch.nan, 0.1, GRID)
    assert ddim(skip, x, GRID).isnan().all()
    assert skip.calls.tolist() == [200] * N


def test_the_error_under_a_stochastic_sampler_falls_with_the_tolerance(oracle, x):
    noise = SeededNoise(0, range(N))
    whole = ddpm(oracle, x, GRID, noise=noise)
    errors = []
    for tolerance in (0.1, 0.05, 0.02, 0.01):
        skip = AdaptiveCalls(oracle, tolerance, GRID)
        errors.append(float(rms(ddpm(skip, x, GRID, noise=noise), whole).median()))
        assert skip.calls.max() < 100 and errors[-1] < tolerance
    assert errors == sorted(errors, reverse=True)


def test_statistics_of_the_calls():
    d = call_statistics(np.array([3, 5, 3, 4]))
    assert d == {"min": 3, "median": 3.5, "mean": 3.75, "max": 5, "histogram": {"3": 2, "4": 1, "5": 1}}
    assert sum(int(k) * v for k, v in d["histogram"].items()) == 15
    with pytest.raises(ValueError, match="give the calls of one image or more"):
        call_statistics([])


def test_apply_plan_takes_either_kind(oracle, x):
    fixed, own = apply_plan(oracle, every(5), GRID), apply_plan(oracle, adaptive(0.02), GRID)
    assert isinstance(fixed, SkipCalls) and isinstance(own, AdaptiveCalls) and own.tolerance == 0.02


def test_invalid_arguments_are_refused(oracle):
    with pytest.raises(ValueError, match=r"adaptive\(-1\): give a tolerance of 0 or more"):
        AdaptiveCalls(oracle, -1.0, GRID)
    with pytest.raises(ValueError, match="ends in 0"):
        AdaptiveCalls(oracle, 0.1, GRID[:-1])
