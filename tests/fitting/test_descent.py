"""What a sampler is fitted with: the fine trajectory, levels by dynamic programming, coefficients by least squares, and the
gradient, each against brute force or a closed form."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.data.toy import Gaussian
from alphabar.denoiser.exact import GaussianDenoiser
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.wrappers import ClipX0
from alphabar.fitting.descent import (
    Coefficients,
    Free,
    ToTeacher,
    Trajectory,
    _kept,
    _shortest,
    best_levels,
    coefficients_of,
    descend,
    fine_grid,
    least_squares,
    record,
    step_costs,
    unroll,
)
from alphabar.sampling.catalogue import find
from alphabar.sampling.fitted import Tuned, run_tuned
from alphabar.sampling.model import fingerprint
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.heun import heun
from alphabar.schedule.betas import Betas, Linear
from alphabar.schedule.continuous import Cosine, LogSigma
from alphabar.schedule.grid import make_grid
from tests.fixtures.oracles import smooth_grid

LEVELS = LogSigma(0.01, 10.0)
FINE = fine_grid(LEVELS, 40)


def starts(n, shape=(1, 1, 2), seed=0):
    return starting_noise(seed, range(n), shape)


def apart(a, b):
    return float((a - b).double().square().mean().sqrt())


def carried_out(c, denoise, unit, noise=None):
    fit = Tuned("mine", "m", *c.plain())
    return run_tuned(denoise, unit * fit.sigmas[0], fit.grid, fit=fit, noise=noise)


@pytest.fixture(scope="module")
def fine(mixture):
    return record(mixture, starts(192), FINE, progress=False)


@pytest.fixture(scope="module")
def unseen(mixture):
    """Noise that nothing was fitted to, and where the fine trajectory carries it."""
    unit = starts(256, seed=1)
    return unit, record(mixture, unit, FINE, progress=False).end


# ---- the fine trajectory


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
    fine = record(mixture, unit, FINE, batch=4, progress=False)
    assert torch.equal(fine.end, heun(mixture, unit * FINE[0], FINE)) and len(fine) == 10
    assert len(fine.x) == len(fine.x0_hat) == 40 and torch.equal(fine.x[0], unit * float(FINE[0]))
    for k in (0, 17, 39):
        assert torch.allclose(mixture(fine.x[k], FINE[k].expand(10).float()), fine.x0_hat[k], atol=1e-6)
    assert torch.equal(fine.state(17), fine.x[17]) and torch.equal(fine.state(40), fine.end)
    part = fine.part(3, 7)
    assert torch.equal(part.state(5), fine.x[5][3:7]) and torch.equal(part.end, fine.end[3:7]) and len(part) == 4


# ---- levels


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
            assert _shortest(cost, calls) == list(cheapest(cost, calls))


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
    fine = record(mixture, starts(50), sigmas, progress=False)  # more images than pixels: every direction is known
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
    fine = record(oracle, starts(8, (1, 4, 4)), sigmas, progress=False)
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
    fine = record(oracle, starts(32, (1, 2, 2)), FINE, progress=False)
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


# ---- coefficients


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
    y, said = starts(192) * float(grid[0] / g[0]), []
    for i in range(2):
        said.append(mixture(y * float(g[i]), grid[i].expand(192).float()))
        if i == 1:
            basis = np.stack([v.flatten().double().numpy() for v in (y, *said)], 1)
            wanted = np.linalg.lstsq(basis, (fine.x[25].flatten().double() / g[2]).numpy(), rcond=None)[0]
            assert [float(short.keep[1]), *short.mix[1].tolist()] == pytest.approx(wanted.tolist(), abs=1e-4)
        y = float(c.keep[i]) * y + sum(float(c.mix[i, j]) * a for j, a in enumerate(said))


def test_levels_that_the_fine_trajectory_has_not(mixture, fine):
    with pytest.raises(ValueError, match=r"level 1\.5 is not on the fine trajectory: take the grid from best_levels"):
        least_squares(mixture, starts(192), torch.tensor([float(FINE[0]), 1.5, 0.0], dtype=torch.float64), fine, progress=False)


# ---- the gradient


class Smooth(nn.Module):
    """A network in double precision with a derivative everywhere, in y and in t."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        generator = torch.Generator().manual_seed(0)
        self.mix = nn.Parameter(torch.randn((4, 4), generator=generator, dtype=torch.float64))

    def forward(self, y, t):
        flat = y.flatten(1).double() @ self.mix + torch.sin(self.scale * t.double())[:, None]
        return torch.tanh(flat).reshape(y.shape)


def smooth_model(prediction, schedule, data_range=0.7):
    return Preconditioned(Smooth(3 / schedule.t_max), schedule, prediction, data_range, (1, 2, 2))


SMOOTH = [("v", Cosine()), ("eps", Cosine()), ("x0", LogSigma(0.02, 20.0)), ("v", Linear())]
smooth_models = pytest.mark.parametrize(("prediction", "schedule"), SMOOTH, ids=["v", "eps", "x0", "linear"])


def some_coefficients(schedule, n=4, eta=0.5):
    """Levels within the schedule's, memory of all answers, noise."""
    grid = torch.cat([torch.logspace(0.8, -1, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    return coefficients_of(find("ipndm").fn, grid).with_noise(eta)


@smooth_models
@pytest.mark.parametrize("clip", [None, 0.3])
def test_unrolled_is_carried_out(prediction, schedule, clip):
    model, c, unit = smooth_model(prediction, schedule), some_coefficients(schedule), starts(6, (1, 2, 2)).double()
    noise = SeededNoise(0, range(6))
    hold = None if clip is None else (lambda x0_hat: x0_hat.clamp(-clip, clip))
    denoise = model if clip is None else ClipX0(model, -clip, clip)
    out = unroll(model, unit, c, noise, hold=hold)
    assert torch.allclose(out, carried_out(c, denoise, unit, noise), rtol=0, atol=1e-6)
    assert out.requires_grad is True  # through the network's weights


@smooth_models
def test_gradients_are_finite_differences(prediction, schedule):
    model, c, unit = smooth_model(prediction, schedule), some_coefficients(schedule), starts(6, (1, 2, 2)).double()
    free, noise = Free(c), SeededNoise(0, range(6))
    assert free.size == 3 + 4 + 10 + 3  # levels but the first, keep, mix, noise but the last
    weight = starts(6, (1, 2, 2), seed=5).double()

    def loss(theta):
        return (unroll(model, unit, free.at(theta), noise) * weight).sum()

    theta = torch.from_numpy(np.random.default_rng(0).normal(0, 0.01, free.size)).requires_grad_()
    loss(theta).backward()
    h = 3e-3 * torch.eye(free.size, dtype=torch.float64)  # the network is told times and levels in float32
    with torch.no_grad():
        wanted = torch.stack(
            [(8 * (loss(theta + e) - loss(theta - e)) - loss(theta + 2 * e) + loss(theta - 2 * e)) / 12 for e in h]
        )
    wanted = wanted / 3e-3
    assert (theta.grad - wanted).abs().max() < 2e-3 * wanted.abs().max()
    assert torch.allclose(theta.grad, wanted, rtol=0.02, atol=2e-3 * float(wanted.abs().max()))
    assert wanted.abs().min() > 1e-3  # every number matters

    again = theta.detach().clone().requires_grad_()
    (unroll(model, unit, free.at(again), noise, recompute=True) * weight).sum().backward()
    assert torch.allclose(again.grad, theta.grad, rtol=1e-12)


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


@smooth_models
def test_images_with_numbers_of_their_own(prediction, schedule):
    """Several sets of numbers in one call: images and gradients are those of each set alone."""
    model, c, unit = smooth_model(prediction, schedule), some_coefficients(schedule), starts(4, (1, 2, 2)).double()
    free = Free(c)
    thetas = torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, (3, free.size))).requires_grad_()
    each = [free.at(theta) for theta in thetas for _ in range(4)]
    apiece = Coefficients(*(torch.stack([getattr(c, name) for c in each]) for name in ("sigmas", "keep", "mix", "fresh")))
    rows = [*range(4)] * 3
    images = unroll(model, unit.repeat(3, 1, 1, 1), apiece, SeededNoise(0, rows))
    images.square().sum().backward()
    for k, theta in enumerate(thetas.detach()):
        theta.requires_grad_()
        alone = unroll(model, unit, free.at(theta), SeededNoise(0, range(4)))
        assert torch.allclose(images[4 * k : 4 * k + 4], alone, rtol=1e-6, atol=1e-6)
        alone.square().sum().backward()
        assert torch.allclose(thetas.grad[k], theta.grad, rtol=1e-4, atol=1e-5 * float(theta.grad.abs().max()))


def test_closed_form_denoisers_pass_on_the_gradient_of_the_level(mixture):
    c, unit = some_coefficients(LEVELS), starts(6).double()
    free = Free(c, noise=False)
    weight = starts(6, seed=5).double()

    def loss(theta):
        return (unroll(mixture, unit, free.at(theta)) * weight).sum()

    theta = torch.zeros(free.size, dtype=torch.float64, requires_grad=True)
    loss(theta).backward()
    for k in range(3):
        e = torch.zeros(free.size, dtype=torch.float64)
        e[k] = 1e-3
        with torch.no_grad():
            assert float(theta.grad[k]) == pytest.approx(float(loss(e) - loss(-e)) / 2e-3, rel=5e-3)


def test_what_is_free():
    c = some_coefficients(LEVELS, 6)
    assert Free(c, memory=1, noise=False, levels=False).size == 6 + int((c.mix != 0).sum())  # what is in use stays so
    plain = Coefficients.ddim(smooth_grid(6))
    free = Free(plain, memory=2, noise=True)
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
    teacher = ToTeacher(fine)
    if pool is None:  # new noise at every step, whose end is worked out for the occasion

        def loss(images, rows):
            return (images - record(mixture, starting_noise(0, rows, (1, 1, 2)), FINE[::2], progress=False).end).square().mean()

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
    image = 2 * _kept(network, (1, 8, 8), torch.device("cpu"))
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

    class Stopped(ToTeacher):
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
    with pytest.raises(FloatingPointError, match=f"the loss of step 0 is {bad}: begin again with a smaller rate than 0.02"):
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


def test_zero_terminal_snr():
    """From pure noise at level 2^32: the trajectory is there, and a few calls of a fit end where it does."""
    schedule = Betas(zero_snr=True)
    oracle = GaussianDenoiser(
        Gaussian(torch.full((1, 2, 2), 0.3, dtype=torch.float64), torch.full((1, 2, 2), 0.4, dtype=torch.float64)), schedule
    )
    sigmas, unit, new = fine_grid(schedule, 60), starts(64, (1, 2, 2)), starts(64, (1, 2, 2), seed=1)
    fine = record(oracle, unit, sigmas, progress=False)
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
