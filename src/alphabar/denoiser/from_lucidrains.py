"""`lucidrains:FILE@SIZE`: a checkpoint model-N.pt of denoising-diffusion-pytorch, read as a model.

The file is read by torch's restricted loader, which runs nothing of it. It holds weights and tables, and no settings: the
network follows from the names and shapes of its averaged weights, the schedule from `betas`, the objective from `loss_weight`.
The images' size is nowhere in it and is given as SIZE; `auto_normalize` and `sinusoidal_pos_emb_theta` leave no trace either, and
have the library's defaults (True, 10000). Written for release 2.3.4.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor

from alphabar.core.messages import as_path, command
from alphabar.core.stored_values import naming
from alphabar.core.weights import fill, read_weights
from alphabar.data.fit_size import parse_size
from alphabar.denoiser.diffusers_config import SamplingDefaults
from alphabar.denoiser.from_diffusers import DiffusersModel
from alphabar.denoiser.model_spec import FORMAT
from alphabar.denoiser.unet import LucidrainsUNet
from alphabar.schedule.betas import Betas

LUCIDRAINS = "lucidrains:"
TABLES = {  # buffers of GaussianDiffusion
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "loss_weight",
}  # fmt: skip
AVERAGED, NETWORK = "ema_model.", "model."  # prefixes of the names of the averaged GaussianDiffusion, and of its Unet


def read_lucidrains(file: str, size: str) -> DiffusersModel:
    """The averaged model of a checkpoint of a `Trainer` with `GaussianDiffusion` and `Unet`, on the CPU, in float32.

    Args:
        file: model-N.pt.
        size: the images' side, or HEIGHTxWIDTH, as `image_size` of GaussianDiffusion.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: naming the file and the tensor or option, for a checkpoint of anything else.
        ImportError: where denoising-diffusion-pytorch, whose Unet is used, is not installed.
    """
    path = as_path(file)
    if path.is_file() and not size:
        typed = command("alphabar", "sample", f"{LUCIDRAINS}{file}@64")
        raise ValueError(f"{path} does not hold the size of its images: add it, the image_size of its training, as `{typed}`")
    h, w = parse_size(size or "64")
    tensors = read_weights(path, "ema")
    averaged = {k.removeprefix(AVERAGED): v for k, v in tensors.items() if k.startswith(AVERAGED)}
    others = {k for k in tensors if not k.startswith((AVERAGED, "online_model."))} - {"initted", "step"}
    weights = {k.removeprefix(NETWORK): v for k, v in averaged.items() if k.startswith(NETWORK)}
    tables = averaged.keys() - {NETWORK + k for k in weights}
    if odd := sorted(others | (tables ^ TABLES)):
        raise ValueError(
            f"{path} is not of a GaussianDiffusion of denoising-diffusion-pytorch 2.3.4 with averaged weights: it differs in "
            f"{', '.join(odd[:3])}{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}"
        )
    arguments = _arguments(weights, str(path))
    if h % (multiple := 2 ** (len(arguments["dim_mults"]) - 1)) or w % multiple:
        raise ValueError(f"{path}: its network takes sides that are multiples of {multiple}, and the size given is {h}x{w}")
    betas = averaged["betas"].double().tolist()
    with naming(f"{path}: betas"):
        schedule = Betas("given", steps=len(betas), given=tuple(betas))
    defaults = SamplingDefaults(1.0, None, None, "trailing", "posterior", "ddpm", len(betas))
    spec = {
        "format": FORMAT, "network": "lucidrains", "arguments": arguments, "schedule": schedule.spec(),
        "prediction": _objective(averaged, str(path)), "data_range": 1.0, "image_shape": [arguments["channels"], h, w],
        "crop": 0, "sampling": asdict(defaults),
    }  # fmt: skip
    with naming(f"{path}: the Unet of denoising-diffusion-pytorch cannot be made from it"), torch.device("meta"):
        model = DiffusersModel(json.loads(json.dumps(spec)))
    fill(cast(LucidrainsUNet, model.network).unet, weights, f"{path} holds no Unet that is known here")
    return model.eval()


def _arguments(weights: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The arguments of the Unet with tensors of these names and shapes; `fill` then compares every one of them."""

    def sides(name: str, dims: int) -> torch.Size:
        if name not in weights or weights[name].ndim != dims:
            raise ValueError(
                f"{where}: no Unet of denoising-diffusion-pytorch: {name!r} is missing, or has not {dims} dimensions"
            )
        return weights[name].shape

    given, made = sides("init_conv.weight", 4)[1], sides("final_conv.weight", 4)[0]
    unknown = {
        "learned_sinusoidal_cond or random_fourier_features": "time_mlp.0.weights" in weights,
        "self_condition, where every call is given the estimate of the call before,": given == 2 * made,
        "learned_variance, which no sampler here uses,": made == 2 * given,
    }
    if found := [option for option, on in unknown.items() if on]:
        raise ValueError(f"{where}: a Unet with {found[0]} cannot be read")
    dim, levels = sides("time_mlp.1.weight", 2)[1], 0
    mults, full, heads, sizes = [], [], [], []
    while f"downs.{levels}.2.mem_kv" in weights:
        at = f"downs.{levels}."
        _, head, *both = sides(at + "2.mem_kv", 4)
        full.append(at + "2.to_out.weight" in weights)  # that of linear attention is followed by a norm: to_out.0, to_out.1
        heads.append(head)
        sizes.append(both[1] if full[-1] else both[0])
        last = at + "3.1.weight" if at + "3.1.weight" in weights else at + "3.weight"
        mults.append(sides(last, 4)[0] // max(dim, 1))
        levels += 1
    return {
        "dim": dim, "init_dim": sides("init_conv.weight", 4)[0], "dim_mults": mults, "channels": made, "full_attn": full,
        "attn_heads": heads, "attn_dim_head": sizes,
    }  # fmt: skip


def _objective(tables: Mapping[str, Tensor], where: str) -> str:
    """eps, x0 or v: which of the three weights of the loss the table holds, those of min-SNR (arXiv:2303.09556) included."""
    ab, weight = tables["alphas_cumprod"].double(), tables["loss_weight"].double()
    snr = ab / (1 - ab)
    # multiplied with the factor of its objective, the weight is min(snr, gamma), where gamma may be infinite
    for objective, factor in (("v", snr + 1), ("eps", snr), ("x0", 1.0)):
        clipped = weight * factor
        if torch.allclose(clipped, snr.minimum(clipped.max()), rtol=0.02, atol=0):  # float32 near alphabar = 1
            return objective
    raise ValueError(f"{where}: loss_weight is that of none of the objectives pred_v, pred_noise and pred_x0")
