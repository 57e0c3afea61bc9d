"""`diffusers:PATH`: the folder of an unconditional pipeline of diffusers, read as a model.

A folder is model_index.json, unet/ (config.json and safetensors) and scheduler/ (scheduler_config.json). It is data: nothing in
it is executed or unpickled. What its files ask for is honoured or refused by name; a key that is not known is refused, for it
might change the images. Read for diffusers 0.42; defaults of absent keys are those of its classes.
"""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from alphabar.denoiser.build import FORMAT, DiffusersNet, Model
from alphabar.schedule.betas import CURVES, MOST_STEPS, Betas

PREFIX = "diffusers:"
PIPELINES = ("DDPMPipeline", "DDIMPipeline")
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "posterior", "fixed_small_log": "posterior", "fixed_large": "beta", "fixed_large_log": "beta"}
SPACINGS = ("leading", "trailing", "linspace")
WEIGHTS = "diffusion_pytorch_model.safetensors"
LARGEST_JSON = 2**24  # bytes

# What the two schedulers take, with their defaults (diffusers 0.42).
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
}
# Left behind by other schedulers, from whose settings one was made, and by old releases: DDPMScheduler and DDIMScheduler of
# diffusers do not read them either, and they say how to step, not what the network was trained on.
HARMLESS = frozenset(
    [
        "_class_name",
        "_diffusers_version",
        "_name_or_path",
        "_use_default_values",
        "tensor_format",
        "timestep_values",
        "algorithm_type",
        "solver_type",
        "solver_order",
        "solver_p",
        "lower_order_final",
        "euler_at_final",
        "final_sigmas_type",
        "lambda_min_clipped",
        "skip_prk_steps",
        "predict_x0",
        "disable_corrector",
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_lu_lambdas",
        "interpolation_type",
        "timestep_type",
        "sigma_min",
        "sigma_max",
    ]
)
# Of a network: written by diffusers' EMAModel and `save_pretrained` beside what the network takes.
HARMLESS_UNET = frozenset(
    [
        "_class_name",
        "_diffusers_version",
        "_name_or_path",
        "_use_default_values",
        "decay",
        "inv_gamma",
        "power",
        "min_decay",
        "optimization_step",
        "update_after_step",
        "use_ema_warmup",
    ]
)
# Projections of attention as releases before 0.15 named them.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Defaults:
    """How a folder's own scheduler samples: what is done unless something else is asked for.

    clip: x0_hat is held within -clip..clip; None: it is not. threshold: share of dynamic thresholding (arXiv:2205.11487,
    sec. 2.3), with the limit held to threshold_max at most. grid: a name for `make_grid`. variance: of the sampler ddpm.
    sampler: ddpm or ddim; steps: network calls an image, which the pipeline makes unless told otherwise.
    """

    clip: float | None
    threshold: float | None
    threshold_max: float | None
    grid: str
    variance: str
    sampler: str
    steps: int


class DiffusersModel(Model):
    """A model whose folder also says how it is sampled. spec["sampling"] holds `defaults` as plain data."""

    defaults: Defaults

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__(spec)
        self.defaults = Defaults(**spec["sampling"])


def pipeline_folder(run: str | Path) -> Path | None:
    """PATH of `diffusers:PATH`, and None of any other run."""
    text = str(run)
    return Path(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None


def read_diffusers(folder: str | Path) -> DiffusersModel:
    """The model of a folder that a DDPMPipeline or DDIMPipeline with a UNet2DModel was saved to, on the CPU, in float32.

    Raises FileNotFoundError for what is not there, and ValueError, naming the file and the key, for what cannot be honoured.
    """
    folder = Path(folder)
    index_file = folder / "model_index.json"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder at {folder}: diffusers: reads local ones, as `hf download OWNER/NAME --local-dir {folder}` makes"
        )
    if not index_file.exists():
        raise FileNotFoundError(f"{folder} has no model_index.json: give the folder that pipeline.save_pretrained(FOLDER) wrote")
    pipeline, scheduler = _read_index(index_file)
    unet, steps = _component(folder, "unet", "config.json"), _component(folder, "scheduler", "scheduler_config.json")
    network = _network(unet)
    schedule, prediction, defaults = read_scheduler(_json(steps), steps, scheduler, pipeline)
    _check_channels(network, unet, str(_json(steps).get("variance_type")))
    if prediction == "eps" and schedule.zero_terminal_snr:
        raise ValueError(
            f"{steps}: rescale_betas_zero_snr with prediction_type 'epsilon': eps at the last timestep, where no signal is left, "
            "says nothing of the image (diffusers divides by 0 there). If the network was trained without, set "
            "rescale_betas_zero_snr to false; if it predicts v, set prediction_type to 'v_prediction'"
        )
    size = network["sample_size"]
    h, w = (size, size) if isinstance(size, int) else size
    spec = {
        "format": FORMAT,
        "network": "unet2d",
        "arguments": network,
        "schedule": schedule.spec(),
        "prediction": prediction,
        "data_range": 1.0,
        "image_shape": [network["in_channels"], h, w],
        "crop": 0,
        "sampling": asdict(defaults),
    }
    try:
        with torch.device("meta"):  # shapes alone: a network is as large as its weight file, whatever its config asks for
            model = DiffusersModel(json.loads(json.dumps(spec)))
    except (TypeError, ValueError, IndexError, ZeroDivisionError, NotImplementedError, RuntimeError) as e:
        raise ValueError(f"{unet}: diffusers' UNet2DModel cannot be made of it: {e}") from e
    _fill(model, unet.parent)
    return model.eval()


def _read_index(file: Path) -> tuple[str, str]:
    """Names of the pipeline and of its scheduler."""
    index = _json(file)
    name = index.get("_class_name")
    if name not in PIPELINES:
        hint = {
            "LDMPipeline": "its network works on latents, which a VQ model decodes",
            "ScoreSdeVePipeline": "it is variance-exploding",
            "PNDMPipeline": "save the same network with a scheduler that says how it was trained",
            "KarrasVePipeline": "it is variance-exploding",
        }.get(name if isinstance(name, str) else "", "others are conditional, or work on latents, or bring code of their own")
        raise ValueError(f"{file}: the pipeline is {name!r:.80}; {' and '.join(PIPELINES)} can be read ({hint}). {_again(file)}")
    parts = {k: v for k, v in index.items() if not k.startswith("_")}
    if set(parts) != {"unet", "scheduler"}:
        odd = sorted(set(parts) ^ {"unet", "scheduler"})
        raise ValueError(f"{file}: a {name} has a unet and a scheduler; this one differs in {', '.join(odd)}")
    for part, known in (("unet", ("UNet2DModel",)), ("scheduler", SCHEDULERS)):
        where = parts[part]
        if not (isinstance(where, list) and len(where) == 2 and where[0] == "diffusers" and where[1] in known):
            raise ValueError(
                f"{file}: the {part} is {where!r:.80}; wanted {' or '.join(known)} of diffusers (code that a folder brings along "
                f"is not run). {_again(file) if part == 'scheduler' else ''}".rstrip()
            )
    return str(name), str(parts["scheduler"][1])


def _again(file: Path) -> str:
    return (
        "Where the network is an unconditional UNet2DModel on pixels, save it with a scheduler that says how it was trained: "
        f"DDPMPipeline(UNet2DModel.from_pretrained('{file.parent}/unet'), DDPMScheduler(beta_schedule=..., "
        "prediction_type=...)).save_pretrained('NEW')"
    )


def _component(folder: Path, part: str, name: str) -> Path:
    """The component's config, in its folder or, as the first releases left it, beside model_index.json."""
    for file in (folder / part / name, folder / name):
        if file.exists():
            return file
    raise FileNotFoundError(f"{folder} has no {part}/{name}: give the folder that pipeline.save_pretrained(FOLDER) wrote")


def _json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{file} is larger than {LARGEST_JSON >> 20} MiB: it is no configuration")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{file} is no JSON ({e})") from e
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds {type(found).__name__}, wanted an object of keys and values")
    return found


@dataclass(frozen=True)
class _Keys:
    """A configuration whose values are checked as they are read. Raises ValueError, naming the file and the key."""

    values: Mapping[str, Any]
    file: str | Path

    def one_of(self, key: str, known: Iterable[str], why: str = "") -> str:
        value = self.values[key]
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{self.file}: {key} is {value!r:.60}; known are {', '.join(known)}{why}")
        return value

    def flag(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise ValueError(f"{self.file}: {key} is {value!r:.60}; wanted true or false")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.values[key]
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"{self.file}: {key} is {value!r:.60}; wanted a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, key: str, low: int, high: int) -> int:
        value = self.values[key]
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{self.file}: {key} is {value!r:.60}; wanted a whole number from {low} to {high}")
        return value


def read_scheduler(
    config: Mapping[str, Any], file: str | Path = "scheduler_config.json", scheduler: str = "DDPMScheduler", pipeline: str = ""
) -> tuple[Betas, str, Defaults]:
    """(schedule, prediction, how it samples) of the configuration of a DDPMScheduler or DDIMScheduler.

    Raises ValueError, naming the key, for one that is not known and for a value that cannot be honoured.
    """
    unknown = sorted(set(config) - set(SCHEDULER) - HARMLESS)
    if unknown:
        raise ValueError(
            f"{file}: {', '.join(unknown)} is not known of a {scheduler} and might change the images: take it out of the file if "
            "it does not"
        )
    own = config.get("_class_name", scheduler)
    if own not in SCHEDULERS:
        raise ValueError(
            f"{file} is of a {own!r:.60}, though model_index.json names a {scheduler}: {' and '.join(SCHEDULERS)} are read"
        )
    c = _Keys(SCHEDULER | {k: v for k, v in config.items() if k in SCHEDULER}, file)
    steps = c.whole("num_train_timesteps", 2, MOST_STEPS)
    given, curve, ends, zero_snr = c.values["trained_betas"], "given", (0.1, 0.1), c.flag("rescale_betas_zero_snr")
    if given is None:
        curves = [k for k in CURVES if k != "given"]
        curve = c.one_of("beta_schedule", curves, "; write any other as trained_betas, a list of betas")
        ends = c.number("beta_start", 0, 1), c.number("beta_end", 0, 1)
    elif not isinstance(given, list) or len(given) != steps or not all(type(beta) in (int, float) for beta in given):
        length = f"a list of {len(given)}" if isinstance(given, list) else repr(given)[:60]
        raise ValueError(f"{file}: trained_betas is {length}; wanted null or as many numbers as num_train_timesteps, {steps}")
    try:
        schedule = Betas(curve, *ends, steps, zero_snr, tuple(float(beta) for beta in given or ()))
    except (ValueError, OverflowError) as e:
        raise ValueError(f"{file}: {e}") from e
    prediction = PREDICTIONS[c.one_of("prediction_type", PREDICTIONS)]
    if c.values["variance_type"] in ("learned", "learned_range"):
        raise ValueError(
            f"{file}: variance_type {c.values['variance_type']!r}: the network also says the variance of every step, which no "
            "sampler here uses. Only networks of a fixed variance can be read"
        )
    variance = VARIANCES[c.one_of("variance_type", VARIANCES)]
    ddim = pipeline == "DDIMPipeline" or scheduler == "DDIMScheduler"  # a DDIMPipeline turns any scheduler into DDIM
    if ddim and not c.flag("set_alpha_to_one"):
        raise ValueError(
            f"{file}: set_alpha_to_one is false, which ends sampling at the noise of timestep 0, and samplers here end at the "
            "clean image: set it to true"
        )
    clip = c.number("clip_sample_range", 1e-6, 1e6) if c.flag("clip_sample") else None
    threshold, most = None, None
    if c.flag("thresholding"):
        clip, threshold = None, c.number("dynamic_thresholding_ratio", 0.5, 1)
        most = c.number("sample_max_value", 1, 1e6)
        if most == 1:  # the limit then is 1 whatever the share: plain clipping
            clip, threshold, most = 1.0, None, None
    grid, offset = c.one_of("timestep_spacing", SPACINGS), c.whole("steps_offset", 0, MOST_STEPS)
    if grid == "leading" and offset:  # the others do not look at it
        grid = f"leading+{offset}"
    calls = 50 if pipeline == "DDIMPipeline" else 1000
    return schedule, prediction, Defaults(clip, threshold, most, grid, variance, "ddim" if ddim else "ddpm", calls)


def _network(file: Path) -> dict[str, Any]:
    """The arguments of the UNet2DModel that a config.json describes."""
    config = _json(file)
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{file}: the network is a {config['_class_name']!r:.60}; only UNet2DModel can be read")
    try:
        from diffusers import UNet2DModel
    except ImportError as e:
        raise ImportError("diffusers: reads folders with diffusers' UNet2DModel: pip install 'alphabar[diffusers]'") from e
    known = set(inspect.signature(inspect.unwrap(UNet2DModel.__init__)).parameters) - {"self"}
    if unknown := sorted(set(config) - known - HARMLESS_UNET):
        raise ValueError(
            f"{file}: {', '.join(unknown)} is not known of a UNet2DModel of this diffusers and might change the images: take it "
            "out of the file if it does not"
        )
    for key in ("class_embed_type", "num_class_embeds"):
        if config.get(key) is not None:
            raise ValueError(
                f"{file}: {key} is {config[key]!r:.60}: a class-conditional network. Only unconditional ones can be read"
            )
    embedding = config.get("time_embedding_type", "positional")
    if embedding != "positional":
        raise ValueError(
            f"{file}: time_embedding_type is {embedding!r:.60}; only 'positional' can be read (fourier is of variance-exploding "
            "models and has no timestep 0, learned knows no time between timesteps)"
        )
    network = {k: v for k, v in config.items() if k in known}
    levels = network.get("block_out_channels", (0,) * 4)
    size = network.get("sample_size")
    sides = [size, size] if isinstance(size, int) else size
    if not (isinstance(sides, list) and len(sides) == 2 and all(type(k) is int and 0 < k <= 65536 for k in sides)):
        raise ValueError(f"{file}: sample_size is {size!r:.60}; give the images' side in pixels, or [height, width]")
    if not isinstance(levels, (list, tuple)) or not 1 <= len(levels) <= 16:
        raise ValueError(f"{file}: block_out_channels is {levels!r:.60}; wanted a list of numbers of channels")
    halved = 2 ** (len(levels) - 1)
    if any(k % halved for k in sides):
        raise ValueError(f"{file}: sample_size {size}: a network of {len(levels)} levels needs sides that {halved} divides")
    checked = _Keys({"in_channels": 3, "out_channels": 3, "layers_per_block": 2} | network, file)
    for key, most in (("in_channels", 65536), ("out_channels", 65536), ("layers_per_block", 64)):
        network[key] = checked.whole(key, 1, most)
    return network


def _check_channels(network: Mapping[str, Any], file: Path, variance: str) -> None:
    c, out = network["in_channels"], network["out_channels"]
    if out == 2 * c:
        raise ValueError(
            f"{file}: out_channels {out} is twice in_channels {c}: the network also says the variance (variance_type learned or "
            f"learned_range; the scheduler says {variance}), which no sampler here uses. Only a fixed variance can be read"
        )
    if out != c:
        raise ValueError(
            f"{file}: in_channels {c}, out_channels {out}: a conditional network. Only unconditional ones can be read"
        )


def _fill(model: DiffusersModel, folder: Path) -> None:
    """The weights, all of them and no others, in float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.exists():
        others = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".json", ".pt", ".ckpt"))
        if any(".safetensors.index" in name for name in others):
            raise ValueError(
                f"{file} is split into several files: load and save it with save_pretrained(PATH, max_shard_size='100GB')"
            )
        if variant := [name for name in others if name.endswith(".safetensors")]:
            raise ValueError(f"{folder} has {', '.join(variant)} but no {WEIGHTS}: rename the one to be read to that")
        if any(name.endswith((".bin", ".pt", ".ckpt")) for name in others):
            raise ValueError(
                f"{folder} has its weights as a pickle only ({', '.join(n for n in others if not n.endswith('.json'))}), and "
                "unpickling runs whatever code a file holds. If you trust where it is from, write them as safetensors: "
                f'python -c "from diffusers import UNet2DModel as M; '
                f"M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')\""
            )
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}")
    try:
        weights = {_renamed(k): v.float() for k, v in load_file(file).items()}
    except SafetensorError as e:
        raise ValueError(f"{file} is no safetensors file, or was cut short ({e})") from e
    try:
        cast(DiffusersNet, model.network).unet.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as e:
        raise ValueError(f"{file} and config.json do not go together: {e}") from e


def _renamed(name: str) -> str:
    parts = name.split(".")
    return ".".join(RENAMED.get(part, part) for part in parts) if "attentions" in parts else name
