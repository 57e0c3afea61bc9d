"""An experiment as a value: a hypothesis in words, variants of a recipe, seeds, a budget, and the score that decides.

hypothesis = "Images from -1 to 1 train better than images from -0.5 to 0.5."
better = "wide"
than = "narrow"
recipe = "garments"
seeds = [0, 1, 2]

[budget]
images = 60_000

[variants.wide]
model.data_range = 1.0

[variants.narrow]
model.data_range = 0.5
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from alphabar.core.stored_names import RECIPE, renamed
from alphabar.evaluation.score import METRICS
from alphabar.sampling.catalogue import find
from alphabar.training.config import Recipe, check_keys, parse, resolve

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]{0,31}")


@dataclass(frozen=True)
class Budget:
    """The same for all: images, or minutes of training on the machine at hand, which become images by each variant's speed."""

    images: int = 0
    minutes: float = 0.0

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int if key == "images" else (int, float)) or value < 0:
                raise ValueError(f"budget.{key} = {value!r}: give a number above 0, or leave it out")
        if (self.images > 0) == (self.minutes > 0):
            raise ValueError("the budget is in images or in minutes: give one of both, as [budget] images = 60_000")


@dataclass(frozen=True)
class Scoring:
    """How every trained model is drawn from and scored. Image k of training seed s starts from the same noise in all variants."""

    against: str = "fashion_mnist:test"
    extractor: str = "bundled"
    n: int = 2000
    sampler: str = "ddim"
    steps: int = 50
    eta: float | None = None
    batch: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Experiment:
    """variants: recipes by name. better, than: the names of the two that the hypothesis is about."""

    name: str
    hypothesis: str
    better: str
    than: str
    variants: Mapping[str, Recipe]
    seeds: tuple[int, ...]
    budget: Budget
    scoring: Scoring
    metric: str = "fid"

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data; recipes as TOML."""
        plain = {k: v for k, v in vars(self).items() if k not in ("variants", "budget", "scoring", "seeds")}
        return {
            **plain, "seeds": [*self.seeds], "budget": asdict(self.budget), "scoring": asdict(self.scoring),
            "variants": {k: r.toml() for k, r in self.variants.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """The keys of a file."""

    hypothesis: str
    better: str
    than: str
    variants: dict[str, Any]
    seeds: list[int]
    recipe: str = "garments"
    metric: str = "fid"
    budget: Budget = field(default_factory=lambda: Budget(1))
    scoring: Scoring = field(default_factory=Scoring)


def read_experiment(path: str | Path) -> Experiment:
    """An experiment from its TOML file; by name, one of those that ship with alphabar.

    Raises ValueError for an unknown key (with its neighbour), too few variants, names that are not there, or recipes that differ
    in nothing.
    """
    file = shipped_experiments().get(str(path), Path(path))
    if not file.is_file():
        raise ValueError(f"experiment {path} is neither a file nor one of {', '.join(shipped_experiments())}")
    where = str(file)
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{where} is no TOML file: {e}") from e
    check_keys(told, _Layout, where)
    if lacking := [k for k in ("hypothesis", "better", "than", "seeds", "budget", "variants") if k not in told]:
        raise ValueError(f"{where} has no {', '.join(lacking)}: see `alphabar experiment --help`")
    metric = told.get("metric", "fid")
    if metric not in METRICS:
        raise ValueError(f"{where}: metric {metric!r} is unknown: use one of {', '.join(METRICS)}")
    seeds = told["seeds"]
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(type(s) is int and s >= 0 for s in seeds)
        or len({*seeds}) < len(seeds)
    ):
        raise ValueError(f"{where}: seeds = {seeds!r}: give unlike whole numbers, as [0, 1, 2]")
    variants = _variants(told, file)
    for key in ("better", "than"):
        if told[key] not in variants:
            raise ValueError(f"{where}: {key} = {told[key]!r} is no variant: there are {', '.join(variants)}")
    if told["better"] == told["than"]:
        raise ValueError(f"{where}: better and than are both {told['than']!r}: name two variants")
    scoring = Scoring(**told.get("scoring", {}))
    find(scoring.sampler)  # raises ValueError for an unknown one
    return Experiment(
        file.stem, str(told["hypothesis"]), told["better"], told["than"], variants, tuple(seeds), Budget(**told["budget"]),
        scoring, metric,
    )  # fmt: skip


def _variants(told: Mapping[str, Any], file: Path) -> dict[str, Recipe]:
    named = told.get("recipe", "garments")
    beside = file.parent / str(named)
    base = tomllib.loads(resolve(beside if beside.is_file() else named).toml())
    asked = told["variants"]
    if not isinstance(asked, dict) or len(asked) < 2:
        raise ValueError(f"{file}: an experiment compares two variants or more: write [variants.NAME] for each")
    variants = {}
    for name, changes in asked.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{file}: a variant called {name!r}: use up to 32 letters, digits, '.', '_' and '+'")
        if not isinstance(changes, dict):
            raise ValueError(f"{file}: variants.{name} = {changes!r}: write a table of recipe keys, [variants.{name}]")
        changes = renamed(changes, RECIPE)
        check_keys(changes, Recipe, f"{file}, variant {name}")
        recipe = parse(_merged(base, changes), (), f"{file}, variant {name}")
        # looking costs time and changes no weight
        variants[name] = replace(recipe, watch=replace(recipe.watch, preview_every=0, score_every=0))
    for one, other in ((a, b) for a in variants for b in variants if a < b):
        if variants[one] == variants[other]:
            raise ValueError(f"{file}: the variants {one} and {other} are the same recipe: change a key in one of them")
    return variants


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def shipped_experiments() -> dict[str, Path]:
    """The experiments that come with alphabar, by name."""
    return {p.stem: p for p in sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))}
