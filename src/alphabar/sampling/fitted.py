"""A sampler fitted to one model: its levels, its coefficients and its noise are numbers in a file.

Every sampler that calls the network once a step and is linear in what the network said is of the form

    x_{i+1} = keep_i x_i + sum_{j <= i} mix_{ij} x0_hat_j + fresh_i z_i          (Watson et al. 2022, arXiv:2202.05830, eq. 6)

with x0_hat_i = denoise(x_i, sigma_i): DDIM with eta, and every linear multistep method, are cases of it. `tune.py` finds
the numbers; here they are kept, checked, read, and carried out.
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

from alphabar.core.files import write_atomically
from alphabar.core.stored_names import FITTED, renamed
from alphabar.core.types import Denoiser, Grid, Images, Noise, OnStep
from alphabar.schedule.grid import check_grid

FORMAT = 1
MOST = 1000  # calls of a fitted sampler: its coefficients grow with their square
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]{0,63}")


@dataclass(frozen=True)
class Tuned:
    """A fitted sampler of n calls. model: fingerprint of the model it was fitted to, and that alone may use it.

    sigmas: n levels that fall strictly, as the network is told them; sampling starts from noise of level sigmas[0].
    keep: n; mix: n rows, row i of i + 1; fresh: n standard deviations >= 0, the last of them 0. All in the one coordinate.
    clip (limit, 0: none), threshold, threshold_max: how x0_hat was held while fitting, and is held in use (see `sample`).
    how: what it was fitted on, by what, and what came out (plain data).
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
        """The levels with their final 0, as any sampler takes them: float64 (n + 1,)."""
        return torch.tensor([*self.sigmas, 0.0], dtype=torch.float64)

    @property
    def stochastic(self) -> bool:
        return any(c > 0 for c in self.fresh)

    @property
    def digest(self) -> str:
        """Sixteen hex digits over the numbers: what a sampling record names it by."""
        numbers = {k: v for k, v in asdict(self).items() if k not in ("how", "name")}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(data: Any, where: str = "a fitted sampler") -> "Tuned":
        """Raises ValueError, naming what is wrong, for anything that `to_json` has not written."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{where} is no fitted sampler of format {FORMAT}, as `alphabar tune` writes them")
        try:
            data = renamed(data, FITTED)
            threshold, most = data["threshold"], data["threshold_max"]
            return Tuned(
                str(data["name"]), str(data["model"]), _numbers(data["sigmas"]), _numbers(data["keep"]),
                tuple(_numbers(row) for row in _bounded(data["mix"])), _numbers(data["fresh"]), float(data["clip"]),
                None if threshold is None else float(threshold), None if most is None else float(most), _notes(data["how"]),
            )  # fmt: skip
        except (KeyError, TypeError) as e:
            raise ValueError(f"{where} is not whole: {e}") from e
        except (ValueError, OverflowError) as e:  # whose words do not say which file
            raise ValueError(f"{where}: {e}") from e


def check_name(name: str) -> str:
    """Raises ValueError for a name that is not fit to be part of a file's."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a fitted sampler called {name!r}: use letters, digits, '.', '_' and '+', as in features")
    return name


def _bounded(values: Any) -> list[Any]:
    if not isinstance(values, list) or len(values) > MOST:
        raise TypeError(f"{str(values)[:60]!r} is no list of at most {MOST}")
    return values


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in _bounded(values))


def _notes(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError(f"how = {str(values)[:60]!r} is no object")
    return values


@torch.no_grad()
def run_tuned(
    denoise: Denoiser, x: Images, sigmas: Grid, *, fit: Tuned, noise: Noise | None = None, on_step: OnStep | None = None
) -> Images:
    """Images from the noise x of level fit.sigmas[0]; fit.calls calls of `denoise`. sigmas: fit.grid, and nothing else.

    Raises ValueError for another grid, and for missing noise where the fit draws some.
    """
    if not torch.equal(sigmas, fit.grid):
        raise ValueError(f"the fitted sampler {fit.name!r} has levels of its own: leave the grid out")
    if fit.stochastic and noise is None:
        raise ValueError(f"the fitted sampler {fit.name!r} adds noise: pass noise=SeededNoise(seed, indices)")
    said: list[Images] = []
    for i, s in enumerate(fit.sigmas):
        said.append(denoise(x, x.new_full((len(x),), s)))
        if on_step is not None:
            on_step(i, s, x, said[-1])
        x = x * fit.keep[i]
        for x0_hat, b in zip(said, fit.mix[i], strict=True):
            x.add_(x0_hat, alpha=b)
        if noise is not None and fit.fresh[i] > 0:
            x.add_(noise(i, x), alpha=fit.fresh[i])
    return x


# ---- where fitted samplers are kept

PRIORITY = ("features", "images", "solver", "grid")  # which is meant where several have the same number of calls


def folders_of(model: object) -> list[Path]:
    """Where fitted samplers of a model are looked for: tuned/ in its home, which `load_model` notes, and tuned/ here."""
    home = getattr(model, "home", None)
    return [Path("tuned")] if home is None else [Path(home) / "tuned", Path("tuned")]


def path_of(folder: Path, model: str, name: str, calls: int) -> Path:
    """The file of a fitted sampler: models, names and numbers of calls never share one."""
    return folder / f"{model}-{name}-{calls}.json"


def save_tuned(fit: Tuned, folder: Path, overwrite: bool = False) -> Path:
    """Writes it under its model, name and calls. Raises FileExistsError where there is one, unless overwrite."""
    path = path_of(folder, fit.model, fit.name, fit.calls)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: give another --name, or --overwrite it")
    write_atomically(path, json.dumps(fit.to_json(), indent=1) + "\n")
    return path


def load_tuned(path: str | Path) -> Tuned:
    """Raises FileNotFoundError, or ValueError for a file that is no fitted sampler."""
    path = Path(path)
    if path.stat().st_size > 64 * 2**20:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: no fitted sampler is as large")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:  # also numbers of thousands of digits, and lists of thousands of lists
        raise ValueError(f"{path} is no JSON ({e}): a fitted sampler is what `alphabar tune` writes") from e
    return Tuned.from_json(data, str(path))


def all_tuned(folders: Sequence[Path], model: str | None = None) -> list[Tuned]:
    """The fitted samplers in some folders, of one model if its fingerprint is given; by calls, then by priority.

    Raises ValueError for a file whose name says something else than what it holds.
    """

    def rank(fit: Tuned) -> tuple[int, int, str]:
        return fit.calls, PRIORITY.index(fit.name) if fit.name in PRIORITY else -1, fit.name

    found = []
    for path in _files(folders, model):
        fit = load_tuned(path)
        if path != path_of(path.parent, fit.model, fit.name, fit.calls):
            raise ValueError(
                f"{path} holds a sampler for model {fit.model}, {fit.name!r} of {fit.calls} calls, under the name of another: "
                f"call it {path_of(Path(), fit.model, fit.name, fit.calls)} again, or remove it"
            )
        found.append(fit)
    return sorted(found, key=rank)


def _files(folders: Sequence[Path], model: str | None = None) -> list[Path]:
    """What `path_of` has named, of one model or of any; other files are not ours."""
    named = [p for folder in folders for p in sorted(folder.glob("*.json")) if re.fullmatch(r".+-[^-]+-\d+\.json", p.name)]
    return [p for p in named if model is None or _model_of(p) == model]


def _model_of(path: Path) -> str:
    return path.name.rsplit("-", 2)[0]


def find_tuned(folders: Sequence[Path], model: str, calls: int, name: str | None = None) -> Tuned:
    """The fitted sampler of a model with so many calls; by name, or the first of `PRIORITY` (a name of your own before those).

    Raises ValueError saying which there are, and, where there are some of another model only, that they were refused.
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
    """Raises ValueError unless the sampler was fitted to this very model (its fingerprint)."""
    if fit.model != model:
        raise ValueError(
            f"the sampler {fit.name!r} of {fit.calls} calls was fitted to model {fit.model}, and this is {model}: "
            f"fit one to it, alphabar tune RUN --calls {fit.calls}"
        )
