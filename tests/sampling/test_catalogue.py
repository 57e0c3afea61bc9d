"""Every sampler keeps its claims: order, calls, draws. One set of tests over the whole catalogue, against the truth."""

import math
from inspect import signature
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.wrappers import CountCalls
from alphabar.sampling.catalogue import SAMPLERS, Entry, find, steps_for
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.sampling.samplers.deis import deis
from alphabar.sampling.samplers.dpmpp import dpmpp_3m
from alphabar.sampling.samplers.euler import euler, euler_ancestral
from alphabar.sampling.samplers.ipndm import ipndm
from alphabar.sampling.samplers.unipc import unipc
from tests.fixtures.oracles import CASES, draws, gentle_grid, order, smooth_grid

STEPS = (64, 128, 256)
every_case = pytest.mark.parametrize(("entry", "options"), CASES.values(), ids=list(CASES))
every_ode = pytest.mark.parametrize(
    ("entry", "options"),
    [c for c in CASES.values() if not draws(*c)],
    ids=[k for k, c in CASES.items() if not draws(*c)],
)
every_sde = pytest.mark.parametrize(
    ("entry", "options"), [c for c in CASES.values() if draws(*c)], ids=[k for k, c in CASES.items() if draws(*c)]
)


def start(n=16, shape=(1, 2, 2), high=3.0):
    return high * starting_noise(0, range(n), shape).double()


def measured_order(errors):
    """The slope of log error over log steps, for numbers of steps that double."""
    slopes = [float(np.log2(a / b)) for a, b in pairwise(errors)]
    assert max(slopes) - min(slopes) < 0.25, f"errors {errors} fall at no steady order: {slopes}"
    return slopes[-1]


def refuses_noise(draw, like):
    raise AssertionError("noise was drawn")


def run(entry, options, denoise, x, grid, **more):
    noise = SeededNoise(0, range(len(x)))
    return entry.fn(denoise, x, grid, **({"noise": lambda k, like: noise(k, like).to(like)} | options | more))


# ---- order


def gaussian_error(fn, oracle, n):
    x = start()
    grid = gentle_grid(n)
    return float((fn(oracle, x, grid) - oracle.flow(x, 3.0, 0.0)).square().mean().sqrt())


@pytest.fixture(scope="module")
def mixture_flow(mixture):
    """Where the probability-flow ODE carries a few starts, by scipy's eighth-order method: a solver that is not ours."""
    x = start(6, (1, 1, 2))

    def slope(s, flat):
        y = torch.from_numpy(flat).reshape(x.shape)
        return ((y - mixture(y, torch.full((len(y),), s, dtype=torch.float64))) / s).flatten().numpy()

    low = 1e-6  # the ODE is smooth at 0, where its slope is 0 / 0: the rest of the way is below 1e-11
    solved = solve_ivp(slope, (3.0, low), x.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
    return x, torch.from_numpy(solved.y[:, -1]).reshape(x.shape)


@every_ode
def test_order_on_a_gaussian(entry, options, gaussian):
    errors = [gaussian_error(lambda *a: run(entry, options, *a), gaussian, n) for n in STEPS]
    assert measured_order(errors) == pytest.approx(order(entry, options), abs=0.15)


@every_ode
def test_order_on_a_mixture(entry, options, mixture, mixture_flow):
    x, truth = mixture_flow
    errors = [float((run(entry, options, mixture, x, gentle_grid(n)) - truth).square().mean().sqrt()) for n in STEPS]
    assert measured_order(errors) == pytest.approx(order(entry, options), abs=0.15)


def final_moments(entry, options, oracle, grid):
    """The exact mean and variance of what a sampler makes of Gaussian noise under a Gaussian oracle, pixel by pixel.

    It is linear in its start and in every draw, so their coefficients are read off a batch of impulses: image 0 has
    no noise at all, image 1 a unit start, image 2 + k a unit draw k (two a step at most).
    """
    x = torch.zeros(2 * len(grid), *oracle.image_shape, dtype=torch.float64)
    x[1] = float(grid[0])

    def impulse(k, like):
        noise = torch.zeros_like(like)
        noise[2 + k] = 1
        return noise

    out = entry.fn(oracle, x, grid, noise=impulse, **options)
    return out[0], (out[1:] - out[0]).square().sum(0)


def kept_of_an_offset(entry, options, oracle, grid):
    """What is left at level 0 of an offset from the mean, of dx = (1 + eta^2) (x - x0_hat) / s ds + eta sqrt(2 s) dw.

    For a Gaussian of std c it dies by the factor g with d log g = (1 + eta^2) s / (c^2 + s^2) ds, so
    g = (c^2 / (c^2 + high^2)) ^ ((1 + eta^2) / 2). Churn is eta = 0 in stretches, from s_hat to s_next; in between
    the offset does not change. The variance starts too small by c^2, which dies by g^2.
    """
    var, high = oracle.data.std**2, float(grid[0])
    asked = {"eta": 1.0} | entry.defaults | options
    if "s_churn" in asked:
        gamma = min(asked["s_churn"] / (len(grid) - 1), 2**0.5 - 1)
        raised = [min(s * (1 + gamma), high) for s in grid[:-1].tolist()]
        return math.prod(((var + t**2) / (var + s**2)).sqrt() for s, t in zip(raised, grid[1:].tolist(), strict=True))
    return (var / (var + high**2)) ** ((1 + asked["eta"] ** 2) / 2)


def variance_error(entry, options, oracle, n):
    _, var = final_moments(entry, options, oracle, gentle_grid(n))
    truth = oracle.data.std**2 * (1 - kept_of_an_offset(entry, options, oracle, gentle_grid(n)) ** 2)
    return float((var - truth).abs().max())


@every_sde
def test_order_of_the_variance_on_a_gaussian(entry, options, gaussian):
    steps = STEPS
    if entry.name == "dpmpp_3m_sde" and options.get("order", 3) == 3:
        # what its parabola mends is most of the error, of either sign, until there are many steps
        steps = (512, 1024, 2048)
        if options.get("eta") == 0.5:
            assert (
                variance_error(entry, options, gaussian, 128) < variance_error(find("dpmpp_2m_sde"), options, gaussian, 128) / 10
            )
            return
    errors = [variance_error(entry, options, gaussian, n) for n in steps]
    assert measured_order(errors) == pytest.approx(order(entry, options), abs=0.2)


@every_sde
def test_the_mean_goes_to_the_truth(entry, options, gaussian):
    grid = smooth_grid(800, high=10.0)
    mean, var = final_moments(entry, options, gaussian, grid)
    kept = kept_of_an_offset(entry, options, gaussian, grid)  # a start about 0 is off by the mean
    assert torch.allclose(mean, gaussian.data.mean * (1 - kept), atol=2e-3)
    assert torch.allclose(var, gaussian.data.std**2 * (1 - kept**2), rtol=0.04)


@every_sde
def test_mixtures_are_reached_in_distribution(entry, options, mixture):
    n = 4000
    x = start(n, (1, 1, 2), high=10.0)
    rng = torch.Generator().manual_seed(0)
    out = run(
        entry, options, mixture, x, smooth_grid(100, high=10.0),
        noise=lambda k, like: torch.randn(like.shape, generator=rng, dtype=like.dtype),
    )  # fmt: skip
    truth = mixture.data
    tolerance = 5 / n**0.5 + 0.02  # five standard errors, and what 100 steps of first order leave
    assert (out.mean(0) - truth.mean).abs().max() < tolerance
    assert (out.flatten(1).T.cov() - truth.cov).abs().max() < tolerance
    chance = mixture.responsibilities(out, torch.full((n,), 1e-3).double()).mean(0)
    assert (chance - truth.weights).abs().max() < tolerance


def test_the_meter_tells_orders_apart(gaussian):
    """Euler's method with each level read a step late measures nothing like 1."""

    def stale(denoise, x, grid):
        for before, s, s_next in zip([grid[0], *grid], grid, grid[1:], strict=False):
            x = torch.lerp(denoise(x, before.expand(len(x))), x, float(s_next / s))
        return x

    right = gaussian_error(euler, gaussian, 128)
    wrong = gaussian_error(stale, gaussian, 128)
    assert abs(wrong - right) > 0.2 * right


# ---- calls, draws, batches


@every_case
@pytest.mark.parametrize("n", [1, 2, 7])
def test_calls_are_as_claimed(entry, options, n, gaussian):
    count = CountCalls(gaussian)
    run(entry, options, count, start(5), smooth_grid(n))
    assert count.calls == entry.calls(n)
    assert count.images == 5 * entry.calls(n)


@every_case
def test_one_step_works(entry, options, gaussian):
    x = start(4)
    out = run(entry, options, gaussian, x, smooth_grid(1))
    assert torch.allclose(out, gaussian(x, torch.full((4,), 3.0, dtype=torch.float64)), rtol=1e-12)


@every_ode
def test_nothing_is_drawn_without_eta(entry, options, gaussian):
    run(entry, options, gaussian, start(2), smooth_grid(5), noise=refuses_noise)
    run(entry, options, gaussian, start(2), smooth_grid(5), noise=None)


@every_sde
def test_draws_are_numbered_by_step(entry, options, gaussian):
    asked = []

    def noise(k, like):
        asked.append(k)
        return torch.zeros_like(like)

    run(entry, options, gaussian, start(2), smooth_grid(9), noise=noise)
    # one a step but the last; heun churns at the last one too, and not at the first, above which there is nothing
    wanted = {"dpmpp_sde": range(16), "heun": range(1, 9)}.get(entry.name, range(8))
    assert asked == list(wanted)


@every_sde
def test_missing_noise_is_asked_for(entry, options, gaussian):
    with pytest.raises(ValueError, match=r"pass noise=SeededNoise\(seed, indices\)"):
        run(entry, options, gaussian, start(2), smooth_grid(5), noise=None)


@every_case
@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_size_changes_nothing(entry, options, batch, gaussian):
    x, grid = start(16), smooth_grid(10)

    def part(lo, hi):
        noise = SeededNoise(0, range(lo, hi))
        return entry.fn(gaussian, x[lo:hi], grid, noise=lambda k, like: noise(k, like).double(), **options)

    parts = [part(lo, min(lo + batch, 16)) for lo in range(0, 16, batch)]
    assert torch.equal(torch.cat(parts), part(0, 16))


@every_case
def test_on_step_sees_each_step_before_x_moves(entry, options, gaussian):
    seen = []
    x, grid = start(3), smooth_grid(6)
    kept = x.clone()
    out = run(entry, options, gaussian, x, grid, on_step=lambda k, s, y, x0: seen.append((k, s, y.clone(), x0.clone())))
    assert [k for k, *_ in seen] == list(range(6))
    if "s_churn" in options:
        assert all(s > level for (_, s, *_), level in list(zip(seen, grid[:-1].tolist(), strict=True))[1:])
    else:
        assert [s for _, s, *_ in seen] == grid[:-1].tolist()
    assert torch.equal(seen[0][2], x) and torch.equal(x, kept)
    for _, s, y, x0 in seen:
        assert torch.allclose(x0, gaussian(y, torch.full((3,), s, dtype=torch.float64)))
    if entry.name not in ("ipndm", "deis") or options.get("order") == 1 or options.get("variable") == "log_sigma":
        assert torch.allclose(out, seen[-1][3], rtol=1e-14)  # at level 0 nothing is left but x0_hat


@every_case
def test_many_steps_in_float32(entry, options, mixture):
    x = start(4, (1, 1, 2))
    exact = run(entry, options, mixture, x, smooth_grid(150))
    out = run(entry, options, mixture, x.float(), smooth_grid(150))
    assert out.dtype == torch.float32
    assert (out.double() - exact).abs().max() < 2e-5


@every_case
def test_no_digits_are_lost_from_zero_terminal_snr(entry, options, gaussian):
    """Level 2^32 stands for pure noise: x is a billion times the image, and float32 has seven digits."""
    levels = [600.0, 80.0, 9.0, 3.0, 1.0, 0.3, 0.1, 0.0]
    grid = torch.tensor([2.0**32, *levels], dtype=torch.float64)
    x = start(4, high=2.0**32)
    if entry.name == "heun":
        with pytest.raises(ValueError, match="start at a level below 1e\\+06, or use dpmpp_2s"):
            run(entry, options, gaussian, x, grid)
        return
    exact = run(entry, options, gaussian, x, grid)
    out = run(entry, options, gaussian, x.float(), grid)
    assert (out.double() - exact).abs().max() < 1e-4
    assert exact.abs().max() < 5 and exact.std() > 0.1


@every_case
@pytest.mark.parametrize("grid", torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 1.0]]).double())
def test_bad_grids_are_refused(entry, options, grid, gaussian):
    with pytest.raises(ValueError, match="a grid"):
        run(entry, options, gaussian, start(2), grid)


@every_case
def test_no_gradient_is_kept(entry, options, gaussian):
    x = start(2).requires_grad_()
    assert not run(entry, options, gaussian, x, smooth_grid(3)).requires_grad


# ---- what joins the samplers


def test_ddim_without_noise_is_euler(mixture):
    x = start(shape=(1, 1, 2))
    assert torch.allclose(ddim(mixture, x, smooth_grid(20)), euler(mixture, x, smooth_grid(20)), rtol=1e-12)


def test_ddim_with_all_its_noise_is_ddpm(mixture):
    x = start(8, (1, 1, 2))
    seeded = SeededNoise(0, range(8))

    def noise(k, like):
        return seeded(k, like).double()

    a = ddim(mixture, x, smooth_grid(20), eta=1.0, noise=noise)
    b = ddpm(mixture, x, smooth_grid(20), noise=noise)
    assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_is_a_share(eta, gaussian):
    with pytest.raises(ValueError, match="give 0"):
        ddim(gaussian, start(2), smooth_grid(2), eta=eta)


def test_ddpm_names_its_variances(gaussian):
    with pytest.raises(ValueError, match="'fixed_large' is unknown: use one of posterior, beta"):
        ddpm(gaussian, start(2), smooth_grid(2), variance="fixed_large", noise=refuses_noise)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("data_range", [1.0, 0.5, 2.0])
def test_ddpm_is_the_papers_algorithm_2_in_its_own_coordinate(variance, data_range, gaussian):
    """y = sqrt(alphabar) r x, with the paper's eq. 7 and sec. 3.2 word for word."""
    grid = smooth_grid(12)
    ab = (1 / (1 + (data_range * grid) ** 2)).tolist()
    x = start(6)
    seeded = SeededNoise(0, range(6))
    y = ab[0] ** 0.5 * data_range * x
    for k in range(12):
        x0 = data_range * gaussian(y / (ab[k] ** 0.5 * data_range), grid[k].expand(6))
        beta = 1 - ab[k] / ab[k + 1]
        mean = ab[k + 1] ** 0.5 * beta / (1 - ab[k]) * x0 + (1 - beta) ** 0.5 * (1 - ab[k + 1]) / (1 - ab[k]) * y
        var = beta if variance == "beta" else (1 - ab[k + 1]) / (1 - ab[k]) * beta
        y = mean + (var**0.5 * seeded(k, y).double() if k < 11 else 0)
    out = ddpm(gaussian, x, grid, variance=variance, data_range=data_range, noise=lambda k, like: seeded(k, like).double())
    assert torch.allclose(out, y / data_range, rtol=1e-9)


# ---- identities and refusals


def test_euler_ancestral_is_ddim(mixture):
    x = start(8, (1, 1, 2))
    noise = SeededNoise(0, range(8))
    for eta in (0.0, 0.5, 1.0):
        a, b = (
            fn(mixture, x, smooth_grid(20), eta=eta, noise=lambda k, like: noise(k, like).double())
            for fn in (euler_ancestral, ddim)
        )
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("fn", "options"),
    [(ipndm, {}), (ipndm, {"coefficients": "exact"}), (deis, {}), (deis, {"variable": "log_sigma"}), (dpmpp_3m, {})],
)
def test_of_first_order_all_are_ddim(fn, options, mixture):
    x = start(8, (1, 1, 2))
    assert torch.allclose(fn(mixture, x, smooth_grid(20), order=1, **options), ddim(mixture, x, smooth_grid(20)), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_order_is_no_trouble_on_short_grids(n, mixture):
    x, grid = start(8, (1, 1, 2)), smooth_grid(n)
    for fn, highest in ((ipndm, 4), (deis, 4), (dpmpp_3m, 3), (unipc, 3)):
        assert torch.isfinite(fn(mixture, x, grid, order=highest)).all()
    if n < 3:  # the first and the last step look at nothing else
        assert torch.allclose(dpmpp_3m(mixture, x, grid), ddim(mixture, x, grid), rtol=1e-12)


def test_fixed_coefficients_are_adams_and_bashforths(mixture):
    """Against the textbook's fractions, step by step; "exact" is the same where the steps are equal."""
    grid = torch.linspace(3, 0, 9, dtype=torch.float64)
    x = start(8, (1, 1, 2))
    table = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    y, slopes = x, []
    for s, s_next in pairwise(grid.tolist()):
        slopes = [(y - mixture(y, torch.full((8,), s).double())) / s, *slopes][:4]
        y = y + (s_next - s) * sum(w * d for w, d in zip(table[len(slopes) - 1], slopes, strict=True))
    assert torch.allclose(ipndm(mixture, x, grid), y, rtol=1e-10)
    assert torch.allclose(ipndm(mixture, x, grid, coefficients="exact"), y, rtol=1e-10)


def rough_grid(n, high=3.0):
    """`gentle_grid` with every second level moved: steps of unlike lengths side by side, however many they are."""
    grid = gentle_grid(2 * n, high)
    return torch.cat([grid[: 2 * n : 4], grid[1 : 2 * n : 4], grid[-1:]]).sort(descending=True).values


@pytest.mark.parametrize(
    ("fn", "options", "wanted"),
    [
        (ipndm, {}, 1),
        (ipndm, {"coefficients": "exact"}, 4),
        (dpmpp_3m, {}, 3),
        (deis, {"variable": "log_sigma"}, 3),
        (unipc, {}, 3),
    ],
)
def test_order_on_a_rough_grid(fn, options, wanted, gaussian):
    """The coefficients are those of the grid at hand, but for iPNDM's fixed ones."""
    x = start()
    errors = [
        float((fn(gaussian, x, rough_grid(n), **options) - gaussian.flow(x, 3.0, 0.0)).square().mean().sqrt())
        for n in (128, 256, 512)
    ]
    assert np.log2(errors[1] / errors[2]) == pytest.approx(wanted, abs=0.35)


def test_a_half_step_and_a_whole_one_share_their_noise(gaussian):
    """dpmpp_sde with unrelated draws, as k-diffusion's has without a Brownian tree, is of first order: what sharing is for."""

    def unrelated(denoise, x, sigmas, *, noise, on_step=None):
        for i, (s, s_next) in enumerate(pairwise(sigmas.tolist())):
            x0 = denoise(x, x.new_full((len(x),), s))
            if s_next == 0:
                return x0
            mid = (s * s_next) ** 0.5
            y = torch.lerp(x0, x, (mid / s) ** 2) + mid * (1 - (mid / s) ** 2) ** 0.5 * noise(2 * i, x)
            x0 = denoise(y, y.new_full((len(y),), mid))
            x = torch.lerp(x0, x, (s_next / s) ** 2) + s_next * (1 - (s_next / s) ** 2) ** 0.5 * noise(2 * i + 1, x)
        return x

    entry = Entry("unrelated", unrelated, 1, True, find("dpmpp_sde").calls_a_step, "")
    assert measured_order([variance_error(entry, {}, gaussian, n) for n in STEPS]) == pytest.approx(1, abs=0.2)


def test_churn_is_algorithm_2(mixture):
    """Written out again from the paper, with its range and std of the noise."""
    grid, x = smooth_grid(10), start(8, (1, 1, 2))
    noise = SeededNoise(0, range(8))
    y, churned = x, 0
    for k, (t, t_next) in enumerate(pairwise(grid.tolist())):
        gamma = min(3 / 10, 2**0.5 - 1) if 0.3 <= t <= 2.0 else 0
        t_hat = t + gamma * t
        y_hat = y + (t_hat**2 - t**2) ** 0.5 * 1.01 * noise(k, y).double()
        d = (y_hat - mixture(y_hat, torch.full((8,), t_hat).double())) / t_hat
        y = y_hat + (t_next - t_hat) * d
        if t_next:
            d2 = (y - mixture(y, torch.full((8,), t_next).double())) / t_next
            y = y_hat + (t_next - t_hat) * (d + d2) / 2
        churned += gamma > 0
    assert 2 < churned < 9
    options = {"s_churn": 3.0, "s_tmin": 0.3, "s_tmax": 2.0, "s_noise": 1.01}
    assert torch.allclose(run(find("heun"), options, mixture, x, grid), y, rtol=1e-10)


@pytest.mark.parametrize("s_churn", [1.0, 100.0])
def test_churn_never_rises_above_the_first_level(s_churn, mixture):
    levels = []

    def spy(x, sigma):
        levels.append(float(sigma[0]))
        return mixture(x, sigma)

    run(find("heun"), {"s_churn": s_churn}, spy, start(2, (1, 1, 2)), smooth_grid(10))
    assert max(levels) == 3.0 and sum(levels) > float(smooth_grid(10).sum())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpmpp_2m_sde", {"eta": 1.5}, "eta = 1.5: give 0"),
        ("euler_ancestral", {"eta": -1.0}, "eta = -1.0: give 0"),
        ("heun", {"s_churn": -1.0}, "s_churn = -1.0.*give s_churn and s_noise of 0 or more"),
        ("heun", {"s_tmin": 2.0, "s_tmax": 1.0}, "0 <= s_tmin <= s_tmax"),
        ("heun", {"s_churn": 5.0, "noise": None}, r"s_churn = 5.0 adds noise: pass noise=SeededNoise\(seed, indices\)"),
        ("dpmpp_3m", {"order": 4}, "order = 4: give a whole number from 1 to 3"),
        ("dpmpp_3m_sde", {"order": 0}, "order = 0: give a whole number from 1 to 3"),
        ("unipc", {"order": 5}, "order = 5: give a whole number from 1 to 3"),
        ("unipc", {"bh": 3}, "bh = 3: give 1 for"),
        ("ipndm", {"order": 5}, "order = 5: give a whole number from 1 to 4"),
        ("ipndm", {"coefficients": "free"}, "coefficients 'free' is unknown: use one of fixed, exact"),
        ("deis", {"order": 5}, "order = 5: give a whole number from 1 to 4"),
        ("deis", {"variable": "rho"}, "variable 'rho' is unknown: use one of t, log_sigma"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message, gaussian):
    with pytest.raises(ValueError, match=message):
        run(find(name), options, gaussian, start(2), smooth_grid(3))


def test_entries_say_what_their_functions_take():
    for entry in SAMPLERS.values():
        keywords = [p.name for p in signature(entry.fn).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert set(entry.options) == set(keywords) - {"noise", "on_step"}
        assert set(entry.defaults) == set(entry.options)
    assert find("ddim").defaults == {"eta": 0.0} and find("dpmpp_2m_sde").defaults == {"eta": 1.0}
    assert find("ipndm").defaults == {"order": 4, "coefficients": "fixed"}


def test_steps_for_a_number_of_calls():
    for entry in SAMPLERS.values():
        for calls in range(1, 40):
            n = steps_for(entry, calls)
            assert entry.calls(n) <= calls < entry.calls(n + 1)
    assert [steps_for(find("heun"), c) for c in (1, 2, 3, 4, 5, 20)] == [1, 1, 2, 2, 3, 10]
    with pytest.raises(ValueError, match="0 calls are too few for one step of ddim, which needs 1"):
        steps_for(find("ddim"), 0)


def test_the_catalogue_is_in_order():
    assert all(name == entry.name and entry.summary for name, entry in SAMPLERS.items())
    assert find("ddim") is SAMPLERS["ddim"]
    with pytest.raises(ValueError, match="'dimm' is unknown: did you mean 'ddim'"):
        find("dimm")
    with pytest.raises(ValueError, match="known are ddim, ddpm, euler"):
        find("0123456789")
