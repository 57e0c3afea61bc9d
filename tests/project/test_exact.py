"""Closed-form denoisers, against numerical integration, Tweedie's formula and the ODE solved by scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad, solve_ivp

from alphabar.core.seeds import starting_noise
from alphabar.data.images import to_pixels
from alphabar.sampling.sample import sample
from tests.fixtures.exact import FiniteDenoiser, GaussianDenoiser, MixtureDenoiser
from tests.fixtures.toy import Gaussian, Mixture


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def gaussian():
    return GaussianDenoiser(Gaussian(f64([0.3, -0.2]).reshape(1, 1, 2), f64([0.5, 0.1]).reshape(1, 1, 2)))


def mixture(stds=(0.3, 0.1, 0.25)):
    means = f64([[-0.6, 0.2], [0.5, 0.5], [0.4, -0.7]]).reshape(3, 1, 1, 2)
    return MixtureDenoiser(Mixture(f64([0.2, 0.5, 0.3]), means, f64(stds)))


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0])
def test_gaussian_is_the_posterior_mean_by_integration(gaussian, sigma):
    x = 0.7
    prior, noise = stats.norm(0.3, 0.5), stats.norm(0, sigma)
    around = {"points": [x, 0.3], "limit": 500}
    mass = quad(lambda x0: prior.pdf(x0) * noise.pdf(x - x0), -4, 4, **around)[0]
    mean = quad(lambda x0: x0 * prior.pdf(x0) * noise.pdf(x - x0), -4, 4, **around)[0] / mass
    out = gaussian(f64([x, 0.0]).reshape(1, 1, 1, 2), f64([sigma]))
    assert out[0, 0, 0, 0].item() == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_mixture_is_tweedies_formula(sigma):
    """E[x0 | x] = x + sigma^2 grad log p(x; sigma), the gradient by autograd of scipy's mixture density in torch."""
    oracle = mixture()
    x = starting_noise(0, range(40), (1, 1, 2)).double().requires_grad_()
    var = oracle.data.stds**2 + sigma**2
    parts = [
        torch.distributions.MultivariateNormal(m.flatten(), v * torch.eye(2, dtype=torch.float64))
        for m, v in zip(oracle.data.means, var, strict=True)
    ]
    log_p = torch.logsumexp(
        torch.stack([w.log() + p.log_prob(x.flatten(1)) for w, p in zip(oracle.data.weights, parts, strict=True)]), 0
    )
    (score,) = torch.autograd.grad(log_p.sum(), x)
    out = oracle(x.detach(), torch.full((40,), sigma, dtype=torch.float64))
    assert torch.allclose(out, (x + sigma**2 * score).detach(), rtol=1e-10, atol=1e-12)


def test_one_component_is_the_gaussian():
    mean = starting_noise(1, [0], (1, 2, 3)).double()
    one = MixtureDenoiser(Mixture(f64([1.0]), mean, f64([0.4])))
    same = GaussianDenoiser(Gaussian(mean[0], torch.full((1, 2, 3), 0.4, dtype=torch.float64)))
    x, sigma = starting_noise(0, range(5), (1, 2, 3)).double(), f64([0.0, 0.1, 1, 5, 80])
    assert torch.allclose(one(x, sigma), same(x, sigma), rtol=1e-12)


def test_components_of_std_0_are_points():
    oracle = mixture((0.0, 0.0, 0.0))
    near = oracle.data.means + 0.01
    assert torch.allclose(oracle(near, f64([1e-3] * 3)), oracle.data.means, atol=1e-12)
    far = oracle(near, f64([1e4] * 3))
    assert torch.allclose(far, oracle.data.mean.expand(3, 1, 1, 2), atol=1e-4)
    with pytest.raises(ValueError, match="no density at sigma = 0: give a level above 0"):
        oracle(near, f64([0.0] * 3))


def test_responsibilities_are_probabilities():
    chance = mixture().responsibilities(starting_noise(0, range(9), (1, 1, 2)), f64([0.5] * 9))
    assert torch.allclose(chance.sum(1), torch.ones(9, dtype=torch.float64)) and (chance >= 0).all()
    sure = mixture().responsibilities(mixture().data.means, f64([1e-3] * 3))
    assert sure.argmax(1).tolist() == [0, 1, 2]


def test_flow_is_the_ode(gaussian):
    x = f64([[2.0, -1.0]]).reshape(1, 1, 1, 2)

    def slope(s, flat):
        y = torch.from_numpy(flat).reshape(x.shape)
        return ((y - gaussian(y, f64([s]))) / s).flatten().numpy()

    for low in (1e-6, 0.5):
        solved = solve_ivp(slope, (4.0, low), x.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-12)
        assert np.allclose(gaussian.flow(x, 4.0, low).flatten(), solved.y[:, -1], atol=1e-8)


def test_a_constant_pixel_keeps_its_value(gaussian):
    oracle = GaussianDenoiser(Gaussian(f64([[[0.3, 0.5]]]), f64([[[0.2, 0.0]]])))
    out = oracle(f64([9.0, 9.0]).reshape(1, 1, 1, 2).expand(2, 1, 1, 2), f64([0.0, 1.0]))
    assert torch.isfinite(out).all() and (out[..., 1] == 0.5).all() and out[0, 0, 0, 0] == 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_has_the_type_of_the_images(gaussian, dtype):
    x = starting_noise(0, range(4), (1, 1, 2)).to(dtype)
    for oracle in (gaussian, mixture()):
        assert oracle(x, torch.ones(4, dtype=dtype)).dtype == dtype


def test_each_image_has_its_own_level():
    oracle, x, sigma = mixture(), starting_noise(0, range(4), (1, 1, 2)).double(), f64([0.01, 0.1, 1, 10])
    one_by_one = torch.cat([oracle(x[k : k + 1], sigma[k : k + 1]) for k in range(4)])
    assert torch.allclose(oracle(x, sigma), one_by_one, rtol=1e-12)


def test_sample_accepts_a_closed_form_denoiser(gaussian):
    samples = sample(gaussian, 3, steps=4, progress=False)
    assert samples.images.shape == (3, 1, 2, 1) and samples.record["model"] is None


def test_finite_images_are_a_mixture_of_points():
    means = starting_noise(2, range(7), (1, 2, 3)).double()
    finite = FiniteDenoiser(means)
    points = MixtureDenoiser(Mixture(torch.full((7,), 1 / 7, dtype=torch.float64), means, torch.zeros(7, dtype=torch.float64)))
    x, sigma = starting_noise(0, range(5), (1, 2, 3)).double(), f64([0.02, 0.1, 1, 5, 80])
    assert torch.allclose(finite(x, sigma), points(x, sigma), rtol=1e-9, atol=1e-12)


def test_finite_images_at_sigma_0_and_invalid_images():
    images = starting_noise(2, range(4), (1, 2, 3)).double()
    finite = FiniteDenoiser(images)
    assert torch.equal(finite(images[[2, 0]] + 0.01, f64([0.0, 1e-9])), images[[2, 0]])
    with pytest.raises(ValueError, match=r"wanted finite \(n, c, h, w\)"):
        FiniteDenoiser(images[:0])
    with pytest.raises(ValueError, match=r"wanted finite \(n, c, h, w\)"):
        FiniteDenoiser(images * torch.inf)


def test_samples_of_a_finite_set_are_copies():
    """Every DDIM sample is one of the images, exactly in 256 levels, and each image occurs."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4))).double() / 127.5 - 1
    samples = sample(FiniteDenoiser(images), 64, steps=40, progress=False).images
    known = [image.tobytes() for image in to_pixels(images)]
    assert {s.tobytes() for s in samples} == set(known)
