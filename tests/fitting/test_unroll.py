"""The unrolled sampler: its images are the sampler's, its gradients are finite differences."""

import numpy as np
import pytest
import torch

from alphabar.core.seeds import SeededNoise
from alphabar.denoiser.wrappers import ClipX0
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.descent import FreeParameters
from alphabar.fitting.unroll import unroll
from tests.fitting.shared import LEVELS, carried_out, smooth_model, smooth_models, some_coefficients, starts


@smooth_models
@pytest.mark.parametrize("clip", [None, 0.3])
def test_unrolled_is_carried_out(prediction, schedule, clip):
    model, c, unit = smooth_model(prediction, schedule), some_coefficients(schedule), starts(6, (1, 2, 2)).double()
    noise = SeededNoise(0, range(6))
    limit = None if clip is None else (lambda x0_hat: x0_hat.clamp(-clip, clip))
    denoise = model if clip is None else ClipX0(model, -clip, clip)
    out = unroll(model, unit, c, noise, clip=limit)
    assert torch.allclose(out, carried_out(c, denoise, unit, noise), rtol=0, atol=1e-6)
    assert out.requires_grad is True  # through the network's weights


@smooth_models
def test_gradients_are_finite_differences(prediction, schedule):
    model, c, unit = smooth_model(prediction, schedule), some_coefficients(schedule), starts(6, (1, 2, 2)).double()
    free, noise = FreeParameters(c), SeededNoise(0, range(6))
    assert free.size == 3 + 4 + 10 + 3  # levels but the first, keep, mix, noise but the last
    weight = starts(6, (1, 2, 2), seed=5).double()

    def loss(theta):
        return (unroll(model, unit, free.at(theta), noise) * weight).sum()

    theta = torch.from_numpy(np.random.default_rng(0).normal(0, 0.01, free.size)).requires_grad_()
    loss(theta).backward()
    h = 3e-3 * torch.eye(free.size, dtype=torch.float64)  # the network receives times and levels in float32
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
def test_images_with_numbers_of_their_own(prediction, schedule):
    """Several sets of numbers in one call: images and gradients are those of each set alone."""
    model, c, unit = smooth_model(prediction, schedule), some_coefficients(schedule), starts(4, (1, 2, 2)).double()
    free = FreeParameters(c)
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
    free = FreeParameters(c, noise=False)
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
