"""Folders of diffusers, read: the images are those that diffusers makes from the same noise."""

import inspect
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.data.images import to_pixels
from alphabar.denoiser.diffusers_config import DEFAULTS, IGNORED_KEYS, read_scheduler
from alphabar.denoiser.from_diffusers import read_diffusers
from alphabar.denoiser.model import load_weights, save_weights
from alphabar.denoiser.wrappers import ClipX0
from alphabar.sampling.sample import sample
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samplers.ddpm import ddpm
from alphabar.schedule.betas import CURVES, Betas
from alphabar.schedule.grid import make_grid, timesteps_of
from alphabar.training.checkpoint import load_model
from tests.denoiser.diffusers_folders import N, by_list, edit, ours, saved, theirs, unet

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised in diffusers
DOC = (Path(__file__).parents[2] / "docs" / "diffusers-models.md").read_text()


CLIPPING = [
    {"clip_sample": False}, {}, {"clip_sample_range": 0.6},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 3.0}, {"thresholding": True},
]  # fmt: skip
ALL_CASES = [
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


# Every seventh case has each curve, prediction, clipping and spacing at least once.
CASES = [pytest.param(*case, marks=[] if k % 7 == 0 else [pytest.mark.slow]) for k, case in enumerate(ALL_CASES)]


@pytest.mark.parametrize(("how", "clip", "spacing", "channels"), CASES)
def test_a_folder_makes_the_images_of_diffusers(tmp_path, networks, monkeypatch, how, clip, spacing, channels):
    network = networks[channels]
    options = {**how, **clip, "timestep_spacing": spacing[0], "steps_offset": spacing[1]}
    large = (len(str(options)) + channels) % 2 == 1 and spacing[0] != "trailing" and spacing[1] == 0
    options["variance_type"] = "fixed_large" if large else "fixed_small_log"
    model = read_diffusers(saved(tmp_path, network, **options))
    scheduler = diffusers.DDPMScheduler(**options)
    pairs = [
        (theirs(scheduler, network, 10, model.image_shape, monkeypatch), ours(ddpm, model, 10, variance=model.defaults.variance))
    ]
    if how.get("beta_schedule") not in ("sigmoid", "laplace") and spacing[0] != "linspace":  # other strides there
        scheduler = diffusers.DDIMScheduler.from_config(scheduler.config)
        pairs += [
            (theirs(scheduler, network, 10, model.image_shape, monkeypatch, eta=eta), ours(ddim, model, 10, eta=eta))
            for eta in (0.0, 0.7)
        ]
    for wanted, found in pairs:
        assert wanted.abs().max() > 0.1
        assert (found - wanted).abs().max() <= 1e-4 * max(1.0, float(wanted.abs().max()))


def test_sample_makes_the_pixels_of_a_pipeline_of_diffusers(tmp_path, networks):
    """`sample` on the folder with default options against DDIMPipeline.from_pretrained."""
    wide = unet(3, size=[16, 32])
    folder = saved(tmp_path, wide, "DDIM", prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", clip_sample=False)
    model = load_model(f"diffusers:{folder}")
    assert model.image_shape == (3, 16, 32)
    made = sample(model, N, steps=20, progress=False)
    pipe = diffusers.DDIMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    first = made.record["grid"][0]  # `sample` starts from x of standard deviation sigma, which is a little less than 1 in y
    y = starting_noise(0, range(N), model.image_shape) * first / (1 + first**2) ** 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *args, **kw: y)
        images = pipe(batch_size=N, num_inference_steps=20, output_type="np").images
    assert np.abs(made.images - images * 255).max() < 0.51  # one rounding to a level
    assert made.record["model"] == model.fingerprint


@pytest.mark.parametrize(
    ("scheduler", "options", "recorded"),
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
def test_the_record_has_the_settings_of_the_folder(tmp_path, networks, scheduler, options, recorded):
    model = read_diffusers(saved(tmp_path, networks[1], **scheduler))
    record = sample(model, 1, sampler="ddpm", steps=3, progress=False, **options).record
    assert {k: record.get(k) for k in recorded} == recorded


def test_the_settings_of_the_folder_are_applied(tmp_path, networks):
    """Against the sampler called directly, with a limit of clipping that changes the images."""
    model = read_diffusers(saved(tmp_path, networks[1], clip_sample_range=0.5, timestep_spacing="trailing"))
    made, free = (sample(model, N, steps=4, progress=False, clip=clip) for clip in (None, False))
    x = starting_noise(0, range(N), model.image_shape) * model.schedule.sigma_max
    x = ddim(ClipX0(model, -0.5, 0.5), x, make_grid(model.schedule, 4, "trailing"))
    assert np.array_equal(made.images, to_pixels(x)) and made.images.max() <= 192 < free.images.max()


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
@pytest.mark.parametrize("pipeline", ["DDPM", "DDIM"])
def test_the_sampler_of_a_pipeline(tmp_path, networks, kind, pipeline):
    getattr(diffusers, f"{pipeline}Pipeline")(networks[1], getattr(diffusers, f"{kind}Scheduler")()).save_pretrained(tmp_path)
    if pipeline == "DDIM":  # it saves the DDIMScheduler that it made; older ones kept the name
        edit(tmp_path / "model_index.json", scheduler=["diffusers", f"{kind}Scheduler"])
    defaults = read_diffusers(tmp_path).defaults
    assert (defaults.sampler, defaults.steps) == (
        "ddpm" if kind == pipeline == "DDPM" else "ddim",
        1000 if pipeline == "DDPM" else 50,
    )


def test_a_folder_of_the_first_releases_is_read(tmp_path, folder):
    """Components next to model_index.json, few keys, old names of attention's projections, half precision."""
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


def test_the_model_is_stored_like_any_other(tmp_path, folder):
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
    "class": ("unet/config.json", {"num_class_embeds": 10}, "'class_embedding.weight' is missing"),
    "null class": ("unet/config.json", {"num_class_embeds": 10, "null_class": 3}, "null_class is 3; the last of num"),
    "class type": ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type is 'timestep'; only null"),
    "conditional": ("unet/config.json", {"in_channels": 4}, "in_channels 4, out_channels 1: a conditional"),
    "variance": ("unet/config.json", {"out_channels": 2}, "out_channels 2 is twice.*variance"),
    "fourier": ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
    "other network": ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "only UNet2DModel"),
    "no size": ("unet/config.json", {"sample_size": None}, "sample_size is None; give"),
    "odd size": ("unet/config.json", {"sample_size": 15}, "divisible by 2"),
    "unknown of network": ("unet/config.json", {"use_flash": True}, "use_flash is unknown to UNet2DModel"),
    "unknown block": ("unet/config.json", {"down_block_types": ["DownBlock2D", "MyBlock"]}, "cannot be made from it"),
    "wider": ("unet/config.json", {"block_out_channels": [8, 10**4]}, "does not match config.json"),
    "too wide": ("unet/config.json", {"block_out_channels": [8, 10**7]}, r"channels\[1\] is 10000000; wanted a whole number"),
    "deeper": ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block is 1000000000"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_cannot_be_reproduced_are_refused_by_name(folder, case):
    file, values, message = REFUSED[case]
    edit(folder / file, **values)
    with pytest.raises(ValueError, match=message):
        read_diffusers(folder)


def test_set_alpha_to_one_is_read_for_ddim_only():
    config = {"set_alpha_to_one": False}
    assert read_scheduler(config, scheduler="DDPMScheduler")[2].sampler == "ddpm"
    with pytest.raises(ValueError, match=r"set_alpha_to_one is false.*set it to true"):
        read_scheduler(config, scheduler="DDIMScheduler")
    with pytest.raises(ValueError, match="set_alpha_to_one"):
        read_scheduler(config, scheduler="DDPMScheduler", pipeline="DDIMPipeline")


def test_ignored_keys_are_no_parameters_of_the_schedulers():
    """No ignored key is a parameter of diffusers' two schedulers, and all of their parameters are read, with their defaults."""
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


# Faults of diffusers 0.42. These tests fail once they are fixed there.


def test_fixed_large_log_of_diffusers_is_nan(networks, monkeypatch):
    scheduler = diffusers.DDPMScheduler(variance_type="fixed_large_log")
    assert theirs(scheduler, networks[1], 10, (1, 16, 16), monkeypatch).isnan().any()


def test_fixed_large_of_diffusers_leaves_noise_on_trailing_steps(tmp_path, networks, monkeypatch):
    options = {"variance_type": "fixed_large", "timestep_spacing": "trailing"}
    model = read_diffusers(saved(tmp_path, networks[1], **options))
    scheduler = diffusers.DDPMScheduler(**options)
    y = theirs(scheduler, networks[1], 10, model.image_shape, monkeypatch)
    x = ours(ddpm, model, 10, variance="beta")
    left = float((1 - scheduler.alphas_cumprod[99]).sqrt())  # noise of the last step, added to the finished image
    assert (y - left * SeededNoise(0, range(N))(9, y) - x).abs().max() < 1e-4
    assert left > 0.3


def test_ddim_of_diffusers_steps_by_a_wrong_stride_on_linspace(tmp_path, networks, monkeypatch):
    options = {"timestep_spacing": "linspace", "clip_sample": False}
    model = read_diffusers(saved(tmp_path, networks[1], "DDIM", **options))
    y = theirs(diffusers.DDIMScheduler(**options), networks[1], 10, model.image_shape, monkeypatch)
    x = ours(ddim, model, 10)
    assert (x - y).abs().max() > 1e-2
    right = diffusers.DPMSolverMultistepScheduler(solver_order=1)  # DDIM under another name, on its own list
    assert torch.allclose(
        by_list(right, networks[1], timesteps_of(model.schedule, make_grid(model.schedule, 10, "linspace"))), x, atol=1e-4
    )


def test_dpm_solver_of_diffusers_has_less_noise_at_the_last_timestep_than_before():
    betas = diffusers.DPMSolverMultistepScheduler(rescale_betas_zero_snr=True).alphas_cumprod
    assert betas[999] > betas[998]


@pytest.mark.usefixtures("small_data")
@pytest.mark.slow
def test_a_folder_is_a_run_for_every_command(tmp_path, networks, monkeypatch, capsys):
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


@pytest.mark.parametrize("null", [False, True])
def test_a_class_conditional_network_gets_its_labels(null, tmp_path):
    network = unet(num_class_embeds=4)
    folder = saved(tmp_path / "p", network, clip_sample=False)
    if null:
        edit(folder / "unet" / "config.json", null_class=3)
    model = read_diffusers(folder)
    assert (model.classes, model.null_class) == ((3, True) if null else (4, False))
    y, t, labels = torch.randn(3, 1, 16, 16), torch.tensor([3, 400, 900]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        sigma = model.schedule.sigma(t.double())
        wanted = network(y, t, class_labels=labels).sample
        x = y * (1 + sigma**2).sqrt().float()[:, None, None, None]
        assert torch.allclose(model.output(x, sigma, labels), wanted, atol=1e-4)
        assert not torch.allclose(model.output(x, sigma, labels.flip(0)), wanted, atol=1e-3)
    options = {"steps": 2, "progress": False, "fast": "auto"}
    made = sample(model, 3, classes="all", **options)
    assert made.record["classes"] == list(range(model.classes))
    if null:
        assert sample(model, 2, **options).images.shape == sample(model, 2, classes=1, guidance=2, **options).images.shape
        return
    with pytest.raises(ValueError, match=r"needs a class for every image: give classes \(--classes all\), 0 to 3"):
        sample(model, 2, **options)
    with pytest.raises(ValueError, match="guidance 2 needs a label that stands for no class"):
        sample(model, 2, classes=1, guidance=2, **options)
