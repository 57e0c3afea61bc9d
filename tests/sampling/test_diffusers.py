"""The samplers against diffusers' schedulers: DDIM and DDPM with a UNet2DModel on the leading grid, the others on a rough
grid of levels with a closed-form denoiser. Equal to 1e-5 wherever their method is the same."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.wrappers import ClipX0, ThresholdX0
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.sampling.samplers.deis import deis
from alphabar.sampling.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, dpmpp_3m, dpmpp_3m_sde, dpmpp_sde
from alphabar.sampling.samplers.euler import euler_ancestral
from alphabar.sampling.samplers.heun import heun
from alphabar.sampling.samplers.ipndm import ipndm
from alphabar.sampling.samplers.unipc import unipc
from alphabar.schedule.betas import Linear
from alphabar.schedule.grid import leading, trailing
from tests.fixtures.oracles import gentle_grid

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers hands tensors to numpy
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


@pytest.mark.parametrize(("n", "eta"), [(1, 0.0), (10, 0.0), (10, 0.5), (10, 1.0), (25, 0.0), (25, 1.0)])
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


@pytest.mark.parametrize("n", [1, 10, 25])
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


# ---- the fast methods: their schedulers are given our levels, and the eps of a closed-form denoiser

ROUGH = torch.tensor([9.0, 7.5, 4.1, 3.0, 1.4, 1.1, 0.6, 0.2, 0.15, 0.04, 0.0], dtype=torch.float64)


def on_grid(scheduler, grid):
    """Their scheduler, on the levels of `grid` instead of its usual ones."""
    scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas = grid.float()
    scheduler.timesteps = torch.arange(len(grid) - 1, 0, -1)  # only their order matters
    return scheduler


def theirs(scheduler, denoise, x, grid, *, steps=None, **more):
    """What `steps` (None: all) steps of a scheduler in y = sqrt(alphabar) x make of x, in x. more: functions of the step."""
    on_grid(scheduler, grid)
    root = (1 + grid**2).sqrt().tolist()
    y = x / root[0]
    for k, t in enumerate(scheduler.timesteps[:steps]):
        s = float(grid[k])
        eps = (y * root[k] - denoise(y * root[k], torch.full((len(y),), s, dtype=y.dtype))) / s
        y = scheduler.step(eps, t, y, **{name: fn(k, y) for name, fn in more.items()}).prev_sample
    return y * root[-1 if steps is None else steps]


def points(n=8, high=9.0):
    return high * starting_noise(3, range(n), (1, 1, 2))


def before_the_last_step(fn, denoise, x, grid, **options):
    seen = []
    fn(denoise, x, grid, on_step=lambda k, s, y, x0: seen.append(y), **options)
    return seen[-1]


ZERO = {"final_sigmas_type": "zero", "lower_order_final": True}


@pytest.mark.parametrize(("fn", "options", "solver_type"), [(dpmpp_2m, {}, "midpoint"), (dpmpp_3m, {"order": 2}, "heun")])
def test_dpm_solver_multistep(fn, options, solver_type, mixture):
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=2, solver_type=solver_type, **ZERO)
    x = points()
    assert torch.allclose(fn(mixture, x, ROUGH, **options), theirs(scheduler, mixture, x, ROUGH), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("fn", "options", "solver_type"), [(dpmpp_2m_sde, {}, "midpoint"), (dpmpp_3m_sde, {"order": 2}, "heun")])
def test_dpm_solver_multistep_with_noise(fn, options, solver_type, mixture):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=2, solver_type=solver_type, algorithm_type="sde-dpmsolver++", **ZERO
    )
    x, noise = points(), SeededNoise(1, range(8))
    out = theirs(scheduler, mixture, x, ROUGH, variance_noise=noise)
    assert torch.allclose(fn(mixture, x, ROUGH, noise=noise, **options), out, rtol=1e-5, atol=1e-5)


def test_their_third_order_measures_two(gaussian):
    """The square term is halved there (D2 stands for the second derivative and is half of it). Fails when mended."""

    def error(out):
        return float((out - gaussian.flow(x, 3.0, 0.0)).square().mean().sqrt())

    x = 3 * starting_noise(0, range(16), (1, 2, 2))
    steps = (48, 96, 192)
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, **ZERO)
    their_errors = [error(theirs(scheduler, gaussian, x, gentle_grid(n))) for n in steps]
    our_errors = [error(dpmpp_3m(gaussian, x, gentle_grid(n))) for n in steps]
    slopes = [[float(torch.log2(torch.tensor(a / b))) for a, b in pairwise(e)] for e in (their_errors, our_errors)]
    assert slopes[0][-1] < 2.3 and slopes[1][-1] > 2.8, slopes
    assert our_errors[-1] < their_errors[-1]


def halfway(grid):
    """Between every two levels, the last and 0 apart, one at the middle in log sigma: a single-step method's calls."""
    levels = [float(grid[0])]
    for s, s_next in pairwise(grid[:-1].tolist()):
        levels += [(s * s_next) ** 0.5, s_next]
    return torch.tensor([*levels, 0.0], dtype=torch.float64)


def test_dpm_solver_singlestep(mixture):
    scheduler = diffusers.DPMSolverSinglestepScheduler(solver_order=2, **ZERO)
    x = points()
    assert torch.allclose(dpmpp_2s(mixture, x, ROUGH), theirs(scheduler, mixture, x, halfway(ROUGH)), rtol=1e-5, atol=1e-5)


def test_dpm_solver_singlestep_with_noise(mixture, monkeypatch):
    """It draws unrelated noise for the half step and the whole one: given that of one path, the two are the same."""
    scheduler = diffusers.DPMSolverSinglestepScheduler(solver_order=2, algorithm_type="sde-dpmsolver++", **ZERO)
    x, noise = points(), SeededNoise(1, range(8))
    draws = []
    for k, (s, s_next) in enumerate(pairwise(ROUGH[:-1].tolist())):
        first, second = noise(2 * k, x), noise(2 * k + 1, x)
        kept = (s_next / s) ** 0.5  # of the first half's noise, in units of what the second half adds
        draws += [first, (kept * first + second) / (1 + kept**2) ** 0.5]
    left = iter([*draws, torch.zeros_like(x)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_dpmsolver_singlestep.randn_tensor", lambda *a, **k: next(left))
    out = theirs(scheduler, mixture, x, halfway(ROUGH))
    assert torch.allclose(dpmpp_sde(mixture, x, ROUGH, noise=noise), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("bh", [1, 2])
def test_unipc(order, bh, mixture):
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=order, solver_type=f"bh{bh}", **ZERO)
    x = points()
    if bh == 2:
        out = theirs(scheduler, mixture, x, ROUGH)
        assert torch.allclose(unipc(mixture, x, ROUGH, order=order, bh=2), out, rtol=1e-5, atol=1e-5)
    else:  # their bh1 makes nan of the step to level 0: equal up to there
        out = theirs(scheduler, mixture, x, ROUGH, steps=9)
        ours = before_the_last_step(unipc, mixture, x, ROUGH, order=order, bh=1)
        assert torch.allclose(ours, out, rtol=1e-5, atol=1e-5)
        assert torch.isfinite(unipc(mixture, x, ROUGH, order=order, bh=1)).all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order, mixture):
    """Theirs takes a polynomial in log sigma, and cannot end at level 0: equal up to there."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, solver_type="logrho", lower_order_final=False)
    x = points()
    out = theirs(scheduler, mixture, x, ROUGH, steps=9)
    ours = before_the_last_step(deis, mixture, x, ROUGH, order=order, variable="log_sigma")
    assert torch.allclose(ours, out, rtol=1e-5, atol=1e-5)


def test_ipndm(mixture):
    """Theirs expects the v of a sine schedule; its numbers are ours, put into its lists."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(10)
    root = (1 + ROUGH**2).sqrt()
    scheduler.alphas, scheduler.betas = (1 / root).float(), (ROUGH / root).float()
    x = points()
    y = x / float(root[0])
    for k, t in enumerate(scheduler.timesteps):
        s, a = float(ROUGH[k]), 1 / float(root[k])
        x0 = mixture(y / a, torch.full((len(y),), s))
        eps = (y / a - x0) / s
        y = scheduler.step(a * eps - s * a * x0, t, y).prev_sample
    assert torch.allclose(ipndm(mixture, x, ROUGH), y, rtol=1e-5, atol=1e-5)


def test_euler_ancestral(mixture, monkeypatch):
    scheduler = on_grid(diffusers.EulerAncestralDiscreteScheduler(), ROUGH)
    x, noise = points(), SeededNoise(1, range(8))
    y = x
    for k, t in enumerate(scheduler.timesteps.float()):
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", lambda *a, k=k, y=y, **b: noise(k, y)
        )
        scheduler.timesteps = scheduler.timesteps.float()
        scheduler.scale_model_input(y, t)
        s = float(ROUGH[k])
        y = scheduler.step((y - mixture(y, torch.full((len(y),), s))) / s, t, y).prev_sample
    assert torch.allclose(euler_ancestral(mixture, x, ROUGH, noise=noise), y, rtol=1e-5, atol=1e-5)


def test_heun(mixture):
    scheduler = diffusers.HeunDiscreteScheduler()
    scheduler.set_timesteps(10)
    inner = ROUGH[1:-1].float().repeat_interleave(2)
    scheduler.sigmas = torch.cat([ROUGH[:1].float(), inner, ROUGH[-1:].float()])
    x = points()
    y = x
    for k, s in enumerate([float(ROUGH[0]), *inner.tolist()]):
        scheduler._step_index = k
        y = scheduler.step((y - mixture(y, torch.full((len(y),), s))) / s, scheduler.timesteps[k], y).prev_sample
    assert torch.allclose(heun(mixture, x, ROUGH), y, rtol=1e-5, atol=1e-5)


def test_dynamic_thresholding():
    scheduler = diffusers.DPMSolverMultistepScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.7)
    x = starting_noise(0, range(6), (3, 8, 8)) * torch.tensor([0.2, 0.6, 0.9, 1.2, 2.0, 5.0]).reshape(-1, 1, 1, 1)
    ours = ThresholdX0(lambda x, sigma: x, share=0.9, largest=1.7)(x, torch.ones(6))
    assert torch.allclose(ours, scheduler._threshold_sample(x), rtol=1e-6, atol=1e-6)
