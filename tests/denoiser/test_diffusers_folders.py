"""Folders of diffusers, read and written: drawn there and here from the same noise, the images are the same."""

import inspect
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.data.images import to_pixels
from alphabar.denoiser.diffusers_scheduler import DEFAULTS, IGNORED_KEYS, read_scheduler
from alphabar.denoiser.from_diffusers import read_diffusers
from alphabar.denoiser.model import build, load_weights, save_weights
from alphabar.denoiser.model_recipe import ModelRecipe
from alphabar.denoiser.to_diffusers import export_diffusers
from alphabar.denoiser.wrappers import ClipX0, ThresholdX0
from alphabar.fitting.descent import Coefficients
from alphabar.sampling.fitted import Tuned, folders_of, save_tuned
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.sampling.samplers.dpmpp_2m import dpmpp_2m
from alphabar.schedule.betas import CURVES, Betas
from alphabar.schedule.grid import at_times, make_grid, timesteps_of
from alphabar.training.checkpoint import load_model

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
N = 3
DOC = (Path(__file__).parents[2] / "docs" / "foreign-models.md").read_text()


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


@pytest.fixture(scope="module")
def networks():
    return {c: unet(c) for c in (1, 3)}


@pytest.fixture
def folder(tmp_path, networks):
    return saved(tmp_path / "pipe", networks[1])


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@torch.no_grad()
def theirs(scheduler, network, n, shape, monkeypatch, **options):
    """diffusers' scheduler, stepping with our noise; clipped eps re-derived, as here (peers do not by default)."""
    scheduler.set_timesteps(n)
    noise, y = SeededNoise(0, range(N)), starting_noise(0, range(N), shape)
    for k, t in enumerate(scheduler.timesteps):
        drawn = noise(k, y)
        if isinstance(scheduler, diffusers.DDIMScheduler):
            more = {"use_clipped_model_output": True, "variance_noise": drawn, **options}
        else:  # it draws its noise itself
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


CLIPPING = [
    {"clip_sample": False}, {}, {"clip_sample_range": 0.6},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 3.0}, {"thresholding": True},
]  # fmt: skip
CASES = [
    (dict(zip(("beta_schedule", "prediction_type"), case[:2], strict=True)), case[2], spacing, channels)
    for case, spacing, channels in zip(
        itertools.product([c for c in CURVES if c != "given"], ["epsilon", "sample", "v_prediction"], CLIPPING),
        itertools.cycle([("leading", 0), ("trailing", 0), ("linspace", 0), ("leading", 1), ("trailing", 0)]),
        itertools.cycle([1, 1, 1, 3]),
    )
] + [
    ({"prediction_type": kind, "trained_betas": [0.002 + 0.0003 * k for k in range(100)], "num_train_timesteps": 100}, clip, s, 1)
    for kind, clip, s in (("epsilon", {}, ("leading", 0)), ("v_prediction", CLIPPING[0], ("trailing", 0)))
] + [
    ({"prediction_type": kind, "rescale_betas_zero_snr": True, "beta_schedule": curve}, clip, ("trailing", 0), 1)
    for kind, curve in itertools.product(["sample", "v_prediction"], ["linear", "scaled_linear", "squaredcos_cap_v2"])
    for clip in CLIPPING[:2]
]  # fmt: skip


@pytest.mark.parametrize(("how", "clip", "spacing", "channels"), CASES)
def test_a_folder_draws_what_diffusers_draws(tmp_path, networks, monkeypatch, how, clip, spacing, channels):
    network = networks[channels]
    options = {**how, **clip, "timestep_spacing": spacing[0], "steps_offset": spacing[1]}
    large = (len(str(options)) + channels) % 2 == 1 and spacing[0] != "trailing" and spacing[1] == 0
    options["variance_type"] = "fixed_large" if large else "fixed_small_log"
    model = read_diffusers(saved(tmp_path, network, **options))
    scheduler = diffusers.DDPMScheduler(**options)
    pairs = [
        (theirs(scheduler, network, 10, model.image_shape, monkeypatch), ours(ddpm, model, 10, variance=model.defaults.variance))
    ]
    if how.get("beta_schedule") not in ("sigmoid", "laplace") and spacing[0] != "linspace":  # whose strides its DDIM misreads
        scheduler = diffusers.DDIMScheduler.from_config(scheduler.config)
        pairs += [
            (theirs(scheduler, network, 10, model.image_shape, monkeypatch, eta=eta), ours(ddim, model, 10, eta=eta))
            for eta in (0.0, 0.7)
        ]
    for wanted, found in pairs:
        assert wanted.abs().max() > 0.1
        assert (found - wanted).abs().max() <= 1e-4 * max(1.0, float(wanted.abs().max()))


def test_a_pipeline_of_diffusers_draws_our_samples(tmp_path, networks):
    """Whole: `sample` on the folder, told nothing, against DDIMPipeline.from_pretrained, pixels of a sheet."""
    wide = unet(3, size=[16, 32])
    folder = saved(tmp_path, wide, "DDIM", prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", clip_sample=False)
    model = load_model(f"diffusers:{folder}")
    assert model.image_shape == (3, 16, 32)
    made = sample(model, N, steps=20, progress=False)
    pipe = diffusers.DDIMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    first = made.record["grid"][0]  # `sample` starts from x of standard deviation sigma, which in y is a little less than 1
    y = starting_noise(0, range(N), model.image_shape) * first / (1 + first**2) ** 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *args, **kw: y)
        images = pipe(batch_size=N, num_inference_steps=20, output_type="np").images
    assert np.abs(made.images - images * 255).max() < 0.51  # one rounding to a level
    assert made.record["model"] == model.fingerprint


@pytest.mark.parametrize(
    ("scheduler", "asked", "told"),
    [
        ({}, {}, {"clip": True, "threshold": None, "grid_name": "leading", "variance": "posterior"}),
        ({"clip_sample_range": 2.0, "timestep_spacing": "linspace", "variance_type": "fixed_large"}, {},
         {"clip": 2.0, "grid_name": "linspace", "variance": "beta"}),
        ({"thresholding": True, "sample_max_value": 4.0, "steps_offset": 1}, {},
         {"clip": False, "threshold": 0.995, "threshold_max": 4.0, "grid_name": "leading+1"}),
        ({"thresholding": True, "sample_max_value": 4.0}, {"clip": True}, {"clip": True, "threshold": None}),
        ({}, {"clip": False}, {"clip": False, "threshold": None}),
        ({}, {"threshold": 0.9}, {"clip": False, "threshold": 0.9}),
        ({"variance_type": "fixed_large"}, {"variance": "posterior", "grid": "trailing"},
         {"variance": "posterior", "grid_name": "trailing"}),
    ],
)  # fmt: skip
def test_the_record_says_what_the_folder_decided(tmp_path, networks, scheduler, asked, told):
    model = read_diffusers(saved(tmp_path, networks[1], **scheduler))
    record = sample(model, 1, sampler="ddpm", steps=3, progress=False, **asked).record
    assert {k: record.get(k) for k in told} == told


def test_what_the_folder_decided_is_done(tmp_path, networks):
    """As the wrapped model drawn by hand, where the wrapper changes what comes out."""
    model = read_diffusers(saved(tmp_path, networks[1], clip_sample_range=0.5, timestep_spacing="trailing"))
    made, free = (sample(model, N, steps=4, progress=False, clip=clip) for clip in (None, False))
    x = starting_noise(0, range(N), model.image_shape) * model.schedule.sigma_max
    x = ddim(ClipX0(model, -0.5, 0.5), x, make_grid(model.schedule, 4, "trailing"))
    assert np.array_equal(made.images, to_pixels(x)) and made.images.max() <= 192 < free.images.max()


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
@pytest.mark.parametrize("pipeline", ["DDPM", "DDIM"])
def test_which_sampler_a_pipeline_is(tmp_path, networks, kind, pipeline):
    getattr(diffusers, f"{pipeline}Pipeline")(networks[1], getattr(diffusers, f"{kind}Scheduler")()).save_pretrained(tmp_path)
    if pipeline == "DDIM":  # its saved scheduler is the DDIM that it turned the other into; older ones kept the name
        edit(tmp_path / "model_index.json", scheduler=["diffusers", f"{kind}Scheduler"])
    defaults = read_diffusers(tmp_path).defaults
    assert (defaults.sampler, defaults.steps) == (
        "ddpm" if kind == pipeline == "DDPM" else "ddim",
        1000 if pipeline == "DDPM" else 50,
    )


def test_the_first_releases_layout_and_names_are_read(tmp_path, folder):
    """Components beside model_index.json, few keys, attention's projections under their old names, half precision."""
    import safetensors.torch as st

    wanted = read_diffusers(folder)
    old = tmp_path / "old"
    old.mkdir()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = st.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for new, was in names.items():
        assert any(new in k for k in weights)
        weights = {k.replace(f".{new}.", f".{was}."): v for k, v in weights.items()}
    st.save_file({k: v.half() for k, v in weights.items()}, old / "diffusion_pytorch_model.safetensors")
    shutil.copy(folder / "model_index.json", old)
    shutil.copy(folder / "unet" / "config.json", old)
    (old / "scheduler_config.json").write_text(
        '{"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear", '
        '"beta_start": 0.0001, "clip_sample": true, "num_train_timesteps": 1000, "tensor_format": "pt", "trained_betas": null, '
        '"timestep_values": null, "variance_type": "fixed_large"}'
    )
    model = read_diffusers(old)
    assert model.defaults.variance == "beta" and model.defaults.clip == 1.0 and model.own_schedule == Betas()
    x, s = starting_noise(0, range(2), (1, 16, 16)), torch.full((2,), 0.5)
    assert torch.allclose(model(x, s), wanted(x, s), atol=5e-3) and next(model.parameters()).dtype == torch.float32


def test_the_fingerprint_is_of_weights_and_settings(folder):
    first = read_diffusers(folder).fingerprint
    assert read_diffusers(folder).fingerprint == first
    edit(folder / "scheduler" / "scheduler_config.json", clip_sample_range=2.0)
    second = read_diffusers(folder).fingerprint
    edit(folder / "unet" / "config.json", norm_eps=1e-6)
    assert len({first, second, read_diffusers(folder).fingerprint}) == 3


def test_a_foreign_model_is_stored_like_any_other(tmp_path, folder):
    model = read_diffusers(folder)
    save_weights(tmp_path / "m.safetensors", model)
    assert load_weights(tmp_path / "m.safetensors").fingerprint == model.fingerprint


REFUSED = {
    "latents": ("model_index.json", {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, "latents"),
    "score sde": ("model_index.json", {"_class_name": "ScoreSdeVePipeline"}, "ScoreSdeVePipeline.*variance-exploding"),
    "own pipeline": ("model_index.json", {"_class_name": ["pipeline", "MyPipeline"]}, "bring their own code"),
    "own network": ("model_index.json", {"unet": ["my_module", "MyUNet"]}, "code inside a folder is never run"),
    "pndm": ("model_index.json", {"scheduler": ["diffusers", "PNDMScheduler"]}, "PNDMScheduler.*DDPMPipeline"),
    "more parts": ("model_index.json", {"text_encoder": ["transformers", "CLIPTextModel"]}, "differs in text_encoder"),
    "scheduler of another": ("scheduler/scheduler_config.json", {"_class_name": "EulerDiscreteScheduler"}, "EulerDiscrete"),
    "learned": ("scheduler/scheduler_config.json", {"variance_type": "learned_range"}, "variance_type 'learned_range'"),
    "flow": ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "prediction_type is 'flow_pred.*epsilon"),
    "curve": ("scheduler/scheduler_config.json", {"beta_schedule": "jsd"}, "beta_schedule is 'jsd'.*trained_betas"),
    "spacing": ("scheduler/scheduler_config.json", {"timestep_spacing": "quad"}, "timestep_spacing is 'quad'"),
    "zero snr": ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "no signal is left.*v_prediction"),
    "max": ("scheduler/scheduler_config.json", {"thresholding": True, "sample_max_value": 0.5}, "sample_max_value is 0.5"),
    "new key": ("scheduler/scheduler_config.json", {"snr_shift": 2.0}, "snr_shift is unknown.*remove it"),
    "short table": ("scheduler/scheduler_config.json", {"trained_betas": [0.1, 0.2]}, "trained_betas is a list of 2;.*1000"),
    "many steps": ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "num_train_timesteps is 1000000000000"),
    "nan": ("scheduler/scheduler_config.json", {"beta_end": float("nan")}, "beta_end is nan"),
    "class": ("unet/config.json", {"num_class_embeds": 10}, "num_class_embeds is 10: a class-conditional"),
    "class type": ("unet/config.json", {"class_embed_type": "timestep"}, "class-conditional"),
    "conditional": ("unet/config.json", {"in_channels": 4}, "in_channels 4, out_channels 1: a conditional"),
    "variance": ("unet/config.json", {"out_channels": 2}, "out_channels 2 is twice.*variance"),
    "fourier": ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
    "other network": ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "only UNet2DModel"),
    "no size": ("unet/config.json", {"sample_size": None}, "sample_size is None; give"),
    "odd size": ("unet/config.json", {"sample_size": 15}, "divisible by 2"),
    "unknown of network": ("unet/config.json", {"use_flash": True}, "use_flash is unknown to UNet2DModel"),
    "unknown block": ("unet/config.json", {"down_block_types": ["DownBlock2D", "MyBlock"]}, "cannot be made from it"),
    "wider": ("unet/config.json", {"block_out_channels": [8, 10**7]}, "does not match config.json"),
    "deeper": ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block is 1000000000"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(folder, case):
    file, values, told = REFUSED[case]
    edit(folder / file, **values)
    with pytest.raises(ValueError, match=told):
        read_diffusers(folder)


def test_alpha_to_one_matters_to_ddim_alone():
    config = {"set_alpha_to_one": False}
    assert read_scheduler(config, scheduler="DDPMScheduler")[2].sampler == "ddpm"
    with pytest.raises(ValueError, match=r"set_alpha_to_one is false.*set it to true"):
        read_scheduler(config, scheduler="DDIMScheduler")
    with pytest.raises(ValueError, match="set_alpha_to_one"):
        read_scheduler(config, scheduler="DDPMScheduler", pipeline="DDIMPipeline")


def test_keys_taken_for_harmless_are():
    """No key on that list is one that diffusers' two schedulers take; all those they take are handled."""
    for scheduler in (diffusers.DDPMScheduler, diffusers.DDIMScheduler):
        own = set(inspect.signature(inspect.unwrap(scheduler.__init__)).parameters) - {"self"}
        assert own <= set(DEFAULTS) and not own & IGNORED_KEYS
        taken = inspect.signature(inspect.unwrap(scheduler.__init__)).parameters
        assert {k: taken[k].default for k in own} == {k: DEFAULTS[k] for k in own}


def test_weights_are_never_unpickled(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.fp16.safetensors but no .*rename"):
        read_diffusers(folder)
    weights.with_suffix(".fp16.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only as a pickle \(diffusion_pytorch_model.bin\).*python -c"):
        read_diffusers(folder)


def test_damaged_folders(tmp_path, folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="is truncated"):
        read_diffusers(folder)
    import safetensors.torch as st

    some = st.load(whole)
    st.save_file(dict(list(some.items())[:-1]), weights)
    with pytest.raises(ValueError, match=r"does not match config\.json"):
        read_diffusers(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_diffusers(folder)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no scheduler/scheduler_config.json"):
        read_diffusers(folder)
    with pytest.raises(FileNotFoundError, match="hf download"):
        load_model("diffusers:google/ddpm-cifar10-32")
    with pytest.raises(FileNotFoundError, match=r"no model_index.json"):
        read_diffusers(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"write diffusers:{folder}"):
        load_model(folder)


# faults of diffusers 0.42 that a reader of its settings meets; each fails when mended there


def test_their_fixed_large_log_is_not_a_number(networks, monkeypatch):
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large_log")
    assert theirs(scheduler, networks[1], 10, (1, 16, 16), monkeypatch).isnan().any()


def test_their_fixed_large_ends_in_noise_on_trailing_steps(tmp_path, networks, monkeypatch):
    options = {"variance_type": "fixed_large", "timestep_spacing": "trailing"}
    model = read_diffusers(saved(tmp_path, networks[1], **options))
    scheduler = diffusers.DDPMScheduler(**options)
    y = theirs(scheduler, networks[1], 10, model.image_shape, monkeypatch)
    x = ours(ddpm, model, 10, variance="beta")
    left = float((1 - scheduler.alphas_cumprod[99]).sqrt())  # noise of the last step, added to the finished image
    assert (y - left * SeededNoise(0, range(N))(9, y) - x).abs().max() < 1e-4
    assert left > 0.3


def test_their_ddim_reads_wrong_strides_on_linspace(tmp_path, networks, monkeypatch):
    options = {"timestep_spacing": "linspace", "clip_sample": False}
    model = read_diffusers(saved(tmp_path, networks[1], "DDIM", **options))
    y = theirs(diffusers.DDIMScheduler(**options), networks[1], 10, model.image_shape, monkeypatch)
    x = ours(ddim, model, 10)
    assert (x - y).abs().max() > 1e-2
    right = diffusers.DPMSolverMultistepScheduler(solver_order=1)  # DDIM under another name, on its own list
    assert torch.allclose(
        by_list(right, networks[1], timesteps_of(model.schedule, make_grid(model.schedule, 10, "linspace"))), x, atol=1e-4
    )


def test_their_dpm_solver_takes_less_noise_last_than_before():
    betas = diffusers.DPMSolverMultistepScheduler(rescale_betas_zero_snr=True).alphas_cumprod
    assert betas[999] > betas[998]


# export


@torch.no_grad()
def by_list(scheduler, network, timesteps, y=None):
    scheduler.set_timesteps(timesteps=timesteps)
    y = starting_noise(0, range(N), (1, 16, 16)) if y is None else y
    for t in scheduler.timesteps:
        y = scheduler.step(network(y, t).sample, t, y).prev_sample
    return y


SMALL = ModelRecipe(network="unet2d", channels=(8, 16), groups=4, attention=(1,))


def trained(schedule=None, prediction="v", **more):
    """A model like a trained one: with the last convolution at zero its x0_hat would say nothing."""
    return build(replace(SMALL, prediction=prediction), schedule or {"kind": "linear"}, (1, 16, 16), 3, **more).eval()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    "schedule",
    [{"kind": "linear", "beta_max": 0.01}, Betas("sigmoid").spec(), Betas("given", steps=100, given=(0.04,) * 100).spec()],
    ids=["linear", "sigmoid", "given"],
)
def test_an_exported_run_draws_the_same_there(tmp_path, prediction, schedule):
    model = trained(schedule, prediction)
    export_diffusers(model, tmp_path / "out")
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    y = starting_noise(0, range(N), model.image_shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *args, **kw: y)
        images = pipe(batch_size=N, num_inference_steps=10, output_type="pt").images * 2 - 1
    grid = make_grid(model.schedule, 10, "trailing")
    x = ddim(model, y * float((1 + grid[0] ** 2).sqrt()), grid)
    assert (x.clamp(-1, 1) - images).abs().max() < 1e-4 and images.std() > 0.05
    again = load_model(f"diffusers:{tmp_path / 'out'}")
    assert (again(y, torch.ones(N)) - model(y, torch.ones(N))).abs().max() < 1e-4
    assert again.defaults.clip is None and again.defaults.grid == "trailing"


def test_an_exported_ddpm_draws_the_same_there(tmp_path, monkeypatch):
    model = trained()
    export_diffusers(model, tmp_path / "out", pipeline="ddpm")
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    y = theirs(pipe.scheduler, pipe.unet, 20, model.image_shape, monkeypatch)
    assert (ours(ddpm, model, 20, "trailing") - y).abs().max() < 1e-4


@pytest.mark.parametrize("order", [1, 2])
def test_a_fitted_grid_drives_diffusers(tmp_path, order):
    """The list of timesteps is the same levels there: DPM-Solver++ of order 1 is ddim, of order 2 our dpmpp_2m."""
    model = trained(prediction="v")
    export_diffusers(model, tmp_path / "out")
    pipe = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    fitted = model.schedule.sigma(torch.tensor([999, 870.3, 640.2, 444.4, 201, 93.6, 20.1], dtype=torch.float64))
    timesteps = timesteps_of(model.schedule, torch.cat([fitted, fitted.new_zeros(1)]))
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, solver_order=order, final_sigmas_type="zero", lower_order_final=True
    )
    y = by_list(scheduler, pipe.unet, timesteps)
    grid = at_times(model.schedule, timesteps)
    assert torch.allclose(scheduler.sigmas.double(), grid, rtol=1e-4)
    x = starting_noise(0, range(N), model.image_shape) * float((1 + grid[0] ** 2).sqrt())
    x = ddim(model, x, grid) if order == 1 else dpmpp_2m(model, x, grid)
    assert (x - y).abs().max() < 1e-4


def test_a_fitted_grid_drives_their_ddpm(tmp_path, monkeypatch):
    model = trained()
    export_diffusers(model, tmp_path / "out", pipeline="ddpm")
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    timesteps = [999, 640, 333, 120, 7]
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kw: torch.zeros(N, 1, 16, 16))
    y = by_list(pipe.scheduler, pipe.unet, timesteps)
    grid = at_times(model.schedule, timesteps)
    x = starting_noise(0, range(N), model.image_shape) * float((1 + grid[0] ** 2).sqrt())
    assert (ddpm(model, x, grid, noise=lambda draw, like: torch.zeros_like(like)) - y).abs().max() < 1e-4


def test_padding_is_told_and_left_to_the_caller(tmp_path):
    notes = export_diffusers(trained(crop=2), tmp_path / "out")
    readme = (tmp_path / "out" / "README.md").read_text()
    assert any("cut 2 pixels off every side" in note and note in readme for note in notes)
    assert not any("starting noise" in note for note in notes)  # sigma_max = 158 of DDPM's betas is noise enough
    notes = export_diffusers(trained({"kind": "linear", "beta_max": 0.01}), tmp_path / "less")
    assert any("multiply the starting noise of diffusers by 0.9968" in note for note in notes)
    assert not list(tmp_path.glob("*.part"))


def test_what_cannot_be_exported_is_refused_by_name(tmp_path, folder):
    for model, told in (
        (
            build(ModelRecipe(channels=(8,), groups=8, embedding=16), {"kind": "linear"}, (1, 8, 8)),
            "'unet', which does not exist in diffusers",
        ),
        (trained({"kind": "cosine"}), "'cosine', whose time is continuous"),
        (build(replace(SMALL, data_range=0.5), {"kind": "linear"}, (1, 16, 16)), "-0.5..0.5; diffusers' is -1..1"),
    ):
        with pytest.raises(ValueError, match=f"{told}.*--model.network unet2d --schedule.kind linear --model.data-range 1"):
            export_diffusers(model, tmp_path / "out")
    with pytest.raises(ValueError, match="needs no export"):
        export_diffusers(read_diffusers(folder), tmp_path / "out")
    with pytest.raises(ValueError, match="not empty"):
        export_diffusers(trained(), folder)


# the commands


@pytest.mark.usefixtures("small_data")
def test_a_folder_is_a_run_of_every_command(tmp_path, networks, monkeypatch, capsys):
    from alphabar.cli.main import app

    monkeypatch.chdir(tmp_path)
    small = unet(1, size=28, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    folder = saved(tmp_path / "pipe", small, prediction_type="sample")
    run = f"diffusers:{folder}"
    small = {
        "sample": ["--n", "2", "--steps", "2"],
        "score": ["--n", "520", "--steps", "1", "--metrics", "fid"],
        "sweep": ["--dry-run"],
    }
    ran = [
        line.split()[1:] for line in DOC.splitlines() if line.startswith("alphabar ") and "PATH" in line and "export" not in line
    ]
    assert [words[0] for words in ran] == ["sample", "sample", "score", "sweep"]
    for verb, _, *words in ran:
        keep = [w for k, w in enumerate(words) if "--n" not in (w, words[k - 1]) and "--steps" not in (w, words[k - 1])]
        app([verb, run, *keep, *small[verb]], result_action="return_value")
    assert Path("samples.npz").exists() and Path("thousand.npz").exists()
    assert len(list((folder / "alphabar" / "samples").glob("*_ddim_1_0_520.npz"))) == 1
    assert (folder / "alphabar" / "scores.jsonl").read_text().count("\n") == 1
    assert (folder / "alphabar" / "score.png").exists()
    assert not list(tmp_path.glob("diffusers*"))
    assert load_model(run).home == folder / "alphabar"


@pytest.mark.usefixtures("small_data")
def test_export_from_the_command_line(tmp_path, monkeypatch, capsys):
    from alphabar.cli.main import app

    train, export = (line.split()[1:] for line in DOC.splitlines() if line.startswith("alphabar ") and "unet2d" in line)
    app([*train, "--dry-run"], result_action="return_value")
    assert "runs/unet2d" in train and export == ["export", "runs/unet2d", "--out", "garments_diffusers"]
    capsys.readouterr()
    save_weights(tmp_path / "m.safetensors", trained(crop=2))
    app(["export", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "out")], result_action="return_value")
    assert "DDIMPipeline" in (said := capsys.readouterr().out) and "cut 2 pixels" in said
    assert load_model(f"diffusers:{tmp_path / 'out'}").image_shape == (1, 16, 16)


def test_fitted_samplers_become_timesteps(tmp_path, folder, capsys):
    """Of a fit with levels between timesteps and two on one, the list that diffusers takes, from the docs' own command."""
    from alphabar.cli.main import app

    model = load_model(f"diffusers:{folder}")
    (line,) = (line.split()[1:] for line in DOC.splitlines() if line.startswith("alphabar export") and "timesteps" in line)
    words = [w.replace("PATH", str(folder)).replace("timesteps.json", str(tmp_path / "t.json")) for w in line]
    with pytest.raises(ValueError, match=r"no sampler was fitted.*alphabar tune"):
        app(words, result_action="return_value")
    levels = at_times(model.schedule, [999, 700.4, 300.6, 5.2, 4.9])
    save_tuned(Tuned("mine", model.fingerprint, *Coefficients.ddim(levels).plain()), folders_of(model)[0])
    app(words, result_action="return_value")
    (row,) = json.loads((tmp_path / "t.json").read_text())
    assert row == {"name": "mine", "calls": 5, "timesteps": [999, 700, 301, 6, 5], "moved": 0.8}
    scheduler = diffusers.DDPMScheduler()
    scheduler.set_timesteps(timesteps=row["timesteps"])
    assert scheduler.timesteps.tolist() == row["timesteps"]
