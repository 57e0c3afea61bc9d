"""The held-out loss against closed forms: the loss of Gaussian data at a level, and of a model that memorises its images."""

import json

import numpy as np
import pytest
import torch

from alphabar.evaluation.heldout import _summary, heldout_loss, losses_by_level
from alphabar.schedule.continuous import Cosine
from tests.fixtures.exact import FiniteDenoiser, GaussianDenoiser
from tests.fixtures.toy import Gaussian
from tests.fixtures.training import small_model

STD = torch.tensor([0.05, 0.1, 0.2, 0.15], dtype=torch.float64).reshape(1, 2, 2)
GAUSS = Gaussian(torch.tensor([0.1, -0.2, 0.0, 0.3], dtype=torch.float64).reshape(1, 2, 2), STD)
LEVELS = (0.03, 0.15, 1.0, 6.0)


def pixels(x):
    """Model's range to stored float pixels."""
    return np.ascontiguousarray(((x.permute(0, 2, 3, 1) + 1) / 2).float().numpy())


def truth(sigma):
    """E|E[x0 | x] - x0|^2 a pixel: the mean of std^2 sigma^2 / (std^2 + sigma^2)."""
    var = STD.numpy() ** 2
    return float((var * sigma**2 / (var + sigma**2)).mean())


@pytest.mark.slow
def test_intervals_cover_the_closed_form():
    """Four draws per image: at a high level all have the same loss, so counting them as four images would cover only 67 %."""
    times, n, draws = 300, 60, 4
    losses = losses_by_level(GaussianDenoiser(GAUSS), pixels(GAUSS.sample(times * n)), LEVELS, draws, batch=4096)
    overall = np.mean([(1 + 1 / s**2) * truth(s) for s in LEVELS])
    hits = np.zeros(len(LEVELS) + 1)
    for part in losses.split(n, dim=1):
        found = _summary(LEVELS, [part], draws, 0.95)
        for i, (e, t) in enumerate(zip([*found.heldout, found.overall], [*map(truth, LEVELS), overall], strict=True)):
            hits[i] += e.interval[0] <= t <= e.interval[1]
    assert (hits / times >= 0.91).all() and (hits / times <= 0.98).all(), hits / times


@pytest.mark.parametrize(("n", "m"), [(80, 80), (60, 120)])
def test_intervals_of_the_gap_cover_no_gap(n, m):
    """Two sets of one distribution with common noise, whose variance cancels in the gap; otherwise intervals cover 99 %."""
    times, levels = 300, (0.03, 1.0)
    of = [
        losses_by_level(GaussianDenoiser(GAUSS), pixels(GAUSS.sample(times * m, seed=s)), levels, 1, batch=4096) for s in (1, 2)
    ]
    hits, narrower = np.zeros(len(levels) + 2), []
    for h, t in zip(of[0].split(m, dim=1), of[1].split(m, dim=1), strict=True):
        found = _summary(levels, [h[:, :n], t], 1, 0.95)
        gaps = [*found.gap, found.overall_gap, found.relative_gap]
        hits += [g.interval[0] <= 0 <= g.interval[1] for g in gaps]
        narrower.append(found.gap[0].se / np.hypot(found.heldout[0].se, found.train[0].se))
    assert (hits / times >= 0.91).all() and (hits / times <= 0.98).all(), hits / times
    # at a low level the noise is almost all of the variance, and most of it cancels
    assert np.mean(narrower) < (0.5 if n == m else 0.75)


def test_a_model_that_memorises_its_images_has_a_gap():
    rng = np.random.default_rng(0)
    train, heldout = (rng.integers(0, 256, (n, 6, 6, 1), dtype=np.uint8) for n in (40, 30))
    model = FiniteDenoiser(torch.from_numpy(train).permute(0, 3, 1, 2) / 127.5 - 1)
    found = heldout_loss(model, heldout, train, levels=(0.1, 0.3, 30.0))
    assert found.train[0].value < 1e-6
    assert found.gap[0].interval[0] > 0.1 and found.gap[1].interval[0] > 0.1
    assert found.relative_gap.interval[0] > 1
    assert found.gap[2].interval[0] < 0.05  # under so much noise no image can be distinguished from another
    assert found.n_train == 40 and found.n_heldout == 30


def test_a_conditional_model_gets_the_classes():
    """Every image has the grey of its class: with classes the loss is 0, without them it is the variance between classes."""
    greys = np.array([20, 120, 220], np.uint8)
    classes = [torch.arange(n) % 3 for n in (30, 24)]
    sets = [np.broadcast_to(greys[k][:, None, None, None], (len(k), 4, 4, 1)).copy() for k in classes]

    def denoise(x, sigma, labels=None):
        means = torch.from_numpy(greys / 127.5 - 1).float()
        return (means.mean().expand(len(x)) if labels is None else means[labels])[:, None, None, None].expand_as(x)

    blind = heldout_loss(denoise, *sets, levels=(1.0,), batch=7)
    assert blind.heldout[0].value == pytest.approx(float(np.var(greys / 127.5)), rel=1e-5)
    seeing = heldout_loss(denoise, *sets, levels=(1.0,), batch=7, labels=(classes[0], classes[1]))
    assert seeing.heldout[0].value < 1e-12 and seeing.train[0].value < 1e-12


def test_the_relative_gap_is_the_delta_method():
    """By leaving out one image at a time, of either set."""
    rng = np.random.default_rng(0)
    h, t = torch.from_numpy(rng.gamma(3, 1, (1, 50))), torch.from_numpy(rng.gamma(2, 1, (1, 80)))
    found = _summary([1.0], [h, t], 1, 0.95).relative_gap
    assert found.value == pytest.approx(float(h.mean() / t.mean()) - 1)
    a, b = h[0].numpy(), t[0].numpy()
    # pairs k < 50 share noise and leave together; the others of the second set alone
    left = [np.delete(a, k).mean() / np.delete(b, k).mean() for k in range(50)]
    alone = [a.mean() / np.delete(b, k).mean() for k in range(50, 80)]
    spread = sum((np.array(x) - found.value - 1).__pow__(2).sum() for x in (left, alone))
    assert found.se == pytest.approx(np.sqrt(spread), rel=0.1)


def test_more_draws_reduce_only_the_variance_of_the_noise():
    x = pixels(GAUSS.sample(300))
    one, many = (heldout_loss(GaussianDenoiser(GAUSS), x, levels=(0.03, 6.0), draws=d) for d in (1, 16))
    assert many.heldout[0].se < 0.4 * one.heldout[0].se  # all noise: a quarter
    assert many.heldout[1].se > 0.9 * one.heldout[1].se  # all images: no change


def test_the_loss_does_not_depend_on_batch_or_training_images():
    x = pixels(GAUSS.sample(50))
    whole = heldout_loss(GaussianDenoiser(GAUSS), x, x, levels=LEVELS)
    split = heldout_loss(GaussianDenoiser(GAUSS), x, levels=LEVELS, batch=7)
    assert [e.value for e in whole.heldout] == pytest.approx([e.value for e in split.heldout], rel=1e-6)
    assert all(g.value == 0 and g.se == pytest.approx(0, abs=1e-8) for g in whole.gap)  # same images, same noise


def test_a_border_is_added_and_left_out():
    """A model of 8 x 8 with a border of 2 takes images of 4 x 4; errors in the border do not count."""

    class Bordered:
        image_shape, crop, schedule = (1, 8, 8), 2, Cosine()

        def __call__(self, x, sigma):
            assert x.shape[1:] == (1, 8, 8)
            out = torch.full_like(x, 77.0)
            out[:, :, 2:-2, 2:-2] = 0.5
            return out

    grey = np.full((3, 4, 4, 1), 0, np.uint8)  # -1 in the model's range
    assert heldout_loss(Bordered(), grey, levels=(1.0,)).heldout[0].value == pytest.approx(1.5**2)


def test_default_levels_are_within_the_schedule_of_a_network():
    model = small_model().eval()
    rng = np.random.default_rng(0)
    heldout, train = (rng.integers(0, 256, (5, 8, 8, 1), dtype=np.uint8) for _ in range(2))
    found = heldout_loss(model, heldout, train, draws=1)
    assert len(found.sigma) == 9 and found.sigma[0] >= max(0.05, float(model.schedule.sigma_min)) - 1e-12
    assert found.sigma[-1] <= min(20.0, float(model.schedule.sigma_max)) + 1e-9
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["n_train"] == 5 and len(plain["gap"]) == 9
    assert "relative gap" in str(found) and "relative" not in str(heldout_loss(model, heldout, draws=1))


def test_v_weights_make_the_loss_of_a_v_network():
    """The overall loss is `Preconditioned.loss` of a network that predicts v."""
    model = small_model().eval()
    heldout = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    found = heldout_loss(model, heldout, levels=(0.7,), draws=1, seed=4)
    from alphabar.training.loss import image_losses

    own = image_losses(model.loss, heldout, torch.full((6,), 0.7, dtype=torch.float64), 4)
    assert found.overall.value == pytest.approx(float(own.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": (0.0, 1.0)}, "give sigmas above 0"),
        ({"levels": ()}, "give sigmas above 0"),
        ({"draws": 0}, "give at least 1"),
        ({"train": np.zeros((1, 2, 2, 1), np.uint8)}, r"1 training image\(s\)"),
        ({"train": np.zeros((5, 3, 2, 1), np.uint8)}, r"training images of \(3, 2, 1\)"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        heldout_loss(GaussianDenoiser(GAUSS), np.zeros((5, 2, 2, 1), np.uint8), **change)
