"""The loss of images drawn in one and two calls: how they are drawn, where it leads, and exact resume."""

import numpy as np
import pytest
import torch

from alphabar.denoiser.precondition import Preconditioned
from alphabar.features.stats import FeatureStats
from alphabar.fitting.drawn_loss import CALLS, DrawnLikeReal, drawn
from alphabar.fitting.frechet_loss import FrechetLoss
from alphabar.report.run_section import run_section
from alphabar.results.runs import load_run
from alphabar.sampling.samplers.consistency import consistency
from alphabar.schedule.continuous import Cosine
from alphabar.schedule.grid import for_consistency
from tests.fitting.test_frechet_loss import Bent
from tests.fixtures.training import assert_same_weights, interrupted, small_model, small_training

SHAPE = (2, 2, 2)


class Shifted(Preconditioned):
    """Draws shift + scale * (its noise), whatever the level: two numbers that a loss can learn."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), Cosine(), "v", image_shape=SHAPE)
        self.shift, self.scale = torch.nn.Parameter(torch.tensor(0.5)), torch.nn.Parameter(torch.tensor(0.15))

    def forward(self, x, sigma, labels=None, augment=None):
        return self.shift + self.scale * x / sigma[:, None, None, None]


def like(real, extractor=None, remember=256):
    extractor = extractor or Bent()
    stats = FeatureStats.of(extractor.embed(real).detach(), extractor.fingerprint)
    return DrawnLikeReal([[FrechetLoss(extractor, stats, remember=remember)] for _ in CALLS])


def noise(n, seed):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("calls", CALLS)
def test_images_are_those_of_the_sampler_and_the_last_call_alone_has_a_gradient(calls):
    model, z = small_model(), torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    grid = for_consistency(model.schedule, calls)
    wanted = consistency(model, z * model.schedule.sigma_max, grid, noise=lambda k, like: z.roll(k + 1, 0))
    images = drawn(model, z, calls)
    torch.testing.assert_close(images.detach(), wanted)
    levels = []
    hook = model.network.register_forward_pre_hook(lambda module, inputs: levels.append(torch.is_grad_enabled()))
    drawn(model, z, calls)
    hook.remove()
    assert levels == [False] * (calls - 1) + [True] and images.requires_grad


def test_it_leads_to_the_distribution_of_the_real_images():
    model, loss = Shifted(), like(0.1 + 0.3 * noise(4000, 1).clamp(-2, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    values = []
    for step in range(150):
        value = loss(model, noise(128, 2 + step))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert model.shift.item() == pytest.approx(0.1, abs=0.04) and model.scale.item() == pytest.approx(0.3, abs=0.04)
    assert np.mean(values[-10:]) < values[0] / 2
    assert loss.distances() == pytest.approx({f"frechet_{k}": of[0].distance() for k, of in zip(CALLS, loss.losses, strict=True)})
    assert loss.turn == 0 and all(each.full for of in loss.losses for each in of)


def test_a_resumed_tuning_ends_with_the_same_weights(pixels, folder):
    real = torch.from_numpy(pixels[:, :2, :2].transpose(0, 3, 1, 2) / 127.5 - 1).double()

    class Corner(Bent):
        def embed(self, x):
            return super().embed(x[..., :2, :2])

    changes = {"consistency": (8.0,)}
    for name, resume in (("whole", False), ("stopped", True)):
        if resume:
            interrupted(pixels, folder / name, 160, drawn_loss=like(real, Corner(4), 64), **changes)
        small_training(pixels, folder / name, resume=resume, drawn_loss=like(real, Corner(4), 64), **changes)
    assert_same_weights(folder / "whole", folder / "stopped", "model", "ema", "optimizer", "features")
    run = load_run(folder / "whole")
    assert all(row["frechet_1"] > 0 and row["frechet_2"] > 0 for row in run.of("loss")[1:])
    plots = {each["title"]: each["plot"].svg for each in run_section(run, "whole", "a", 0, sheets=1, most=10**6)["plots"]}
    assert "2 calls: from" in plots["Distance of features"]
    small_training(pixels, folder / "plain", **changes)
    with pytest.raises(AssertionError):
        assert_same_weights(folder / "whole", folder / "plain")
