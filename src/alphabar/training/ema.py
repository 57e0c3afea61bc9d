"""Averages of weights (EMA), whose length is counted in images, so that the batch size does not change it.

`ema_update` is the exponential average that a run is sampled with. `PowerAverages` are the power-function averages of Karras et
al. 2024 (arXiv:2312.02696): from snapshots of two of them, `post_hoc` makes an average of any length after training.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from safetensors.torch import save_file
from torch import Tensor, nn

from alphabar.core.files import json_text, replacing
from alphabar.core.stored_values import parse_object
from alphabar.core.weights import read_tensors
from alphabar.training.shard import gathered_state, shard_like

Vector = Float64[np.ndarray, "..."]
LENGTHS = (0.05, 0.10)  # relative standard deviations of the averages that training keeps, as in the paper


def ema_decay(batch: int, images_seen: int, half_life: float, ramp: float) -> float:
    """Decay of one step of `batch` images: 0.5^(batch / h), h = min(half_life, ramp * images_seen).

    The ramp makes the average forget the initial weights (as in Karras et al. 2022, arXiv:2206.00364, app. F.2).

    >>> ema_decay(batch=100, images_seen=10_000, half_life=100, ramp=0.05)
    0.5
    """
    h = min(half_life, ramp * images_seen)
    return 0.5 ** (batch / h) if h > 0 else 0.0


@torch.no_grad()
def ema_update(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * weights, in place; float32 weights, one fused call."""
    torch._foreach_lerp_(list(average), [w.detach() for w in weights], 1 - decay)


@cache
def exponent_of(length: float) -> float:
    """gamma of the average with profile tau^gamma whose relative standard deviation is `length`.

    length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (Karras et al. 2024, sec. 3.1), which has one root above -1 where
    length < 0.288..., the length of the plain mean. Raises ValueError for others.
    """
    if not 0 < length < (longest := 12**-0.5):  # gamma = 0
        raise ValueError(
            f"length = {length}: give more than 0 and less than {longest:.3f}, the plain mean's; 0.05 to 0.15 is usual"
        )
    inverse = length**-2
    return float(np.roots([1.0, 7.0, 16 - inverse, 12 - inverse]).real.max())


def power_decay(batch: int, images_seen: int, length: float) -> float:
    """Decay (1 - 1 / t)^(gamma + 1) of step t = images_seen / batch (Karras et al. 2024, sec. 3.1)."""
    return float((1 - batch / images_seen) ** (exponent_of(length) + 1))


class PowerAverages:
    """Power-function averages of a module's parameters, of all `LENGTHS`."""

    def __init__(self, module: nn.Module, stored: Mapping[str, Tensor] | None = None) -> None:
        """stored: result of `state`, for a resumed run; None starts from the module's weights."""
        self.weights = dict(module.named_parameters())

        def initial(name: str, weight: Tensor) -> Tensor:
            return weight.clone() if stored is None else shard_like(stored[name], weight)

        self.averages = {k: {n: initial(f"{k:.3f}/{n}", p.detach()) for n, p in self.weights.items()} for k in LENGTHS}

    def update(self, batch: int, images_seen: int) -> None:
        """Called after each optimiser step, with the images seen including this one."""
        for length, average in self.averages.items():
            ema_update(average.values(), self.weights.values(), power_decay(batch, images_seen, length))

    def state(self) -> dict[str, Tensor]:
        """All averages, by length and name of the parameter."""
        return {f"{length:.3f}/{n}": t for length, average in self.averages.items() for n, t in average.items()}


@dataclass(frozen=True)
class Snapshot:
    """A stored average over images 0 .. `images`, of relative length `length`."""

    images: int
    length: float
    path: Path


def save_snapshots(folder: Path, averages: PowerAverages, spec: Mapping[str, object], images: int, write: bool = True) -> None:
    """Writes one file per length, in half precision: FOLDER/000000512000-0.050.safetensors.

    write: False in all processes but one. Where weights are sharded, all processes must call this function.
    """
    for length, average in averages.averages.items():
        whole = gathered_state(average)
        if write:
            halves = {name: t.to("cpu", torch.float16).contiguous() for name, t in whole.items()}
            with replacing(folder / f"{images:012d}-{length:.3f}.safetensors") as part:
                save_file(halves, part, metadata={"alphabar": json_text(spec)})


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder, ordered by images. Raises FileNotFoundError where there are none."""
    names = [(path, re.fullmatch(r"(\d+)-(\d+\.?\d*)", path.stem)) for path in sorted(folder.glob("*.safetensors"))]
    found = [Snapshot(int(name[1]), float(name[2]), path) for path, name in names if name]
    if not found:
        raise FileNotFoundError(f"no snapshots in {folder}: train with --train.ema-snapshots 16 to choose a length afterwards")
    return found


def mixture(known: Sequence[tuple[float, float]], images: float, length: float) -> Float64[np.ndarray, " n"]:
    """Coefficients, with sum 1, that combine known averages, given as (images, length), into the wanted one.

    Least squares between the profiles p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), tau <= t, whose inner products are closed
    forms (Karras et al. 2024, sec. 3.2 and app. C): with t the smaller of both times, (g + 1)(h + 1) t^(g + h + 1) /
    ((g + h + 1) t_g^(g + 1) t_h^(h + 1)).
    """
    t = np.array([k[0] for k in known], dtype=np.float64)
    g = np.array([exponent_of(k[1]) for k in known])

    def inner(t1: Vector, g1: Vector, t2: Vector, g2: Vector) -> Vector:
        low = np.minimum(t1, t2)
        # t^(g + h + 1) / (t_g^(g + 1) t_h^(h + 1)) as ratios of times, so that no power overflows
        product: Vector = (g1 + 1) * (g2 + 1) / (g1 + g2 + 1) * (low / t1) ** (g1 + 1) * (low / t2) ** (g2 + 1) / low
        return product

    gram = inner(t[:, None], g[:, None], t[None, :], g[None, :]) * images
    wanted = inner(t, g, np.array(float(images)), np.array(exponent_of(length))) * images
    n = len(t)
    system = np.block([[gram, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    solution: Float64[np.ndarray, " m"] = np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=1e-12)[0]
    return solution[:n]


def post_hoc(folder: Path, length: float, images: int | None = None) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Weights and specification of the average of relative length `length` over images 0 .. `images` (None: all), from snapshots.

    Raises FileNotFoundError where there are none, ValueError for a length out of range or a damaged file.
    """
    known = snapshots(folder)
    images = known[-1].images if images is None else images
    used = [s for s in known if s.images <= images]
    if not used:
        raise ValueError(f"no snapshot in {folder} was made by image {images}")
    mixed: dict[str, Tensor] = {}
    spec: dict[str, object] = {}
    for snapshot, share in zip(used, mixture([(s.images, s.length) for s in used], images, length), strict=True):
        try:
            tensors, header = read_tensors(snapshot.path)
            spec = parse_object(header["alphabar"], "its specification")
            if mixed and mixed.keys() != tensors.keys():
                raise ValueError("its tensors have other names than those of the snapshots before it")
            for name, tensor in tensors.items():
                part = tensor.double() * float(share)
                mixed[name] = mixed[name] + part if name in mixed else part
        except (ValueError, KeyError, RuntimeError) as e:
            raise ValueError(f"{snapshot.path} is not a snapshot of this run, or is truncated ({e}): delete it") from e
    return {n: t.float() for n, t in mixed.items()}, spec
