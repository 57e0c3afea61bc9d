"""Densities: even uniform numbers in, the stated distribution of levels out."""

import numpy as np
import torch

from alphabar.schedule.base import Scaled
from alphabar.schedule.betas import Linear
from alphabar.schedule.continuous import Cosine, LogSigma
from alphabar.schedule.density import KINDS, LogNormal, UniformTime

EVEN = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000


def test_integer_times_are_equally_likely():
    t = Linear().t(UniformTime().sigma(EVEN, Linear())).round()
    assert torch.equal(t.long().bincount(minlength=1000), torch.full((1000,), 10))


def test_integer_times_are_the_timesteps_exactly():
    sigma = UniformTime().sigma(EVEN[::10], Linear())
    assert torch.equal(sigma, Linear().sigma(torch.arange(1000).double()))


def test_continuous_time_is_even():
    t = Cosine().t(UniformTime().sigma(EVEN, Cosine()))
    assert np.allclose(t, Cosine().t_min + EVEN * (Cosine().t_max - Cosine().t_min), atol=1e-9)


def test_log_normal_is_edms():
    from scipy import stats

    log_sigma = LogNormal().sigma(EVEN, LogSigma(1e-9, 1e9)).log().numpy()
    assert np.allclose(log_sigma, stats.norm(-1.2, 1.2).ppf(EVEN.numpy()), atol=1e-9)


def test_levels_stay_within_the_schedule():
    u = torch.tensor([0.0, 1e-300, 1 - 1e-16], dtype=torch.float64)
    for schedule in (Linear(), Cosine(), Scaled(Linear(), 0.5)):
        for density in (LogNormal(), LogNormal(5.0, 9.0), UniformTime()):
            sigma = density.sigma(u, schedule)
            assert torch.isfinite(sigma).all()
            assert sigma.min() >= schedule.sigma_min * (1 - 1e-12) and sigma.max() <= schedule.sigma_max * (1 + 1e-12)


def test_a_density_is_rebuilt_from_its_specification():
    for density in (UniformTime(), LogNormal(-0.4, 1.0)):
        args = density.spec()
        assert KINDS[args.pop("kind")](**args) == density
