"""Every method on Gaussian and mixture data, against the closed form of the posterior."""

import math

import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.wrappers import CountCalls
from alphabar.restoration.catalogue import METHODS, default_method, find_method, plan
from alphabar.restoration.operators import Mask, Pair
from alphabar.schedule.continuous import LogSigma
from tests.fixtures.exact import MixtureDenoiser
from tests.fixtures.toy import Mixture
from tests.restoration.problems import LEVELS, SHAPE, Smooth, measured, operators


def run(name, operator, calls, *, n=3, denoise=None, indices=None, sigma_y=0.1, **options):
    """n images and the calls that they cost."""
    indices = range(n) if indices is None else indices
    count = CountCalls(denoise or Smooth())
    sigmas, arguments = plan(METHODS[name], LEVELS, operator, sigma_y, calls, options)
    y = operator.forward(Smooth().sample(1).float()).expand(len(indices), -1, -1, -1)
    x = starting_noise(0, indices, SHAPE) * float(sigmas[0])
    noise = SeededNoise(0, indices)
    return METHODS[name].fn(count, y, operator, sigma_y, sigmas, noise, x, **arguments), count.calls


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", operators())
def test_calls_are_at_most_those_asked_for_and_the_batch_changes_nothing(name, kind):
    operator = operators()[kind]
    out, calls = run(name, operator, 20)
    assert 15 < calls <= 20
    assert torch.isfinite(out).all()
    alone, _ = run(name, operator, 20, indices=[2])
    assert torch.allclose(alone[0], out[2], atol=1e-5)


@pytest.mark.parametrize("name", ["diffpir", "dps", "daps", "mmps"])
def test_a_pair_of_functions_gives_what_singular_values_give(name):
    operator = operators()["averages"]
    pair = Pair(operator.forward, operator.adjoint, SHAPE)
    one, two = (run(name, A, 20)[0] for A in (operator, pair))
    assert torch.allclose(one, two, atol=1e-3)


def test_gibbs_approaches_the_posterior_as_calls_grow():
    few, more = (measured("gibbs", operators()["half"], calls, n=200) for calls in (24, 300))
    assert few.mean > 0.25
    assert more.mean < 0.25
    assert 0.7 < more.variance < 1.15


@pytest.mark.parametrize("kind", operators())
def test_mmps_is_nearly_exact_on_a_gaussian(kind):
    """With few calls, by the iterations that solve the system: 200 draws alone give 0.07."""
    found = measured("mmps", operators()[kind], 40, n=200, iterations=4)
    assert found.mean < 0.14
    assert found.variance == pytest.approx(1, abs=0.2)


# Of 100 calls, half of the pixels missing: errors of the mean and ratios of the variance, as the docstrings state them.
BIAS = {
    "ddrm": (0.25, 0.55), "diffpir": (0.62, 2.4), "repaint": (0.86, 2.3), "dps": (0.53, 7.4), "daps": (0.37, 2.0),
    "gibbs": (0.19, 0.77), "mmps": (0.25, 1.05),
}  # fmt: skip


@pytest.mark.slow(20)
@pytest.mark.parametrize("name", BIAS)
def test_the_bias_is_that_of_the_docstring(name):
    found = measured(name, operators()["half"], 100)
    assert found.mean == pytest.approx(BIAS[name][0], abs=0.08)
    assert found.variance == pytest.approx(BIAS[name][1], rel=0.1)


def test_gibbs_is_exact_where_all_is_measured_at_once():
    found = measured("gibbs", operators()["all"], 30, n=600)
    assert found.mean < 0.1  # 600 draws alone give 0.04
    assert found.cov < 0.15
    assert found.variance == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("name", ["gibbs", "mmps"])
def test_the_components_of_a_mixture_have_their_weights(name):
    """Two components that differ in the pixel that is measured, whose other pixel tells which one was drawn.

    The noise is as wide as the components are apart: with less of it, the chain is stuck in one of them before its level is low
    enough to know their weights (docs/restore.md has figures).
    """
    means = torch.tensor([[-0.3, -0.7], [0.3, 0.7]], dtype=torch.float64).reshape(2, 1, 1, 2)
    stds = torch.full((2,), 0.2, dtype=torch.float64)
    data = MixtureDenoiser(Mixture(torch.tensor([0.5, 0.5], dtype=torch.float64), means, stds), LogSigma(0.002, 80.0))
    operator, y, sigma_y, n = Mask(torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)), 0.3, 0.6, 1000
    var = 0.2**2 + sigma_y**2
    wanted = 1 / (1 + math.exp(((y + 0.3) ** 2 - (y - 0.3) ** 2) / 2 / var))  # of the component at -0.3
    sigmas, arguments = plan(METHODS[name], data.schedule, operator, sigma_y, 60, {})
    x = starting_noise(0, range(n), (1, 1, 2)) * float(sigmas[0])
    out = METHODS[name].fn(
        data, torch.full((n, 1, 1, 2), y) * operator.keep, operator, sigma_y, sigmas, SeededNoise(0, range(n)), x, **arguments
    )
    share = float((out[:, 0, 0, 1] < 0).float().mean())
    assert share == pytest.approx(wanted, abs=0.05)  # the prior has 0.5
    above = out[out[:, 0, 0, 1] > 0][:, 0, 0, 0]  # given the component: N(mean, var) of two Gaussians
    assert float(above.mean()) == pytest.approx((0.3 / 0.04 + y / 0.36) / (1 / 0.04 + 1 / 0.36), abs=0.03)


def test_what_cannot_be_planned_is_refused():
    half = operators()["half"]
    with pytest.raises(ValueError, match=r"lamm is no option of diffpir: .*lam"):
        plan(METHODS["diffpir"], LEVELS, half, 0.1, 20, {"lamm": 3})
    with pytest.raises(ValueError, match="3 calls, and a level of repaint takes 5"):
        plan(METHODS["repaint"], LEVELS, half, 0.1, 3, {})
    with pytest.raises(ValueError, match=r"method 'ddmr' is unknown: .*ddrm"):
        find_method("ddmr")


def test_the_default_is_that_of_the_page():
    kinds = operators()
    wanted = {"half": "mmps", "all": "gibbs", "averages": "mmps", "blur": "mmps"}
    assert {name: default_method(kind) for name, kind in kinds.items()} == wanted
    assert default_method(Pair(lambda x: x, lambda y: y, SHAPE)) == "mmps"
