"""Checkpoints: a folder of safetensors and JSON, written whole or not at all. Nothing is ever unpickled.

model.safetensors      weights, as trained        ema.safetensors   their moving average, which is what samples are drawn with
optimizer.safetensors  the optimiser's moments    state.json        position, recipe fingerprint, digests of the others
averages.safetensors   power-function averages, where the run keeps snapshots of those
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.core.run import Run
from alphabar.denoiser.from_diffusers import PREFIX, pipeline_folder, read_diffusers
from alphabar.denoiser.model import Model, load_weights, save_weights
from alphabar.training.ema import post_hoc
from alphabar.training.shard import alike, whole_state

FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
AVERAGES = "averages.safetensors"
SNAPSHOTS = "averages"  # folder of a run


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def save_checkpoint(
    folder: Path,
    model: Model,
    ema: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    averages: Mapping[str, Tensor] | None = None,
    *,
    write: bool = True,
) -> None:
    """Writes a checkpoint beside `folder` and then moves it there: a crash leaves the old one or the new one, never half.

    The one before it stays as FOLDER.old. write: False in all processes but one; where the weights are sharded all of them
    must call this. Raises OSError, with what is free and what to do, where the disk is full.
    """
    weights, averaged, moments = whole_state(model.state_dict()), whole_state(ema), whole_state(_flat(optimizer))
    kept = None if averages is None else whole_state(averages)
    if not write:
        return
    part = folder.with_name(folder.name + ".part")
    try:
        _write(part, model, weights, averaged, moments, state, kept)
    except Exception as e:  # the writer of safetensors has an error type of its own for a full disk
        shutil.rmtree(part, ignore_errors=True)
        if not _full(e):
            raise
        free = shutil.disk_usage(folder.parent).free
        before = f"the last good one is kept in {folder}" if (folder / "state.json").exists() else "there is none before it"
        raise OSError(
            errno.ENOSPC,
            f"the disk is full ({free / 2**20:.0f} MiB free): the checkpoint of image {state.get('images')} was not written, "
            f"{before}. Make room and go on with --resume",
        ) from e
    _replace(part, folder)


def _full(e: Exception) -> bool:
    """Whether an error says that there is no room, or no quota, left."""
    return getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(e) or "os error 28" in str(e)


def _write(
    part: Path,
    model: Model,
    weights: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    state: Mapping[str, Any],
    averages: Mapping[str, Tensor] | None,
) -> None:
    from safetensors.torch import save_file

    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save_weights(part / "model.safetensors", model, weights)
    save_weights(part / "ema.safetensors", model, ema)
    save_file(_plain(moments), part / "optimizer.safetensors")
    if averages is not None:
        save_file(_plain(averages), part / AVERAGES)
    names = FILES if averages is None else (*FILES, AVERAGES)
    digests = {name: digest(part / name) for name in names}
    (part / "state.json").write_text(json.dumps({**state, "sha256": digests}, indent=1))
    for name in (*names, "state.json"):
        _sync(part / name)


def copy_checkpoint(source: Path, target: Path) -> None:
    """target becomes a copy of the checkpoint `source`, whole or not at all."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    _replace(part, target)
    shutil.rmtree(target.with_name(target.name + ".old"), ignore_errors=True)


def _replace(part: Path, folder: Path) -> None:
    """Moves `part` to `folder`; what was there stays as FOLDER.old, where `find_checkpoint` and `last_good` look too."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():  # else FOLDER.old may be the only checkpoint there is
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(part, folder)


def has_checkpoint(folder: Path) -> bool:
    """Whether `find_checkpoint` finds one."""
    return any((f / "state.json").exists() for f in (folder, folder.with_name(folder.name + ".old")))


def find_checkpoint(folder: Path) -> Path:
    """The checkpoint at `folder`, or the one that a crash between two renames left beside it.

    Raises FileNotFoundError where there is none.
    """
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "state.json").exists():
            return candidate
    raise FileNotFoundError(f"no checkpoint at {folder}: train a run first, or leave --resume out to begin anew")


def load_checkpoint(folder: Path) -> tuple[Model, Mapping[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """(model, averaged weights, flat optimiser state, state) from a checkpoint folder.

    Raises ValueError, naming the file, where one was changed or cut short since it was written.
    """
    from safetensors.torch import load_file

    folder = find_checkpoint(folder)
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    for name in dict.fromkeys([*FILES, *state["sha256"]]):
        if Path(name).name != name or digest(folder / name) != state["sha256"].get(name):
            raise ValueError(
                f"{folder / name} is not what was written (its SHA-256 differs): the file was changed or cut short. "
                "Resume from another checkpoint, or begin anew in another folder"
            )
    model = load_weights(folder / "model.safetensors")
    ema = load_weights(folder / "ema.safetensors").state_dict()
    return model, ema, load_file(folder / "optimizer.safetensors"), state


Loaded = tuple[Model, Mapping[str, Tensor], dict[str, Tensor], dict[str, Any]]


def last_good(run: Run) -> tuple[Path, Loaded]:
    """The folder and content of a run's last checkpoint; where that was changed or cut short since, of the one before it, with
    a warning that says so: training then goes on from there, to the same weights.

    Raises ValueError, naming the file, where neither is whole; FileNotFoundError where there is none.
    """
    folder = find_checkpoint(run.checkpoint())
    before = folder.with_name(folder.name + ".old")
    try:
        return folder, load_checkpoint(folder)
    except (ValueError, OSError, KeyError) as broken:
        if not (before / "state.json").exists():
            raise
        found = load_checkpoint(before)
        warnings.warn(f"{broken}. Going on from the checkpoint before it, at image {found[3]['images']}", stacklevel=2)
        return before, found


def load_averages(folder: Path) -> dict[str, Tensor] | None:
    """The power-function averages of a checkpoint that `load_checkpoint` has found whole; None where it has none."""
    from safetensors.torch import load_file

    path = find_checkpoint(folder) / AVERAGES
    return load_file(path) if path.exists() else None


def load_model(run_or_file: str | Path, which: str = "last") -> Model:
    """The averaged model of a run folder (its checkpoint `which`), a checkpoint folder, or a weight file, ready to sample.

    which: last, best, or ema:LENGTH, the average of that length made from a run's snapshots (`post_hoc`), 0.03 to 0.25.
    The word "bundled" is the run that ships with the package; diffusers:PATH is a pipeline's folder (`from_diffusers`).
    Its `home` is that of `home_of`. Raises FileNotFoundError, with what was looked for, where there is none.
    """
    folder = pipeline_folder(run_or_file)
    if which.startswith("ema:"):
        model = _of_length(Path(run_or_file), which)
        model.home = home_of(run_or_file)
        return model
    model = load_weights(_weights(run_or_file, which)) if folder is None else read_diffusers(folder)
    model.home = home_of(run_or_file)
    return model


def _of_length(run: Path, which: str) -> Model:
    try:
        length = float(which.removeprefix("ema:"))
    except ValueError:
        raise ValueError(f"checkpoint {which!r}: write ema:LENGTH with a number, as ema:0.08") from None
    weights, spec = post_hoc(run / SNAPSHOTS, length)
    try:
        model = Model(spec)
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as e:
        raise ValueError(f"the snapshots in {run / SNAPSHOTS} and their description do not go together: {e}") from e
    return model.eval()


def home_of(run: str | Path) -> Path | None:
    """The folder where samples, scores, sweeps and fitted samplers of a run are kept: the run's own, PATH/alphabar of
    diffusers:PATH, a part of the package for bundled; None of a single file."""
    if str(run) == "bundled":
        return BUNDLED.with_suffix("")
    if (folder := pipeline_folder(run)) is not None:
        return folder / "alphabar"
    return Path(run) if (Path(run) / "checkpoints").is_dir() else None


def _weights(run_or_file: str | Path, which: str) -> Path:
    if str(run_or_file) == "bundled":
        return BUNDLED
    path = Path(run_or_file)
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(
            f"there is no run at {path}: give a run folder, a .safetensors file, the word bundled, or diffusers:PATH"
        )
    if (path / "model_index.json").exists():
        raise FileNotFoundError(f"{path} is no run but a folder of diffusers: write {PREFIX}{path}")
    if (path / "ema.safetensors").exists():
        return path / "ema.safetensors"
    return find_checkpoint(path / "checkpoints" / which) / "ema.safetensors"


BUNDLED = Path(__file__).parent.parent / "assets" / "garments.safetensors"


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimiser state as named tensors: "3.exp_avg" is the first moment of parameter 3."""
    flat: dict[str, Tensor] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            flat[f"{index}.{key}"] = torch.as_tensor(value)
    return flat


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them."""
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, flat: Mapping[str, Tensor]) -> None:
    """Puts back what `_flat` took out; the hyper-parameters stay those that the optimiser was made with.

    Moments take their parameter's memory layout: fused optimisers walk both side by side in memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        state.setdefault(int(index), {})[key] = alike(value, like) if value.shape == like.shape else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _sync(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())
