"""Weights of the methods that look back, against scipy's integrals of scipy's polynomials."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import lagrange

from alphabar.sampling.samplers.deis import deis_weights, vp_time
from alphabar.sampling.samplers.quadrature import exponential_moments, weights


@pytest.mark.parametrize("z", [1e-6, 1e-3, 0.3, 0.999, 1.0, 2.5, 30.0, 200.0])
def test_moments_of_the_exponential(z):
    for k, moment in enumerate(exponential_moments(z, 4)):
        truth, _ = quad(lambda u, k=k: z * np.exp(-z * (1 - u)) * u**k, 0, 1, epsabs=0, epsrel=1e-12, points=[max(0, 1 - 10 / z)])
        assert moment == pytest.approx(truth, rel=1e-10)


def test_weights_are_integrals_of_lagranges_polynomials():
    nodes = [0.0, -0.7, -1.9, 1.0]
    w = weights(nodes, [1 / (k + 1) for k in range(4)])
    for j in range(4):
        truth = quad(lagrange(nodes, np.eye(4)[j]), 0, 1)[0]
        assert w[j] == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("variable", ["t", "log_sigma"])
@pytest.mark.parametrize(("levels", "s_next"), [([3.0, 4.0, 9.0], 1.0), ([80.0, 150.0], 3.0), ([0.02, 0.3, 0.5, 0.6], 0.004)])
def test_weights_of_deis(variable, levels, s_next):
    of = np.log if variable == "log_sigma" else vp_time
    for j, w in enumerate(deis_weights(levels, s_next, variable)):
        basis = lagrange([of(s) - of(levels[0]) for s in levels], np.eye(len(levels))[j])
        truth = quad(lambda s, basis=basis: basis(of(s) - of(levels[0])), levels[0], s_next, epsabs=0, epsrel=1e-10)[0]
        assert w == pytest.approx(truth, rel=1e-7)


def test_weights_of_deis_reach_level_0():
    for levels in ([0.3, 0.5, 0.9], [5.0, 9.0, 30.0], [0.001, 0.002]):
        w = deis_weights(levels, 0.0, "t")
        basis = [lagrange([vp_time(s) for s in levels], row) for row in np.eye(len(levels))]
        truth = [quad(lambda s, b=b: b(vp_time(s)), levels[0], 0, epsabs=0, epsrel=1e-10)[0] for b in basis]
        assert w == pytest.approx(truth, rel=1e-6)


def test_the_time_of_deis_is_that_of_its_vp_sde():
    """log alphabar = -(0.1 t + 19.9 t^2 / 2), the integral of beta_t from 0.1 to 20: at t = 1 alphabar = 4.3e-5."""
    for t in (1e-4, 0.1, 0.5, 1.0):
        alphabar = np.exp(-quad(lambda u: 0.1 + 19.9 * u, 0, t)[0])
        assert vp_time(((1 - alphabar) / alphabar) ** 0.5) == pytest.approx(t, rel=1e-9)
