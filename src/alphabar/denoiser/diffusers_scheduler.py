"""The configuration of a DDPMScheduler or DDIMScheduler of diffusers, read as a schedule, a prediction and sampling settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.denoiser.diffusers_config import CheckedConfig
from alphabar.schedule.betas import CURVES, MOST_STEPS, Betas

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
    own = config.get("_class_name", scheduler)
    if own not in SCHEDULERS:
        raise ValueError(
            f"{file} belongs to a {own!r:.60}, but model_index.json names a {scheduler}: {' and '.join(SCHEDULERS)} can be read"
        )
    c = CheckedConfig(DEFAULTS | {k: v for k, v in config.items() if k in DEFAULTS}, file)
    schedule = _schedule(c)
    prediction = PREDICTIONS[c.one_of("prediction_type", PREDICTIONS)]
    return schedule, prediction, _sampling_defaults(c, scheduler, pipeline)


def _schedule(c: CheckedConfig) -> Betas:
    steps = c.whole("num_train_timesteps", 2, MOST_STEPS)
    given, curve, ends, zero_snr = c.values["trained_betas"], "given", (0.1, 0.1), c.flag("rescale_betas_zero_snr")
    if given is None:
        curves = [k for k in CURVES if k != "given"]
        curve = c.one_of("beta_schedule", curves, "; write any other as trained_betas, a list of betas")
        ends = c.number("beta_start", 0, 1), c.number("beta_end", 0, 1)
    elif not isinstance(given, list) or len(given) != steps or not all(type(beta) in (int, float) for beta in given):
        length = f"a list of {len(given)}" if isinstance(given, list) else repr(given)[:60]
        raise ValueError(f"{c.file}: trained_betas is {length}; wanted null or as many numbers as num_train_timesteps, {steps}")
    try:
        return Betas(curve, *ends, steps, zero_snr, tuple(float(beta) for beta in given or ()))
    except (ValueError, OverflowError) as e:
        raise ValueError(f"{c.file}: {e}") from e


def _sampling_defaults(c: CheckedConfig, scheduler: str, pipeline: str) -> SamplingDefaults:
    if c.values["variance_type"] in ("learned", "learned_range"):
        raise ValueError(
            f"{c.file}: variance_type {c.values['variance_type']!r}: the network also predicts the variance of every step, which "
            "no sampler here uses. Only networks of a fixed variance can be read"
        )
    variance = VARIANCES[c.one_of("variance_type", VARIANCES)]
    ddim = pipeline == "DDIMPipeline" or scheduler == "DDIMScheduler"  # a DDIMPipeline converts any scheduler to DDIM
    if ddim and not c.flag("set_alpha_to_one"):
        raise ValueError(
            f"{c.file}: set_alpha_to_one is false, which ends sampling at the noise level of timestep 0; samplers here end "
            "at the clean image: set it to true"
        )
    clip = c.number("clip_sample_range", 1e-6, 1e6) if c.flag("clip_sample") else None
    threshold, most = None, None
    if c.flag("thresholding"):
        clip, threshold = None, c.number("dynamic_thresholding_ratio", 0.5, 1)
        most = c.number("sample_max_value", 1, 1e6)
        if most == 1:  # the limit is then 1 for every quantile: plain clipping
            clip, threshold, most = 1.0, None, None
    grid, offset = c.one_of("timestep_spacing", SPACINGS), c.whole("steps_offset", 0, MOST_STEPS)
    if grid == "leading" and offset:  # the other spacings ignore the offset
        grid = f"leading+{offset}"
    steps = 50 if pipeline == "DDIMPipeline" else 1000
    return SamplingDefaults(clip, threshold, most, grid, variance, "ddim" if ddim else "ddpm", steps)
