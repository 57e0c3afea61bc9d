"""Bits per dimension against closed forms: densities of Gaussians and mixtures, and the probability of quantised values."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from alphabar.data.images import to_model
from alphabar.denoiser.wrappers import CountCalls, Labelled
from alphabar.evaluation.likelihood import Scale, bound_bits, log_density, ode_bits, ode_levels, simpson, trace_of_jacobian
from alphabar.schedule.continuous import LogSigma
from tests.fixtures.exact import GaussianDenoiser, MixtureDenoiser
from tests.fixtures.oracles import tiny_network
from tests.fixtures.toy import Gaussian

WIDE = LogSigma(1e-3, 300.0)


def gaussian_of(mean: float, std: float, side: int = 4) -> GaussianDenoiser:
    shape = torch.ones(1, side, side, dtype=torch.float64)
    return GaussianDenoiser(Gaussian(mean * shape, std * shape), WIDE)


def quantised(model: GaussianDenoiser, n: int, kind: str) -> np.ndarray:
    full = {"uint8": 255, "uint16": 65535}[kind]
    x = model.data.sample(n).permute(0, 2, 3, 1).numpy()
    return np.rint((x.clip(-1, 1) + 1) * full / 2).astype(kind)


def bits_of_bins(pixels: np.ndarray, mean: float, std: float) -> np.ndarray:
    """-log2 of the probability of the bin of every value, the mean over each image."""
    full = {"uint8": 255, "uint16": 65535}[pixels.dtype.name]
    x, half = 2.0 * pixels / full - 1, 1 / full
    p = stats.norm.cdf((x + half - mean) / std) - stats.norm.cdf((x - half - mean) / std)
    return -np.log2(p).reshape(len(pixels), -1).mean(1)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_bits_per_dimension_of_a_gaussian(kind: str) -> None:
    model = gaussian_of(0.1, 0.2)
    pixels, scale = quantised(model, 8, kind), Scale(2 ** (8 if kind == "uint8" else 16))
    found = ode_bits(model, pixels, scale, ode_levels(WIDE, scale), steps=20, draws=2).mean(0).numpy()
    wanted = bits_of_bins(pixels, 0.1, 0.2)
    assert found.mean() == pytest.approx(wanted.mean(), abs=1e-3)
    assert found == pytest.approx(wanted, abs=5e-3 if kind == "uint8" else 1e-3)  # two draws of the noise within wide levels
    # a Gaussian's Jacobian is diagonal, of which one probe gives the exact trace
    exact, guess = (ode_bits(model, pixels[:2], scale, ode_levels(WIDE, scale), steps=3, exact=e) for e in (True, False))
    assert torch.allclose(exact, guess, atol=1e-5)


def test_floats_have_the_density_of_their_own_scale() -> None:
    model = gaussian_of(0.1, 0.2)
    pixels = ((model.data.sample(400).permute(0, 2, 3, 1).numpy() + 1) / 2).astype(np.float32).clip(0, 1)
    wanted = -stats.norm.logpdf(pixels, (0.1 + 1) / 2, 0.1).reshape(400, -1).mean(1) / math.log(2)
    scale = Scale.of(pixels)
    found = ode_bits(model, pixels[:4], scale, ode_levels(WIDE, scale), steps=20)[0].numpy()
    assert found == pytest.approx(wanted[:4], abs=1e-3)
    bound = bound_bits(model, pixels, scale, (1e-3, 300.0), batch=400).numpy()
    assert bound.mean() == pytest.approx(wanted.mean(), abs=0.1)


def test_the_density_of_a_mixture_and_the_order_of_the_method(mixture: MixtureDenoiser) -> None:
    model = MixtureDenoiser(mixture.data, WIDE)
    x = model.data.sample(6)
    off = (x[:, None] - model.data.means).flatten(2).square().sum(-1)
    var = model.data.stds**2
    wanted = torch.logsumexp(model.data.weights.log() - off / (2 * var) - torch.log(2 * math.pi * var), 1)
    coarse, fine, finest = (log_density(model, x, (1e-3, 300.0), steps, None) for steps in (15, 30, 90))
    assert float((finest - wanted).abs().max()) < 2e-3  # of which 0.8 / 300 may be due to the highest level
    assert math.log2(float((coarse - finest).abs().max() / (fine - finest).abs().max())) > 3.3


def test_probes_average_to_the_exact_trace(mixture: MixtureDenoiser) -> None:
    x, sigma = mixture.data.sample(2).repeat(500, 1, 1, 1), torch.full((1000,), 0.5, dtype=torch.float64)
    probe = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], x.shape))
    guess = trace_of_jacobian(mixture, x, sigma, probe)[1].reshape(500, 2)
    exact = trace_of_jacobian(mixture, x[:2], sigma[:2], None)[1]
    assert float(guess.std(0).min()) > 0.01
    assert torch.allclose(guess.mean(0), exact, atol=5 * float(guess.std(0).max()) / math.sqrt(500))


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_jacobian_vector_products_through_the_network_are_finite_differences(sigma: float) -> None:
    network = tiny_network().double()
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((3, 1, 8, 8))) * (1 + sigma)
    v = torch.from_numpy(rng.choice([-1.0, 1.0], x.shape))
    levels, h = torch.full((3,), sigma, dtype=torch.float64), 1e-2 * sigma
    with torch.no_grad():
        change = (network(x + h * v, levels) - network(x - h * v, levels)) / (2 * h)
    wanted = (v * change).flatten(1).sum(1)
    found = trace_of_jacobian(network, x, levels, v)[1]
    assert torch.allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize(("kind", "low", "excess"), [
    ("uint16", 1e-3, 0.0), ("uint8", 0.02, 0.01), ("uint16", 0.02, 0.007), ("uint8", 0.1, 0.161), ("uint16", 0.1, 0.161),
])  # fmt: skip
def test_the_bound_is_above_the_truth_by_what_its_decoder_leaves_out(kind: str, low: float, excess: float) -> None:
    """The decoder knows the levels alone, and not that values are N(0.1, 0.2^2): log2(1 + low^2 / 0.2^2) / 2 bits."""
    model = gaussian_of(0.1, 0.2, side=8)
    pixels, scale = quantised(model, 400, kind), Scale(2 ** (8 if kind == "uint8" else 16))
    truth = bits_of_bins(pixels, 0.1, 0.2).mean()
    bound = float(bound_bits(model, pixels, scale, (low, 300.0), batch=400).mean())
    assert bound == pytest.approx(truth + excess, abs=0.015)

    def worse(x, sigma):
        return 0.8 * model(x, sigma)

    assert float(bound_bits(worse, pixels, scale, (low, 300.0), count=21, batch=400).mean()) > truth + 0.1


def test_the_decoder_sums_to_one_over_the_levels() -> None:
    from alphabar.evaluation.likelihood import _log_decoder

    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for sigma in (0.001, 0.005, 0.05, 0.12, 0.2):
        for x in (-1.0, 0.3, 0.999):
            log_p = _log_decoder(levels, (x - levels) / sigma, sigma, Scale(256))
            near = (x - levels).abs() < 8 * sigma
            assert float(log_p[near].exp().sum()) == pytest.approx(1, abs=1e-4)


def test_padding_is_counted_in_the_bits_of_the_image_as_an_upper_bound() -> None:
    model = gaussian_of(0.1, 0.2)
    pixels, scale = quantised(model, 4, "uint8"), Scale(256)
    levels = ode_levels(WIDE, scale)
    whole, inner = (ode_bits(model, pixels, scale, levels, steps=20, dimensions=d)[0] for d in (16, 4))
    assert torch.allclose(inner, 4 * whole)
    a, b = (bound_bits(model, pixels, scale, levels, count=9, dimensions=d) for d in (16, 4))
    assert torch.allclose(b, 4 * a)


def test_labels_go_with_their_images_and_calls_are_counted() -> None:
    def denoise(x, sigma, labels):
        return (labels[:, None, None, None] * 0.1 + 0 * x).to(x)

    pixels = np.full((3, 2, 2, 1), 128, np.uint8)
    count = CountCalls(denoise)
    found = ode_bits(count, pixels, Scale(256), (0.01, 100.0), steps=3, batch=2, labels=torch.tensor([0, 5, 9]))[0]
    assert count.images == 3 * 3 * 4 and found[0] < found[1] < found[2]
    alone = ode_bits(Labelled(denoise, torch.tensor([0])), pixels[:1], Scale(256), (0.01, 100.0), steps=3)[0]
    assert torch.allclose(alone, found[:1])


def test_levels_of_images() -> None:
    twelve = np.rint(np.arange(16) * 65535 / 4095).astype(np.uint16).reshape(1, 4, 4, 1)
    assert Scale.of(twelve, 4096).levels == 4096 and Scale.of(twelve).levels == 65536
    with pytest.raises(ValueError, match="levels = 100: the images have values between those levels, of 65,536"):
        Scale.of(twelve, 100)
    with pytest.raises(ValueError, match="float images have none"):
        Scale.of(np.zeros((1, 2, 2, 1), np.float32), 256)
    assert Scale(256).width == pytest.approx(float(to_model(np.array([[[[1]]]], np.uint8))) + 1)
    assert float(simpson(5) @ np.arange(5) ** 3) == 64
    with pytest.raises(ValueError, match="give an odd number"):
        simpson(4)
    assert ode_levels(LogSigma(0.002, 80.0), Scale(256))[0] == pytest.approx(2 / 255 / math.sqrt(12))


def test_a_point_mass_costs_what_its_dequantisation_costs() -> None:
    """A constant pixel has 0 bits; the Gaussian kernel of the lowest level costs a quarter of a bit more, at any width."""
    model = GaussianDenoiser(Gaussian(torch.zeros(1, 4, 4).double(), torch.zeros(1, 4, 4).double()), WIDE)
    pixels = np.full((50, 4, 4, 1), 2**15, np.uint16)
    model.data.mean[:] = float(to_model(pixels[:1])[0, 0, 0, 0])
    scale = Scale(65536)
    low = scale.width / math.sqrt(12)
    found = float(ode_bits(model, pixels, scale, (low, 300.0), steps=40).mean())
    assert found == pytest.approx(0.5 * math.log2(2 * math.pi / 12) + 0.5 / math.log(2), abs=0.03)
    assert float(bound_bits(model, pixels, scale, (low / 8, 300.0), count=41).mean()) == pytest.approx(0, abs=1e-3)
