"""Folders of diffusers for tests, and stepping with the schedulers of diffusers on the same noise as ours."""

import json
from dataclasses import replace

import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.model import build
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.wrappers import ClipX0, ThresholdX0
from alphabar.schedule.grid import make_grid

diffusers = pytest.importorskip("diffusers")
N = 3


def unet(channels=1, size=16, **more):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        **{
            "sample_size": size, "in_channels": channels, "out_channels": channels, "layers_per_block": 1,
            "block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4, "attention_head_dim": 8, **more,
        }
    ).eval()  # fmt: skip


def saved(folder, network, kind="DDPM", **scheduler):
    steps = getattr(diffusers, f"{kind}Scheduler")(**scheduler)
    getattr(diffusers, f"{kind}Pipeline")(network, steps).save_pretrained(folder)
    return folder


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@torch.no_grad()
def theirs(scheduler, network, n, shape, monkeypatch, **options):
    """Images of a scheduler of diffusers on our noise, with eps recomputed from the clipped x0_hat (not its default)."""
    scheduler.set_timesteps(n)
    noise, y = SeededNoise(0, range(N)), starting_noise(0, range(N), shape)
    for k, t in enumerate(scheduler.timesteps):
        drawn = noise(k, y)
        if isinstance(scheduler, diffusers.DDIMScheduler):
            more = {"use_clipped_model_output": True, "variance_noise": drawn, **options}
        else:  # it has no argument for the noise
            monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, drawn=drawn, **kw: drawn)
            more = {}
        y = scheduler.step(network(y, t).sample, t, y, **more).prev_sample
    return y


def ours(fn, model, n, grid=None, **options):
    sigmas = make_grid(model.schedule, n, grid or model.defaults.grid)
    x = starting_noise(0, range(N), model.image_shape) * float((1 + sigmas[0] ** 2).sqrt())
    d, denoise = getattr(model, "defaults", None), model
    if d is not None and d.clip is not None:
        denoise = ClipX0(model, -d.clip, d.clip)
    if d is not None and d.threshold is not None:
        denoise = ThresholdX0(model, d.threshold, d.threshold_max)
    return fn(denoise, x, sigmas, noise=SeededNoise(0, range(N)), **options)


@torch.no_grad()
def by_list(scheduler, network, timesteps, y=None):
    scheduler.set_timesteps(timesteps=timesteps)
    y = starting_noise(0, range(N), (1, 16, 16)) if y is None else y
    for t in scheduler.timesteps:
        y = scheduler.step(network(y, t).sample, t, y).prev_sample
    return y


SMALL = ModelRecipe(network="unet2d", channels=(8, 16), groups=4, attention=(1,))


def trained(schedule=None, prediction="v", **more):
    """A model with random weights, evaluated like a trained one."""
    return build(replace(SMALL, prediction=prediction), schedule or {"kind": "linear"}, (1, 16, 16), 3, **more).eval()
