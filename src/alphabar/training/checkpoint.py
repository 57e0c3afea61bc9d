"""Checkpoints: folders of safetensors and JSON that are written whole or not at all. Nothing is ever unpickled.

model.safetensors      weights, as trained        ema.safetensors   their moving average, which samples are drawn with
optimizer.safetensors  moments of the optimiser   state.json        images seen, fingerprint, SHA-256 of the other files
averages.safetensors   power-function averages, where the run keeps snapshots of them
features.safetensors   features of the last images drawn, where the loss compares them with those of real images
"""

import contextlib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from alphabar.core.files import finite, json_text, room_for, sync
from alphabar.core.messages import as_path
from alphabar.core.run import Run
from alphabar.core.stored_values import read_object
from alphabar.core.weights import read_tensors
from alphabar.data.latents import AUTOENCODER
from alphabar.denoiser.autoencoder import read_autoencoder
from alphabar.denoiser.external import external_home, read_external
from alphabar.denoiser.from_diffusers import PREFIX
from alphabar.denoiser.from_hub import local_run, source_of
from alphabar.denoiser.from_lucidrains import LUCIDRAINS
from alphabar.denoiser.model import Model, load_weights, model_of, save_weights
from alphabar.training.ema import post_hoc
from alphabar.training.shard import gathered_state, shard_like

MODEL, EMA, OPTIMIZER = FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
AVERAGES, FEATURES = FURTHER = ("averages.safetensors", "features.safetensors")
STATE = "state.json"
SNAPSHOTS = "averages"  # folder of a run
_ADVICE = "Resume from another checkpoint, or start a new run in another folder"
BUNDLED = Path(__file__).parent.parent / "assets" / "garments.safetensors"
BUNDLED_FILES = {"bundled": BUNDLED, "bundled/distilled": BUNDLED.with_suffix("") / "distilled.safetensors"}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds. `moments` is the optimiser's state as named tensors (`optimizer_tensors`)."""

    model: Model
    ema: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    further: Mapping[str, Mapping[str, Tensor]]
    """Tensors of the files of `FURTHER` that there are."""
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, model: Model, ema: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: Mapping[str, Any],
    further: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}), *, write: bool = True,
) -> None:  # fmt: skip
    """Writes a checkpoint; a crash leaves the old one or the new one, and the one before it stays as FOLDER.old.

    write: False in all processes but one. Where weights are sharded, all processes must call this function.
    Raises OSError, with the free space and what to do, where the disk is full.
    """
    sharded = {MODEL: model.state_dict(), EMA: ema, OPTIMIZER: optimizer_tensors(optimizer), **further}
    files = {name: gathered_state(tensors) for name, tensors in sharded.items()}
    if not write:
        return
    kept = f"the last good one is kept in {folder}" if (folder / STATE).exists() else "there is none before it"
    with room_for(folder, f"{kept}; it is the checkpoint of image {state.get('images')}"), _replacing_folder(folder) as part:
        _write(part, model, files, state)


def _write(folder: Path, model: Model, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    for name, tensors in files.items():
        if name in (MODEL, EMA):
            save_weights(folder / name, model, tensors)
        else:
            save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, folder / name)
    _write_state(folder, {**state, "sha256": {name: _digest(folder / name) for name in files}})


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    state = finite(state)
    (folder / STATE).write_text(json_text({**state, "checksum": _checksum(state)}, indent=1), encoding="utf-8")


def _checksum(state: Mapping[str, Any]) -> str:
    """The SHA-256 of the content of state.json, all but the checksum."""
    plain = {k: v for k, v in state.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def remove_earlier(folder: Path) -> None:
    """Removes FOLDER.old, the checkpoint that stood at `folder` before."""
    shutil.rmtree(_earlier(folder), ignore_errors=True)


def best_figures(run: Run, fingerprints: Collection[str]) -> dict[str, float]:
    """The lowest figures that were known when checkpoints/best of this training was saved; none where there is no such one."""
    with contextlib.suppress(OSError, ValueError):
        state = read_state(find_checkpoint(run.checkpoint("best")))
        if state.get("fingerprint") in fingerprints:
            return dict(state.get("best", {}))
    return {}


def back_to_best(run: Run, reason: str) -> int | None:
    """Makes checkpoints/best, if there is one, the last checkpoint too, as that of a run that was stopped early for `reason`.

    Returns the images that it has seen. The checkpoint that was the last one stays as last.old.
    """
    last, best = run.checkpoint(), run.checkpoint("best")
    if not (best / STATE).exists():
        return None
    state = {k: v for k, v in read_state(best).items() if k != "checksum"}
    if state["images"] != read_state(last)["images"]:
        with room_for(last, f"the best one is kept in {best}"), _replacing_folder(last) as part:
            for name in state["sha256"]:
                shutil.copyfile(best / Path(name).name, part / Path(name).name)
            _write_state(part, {**state, "stopped_early": reason})
    return int(state["images"])


@contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    """A folder FOLDER.part that takes the place of `folder` when the block ends without an error; FOLDER.old keeps that one."""
    part, earlier = folder.with_name(folder.name + ".part"), _earlier(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for file in part.iterdir():
        sync(file)
    sync(part)
    if folder.exists():  # otherwise FOLDER.old may be the only checkpoint, after a crash between the next two renames
        shutil.rmtree(earlier, ignore_errors=True)
        os.replace(folder, earlier)
    os.replace(part, folder)
    sync(folder.parent)


def _earlier(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: "3.exp_avg" is the first moment of parameter 3."""
    states = optimizer.state_dict()["state"].items()
    return {f"{index}.{key}": torch.as_tensor(v) for index, values in states for key, v in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores what `optimizer_tensors` returned, in the memory layout of the parameters, which fused optimisers need."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        state.setdefault(int(index), {})[key] = shard_like(value, like) if value.shape == like.shape else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def has_checkpoint(folder: Path) -> bool:
    """Whether `find_checkpoint` finds one."""
    return any((f / STATE).exists() for f in (folder, _earlier(folder)))


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint at `folder`, or FOLDER.old where a crash left only that. Raises FileNotFoundError where there is none."""
    for candidate in (folder, _earlier(folder)):
        if (candidate / STATE).exists():
            return candidate
    known = sorted(f.name for f in folder.parent.iterdir() if (f / "state.json").exists()) if folder.parent.is_dir() else []
    what = f"it has {', '.join(known)}" if known else f"{folder.parent.parent} is no run with a checkpoint yet"
    raise FileNotFoundError(f"there is no checkpoint {folder.name} at {folder}: {what}")


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a checkpoint folder. Raises ValueError, naming it, where it was changed or truncated."""
    file = folder / STATE
    state = read_object(file)
    if (
        type(state.get("images")) is not int
        or not isinstance(state.get("sha256", {}), dict)
        or state.get("checksum", known := _checksum(state)) != known
    ):
        raise ValueError(f"{file} is not what was written: the file was changed or truncated. {_ADVICE}")
    return state


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint folder. Raises ValueError, naming the file, where one was changed or truncated since it was written."""
    folder = find_checkpoint(folder)
    state = read_state(folder)
    digests = state.get("sha256", {})
    for name in dict.fromkeys([*FILES, *digests]):
        if Path(name).name != name or _digest(folder / name) != digests.get(name):
            why = "is not what was written (its SHA-256 differs): the file was changed or truncated"
            raise ValueError(f"{folder / name} {why}. {_ADVICE}")
    model, ema = load_weights(folder / MODEL), load_weights(folder / EMA).state_dict()
    further = {name: read_tensors(folder / name)[0] for name in FURTHER if name in digests}
    return Checkpoint(model, ema, read_tensors(folder / OPTIMIZER)[0], further, state)


def last_good(run: Run) -> Checkpoint:
    """A run's last checkpoint; where it is damaged, the one before it, else the best one, with a warning. Training repeats the
    steps in between."""
    last, best = run.checkpoint(), run.checkpoint("best")
    found = [folder for folder in (last, _earlier(last), best, _earlier(best)) if (folder / STATE).exists()]
    damages: list[Exception] = []
    for folder in found or [find_checkpoint(last)]:
        try:
            checkpoint = load_checkpoint(folder)
        except (ValueError, OSError, KeyError) as damage:
            damages.append(damage)
            continue
        if damages:
            which = "the checkpoint before it" if folder == _earlier(last) else f"checkpoints/{folder.name}"
            warnings.warn(f"{damages[0]}. Resuming from {which}, at image {checkpoint.state['images']}", stacklevel=2)
        return checkpoint
    raise damages[-1]


def load_model(run_or_file: str | Path, which: str = "last") -> Model:
    """The averaged model of a run, ready to sample.

    Args:
        run_or_file: a run or checkpoint folder, a .safetensors file, "bundled" (the run of the package), "bundled/distilled"
            (tuned from it for one or two network calls), diffusers:PATH, lucidrains:FILE@SIZE (`denoiser.from_lucidrains`), or
            hf:OWNER/NAME[@REVISION], a run on the Hugging Face Hub, which is fetched where it is not yet in the cache.
        which: the checkpoint of a run: last, best, or ema:LENGTH, an average of relative length 0.03 to 0.25 that is made from
            the run's snapshots (`training.ema.post_hoc`).

    Returns:
        The model in evaluation mode on the CPU.

    Raises:
        FileNotFoundError: where there is no such run, file or checkpoint.
        OSError: where the Hub cannot be reached or wants a token.
        ValueError: where a file is damaged, or LENGTH is not a number that snapshots can make.

    >>> from alphabar import load_model
    >>> load_model("bundled").image_shape
    (1, 28, 28)
    """
    run_or_file = local_run(run_or_file)
    if which.startswith("ema:"):
        model = _averaged_model(as_path(run_or_file), which)
    else:
        model = read_external(run_or_file) or load_weights(_weights(run_or_file, which))
    model.home = home_of(run_or_file)
    path = as_path(run_or_file)  # a run, or a checkpoint or file in it
    model.source = source_of(path)
    if model.latents is not None:
        holding = [p / AUTOENCODER for p in (path, *path.absolute().parents[:3]) if (p / AUTOENCODER).is_dir()]
        model.autoencoder = read_autoencoder(holding[0]) if holding else None
    return model


def _averaged_model(run: Path, which: str) -> Model:
    try:
        length = float(which.removeprefix("ema:"))
    except ValueError:
        raise ValueError(f"checkpoint {which!r}: write ema:LENGTH with a number, as ema:0.08") from None
    weights, spec = post_hoc(run / SNAPSHOTS, length)
    return model_of(spec, weights, f"the snapshots in {run / SNAPSHOTS}")


def home_of(run: str | Path) -> Path | None:
    """The folder for samples, scores, sweeps and fitted samplers of a run: the run folder, next to the weights for
    diffusers:PATH and lucidrains:FILE@SIZE, a folder of the package for bundled, one of the cache for hf:OWNER/NAME; None for a
    single file."""
    if str(run) == "bundled":
        return BUNDLED.with_suffix("")
    run = local_run(run)
    if (home := external_home(run)) is not None:
        return home
    path = as_path(run)
    return path if (path / "checkpoints").is_dir() else None


def _weights(run_or_file: str | Path, which: str) -> Path:
    path = BUNDLED_FILES.get(str(run_or_file)) or as_path(run_or_file)
    if path.is_file():
        if path.suffix == ".pt":
            raise ValueError(f"{path} is no run: for a checkpoint of denoising-diffusion-pytorch write {LUCIDRAINS}{path}@SIZE")
        if which not in ("last", "best"):
            raise ValueError(f"checkpoint {which!r} of {run_or_file}, which is one file of weights: leave the checkpoint out")
        return path
    if not which or Path(which).name != which:
        raise ValueError(f"checkpoint {which!r}: give the name of a folder in {path / 'checkpoints'}, as last or best")
    if not path.exists():
        raise FileNotFoundError(f"there is no run at {path}: give a run folder, a .safetensors file, bundled or diffusers:PATH")
    if (path / "model_index.json").exists():
        raise FileNotFoundError(f"{path} is not a run but a folder of diffusers: write {PREFIX}{path}")
    return (path if (path / EMA).exists() else find_checkpoint(path / "checkpoints" / which)) / EMA
