"""Wrappers of a denoiser: counting, skipping, clipping, thresholding, classes and guidance."""

import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.adaptive import AdaptiveCalls
from alphabar.denoiser.plan import every, full, predicate
from alphabar.denoiser.wrappers import ClipX0, CountCalls, Guided, Labelled, SkipCalls, ThresholdX0, select_rows
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.schedule.continuous import LogSigma
from tests.fixtures.exact import MixtureDenoiser
from tests.fixtures.toy import Mixture

GRID = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1, 0.0], dtype=torch.float64)


@pytest.fixture
def oracle():
    return MixtureDenoiser(Mixture.grid((1, 2, 2), side=2, std=0.3), LogSigma(0.01, 20.0))


@pytest.fixture
def x():
    return 5 * starting_noise(0, range(4), (1, 2, 2))


class Spy:
    """Records the levels at which it is called."""

    def __init__(self, denoise):
        self.denoise = denoise
        self.levels = []

    def __call__(self, x, sigma):
        self.levels.append(round(float(sigma[0]), 6))
        return self.denoise(x, sigma)


def test_calls_and_images_are_counted(oracle, x):
    count = CountCalls(oracle)
    ddim(count, x, GRID)
    ddim(count, x[:1], GRID)
    assert (count.calls, count.images) == (12, 30)


def test_skipped_calls_are_not_counted(oracle, x):
    spy = Spy(oracle)
    count = CountCalls(spy)
    ddim(SkipCalls(count, every(2, last=1), GRID), x, GRID)
    assert spy.levels == [5.0, 2.0, 0.5, 0.1]
    assert count.calls == 4


def test_a_skipped_step_uses_the_last_eps_hat(oracle, x):
    """Against the loop written out for the plan 0, 3: the lesson's `if call: noise = network(...)`."""
    out = ddim(SkipCalls(oracle, every(3), GRID), x, GRID)
    y = x
    for k in range(6):
        s, s_next = float(GRID[k]), float(GRID[k + 1])
        if k % 3 == 0:
            eps = (y - oracle(y, torch.full((4,), s))) / s
        y = y + (s_next - s) * eps
    assert torch.allclose(out, y, atol=1e-6)


@pytest.mark.parametrize("plan", [every(2), every(3, last=2), predicate(lambda k, t: k in (1, 4))])
def test_skipping_works_under_a_stochastic_sampler(oracle, x, plan):
    noise = SeededNoise(0, range(4))
    count = CountCalls(oracle)
    times = torch.arange(6).double()
    out = ddpm(SkipCalls(count, plan, GRID, times), x, GRID, noise=noise)
    assert count.calls == plan(6, times).sum() < 6
    y, r = x, GRID.tolist()
    for k, call in enumerate(plan(6, times).tolist()):
        if call:
            eps = (y - oracle(y, torch.full((4,), r[k]))) / r[k]
        x0 = y - r[k] * eps
        y = x0 + r[k + 1] ** 2 / r[k] ** 2 * (y - x0)
        if k < 5:
            y = y + r[k + 1] / r[k] * (r[k] ** 2 - r[k + 1] ** 2) ** 0.5 * noise(k, y)
    assert torch.allclose(out, y, atol=1e-5)


def test_the_full_plan_changes_nothing(oracle, x):
    assert torch.equal(ddim(SkipCalls(oracle, full(), GRID), x, GRID), ddim(oracle, x, GRID))


def test_each_batch_starts_anew(oracle, x):
    skip = SkipCalls(oracle, every(6), GRID)
    ddim(skip, x, GRID)
    again = ddim(skip, 1 - x, GRID)
    assert torch.equal(again, ddim(SkipCalls(oracle, every(6), GRID), 1 - x, GRID))


def test_the_network_is_called_where_no_eps_hat_can_be_reused(oracle, x):
    spy = Spy(oracle)
    skip = SkipCalls(spy, every(6), GRID)
    skip(x, torch.full((4,), 3.0))  # a step that the plan skips, but there was no call yet
    assert spy.levels == [3.0]
    skip(x[:2], torch.full((2,), 2.0))  # another batch
    assert spy.levels == [3.0, 2.0]
    skip.reset()
    skip(x, torch.full((4,), 1.0))
    assert spy.levels == [3.0, 2.0, 1.0]


def test_levels_off_the_grid_always_call(oracle, x):
    spy = Spy(oracle)
    skip = SkipCalls(spy, every(6), GRID)
    for s in (5.0, 4.0, 3.00001, 2.0):
        skip(x, torch.full((4,), s))
    assert spy.levels == [5.0, 4.0, 3.00001]
    skip(x, torch.tensor([2.0, 2.0, 2.0, 1.0]))  # images at different levels
    assert len(spy.levels) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_recognised_by_level_in_either_precision(oracle, dtype):
    grid = torch.cat([torch.logspace(1, -2, 30, dtype=torch.float64), torch.zeros(1).double()])
    count = CountCalls(oracle)
    ddim(SkipCalls(count, every(5), grid), 10 * starting_noise(0, range(2), (1, 2, 2)).to(dtype), grid)
    assert count.calls == 6


def test_eps_hat_follows_from_the_clipped_x0_hat(x):
    def wild(x, sigma):
        return 3 * torch.sign(x)

    clipped = ClipX0(wild)(x, torch.ones(4))
    assert clipped.abs().max() == 1
    assert torch.equal(ClipX0(wild, -0.5, 2.0)(x, torch.ones(4)).unique(), torch.tensor([-0.5, 2.0]))
    out = ddim(ClipX0(wild), x, GRID[[0, 1, 6]])
    moved = torch.sign(x) + 3 / 5 * (x - torch.sign(x))  # eps_hat = (x - clipped) / 5
    assert torch.allclose(out, torch.sign(moved))


def test_thresholding_clips_each_image_at_its_quantile():
    ramp = torch.linspace(-1, 1, 101, dtype=torch.float64).reshape(1, 1, 1, 101)
    x = torch.cat([0.5 * ramp, ramp, 4 * ramp])
    out = ThresholdX0(lambda x, sigma: x, share=0.75)(x, torch.ones(3))
    assert torch.equal(out[:2], x[:2])  # that quantile is below 1
    s = torch.quantile(x[2].abs(), 0.75)
    assert torch.allclose(out[2], (x[2] / s).clamp(-1, 1)) and out[2].abs().max() == 1
    assert torch.allclose(out[2, 0, 0, 40:61], x[2, 0, 0, 40:61] / s)  # all pixels are scaled, not only those that are clipped
    limited = ThresholdX0(lambda x, sigma: x, share=0.75, largest=2.0)(x, torch.ones(3))
    assert torch.allclose(limited[2], (x[2] / 2).clamp(-1, 1))
    assert torch.equal(ThresholdX0(lambda x, sigma: x, largest=1)(x, torch.ones(3)), x.clamp(-1, 1))


@pytest.mark.parametrize("share", [0.51, 0.9, 0.995, 0.999, 1.0])
@pytest.mark.parametrize("pixels", [1, 2, 7, 1000])
def test_the_quantile_is_that_of_torch(share, pixels):
    x = 3 * starting_noise(1, range(5), (1, 1, pixels)).double()
    s = torch.quantile(x.abs().flatten(1), share, dim=1).clamp(min=1).reshape(5, 1, 1, 1)
    assert torch.allclose(ThresholdX0(lambda x, sigma: x, share)(x, torch.ones(5)), x.clamp(-s, s) / s, rtol=1e-14)


def test_eps_hat_follows_from_the_thresholded_x0_hat(x):
    def wild(x, sigma):
        return 3 * torch.sign(x)

    out = ddim(ThresholdX0(wild), x, GRID[[0, 1, 6]])
    moved = torch.sign(x) + 3 / 5 * (x - torch.sign(x))  # eps_hat = (x - x0_hat) / 5 of the clipped x0_hat
    assert torch.allclose(out, torch.sign(moved))
    count = CountCalls(wild)
    ddim(ThresholdX0(SkipCalls(count, every(2), GRID)), x, GRID)
    assert count.calls == 3


def test_wrappers_combine(oracle, x):
    count = CountCalls(oracle)
    out = ddim(ClipX0(SkipCalls(count, every(2), GRID), -0.1, 0.1), x, GRID)
    assert out.abs().max() <= 0.1 + 1e-6 and count.calls == 3


def test_invalid_arguments_are_refused(oracle):
    with pytest.raises(ValueError, match=r"clip to 1.0..-1.0: give low < high"):
        ClipX0(oracle, 1.0, -1.0)
    for share in (0.5, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"give more than 0.5 and at most 1, as in ThresholdX0\(denoise, 0.995\)"):
            ThresholdX0(oracle, share)
    with pytest.raises(ValueError, match=r"largest = 0\.5: give 1 or more"):
        ThresholdX0(oracle, largest=0.5)
    with pytest.raises(ValueError, match="ends in 0"):
        SkipCalls(oracle, full(), GRID[:-1])


# ---- classes and guidance


def by_class(x, sigma, labels):
    """x0 ~ N(m_k, 0.3^2 I) for class k of 0, 1; the equal mixture of both for class 2, which stands for no class."""
    var, s2 = 0.3**2, sigma.reshape(-1, 1, 1, 1).double() ** 2
    each = [m + var / (var + s2) * (x.double() - m) for m in (-0.5, 0.5)]
    off = [-((x.double() - m) ** 2).sum((1, 2, 3)) / (2 * (var + s2.flatten())) for m in (-0.5, 0.5)]
    share = torch.softmax(torch.stack(off), 0)[1].reshape(-1, 1, 1, 1)
    both = (1 - share) * each[0] + share * each[1]
    k = labels.reshape(-1, 1, 1, 1)
    return torch.where(k == 0, each[0], torch.where(k == 1, each[1], both)).to(x.dtype)


def test_each_image_gets_its_class(x):
    labels = torch.tensor([0, 1, 1, 0])
    count = CountCalls(by_class)
    out = ddim(Labelled(count, labels), x, GRID)
    assert count.calls == 6
    assert out.mean((1, 2, 3)).sign().tolist() == [-1, 1, 1, -1]
    with pytest.raises(ValueError, match="4 labels for a batch of 3 images"):
        Labelled(by_class, labels)(x[:3], torch.ones(3))


def test_guidance_follows_the_difference_of_the_scores(x):
    """grad log p_w = w grad log p(x | k) + (1 - w) grad log p(x), by the closed forms."""
    labels, none = torch.tensor([0, 1, 1, 0]), torch.full((4,), 2)
    sigma = torch.full((4,), 1.5)
    guided = Guided(Labelled(by_class, labels), Labelled(by_class, none), 3.0)
    score = (guided(x, sigma) - x) / 1.5**2
    wanted = 3 * (by_class(x, sigma, labels) - x) / 1.5**2 - 2 * (by_class(x, sigma, none) - x) / 1.5**2
    assert torch.allclose(score, wanted, atol=1e-5)


def test_guidance_costs_calls_only_within_its_interval(x):
    labels, none = torch.tensor([0, 1, 1, 0]), torch.full((4,), 2)

    def calls(weight, interval=(0.0, 100.0)):
        count = CountCalls(by_class)
        out = ddim(Guided(Labelled(count, labels), Labelled(count, none), weight, interval), x, GRID)
        return count.calls, out

    assert calls(2.0)[0] == 12 and calls(1.0)[0] == 6
    count, out = calls(2.0, (0.5, 2.0))  # levels 2, 1 and 0.5 of the grid's six
    assert count == 9
    assert torch.equal(calls(2.0, (6.0, 9.0))[1], calls(1.0)[1])
    assert not torch.equal(out, calls(2.0)[1])


def test_levels_may_differ_between_images_under_guidance(x):
    labels, none = torch.tensor([0, 1, 1, 0]), torch.full((4,), 2)
    guided = Guided(Labelled(by_class, labels), Labelled(by_class, none), 2.0, (0.5, 2.0))
    sigma = torch.tensor([0.2, 1.0, 3.0, 2.0])
    one_by_one = [select_rows(guided, torch.tensor([k]))(x[k : k + 1], sigma[k : k + 1]) for k in range(4)]
    assert torch.allclose(guided(x, sigma), torch.cat(one_by_one), atol=1e-6)


def test_an_adaptive_plan_selects_the_labels_of_the_images_it_calls_for(x):
    labels, none = torch.tensor([0, 1, 1, 0]), torch.full((4,), 2)
    fine = torch.cat([torch.logspace(0.7, -2, 60, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    together = AdaptiveCalls(Guided(Labelled(by_class, labels), Labelled(by_class, none), 1.5), 0.02, fine)
    out = ddim(together, x, fine)
    assert len(set(together.calls.tolist())) > 1 and int(together.calls.max()) < 60  # not all at the same steps
    for k in range(4):
        own = Guided(Labelled(by_class, labels[k : k + 1]), Labelled(by_class, none[:1]), 1.5)
        assert torch.allclose(ddim(AdaptiveCalls(own, 0.02, fine), x[k : k + 1], fine), out[k : k + 1], atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "interval", "message"),
    [(float("nan"), (0.0, 1.0), "guidance = nan: give a finite weight"), (2.0, (2.0, 1.0), "give 0 <= low < high")],
)
def test_invalid_guidance_is_refused(oracle, weight, interval, message):
    with pytest.raises(ValueError, match=message):
        Guided(oracle, oracle, weight, interval)
