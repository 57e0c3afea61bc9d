"""Toy distributions: moments are those that they claim, and samples are addressed."""

import pytest
import torch

from tests.fixtures.toy import Gaussian, Mixture


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def check_moments(samples: torch.Tensor, mean: torch.Tensor, cov: torch.Tensor) -> None:
    flat = samples.flatten(1)
    n = len(flat)
    # five standard errors of a mean; of a covariance, the bound sqrt(2) var holds for Gaussians and roughly here
    error = 5 * (cov.diagonal() / n).sqrt()
    assert bool(((flat.mean(0) - mean.flatten()).abs() <= error + 1e-12).all())
    scale = (cov.diagonal()[:, None] * cov.diagonal()[None]).sqrt()
    assert bool(((torch.cov(flat.T) - cov).abs() <= 5 * 2**0.5 * scale / n**0.5 + 1e-12).all())


def test_gaussian_moments() -> None:
    g = Gaussian(torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(1, 2, 3), f64(0, 0.1, 0.2, 0.5, 1, 2).reshape(1, 2, 3))
    x = g.sample(20_000, seed=3)
    assert x.dtype == torch.float64
    assert x.shape == (20_000, *g.image_shape)
    check_moments(x, g.mean, g.cov)


def test_mixture_moments() -> None:
    means = torch.randn((3, 1, 2, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    m = Mixture(f64(0.2, 0.3, 0.5), means, f64(0.0, 0.1, 0.4))
    check_moments(m.sample(20_000, seed=1), m.mean, m.cov)
    share = torch.bincount(m.components(20_000, seed=1)) / 20_000
    torch.testing.assert_close(share, m.weights.float(), atol=0.02, rtol=0)


def test_noise_does_not_depend_on_the_component() -> None:
    # one image of many seeds: were both drawn from the same bits, the noise would be the larger in odd components
    m = Mixture.grid((1, 1, 2), side=4, std=1.0)
    k = torch.cat([m.components(1, seed) for seed in range(500)])
    noise = torch.cat([m.sample(1, seed) for seed in range(500)]) - m.means[k]
    for part in (k % 2 == 0, k % 2 == 1):
        first = noise[part][:, 0, 0, 0]
        assert abs(float(first.mean())) < 5 / len(first) ** 0.5
        assert float(first.std()) == pytest.approx(1, abs=0.16)


def test_a_mixture_of_one_is_a_gaussian() -> None:
    mean = f64(0.1, -0.3).reshape(1, 1, 2)
    m, g = Mixture(f64(1), mean[None], f64(0.5)), Gaussian(mean, torch.full_like(mean, 0.5))
    torch.testing.assert_close(m.cov, g.cov)
    torch.testing.assert_close(m.sample(5, seed=2), g.sample(5, seed=2))


@pytest.mark.parametrize("toy", [Mixture.grid(), Gaussian(torch.zeros(1, 2, 2).double(), torch.ones(1, 2, 2).double())])
def test_the_first_images_of_a_seed_are_the_same_for_any_number(toy: Gaussian | Mixture) -> None:
    assert torch.equal(toy.sample(100, seed=5)[:7], toy.sample(7, seed=5))
    assert not torch.equal(toy.sample(7, seed=5), toy.sample(7, seed=6))


def test_the_grid_is_a_grid() -> None:
    m = Mixture.grid((1, 1, 2), side=3, spread=0.6)
    points = {tuple(round(v, 6) for v in p.flatten().tolist()) for p in m.means}
    assert points == {(a, b) for a in (-0.6, 0.0, 0.6) for b in (-0.6, 0.0, 0.6)}
    assert Mixture.grid((3, 4, 4), side=1).means.abs().max() == 0
    torch.testing.assert_close(m.cov, torch.eye(2, dtype=torch.float64) * (0.6**2 * 2 / 3 + 0.05**2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gaussian(torch.zeros(1, 2, 2), torch.ones(1, 2, 2)), "float32.*float64"),
        (lambda: Gaussian(torch.zeros(2, 2).double(), torch.ones(2, 2).double()), "3 axes"),
        (lambda: Gaussian(torch.zeros(1, 2, 2).double(), torch.ones(1, 2, 3).double()), "one std per pixel"),
        (lambda: Gaussian(torch.zeros(1, 2, 2).double(), -torch.ones(1, 2, 2).double()), "down to -1"),
        (lambda: Gaussian(torch.zeros(1, 2, 2).double() / 0, torch.ones(1, 2, 2).double()), "NaN"),
        (lambda: Mixture(f64(0.5, 0.6), torch.zeros(2, 1, 1, 1).double(), f64(1, 1)), "add up to 1.1"),
        (lambda: Mixture(f64(1.0, 0.0), torch.zeros(2, 1, 1, 1).double(), f64(1, 1)), "weights > 0"),
        (lambda: Mixture(f64(0.5, 0.5), torch.zeros(3, 1, 1, 1).double(), f64(1, 1)), "2 weights, 3 means"),
        (lambda: Mixture(f64(1.0), torch.zeros(1, 1, 1, 1).double(), f64(-1)), "down to -1"),
        (lambda: Mixture.grid((1, 4, 1)), "2 wide"),
    ],
)
def test_invalid_distributions_are_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]
