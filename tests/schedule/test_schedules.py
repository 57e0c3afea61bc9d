"""Schedules: t(sigma) is the exact inverse of sigma(t), and the values agree with the papers and diffusers."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphabar.schedule.base import Scaled
from alphabar.schedule.betas import CURVES, Betas, Linear
from alphabar.schedule.continuous import Cosine, Flow, LogSigma
from alphabar.schedule.kinds import schedule_from

SCHEDULES = [
    Linear(), Linear(beta_max=0.01), Linear(1e-4, 0.02, 40), Cosine(), Cosine(s=0.02, t_end=0.999), LogSigma(), Flow(),
    Flow(1e-4, 0.999), Scaled(Linear(), 0.5), Scaled(Cosine(), 2.0), Scaled(Flow(), 0.5),
    Betas("sigmoid", steps=100), Betas("squaredcos_cap_v2"),
    Betas("scaled_linear", 0.00085, 0.012, zero_snr=True), Betas("given", steps=4, given=(0.1, 0.3, 0.2, 1.0)),
]  # fmt: skip
ids = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


def f64(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@ids
@settings(deadline=None)  # a busy machine must not fail the test
@given(u=st.floats(0, 1))
def test_t_is_the_inverse_of_sigma(schedule, u):
    t = schedule.t_min + u * (schedule.t_max - schedule.t_min)
    back = float(schedule.t(schedule.sigma(f64(t))))
    assert back == pytest.approx(t, abs=1e-9 * (schedule.t_max - schedule.t_min))


@ids
@settings(deadline=None)  # a busy machine must not fail the test
@given(u=st.floats(0, 1))
def test_sigma_is_the_inverse_of_t(schedule, u):
    sigma = math.exp(math.log(schedule.sigma_min) * (1 - u) + math.log(schedule.sigma_max) * u)
    assert float(schedule.sigma(schedule.t(f64(sigma)))) == pytest.approx(sigma, rel=1e-9)


@ids
def test_sigma_rises_and_alphabar_follows_from_it(schedule):
    t = torch.linspace(schedule.t_min, schedule.t_max, 997, dtype=torch.float64)
    sigma, ab = schedule.sigma(t), schedule.alphabar(t)
    assert sigma.dtype == ab.dtype == torch.float64
    assert (sigma[1:] > sigma[:-1]).all()
    own = sigma * getattr(schedule, "data_range", 1.0)
    assert torch.allclose(ab, 1 / (1 + own**2), rtol=1e-11, atol=0)


@ids
def test_t_is_clamped_to_the_ends(schedule):
    ends = schedule.t(torch.tensor([1e-9, 0.0, 1e10], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([schedule.t_min, schedule.t_min, schedule.t_max])


def test_linear_is_ho_et_al():
    betas = np.linspace(1e-4, 0.02, 1000)
    wanted = np.cumprod(1 - betas)
    assert Linear().alphabar(torch.arange(1000).double()).numpy() == pytest.approx(wanted, rel=1e-12)
    assert Linear(beta_max=0.01).alphabar(f64(999)).item() == pytest.approx(0.0063, abs=5e-4)  # its docstring's 0.006


def test_linear_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for beta_max in (0.02, 0.01):
        theirs = diffusers.DDPMScheduler(beta_end=beta_max, beta_schedule="linear")
        ours = Linear(beta_max=beta_max)
        assert torch.allclose(ours.betas, theirs.betas.double(), rtol=1e-6, atol=0)
        ab = ours.alphabar(torch.arange(1000).double())
        assert torch.allclose(ab, theirs.alphas_cumprod.double(), rtol=2e-5, atol=0)  # theirs is a product in float32


def test_cosine_is_nichol_and_dhariwal():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()[:980]  # capped later on
    t = (torch.arange(980).double() + 1) / 1000  # their step i ends at (i + 1) / 1000
    assert torch.allclose(Cosine().alphabar(t), theirs, rtol=1e-4, atol=1e-7)
    assert Cosine().alphabar(f64(0)).item() == 1.0
    assert float(Cosine().sigma(f64(0.992))) == pytest.approx(79, abs=1.5)


def test_log_sigma_is_edms_time():
    t = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(LogSigma().sigma(t), torch.exp(4 * t))


def test_half_the_range_is_twice_the_noise():
    t = torch.arange(0, 1000, 37).double()
    assert torch.allclose(Scaled(Linear(), 0.5).sigma(t), 2 * Linear().sigma(t), rtol=1e-12)
    assert torch.equal(Scaled(Linear(), 0.5).alphabar(t), Linear().alphabar(t))
    assert Scaled(Linear(), 0.5).steps == 1000 and Scaled(Cosine(), 0.5).steps is None


@pytest.mark.parametrize("schedule", SCHEDULES[:6], ids=str)
def test_a_schedule_is_rebuilt_from_its_specification(schedule):
    assert schedule_from(schedule.spec()) == schedule


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0.02, 1e-4), "0 < beta_min <= beta_max < 1"),
        (lambda: Linear(steps=1), "has 2 to 100000 timesteps"),
        (lambda: Cosine(t_end=1.0), "t_start < t_end < 1"),
        (lambda: LogSigma(1.0, 0.5), "1e-9 <= low < high"),
        (lambda: schedule_from({"kind": "cosin"}), "cosin.*linear, cosine, log_sigma"),
        (lambda: schedule_from({"kind": "linear", "beta_end": 1}), "has no beta_end: it takes beta_min"),
    ],
)
def test_invalid_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("curve", [c for c in CURVES if c != "given"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_betas_are_diffusers(curve, zero_snr):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_schedule=curve, rescale_betas_zero_snr=zero_snr).alphas_cumprod.double()
    ours = Betas(curve, zero_snr=zero_snr)
    ab = ours.alphabar(torch.arange(1000).double())
    assert torch.allclose(ab, theirs, rtol=2e-5, atol=1e-18)  # theirs is in float32
    assert ours.zero_terminal_snr == zero_snr == (float(theirs[-1]) == 0)
    if zero_snr:
        assert ours.sigma_max == pytest.approx(2.0**32) and float(ours.sigma(f64(998.0))) < 2.0**20


def test_given_betas_are_used_unchanged():
    torch_betas = torch.linspace(0.01, 0.4, 7)
    ours = Betas("given", steps=7, given=tuple(torch_betas.tolist()))
    assert ours.alphabar(torch.arange(7).double()).numpy() == pytest.approx(
        np.cumprod(1 - torch_betas.double().numpy()), rel=1e-6
    )
    assert Betas("given", steps=2, given=(0.1, 1.0)).zero_terminal_snr
    assert not ours.zero_terminal_snr


def test_betas_are_rounded_to_float32():
    """At beta = 0.999 float32 changes 1 - beta by a share of 1.3e-5, and networks were trained on the rounded values."""
    share = float(Betas("squaredcos_cap_v2").alphabar(f64(999.0)) / Betas("squaredcos_cap_v2").alphabar(f64(998.0)))
    assert share == pytest.approx(float(np.float32(1) - np.float32(0.999)), rel=1e-12)
    assert share != pytest.approx(0.001, rel=1e-5)


@pytest.mark.parametrize("schedule", [Betas("sigmoid", 1e-3, 0.1, 50, True), Betas("given", steps=3, given=(0.1, 0.2, 0.5))])
def test_betas_go_through_json(schedule):
    assert schedule_from(json.loads(json.dumps(schedule.spec()))) == schedule


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"curve": "quadratic"}, "'quadratic' is unknown: use one of linear"),
        ({"curve": ["linear"]}, "curve is"),
        ({"steps": 10**9}, "2 to 100000 timesteps"),
        ({"steps": 10.5}, "whole number"),
        ({"steps": "1000"}, "whole number"),
        ({"beta_min": float("nan")}, "beta_min is nan"),
        ({"beta_max": 10**400}, "beta_max is 1000"),
        ({"beta_max": 1.5}, "between 0 and 1"),
        ({"beta_min": True}, "beta_min is True"),
        ({"zero_snr": 1}, "zero_snr is 1"),
        ({"given": [0.1, 0.2]}, "with 2 given betas and 1000 steps"),
        ({"curve": "given", "steps": 2, "given": [0.1, float("inf")]}, "beta is inf"),
        ({"curve": "given", "steps": 2, "given": [0.1, "0.2"]}, "beta is '0.2'"),
        ({"curve": "given", "steps": 2, "given": [1.0, 0.5]}, "beta 0 is 1"),
        ({"curve": "given", "steps": 2, "given": {"0": 0.1}}, "wanted a list"),
        ({"curve": "given", "steps": 3, "given": [0.1, 1e-9, 0.1]}, "rise from timestep 0 to 1"),
        ({"beta": 0.1}, "has no beta"),
    ],
)
def test_hostile_betas_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        schedule_from({"kind": "betas", **wrong})
