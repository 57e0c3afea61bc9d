"""Noising: each prediction type gives x0 back, and half precision loses no noise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphabar.core.seeds import starting_noise
from alphabar.schedule.betas import Linear
from alphabar.schedule.continuous import Cosine
from alphabar.schedule.noising import (
    PREDICTIONS,
    add_noise,
    add_noise_vp,
    alphabar_of,
    eps_of,
    input_scale,
    per_image,
    sigma_of,
    snr,
    target,
    to_x0,
)


@pytest.fixture
def images():
    return starting_noise(1, range(6), (3, 4, 5)).clamp(-1, 1), starting_noise(2, range(6), (3, 4, 5))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_to_x0_inverts_target(kind, images):
    x0, noise = (a.double() for a in images)
    sigma = torch.tensor([1e-3, 0.02, 0.5, 1, 8, 80]).double()
    x = add_noise(x0, sigma, noise)
    back = to_x0(kind, target(kind, x0, noise, sigma), x, sigma)
    assert torch.allclose(back, x0, atol=1e-11)
    assert torch.allclose(eps_of(x, back, sigma), noise, atol=1e-8)


@settings(deadline=None)  # a busy machine is no failure
@given(sigma=st.floats(1e-4, 1e3))
def test_v_is_salimans_and_hos(sigma):
    s = torch.tensor([sigma], dtype=torch.float64)
    x0, eps = torch.full((1, 1, 1, 1), 0.3).double(), torch.full((1, 1, 1, 1), -1.1).double()
    angle = torch.atan(s)  # alpha = cos, sigma = sin: v = d y / d angle
    v = torch.cos(angle) * eps - torch.sin(angle) * x0
    assert torch.allclose(target("v", x0, eps, s), v.reshape(1, 1, 1, 1), rtol=1e-9)


def test_one_number_per_image(images):
    x0, noise = images
    sigma = torch.tensor([0.0, 0.1, 1, 2, 3, 4])
    x = add_noise(x0, sigma, noise)
    for k in range(6):
        assert torch.allclose(x[k], x0[k] + sigma[k] * noise[k])
    assert torch.equal(x[0], x0[0])
    assert per_image(sigma, x0).shape == (6, 1, 1, 1)


@pytest.mark.parametrize("data_range", [1.0, 0.5])
def test_add_noise_vp_is_add_noise_in_other_units(data_range, images):
    x0, noise = (a.double() for a in images)
    t = torch.tensor([0, 10, 200, 500, 800, 999]).double()
    y = add_noise_vp(data_range * x0, t, noise, Linear())
    ab = per_image(Linear().alphabar(t), x0)
    x = add_noise(x0, Linear().sigma(t) / data_range, noise)
    assert torch.allclose(y, ab.sqrt() * data_range * x, rtol=1e-10)


def test_noise_and_v_are_diffusers(images):
    diffusers = pytest.importorskip("diffusers")
    x0, noise = images
    t = torch.tensor([0, 10, 200, 500, 800, 999])
    theirs = diffusers.DDPMScheduler()
    assert torch.allclose(add_noise_vp(x0, t.double(), noise, Linear()), theirs.add_noise(x0, noise, t), atol=2e-6)
    v = target("v", x0, noise, Linear().sigma(t.double()))
    assert torch.allclose(v, theirs.get_velocity(x0, noise, t), atol=2e-6)


def test_flow_is_diffusers(images):
    diffusers = pytest.importorskip("diffusers")
    x0, noise = images
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    for k in (3, 500, 900):
        t = float(theirs.sigmas[k])
        y = theirs.scale_noise(x0, theirs.timesteps[k : k + 1], noise)
        sigma = torch.full((6,), t / (1 - t))
        x = add_noise(x0, sigma, noise)
        assert torch.allclose(per_image(input_scale("flow", sigma), x) * x, y, atol=1e-5)
        assert torch.allclose(to_x0("flow", noise - x0, x, sigma), x0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=str)
def test_half_precision_loses_no_noise(dtype, schedule):
    # diffusers casts alphas_cumprod to the images' type: bfloat16 leaves ten timesteps of its linear schedule clean
    t = torch.arange(1000).double() if schedule.steps else torch.linspace(schedule.t_min, schedule.t_max, 1000).double()
    zero, one = torch.zeros(1000, 1, 1, 1, dtype=dtype), torch.ones(1000, 1, 1, 1, dtype=dtype)
    noise = add_noise_vp(zero, t, one, schedule).flatten().double()
    assert torch.allclose(noise, (1 - schedule.alphabar(t)).sqrt(), rtol=1e-6, atol=0)
    sigma = schedule.sigma(t)
    assert torch.allclose(add_noise(zero, sigma, one).flatten().double(), sigma, rtol=1e-6, atol=0)
    x = add_noise(zero, sigma, one)
    for kind in PREDICTIONS:
        assert to_x0(kind, one, x.to(dtype), sigma).dtype == torch.float32


def test_sigma_alphabar_and_snr():
    sigma = torch.logspace(-3, 2, 50, dtype=torch.float64)
    ab = alphabar_of(sigma)
    assert torch.allclose(sigma_of(ab), sigma, rtol=1e-9)
    assert torch.allclose(snr(sigma), ab / (1 - ab), rtol=1e-9)


def test_unknown_prediction_types_are_refused(images):
    x0, noise = images
    with pytest.raises(ValueError, match="'epsilon' is unknown: use one of eps, x0, v, flow"):
        to_x0("epsilon", noise, x0, torch.ones(6))
    with pytest.raises(ValueError, match="'score' is unknown"):
        target("score", x0, noise, torch.ones(6))
