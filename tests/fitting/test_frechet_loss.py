"""The Fréchet distance as a loss: its value is the distance, its gradient that of the distance."""

import numpy as np
import pytest
import torch

from alphabar.data.images import to_model
from alphabar.evaluation.fid import frechet
from alphabar.features.extractor import Extractor
from alphabar.features.stats import FeatureStats
from alphabar.fitting.frechet_loss import Embeds, FrechetLoss
from tests.fixtures.sets import Linear, stripes


class Bent:
    """Smooth features in double precision."""

    dim = 3
    fingerprint = "bent"

    def __init__(self, pixels: int = 8) -> None:
        self.matrix = torch.from_numpy(np.random.default_rng(0).standard_normal((pixels, 3)) / 2)

    def embed(self, x):
        return torch.tanh(x.flatten(1).double() @ self.matrix) + 0.3 * (x.flatten(1).double() @ self.matrix.roll(1, 1))


def images(n, seed, scale=0.4, shift=0.0, shape=(2, 2, 2)):
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, scale, (n, *shape))).clamp(-0.95, 0.95)


def stats(extractor, x, name=None):
    return FeatureStats.of(extractor.embed(x).detach(), name or extractor.fingerprint)


@pytest.fixture
def real():
    return images(500, 0, 0.3, 0.1)


def test_the_value_is_the_distance(real):
    bent = Bent()
    pull = FrechetLoss(bent, stats(bent, real), remember=10**6)
    parts = [images(n, n) for n in (40, 60, 25)]
    pull.add(parts[0])
    for k in (1, 2):
        wanted = frechet(stats(bent, torch.cat(parts[: k + 1])), stats(bent, real))
        assert float(pull(parts[k])) == pytest.approx(wanted, rel=1e-9) == pull.distance()
    pull.forget()
    with pytest.raises(ValueError, match="at least two images"):
        pull.distance()


def test_no_distance_from_itself(real):
    bent = Bent()
    x = real.clone().requires_grad_()
    value = FrechetLoss(bent, stats(bent, real))(x)
    value.backward()
    assert abs(float(value.detach())) < 1e-9 and x.grad.abs().max() < 1e-8


def test_the_gradient_is_that_of_the_distance(real):
    """The batch stands for all that is remembered: its gradient is as many times larger as there are more images."""
    bent = Bent()
    pull = FrechetLoss(bent, stats(bent, real), remember=10**6)
    old, x = images(2990, 1), images(10, 2)
    pull.add(old)
    x.requires_grad_()
    pull(x).backward()

    def distance(x):
        return frechet(stats(bent, torch.cat([old, x])), stats(bent, real))

    wanted = torch.zeros_like(x)
    h = 1e-4
    with torch.no_grad():
        for k in range(x.numel()):
            e = torch.zeros(x.numel(), dtype=torch.float64)
            e[k] = h
            e = e.reshape(x.shape)
            wanted.view(-1)[k] = (distance(x + e) - distance(x - e)) / (2 * h)
    wanted *= 3000 / 10
    assert wanted.abs().max() > 0.01
    assert torch.allclose(x.grad, wanted, rtol=1e-2, atol=2e-3 * float(wanted.abs().max()))


def test_a_step_against_the_gradient_brings_images_nearer(real):
    bent = Bent()
    x = images(200, 3, 0.5, -0.2)
    before = frechet(stats(bent, x), stats(bent, real))
    for _ in range(20):
        x = x.detach().requires_grad_()
        FrechetLoss(bent, stats(bent, real))(x).backward()
        x = x - 20 * x.grad
    assert frechet(stats(bent, x.detach()), stats(bent, real)) < 0.2 * before


def test_features_that_never_change_do_no_harm(real):
    """A dead feature, of the real images and of the others: no variance, and no gradient that is not finite."""
    bent = Bent()
    bent.matrix[:, 0] = 0
    bent.embed = lambda x, embed=bent.embed: embed(x) * torch.tensor([1.0, 1.0, 0.0])
    pull = FrechetLoss(bent, stats(bent, real))
    x = images(50, 4).requires_grad_()
    value = pull(x)
    value.backward()
    assert float(value.detach()) == pytest.approx(frechet(stats(bent, x), stats(bent, real)), rel=1e-5)
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


@pytest.mark.parametrize("remember", [0, 1, 30, 40, 45, 70, 10**6])
def test_the_last_ones_are_remembered(remember, real):
    """Whole batches, the oldest dropped while `remember` images are left without it; the present one always counts."""
    bent = Bent()
    pull = FrechetLoss(bent, stats(bent, real), remember=remember)
    seen = []
    for k in range(6):
        x = images(20, k)
        value = float(pull(x))
        seen.append(x)
        while len(seen) > 1 and sum(map(len, seen[1:])) >= remember:
            seen.pop(0)
        assert value == pytest.approx(frechet(stats(bent, torch.cat(seen)), stats(bent, real)), rel=1e-9)
    assert sum(map(len, seen)) == {0: 20, 1: 20, 30: 40, 40: 40, 45: 60, 70: 80, 10**6: 120}[remember]
    pull.forget()
    assert float(pull(seen[-1])) == pytest.approx(frechet(stats(bent, seen[-1]), stats(bent, real)), rel=1e-9)


def test_padding_is_cut_off_and_images_are_clamped(real):
    bent = Bent()
    inside = images(40, 5)
    padded = torch.nn.functional.pad(inside, (3, 3, 3, 3), value=7.0)
    plain, cropped = (FrechetLoss(bent, stats(bent, real), crop=c) for c in (0, 3))
    assert float(plain(inside)) == float(cropped(padded))
    beyond = inside.clone()
    beyond[:, 0, 0, 0] = 1.5
    within = inside.clone()
    within[:, 0, 0, 0] = 1.0
    plain.forget()
    value = float(plain(within))
    plain.forget()
    assert float(plain(beyond)) == value


def test_another_extractors_statistics_are_refused(real):
    bent = Bent()
    with pytest.raises(ValueError, match="statistics of extractor other, but the extractor is bent"):
        FrechetLoss(bent, stats(bent, real, "other"))


def test_which_extractors_pass_on_a_gradient(toy_extractor, linear):
    assert isinstance(toy_extractor, Embeds) and isinstance(Bent(), Embeds) and not isinstance(linear, Embeds)
    assert not isinstance(Linear(), Embeds)


def test_a_trained_extractor(toy_extractor: Extractor):
    """Its embed gives the features that it gives of pixels, and a gradient."""
    pixels, real = stripes(300, 3).pixels, stripes(400, 4).pixels
    x = to_model(pixels)
    assert torch.allclose(toy_extractor.embed(x), toy_extractor.features(pixels), atol=1e-5)
    wanted = FeatureStats.of(toy_extractor.features(real), toy_extractor.fingerprint)
    noisy = (x + torch.from_numpy(np.random.default_rng(0).standard_normal(x.shape)).float()).requires_grad_()
    value = FrechetLoss(toy_extractor, wanted)(noisy)
    value.backward()
    assert float(value.detach()) > 3 * float(FrechetLoss(toy_extractor, wanted)(x).detach()) > 0
    assert noisy.grad.abs().max() > 0 and all(p.grad is None for p in toy_extractor.parameters())
