"""The configuration files of diffusers: of a UNet2DModel, and of a DDPMScheduler or DDIMScheduler. Every value is checked."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core.stored_values import FLAG, MAX_SIDE, TEXT, StoredValues, listed, number, one_of, read_object, whole
from alphabar.denoiser.unet import unet2d_class
from alphabar.schedule.betas import CURVES, MOST_STEPS, Betas

# ---- schedulers

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "posterior", "fixed_small_log": "posterior", "fixed_large": "beta", "fixed_large_log": "beta"}
SPACINGS = ("leading", "trailing", "linspace")
# Parameters of the two schedulers with their defaults, in diffusers 0.42.
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
    "rescale_betas_zero_snr": False, "prediction_type": "epsilon", "variance_type": "fixed_small", "clip_sample": True,
    "clip_sample_range": 1.0, "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
    "timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": True,
}  # fmt: skip
# Keys left by old releases, or by another scheduler from whose configuration this one was made. They say how to step, not what
# the network was trained on, and DDPMScheduler and DDIMScheduler do not read them either.
IGNORED_KEYS = frozenset([
    "_class_name", "_diffusers_version", "_name_or_path", "_use_default_values", "tensor_format", "timestep_values",
    "algorithm_type", "solver_type", "solver_order", "solver_p", "lower_order_final", "euler_at_final", "final_sigmas_type",
    "lambda_min_clipped", "skip_prk_steps", "predict_x0", "disable_corrector", "use_karras_sigmas", "use_exponential_sigmas",
    "use_beta_sigmas", "use_lu_lambdas", "interpolation_type", "timestep_type", "sigma_min", "sigma_max",
])  # fmt: skip


@dataclass(frozen=True)
class SamplingDefaults:
    """How a folder's own scheduler samples; used where the caller chooses nothing else."""

    clip: float | None
    """x0_hat is clipped to -clip..clip; None: it is not clipped."""
    threshold: float | None
    """Quantile of dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, sec. 2.3); None: no thresholding."""
    threshold_max: float | None
    """Largest limit of dynamic thresholding."""
    grid: str
    """A name for `make_grid`."""
    variance: str
    """Variance of the sampler ddpm: posterior or beta."""
    sampler: str
    """ddpm or ddim."""
    steps: int
    """Network calls per image of the pipeline."""


def read_scheduler(
    config: Mapping[str, Any], file: str | Path = "scheduler_config.json", scheduler: str = "DDPMScheduler", pipeline: str = ""
) -> tuple[Betas, str, SamplingDefaults]:
    """(schedule, prediction, sampling settings) of a scheduler's configuration.

    Args:
        config: the configuration; absent keys have the defaults of diffusers.
        file: its file, for messages.
        scheduler: the class that model_index.json names, one of SCHEDULERS.
        pipeline: the class of the pipeline, or "".

    Raises:
        ValueError: naming the key, for one that is unknown and for a value that no sampler here can reproduce.
    """
    if unknown := sorted(set(config) - set(DEFAULTS) - IGNORED_KEYS):
        raise ValueError(
            f"{file}: {', '.join(unknown)} is unknown to {scheduler} and might change the images: remove it from the file if it "
            "does not"
        )
    if (own := config.get("_class_name", scheduler)) not in SCHEDULERS:
        raise ValueError(
            f"{file} belongs to a {own!r:.60}, but model_index.json names a {scheduler}: {' and '.join(SCHEDULERS)} can be read"
        )
    c = StoredValues(DEFAULTS | {k: v for k, v in config.items() if k in DEFAULTS}, str(file))
    schedule = _schedule(c)
    prediction = PREDICTIONS[c.get("prediction_type", one_of(PREDICTIONS))]
    return schedule, prediction, _sampling_defaults(c, scheduler, pipeline)


def _schedule(c: StoredValues) -> Betas:
    steps = c.get("num_train_timesteps", whole(2, MOST_STEPS))
    given, curve, ends, zero_snr = c.values["trained_betas"], "given", (0.1, 0.1), c.get("rescale_betas_zero_snr", FLAG)
    if given is None:
        curves = [k for k in CURVES if k != "given"]
        curve = c.get("beta_schedule", one_of(curves, "; write any other as trained_betas, a list of betas"))
        ends = float(c.get("beta_start", number(0, 1))), float(c.get("beta_end", number(0, 1)))
    elif not isinstance(given, list) or len(given) != steps or not all(type(beta) in (int, float) for beta in given):
        length = f"a list of {len(given)}" if isinstance(given, list) else repr(given)[:60]
        raise ValueError(f"{c.where}: trained_betas is {length}; wanted null or as many numbers as num_train_timesteps, {steps}")
    try:
        return Betas(curve, *ends, steps, zero_snr, tuple(float(beta) for beta in given or ()))
    except (ValueError, OverflowError) as e:
        raise ValueError(f"{c.where}: {e}") from e


def _sampling_defaults(c: StoredValues, scheduler: str, pipeline: str) -> SamplingDefaults:
    if c.values["variance_type"] in ("learned", "learned_range"):
        raise ValueError(
            f"{c.where}: variance_type {c.values['variance_type']!r}: the network also predicts the variance of every step, "
            "which no sampler here uses. Only networks of a fixed variance can be read"
        )
    variance = VARIANCES[c.get("variance_type", one_of(VARIANCES))]
    ddim = pipeline == "DDIMPipeline" or scheduler == "DDIMScheduler"  # a DDIMPipeline converts any scheduler to DDIM
    if ddim and not c.get("set_alpha_to_one", FLAG):
        raise ValueError(
            f"{c.where}: set_alpha_to_one is false, which ends sampling at the noise level of timestep 0; samplers here end "
            "at the clean image: set it to true"
        )
    clip = float(c.get("clip_sample_range", number(1e-6, 1e6))) if c.get("clip_sample", FLAG) else None
    threshold, most = None, None
    if c.get("thresholding", FLAG):
        clip, threshold = None, float(c.get("dynamic_thresholding_ratio", number(0.5, 1)))
        most = float(c.get("sample_max_value", number(1, 1e6)))
        if most == 1:  # the limit is then 1 for every quantile: plain clipping
            clip, threshold, most = 1.0, None, None
    grid, offset = c.get("timestep_spacing", one_of(SPACINGS)), c.get("steps_offset", whole(0, MOST_STEPS))
    if grid == "leading" and offset:  # the other spacings ignore the offset
        grid = f"leading+{offset}"
    steps = 50 if pipeline == "DDIMPipeline" else 1000
    return SamplingDefaults(clip, threshold, most, grid, variance, "ddim" if ddim else "ddpm", steps)


# ---- the network

MAX_WIDTH, MAX_LEVELS, MAX_BLOCKS = 65536, 16, 64  # of a network in a file: channels, levels, blocks of a level
# Keys that do not change the network: written by diffusers' `save_pretrained` and EMAModel.
IGNORED_UNET_KEYS = frozenset([
    "_class_name", "_diffusers_version", "_name_or_path", "_use_default_values", "decay", "inv_gamma", "power", "min_decay",
    "optimization_step", "update_after_step", "use_ema_warmup",
])  # fmt: skip
WIDTH = whole(1, MAX_WIDTH)
UNET2D = {  # arguments of a UNet2DModel
    **dict.fromkeys(("in_channels", "out_channels", "attention_head_dim", "norm_num_groups", "attn_norm_num_groups"), WIDTH),
    **dict.fromkeys(("time_embedding_dim", "num_class_embeds", "num_train_timesteps"), whole(1, 100_001)),
    **dict.fromkeys(("center_input_sample", "flip_sin_to_cos", "add_attention"), FLAG),
    **dict.fromkeys(("down_block_types", "up_block_types"), listed(TEXT, MAX_LEVELS)),
    **dict.fromkeys(("dropout", "norm_eps"), number(0, 1)), "block_out_channels": listed(WIDTH, MAX_LEVELS, 1),
    "layers_per_block": whole(1, MAX_BLOCKS), "downsample_padding": whole(0, 1), "mid_block_scale_factor": number(0, 1e6),
    "freq_shift": number(0, 64),
}  # fmt: skip
NULLABLE = ("time_embedding_dim", "attention_head_dim", "attn_norm_num_groups", "num_class_embeds", "num_train_timesteps")
OTHER_EMBEDDINGS = "fourier belongs to variance-exploding models and has no timestep 0, learned has no time between timesteps"


def read_unet_config(file: Path, variance: str) -> dict[str, Any]:
    """The arguments of the UNet2DModel that a config.json describes; conditioned on classes or not.

    Diffusers has no key for the label that stands for no class: "null_class", its number, may stand in the file.

    variance: the scheduler's variance_type, for the message about a network that also predicts the variance.
    Raises ValueError, naming the file and the key, for another network, an unknown key, or a value that cannot be used.
    """
    config = read_object(file)
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{file}: the network is a {config['_class_name']!r:.60}; only UNet2DModel can be read")
    known = set(inspect.signature(inspect.unwrap(unet2d_class().__init__)).parameters) - {"self"}
    if unknown := sorted(set(config) - known - IGNORED_UNET_KEYS - {"null_class"}):
        raise ValueError(
            f"{file}: {', '.join(unknown)} is unknown to UNet2DModel of the installed diffusers and might change the images: "
            "remove it from the file if it does not"
        )
    if (value := config.get("class_embed_type")) is not None:
        raise ValueError(f"{file}: class_embed_type is {value!r:.60}; only null can be read, with the number num_class_embeds")
    if (null := config.get("null_class")) is not None and (type(null) is not int or null + 1 != config.get("num_class_embeds")):
        raise ValueError(f"{file}: null_class is {null!r:.60}; the last of num_class_embeds labels can stand for no class")
    if (embedding := config.get("time_embedding_type", "positional")) != "positional":
        raise ValueError(f"{file}: time_embedding_type is {embedding!r:.60}; only 'positional' can be read ({OTHER_EMBEDDINGS})")
    network = {k: v for k, v in config.items() if k in known}
    network = {"in_channels": 3, "out_channels": 3, "layers_per_block": 2} | network
    check_unet2d(StoredValues(network, str(file)))
    c, out = network["in_channels"], network["out_channels"]
    if out == 2 * c:
        raise ValueError(
            f"{file}: out_channels {out} is twice in_channels {c}: the network also predicts the variance (variance_type learned "
            f"or learned_range; the scheduler has {variance}), which no sampler here uses. Only a fixed variance can be read"
        )
    if out != c:
        raise ValueError(
            f"{file}: in_channels {c}, out_channels {out}: a conditional network. Only unconditional ones can be read"
        )
    return network


def check_unet2d(c: StoredValues, shape: list[int] | None = None) -> None:
    """Raises ValueError, naming the key, for arguments that no UNet2DModel has; those that are absent have its defaults.

    shape: [channels, height, width] of the images, where the arguments are not the only place that says it.
    """
    c.check(UNET2D, NULLABLE)
    size = c.values.get("sample_size")
    sides = [size, size] if isinstance(size, int) else size
    if not (isinstance(sides, list) and len(sides) == 2 and all(map(whole(1, MAX_SIDE).good, sides))):
        raise ValueError(f"{c.where}: sample_size is {size!r:.60}; give the images' side in pixels, or [height, width]")
    if shape is not None and [c.values.get("in_channels", 3), *sides] != shape:
        raise ValueError(f"{c.where}: image_shape is {shape}, and the network is for {sides}")
    widths = c.values.get("block_out_channels", (0,) * 4)
    divisor = 2 ** (len(widths) - 1)
    if any(k % divisor for k in sides):
        raise ValueError(f"{c.where}: sample_size {size}: a network of {len(widths)} levels needs sides divisible by {divisor}")
    attends = ["Attn" in kind for kind in c.values.get("down_block_types", ())]
    heads = [w for w, attention in zip(widths, attends, strict=False) if attention]
    heads += widths[-1:] if c.values.get("add_attention", True) else []
    head = c.values.get("attention_head_dim", 8)
    if head is not None and any(0 < w < head for w in heads):
        raise ValueError(
            f"{c.where}: {min(heads)} channels at a level with attention (the last one always is), "
            f"whose heads have {head}: give at least as many"
        )
