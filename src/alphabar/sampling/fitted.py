"""Fitted samplers, which `tune` makes for one model: their levels, coefficients and noise in a file, and how they sample.

Every sampler that calls the network once per step and is linear in its outputs has the form

    x_{i+1} = keep_i x_i + sum_{j <= i} mix_{ij} x0_hat_j + fresh_i z_i          (Watson et al. 2022, arXiv:2202.05830, eq. 6)

with x0_hat_i = denoise(x_i, sigma_i), as DDIM with eta and every linear multistep method.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from alphabar.core.files import write_json
from alphabar.core.messages import as_path
from alphabar.core.outputs import check_output
from alphabar.core.stored_names import FITTED, renamed
from alphabar.core.stored_values import FINITE, TEXT, Kind, StoredValues, listed, naming, number, read_object
from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.denoiser.model import Model
from alphabar.schedule.grid import check_grid, timesteps_of

FORMAT = 1
MOST = 1000  # calls of a fitted sampler; the number of coefficients is quadratic in it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]{0,63}")


@dataclass(frozen=True)
class Tuned:
    """A fitted sampler of n calls, in the coordinate x = x0 + sigma noise.

    Attributes:
        model: fingerprint of the model that it was fitted to, the only one that may use it.
        sigmas: n strictly decreasing levels; sampling starts from noise of level sigmas[0].
        keep: n coefficients.
        mix: n rows of coefficients, i + 1 in row i.
        fresh: n standard deviations >= 0, the last of them 0.
        clip: limit to which x0_hat was clipped in the fit, and is clipped in use; 0 is none.
        threshold: likewise, the share of dynamic thresholding, or None.
        threshold_max: likewise, the upper bound of the threshold, or None.
        how: how it was fitted, and its scores, as plain data.
    """

    name: str
    model: str
    sigmas: tuple[float, ...]
    keep: tuple[float, ...]
    mix: tuple[tuple[float, ...], ...]
    fresh: tuple[float, ...]
    clip: float = 0.0
    threshold: float | None = None
    threshold_max: float | None = None
    how: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        n = len(self.sigmas)
        check_name(self.name)
        if not 1 <= n <= MOST:
            raise ValueError(f"a fitted sampler of {n} calls: wanted 1 to {MOST}")
        if not (len(self.keep) == len(self.mix) == len(self.fresh) == n) or any(len(r) != k for k, r in enumerate(self.mix, 1)):
            raise ValueError(
                f"{n} levels, {len(self.keep)} keep, {len(self.fresh)} fresh, rows of mix of {[len(r) for r in self.mix]}: "
                f"wanted {n} of each, and row i of mix with i + 1 numbers"
            )
        numbers = [*self.keep, *self.fresh, *(b for row in self.mix for b in row)]
        if not all(math.isfinite(v) for v in numbers):
            raise ValueError(f"the fitted sampler {self.name!r} holds a coefficient that is not finite")
        if min(self.fresh) < 0 or self.fresh[-1] != 0:
            raise ValueError(f"fresh = {self.fresh}: wanted standard deviations >= 0, the last of them 0")
        if not 0 <= self.clip < math.inf:
            raise ValueError(f"clip = {self.clip}: wanted a limit above 0, or 0 for none")
        if self.threshold is not None and not 0.5 < self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold}: wanted a share above 0.5 and at most 1, or None")
        if self.threshold_max is not None and not self.threshold_max >= 1:
            raise ValueError(f"threshold_max = {self.threshold_max}: wanted 1 or more, or None")
        check_grid(self.grid)

    @property
    def calls(self) -> int:
        return len(self.sigmas)

    @property
    def grid(self) -> Grid:
        """The levels with a final 0: float64 (n + 1,)."""
        return torch.tensor([*self.sigmas, 0.0], dtype=torch.float64)

    @property
    def stochastic(self) -> bool:
        return any(c > 0 for c in self.fresh)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that identify the numbers in a sampling record."""
        numbers = {k: v for k, v in asdict(self).items() if k not in ("how", "name")}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(data: Any, where: str = "a fitted sampler") -> "Tuned":
        """The sampler of which `to_json` made the data. Raises ValueError for any other data."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{where} is not a fitted sampler of format {FORMAT}, as `alphabar tune` writes them")
        c = StoredValues(renamed(data, FITTED), where)
        rows = c.get("mix", listed(Kind(lambda v: isinstance(v, list), "a list"), MOST))
        mix = StoredValues({f"mix[{k}]": row for k, row in enumerate(rows)}, where)
        limit = number(0, 1e300)
        threshold, most = (None if c.values.get(k) is None else float(c.get(k, limit)) for k in ("threshold", "threshold_max"))
        values = (
            c.get("name", TEXT), c.get("model", TEXT), _numbers(c, "sigmas"), _numbers(c, "keep"),
            tuple(_numbers(mix, row) for row in mix.values), _numbers(c, "fresh"), float(c.get("clip", limit)),
            threshold, most, dict(c.table("how").values),
        )  # fmt: skip
        with naming(where):
            return Tuned(*values)


def _numbers(c: StoredValues, key: str) -> tuple[float, ...]:
    return tuple(float(v) for v in c.get(key, listed(FINITE, MOST)))


def check_name(name: str) -> str:
    """The name. Raises ValueError for one that cannot be part of a file name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a fitted sampler called {name!r}: use letters, digits, '.', '_' and '+', as in features")
    return name


@torch.no_grad()
def run_tuned(
    denoise: Denoiser, x: Images, sigmas: Grid, *, fit: Tuned, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """Images from noise x of level fit.sigmas[0], by fit.calls network calls; `sigmas` must be fit.grid.

    Raises ValueError for another grid, and for missing noise.
    """
    if not torch.equal(sigmas, fit.grid):
        raise ValueError(f"the fitted sampler {fit.name!r} has its own levels: leave the grid out")
    if fit.stochastic and noise is None:
        raise ValueError(f"the fitted sampler {fit.name!r} adds noise: pass noise=SeededNoise(seed, indices)")
    estimates: list[Images] = []
    for i, s in enumerate(fit.sigmas):
        estimates.append(denoise(x, x.new_full((len(x),), s)))
        if on_step is not None:
            on_step(i, s, x, estimates[-1])
        x = x * fit.keep[i]
        for x0_hat, b in zip(estimates, fit.mix[i], strict=True):
            x.add_(x0_hat, alpha=b)
        if noise is not None and fit.fresh[i] > 0:
            x.add_(noise(i, x), alpha=fit.fresh[i])
    return x


PRIORITY = ("features", "images", "solver", "grid")  # the order of preference among samplers of the same number of calls


def folders_of(model: object) -> list[Path]:
    """The folders that may hold fitted samplers of a model: tuned/ in its run folder, and tuned/ in the current folder."""
    home = getattr(model, "home", None)
    return [Path("tuned")] if home is None else [as_path(home) / "tuned", Path("tuned")]


def path_of(folder: Path, model: str, name: str, calls: int) -> Path:
    """The file of a fitted sampler."""
    return folder / f"{model}-{name}-{calls}.json"


def save_tuned(fit: Tuned, folder: Path, overwrite: bool = False) -> Path:
    """Writes a fitted sampler, and returns its path. Raises FileExistsError if the file exists, unless overwrite."""
    path = path_of(folder, fit.model, fit.name, fit.calls)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: pass another --name, or --overwrite")
    check_output(path, "fitted sampler")
    write_json(path, fit.to_json())
    return path


def load_tuned(path: str | Path) -> Tuned:
    """Reads a fitted sampler. Raises FileNotFoundError, or ValueError for any other file."""
    path = as_path(path)
    return Tuned.from_json(read_object(path, 2**26), str(path))


def all_tuned(folders: Sequence[Path], model: str | None = None) -> list[Tuned]:
    """The fitted samplers in some folders, of one model if its fingerprint is given, sorted by calls and `PRIORITY`.

    Raises ValueError for a file whose name does not match its content.
    """

    def rank(fit: Tuned) -> tuple[int, int, str]:
        return fit.calls, PRIORITY.index(fit.name) if fit.name in PRIORITY else -1, fit.name

    found = []
    for path in _files(folders, model):
        fit = load_tuned(path)
        if path != path_of(path.parent, fit.model, fit.name, fit.calls):
            raise ValueError(
                f"{path} holds the sampler {fit.name!r} of {fit.calls} calls for model {fit.model}, which its name does not say: "
                f"rename it to {path_of(Path(), fit.model, fit.name, fit.calls)}, or remove it"
            )
        found.append(fit)
    return sorted(found, key=rank)


def _files(folders: Sequence[Path], model: str | None = None) -> list[Path]:
    """Files with names of `path_of`, of one model or of any."""
    named = [p for folder in folders for p in sorted(folder.glob("*.json")) if re.fullmatch(r".+-[^-]+-\d+\.json", p.name)]
    return [p for p in named if model is None or _model_of(p) == model]


def _model_of(path: Path) -> str:
    return path.name.rsplit("-", 2)[0]


def find_tuned(folders: Sequence[Path], model: str, calls: int, name: str | None = None) -> Tuned:
    """The fitted sampler of a model with that number of calls, by name, or the first by `PRIORITY` (other names come before).

    Raises ValueError if there is none.
    """
    mine = all_tuned(folders, model)
    if found := [f for f in mine if f.calls == calls and name in (None, f.name)]:
        return found[0]
    there = ", ".join(f"{f.name} of {f.calls}" for f in mine) or "none"
    others = {_model_of(p) for p in _files(folders)} - {model}
    word = f"; those of {', '.join(sorted(others))} were fitted to other weights and are refused" if others and not mine else ""
    asked = f"of {calls} calls" + (f" called {name!r}" if name else "")
    raise ValueError(f"model {model} has no fitted sampler {asked} (it has {there}{word}): alphabar tune RUN --calls {calls}")


def check_model(fit: Tuned, model: str | None) -> None:
    """Raises ValueError if the sampler was fitted to a model with another fingerprint."""
    if fit.model != model:
        raise ValueError(
            f"the sampler {fit.name!r} of {fit.calls} calls was fitted to model {fit.model}, and this is {model}: "
            f"fit one to it, alphabar tune RUN --calls {fit.calls}"
        )


def fitted_timesteps(model: Model) -> list[dict[str, Any]]:
    """The fitted samplers of a model as lists of timesteps, which diffusers' `set_timesteps(timesteps=...)` takes.

    A row for each: its name, calls, `timesteps`, and `moved`, the largest distance of a level from its timestep. Another solver
    can use the levels of a fitted sampler, but not its coefficients and noise.

    Raises ValueError for a model of continuous time, and for one without fitted samplers.
    """
    found = all_tuned(folders_of(model), model.fingerprint)
    if not found:
        raise ValueError(
            f"no sampler was fitted to this model ({model.fingerprint}): fit one with `alphabar tune RUN --calls 10`"
        )
    rows = []
    for fit in found:
        steps = timesteps_of(model.schedule, fit.grid, distinct=True)
        times = model.schedule.t(fit.grid[:-1]).tolist()
        moved = max(abs(a - b) for a, b in zip(steps, times, strict=True))
        rows.append({"name": fit.name, "calls": fit.calls, "timesteps": steps, "moved": round(moved, 3)})
    return rows
