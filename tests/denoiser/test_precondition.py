"""Networks as denoisers, against the formulas of the papers."""

import math

import pytest
import torch
from torch import Tensor, nn

from alphabar.denoiser.precondition import Preconditioned
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.betas import Betas, Linear
from alphabar.schedule.continuous import Cosine, Flow, LogSigma
from alphabar.schedule.noising import PREDICTIONS, add_noise_vp


class Spy(nn.Module):
    """Returns a given output and records its input."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer, self.y, self.t = answer, torch.empty(0), torch.empty(0)

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        self.y, self.t = y, t
        return self.answer


@pytest.mark.parametrize("prediction", [p for p in PREDICTIONS if p != "flow"])
@pytest.mark.parametrize("data_range", [1.0, 0.5])
@pytest.mark.parametrize("schedule", [Linear(), Linear(beta_max=0.01), Cosine()])
def test_x0_hat_of_a_perfect_network_is_the_clean_image(prediction: str, data_range: float, schedule: Linear | Cosine) -> None:
    g = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 1, 4, 4, generator=g, dtype=torch.float64) * 2 - 1
    eps = torch.randn(3, 1, 4, 4, generator=g, dtype=torch.float64)
    t = torch.tensor([schedule.t_min + f * (schedule.t_max - schedule.t_min) for f in (0.1, 0.5, 0.9)], dtype=torch.float64)
    t = t.round() if isinstance(schedule, Linear) else t
    # DDPM's notation: y = sqrt(alphabar) r x0 + sqrt(1 - alphabar) eps
    y = add_noise_vp(data_range * x0, t, eps, schedule)
    ab = schedule.alphabar(t)[:, None, None, None]
    v = ab.sqrt() * eps - (1 - ab).sqrt() * data_range * x0
    spy = Spy({"eps": eps, "x0": data_range * x0, "v": v}[prediction])
    model = Preconditioned(spy, schedule, prediction, data_range, (1, 4, 4))
    x = y / (ab.sqrt() * data_range)  # the one coordinate
    sigma = model.schedule.sigma(t)
    assert torch.allclose(x, x0 + sigma[:, None, None, None] * eps, atol=1e-9)
    assert torch.allclose(model(x, sigma), x0, atol=1e-9)
    assert torch.allclose(spy.y, y, atol=1e-12)  # the network's range and scale
    assert torch.allclose(spy.t.double(), t, atol=1e-4 if isinstance(schedule, Linear) else 1e-7)


@pytest.mark.parametrize("data_range", [1.0, 0.5])
def test_x0_hat_of_a_perfect_flow_network_is_the_clean_image(data_range: float) -> None:
    g = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 1, 4, 4, generator=g, dtype=torch.float64) * 2 - 1
    eps = torch.randn(3, 1, 4, 4, generator=g, dtype=torch.float64)
    t = torch.tensor([0.01, 0.4, 0.95], dtype=torch.float64)
    y = (1 - t)[:, None, None, None] * data_range * x0 + t[:, None, None, None] * eps
    spy = Spy(eps - data_range * x0)
    model = Preconditioned(spy, Flow(), "flow", data_range, (1, 4, 4))
    sigma = t / (1 - t) / data_range
    assert torch.allclose(model(x0 + sigma[:, None, None, None] * eps, sigma), x0, atol=1e-9)
    assert torch.allclose(spy.y, y, atol=1e-12) and torch.allclose(spy.t.double(), t, atol=1e-7)


def test_ddim_makes_the_steps_of_the_flow_scheduler_of_diffusers() -> None:
    """Euler steps along the straight path are DDIM steps in the one coordinate (Gao et al. 2024, "Diffusion meets flow")."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    weights = torch.randn(1, 1, 3, 3)

    class Net(nn.Module):
        def forward(self, y: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(nn.functional.conv2d(y, weights, padding=1)) * (1 + t.reshape(-1, 1, 1, 1))

    levels = [0.98, 0.7, 0.4, 0.1]
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=levels)
    y = torch.randn(2, 1, 4, 4)
    x = y / (1 - levels[0])
    for t in theirs.timesteps:
        y = theirs.step(Net()(y, t / 1000), t, y).prev_sample
    grid = torch.tensor([t / (1 - t) for t in levels] + [0.0], dtype=torch.float64)
    assert torch.allclose(ddim(Preconditioned(Net(), Flow(), "flow", 1.0, (1, 4, 4)), x, grid), y, atol=1e-5)


@pytest.mark.parametrize("schedule", [Betas(zero_snr=True), Betas("given", steps=2, given=(0.1, 1.0)), LogSigma(0.01, 1e7)])
def test_eps_is_refused_where_no_signal_is_left(schedule: Betas | LogSigma) -> None:
    with pytest.raises(ValueError, match=r"x0_hat = x - sigma eps_hat is 0 / 0. Use prediction 'v' \(or 'x0'\)"):
        Preconditioned(nn.Identity(), schedule, "eps")
    for prediction in ("v", "x0"):
        answer = torch.full((2, 1, 4, 4), 0.5)
        model = Preconditioned(Spy(-answer if prediction == "v" else answer), schedule, prediction, image_shape=(1, 4, 4))
        sigma = torch.full((2,), model.schedule.sigma_max)
        x0_hat = model(sigma.reshape(-1, 1, 1, 1) * torch.ones(2, 1, 4, 4), sigma)
        assert torch.allclose(x0_hat, answer, atol=1e-6)  # v of pure noise is -x0
    Preconditioned(nn.Identity(), Betas("squaredcos_cap_v2"), "eps")  # this cosine schedule keeps some signal: sigma = 2e4


@pytest.mark.parametrize("sigma_data", [0.5, 0.8])
def test_v_with_log_sigma_is_edms_preconditioning(sigma_data: float) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, 4, 4, generator=g, dtype=torch.float64)
    out = torch.randn(2, 1, 4, 4, generator=g, dtype=torch.float64)
    sigma = torch.tensor([0.3, 7.0], dtype=torch.float64)
    s = sigma[:, None, None, None]
    spy = Spy(-out)  # v has the opposite sign
    model = Preconditioned(spy, LogSigma(), "v", 1 / sigma_data, (1, 4, 4))
    got = model(x, sigma)
    # Karras et al. 2022, table 1, last column
    c_skip = sigma_data**2 / (s**2 + sigma_data**2)
    c_out = s * sigma_data / (s**2 + sigma_data**2).sqrt()
    c_in = 1 / (s**2 + sigma_data**2).sqrt()
    assert torch.allclose(got, c_skip * x + c_out * out, atol=1e-12)
    assert torch.allclose(spy.y, c_in * x, atol=1e-12)
    c_noise = sigma.log() / 4  # that of EDM up to the constant log(sigma_data) / 4
    assert torch.allclose(spy.t.double(), c_noise - math.log(sigma_data) / 4, atol=1e-6)


def test_the_loss_is_the_error_of_the_networks_output() -> None:
    eps = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    x0 = torch.zeros(2, 1, 4, 4)
    model = Preconditioned(Spy(eps + 0.5), Cosine(), "eps", 1.0, (1, 4, 4))
    assert model.loss(x0, torch.tensor([0.1, 1.0]), eps).tolist() == pytest.approx([0.25, 0.25])


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="'noise' is unknown: use one of eps, x0, v"):
        Preconditioned(nn.Identity(), Cosine(), "noise")
    with pytest.raises(ValueError, match=r"0\.5 for -0\.5\.\.0\.5"):
        Preconditioned(nn.Identity(), Cosine(), "v", data_range=0.0)
