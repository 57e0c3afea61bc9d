"""DDIM and DDPM against diffusers: the same small UNet2DModel and noise on the leading grid, equal to 1e-5."""

import pytest
import torch
from torch import nn

from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.wrap import ClipX0
from alphabar.sampling.ddim import ddim
from alphabar.sampling.ddpm import ddpm
from alphabar.schedule.grid import leading, trailing
from alphabar.schedule.vp import Linear
from alphabar.seeds import SeededNoise, starting_noise

diffusers = pytest.importorskip("diffusers")
N, SHAPE = 4, (1, 16, 16)
LINEAR = Linear(beta_max=0.01)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.unet = diffusers.UNet2DModel(
            sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4, attention_head_dim=8,
        ).eval()  # fmt: skip

    def forward(self, y, t):
        return self.unet(y, t).sample


@pytest.fixture(scope="module")
def model():
    return Preconditioned(Network(), LINEAR, "eps", image_shape=SHAPE)


@pytest.fixture
def starts():
    """diffusers starts from y of unit noise; here x = y / sqrt(alphabar) (data_range 1)."""
    return starting_noise(0, range(N), SHAPE)


def ddim_scheduler(clip, **more):
    return diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.01, clip_sample=clip, **more)


def ours(fn, model, y, n, make_grid=leading, **options):
    grid = make_grid(LINEAR, n)
    x = y * float((1 + grid[0] ** 2).sqrt())
    return fn(model, x, grid, noise=SeededNoise(0, range(N)), **options)


@pytest.mark.parametrize(("n", "eta"), [(1, 0.0), (10, 0.0), (10, 0.5), (10, 1.0), (50, 0.0), (50, 1.0)])
@pytest.mark.parametrize("clip", [False, True])
@torch.no_grad()
def test_ddim(model, starts, n, clip, eta):
    scheduler = ddim_scheduler(clip)
    scheduler.set_timesteps(n)
    noise, y = SeededNoise(0, range(N)), starts
    for k, t in enumerate(scheduler.timesteps):
        y = scheduler.step(
            model.network(y, t), t, y, eta=eta, use_clipped_model_output=True, variance_noise=noise(k, y)
        ).prev_sample
    x = ours(ddim, ClipX0(model) if clip else model, starts, n, eta=eta)
    assert torch.allclose(x, y, rtol=1e-5, atol=1e-5)
    assert y.abs().max() > 0.1  # they agree on something


@pytest.mark.parametrize("n", [1, 10, 50])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("variance", "name"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
@torch.no_grad()
def test_ddpm(model, starts, n, clip, variance, name, monkeypatch):
    scheduler = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.01, clip_sample=clip, variance_type=name)
    scheduler.set_timesteps(n)
    noise, y = SeededNoise(0, range(N)), starts
    for k, t in enumerate(scheduler.timesteps):
        drawn = noise(k, y)
        # it draws its noise itself
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, drawn=drawn, **kwargs: drawn)
        y = scheduler.step(model.network(y, t), t, y).prev_sample
    x = ours(ddpm, ClipX0(model) if clip else model, starts, n, variance=variance)
    assert torch.allclose(x, y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_where_diffusers_misreads_its_own_grid(model, starts):
    """30 trailing steps: its DDIM steps by 1000 // 30 = 33, not to the next timestep of its list. Fails when mended."""
    scheduler = ddim_scheduler(False, timestep_spacing="trailing")
    scheduler.set_timesteps(30)
    y = starts
    for t in scheduler.timesteps:
        y = scheduler.step(model.network(y, t), t, y).prev_sample
    right = starts
    ab = scheduler.alphas_cumprod
    steps = scheduler.timesteps.tolist()
    for t, t_next in zip(steps, [*steps[1:], None], strict=True):
        eps = model.network(right, torch.tensor(t))
        x0 = (right - (1 - ab[t]).sqrt() * eps) / ab[t].sqrt()
        ab_next = ab[t_next] if t_next is not None else torch.tensor(1.0)
        right = ab_next.sqrt() * x0 + (1 - ab_next).sqrt() * eps
    x = ours(ddim, model, starts, 30, trailing)
    assert torch.allclose(x, right, rtol=1e-5, atol=1e-5)
    assert (y - right).abs().max() > 1e-3
