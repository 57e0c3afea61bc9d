"""A Gaussian, conditioned on a measurement, against the closed form with dense matrices."""

import pytest
import torch

from alphabar.restoration.conditional import condition
from alphabar.restoration.operators import Pair
from tests.restoration.problems import SHAPE, matrix, operators

RHO, SIGMA = 0.7, 0.3


def closed_form(a, mean, y):
    """Mean and covariance of x ~ N(mean, RHO^2 I) given y = a x + SIGMA noise."""
    cov = torch.linalg.inv(torch.eye(a.shape[1], dtype=torch.float64) / RHO**2 + a.T @ a / SIGMA**2)
    return (cov @ (mean / RHO**2 + a.T @ y / SIGMA**2)), cov


def pair(operator):
    return Pair(operator.forward, operator.adjoint, SHAPE)


@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize("known", [True, False])
def test_mean_is_the_closed_form(name, known):
    operator = operators()[name]
    mean = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = operator.forward(mean.flip(0)) + 0.2
    found = condition(mean, RHO, y, operator if known else pair(operator), SIGMA)
    wanted = torch.stack([closed_form(matrix(operator), m, v)[0] for m, v in zip(mean.flatten(1), y.flatten(1), strict=True)])
    assert torch.allclose(found.flatten(1), wanted, atol=1e-9 if known else 1e-4)


@pytest.mark.parametrize("name", operators())
def test_draws_have_the_covariance(name):
    """A draw is linear in its noise, so its covariance is B B^T, B being what it makes of unit vectors of noise."""
    operator = operators()[name]
    a = matrix(operator)
    zero, d, k = torch.zeros(1, *SHAPE, dtype=torch.float64), a.shape[1], a.shape[0]
    empty = operator.forward(zero)
    parts = [condition(zero, RHO, empty, operator, SIGMA, (e.reshape(zero.shape), empty)) for e in torch.eye(d).double()]
    parts += [condition(zero, RHO, empty, operator, SIGMA, (zero, e.reshape(empty.shape))) for e in torch.eye(k).double()]
    b = torch.stack([p.flatten() for p in parts], 1)
    assert torch.allclose(b @ b.T, closed_form(a, zero.flatten(), empty.flatten())[1], atol=1e-9)


def test_without_noise_what_is_measured_is_kept_exactly():
    operator = operators()["half"]
    mean, y = torch.randn(1, *SHAPE), operator.forward(torch.randn(1, *SHAPE))
    found = condition(mean, 1.0, y, operator, 0.0)
    assert torch.allclose(operator.forward(found), y)
    assert torch.equal(found[..., 2:], mean[..., 2:])
