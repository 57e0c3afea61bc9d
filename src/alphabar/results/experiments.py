"""The definition of an experiment: a hypothesis, variants of a recipe, training seeds, a budget, and the score that decides.

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
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

from alphabar.core.bounds import Batch, Checked, Count, CountOrZero, NotNegative, Seed, Share, Steps
from alphabar.core.messages import as_path, plural
from alphabar.core.places import without_places
from alphabar.core.run import flat
from alphabar.core.stored_names import RECIPE, renamed
from alphabar.core.stored_values import naming, read_toml
from alphabar.evaluation.score import METRICS, TITLES
from alphabar.sampling.catalogue import find
from alphabar.training.config import Recipe, check_keys, parse, resolve

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]{0,31}")


@dataclass(frozen=True)
class Budget(Checked):
    """What each training may use: images, or minutes, which each variant's speed on this machine converts to images."""

    images: CountOrZero = 0
    minutes: NotNegative = 0.0

    section: ClassVar[str] = "budget."

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.images > 0) == (self.minutes > 0):
            raise ValueError("the budget is in images or in minutes: give one of the two, as [budget] images = 60_000")


@dataclass(frozen=True)
class Scoring(Checked):
    """How every trained model is sampled and scored. Image k of training seed s starts from the same noise in all variants."""

    against: str = "fashion_mnist:test"
    extractor: str = "bundled"
    n: Count = 2000
    sampler: str = "ddim"
    steps: Steps = 50
    eta: Share | None = None
    batch: Batch = 128
    seed: Seed = 0

    section: ClassVar[str] = "scoring."


@dataclass(frozen=True)
class Experiment:
    """The definition of an experiment. better, than: the names of the two variants that the hypothesis is about."""

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
        """Plain data; recipes as TOML."""
        plain = {k: v for k, v in vars(self).items() if k not in ("variants", "budget", "scoring", "seeds")}
        return {
            **plain, "seeds": [*self.seeds], "budget": asdict(self.budget), "scoring": asdict(self.scoring),
            "variants": {k: r.toml(places=False) for k, r in self.variants.items()},
        }  # fmt: skip

    def differing(self) -> list[tuple[str, list[str]]]:
        """The recipe keys in which the variants differ, with the value of each variant."""
        recipes = [flat(without_places(asdict(r))) for r in self.variants.values()]
        return [(k, values) for k in recipes[0] if len({*(values := [str(r[k]) for r in recipes])}) > 1]

    def lines(self) -> list[str]:
        """What the experiment does, in sentences."""
        differing, variants = self.differing(), [*self.variants]
        sets = dict.fromkeys(str(without_places(recipe.data.set)) for recipe in self.variants.values())
        each = f"{self.budget.images:,} images" if self.budget.images else f"{self.budget.minutes:g} minutes here"
        s = self.scoring
        eta = "" if s.eta is None else f" with eta {s.eta:g}"
        return [
            f"{self.name}: {self.hypothesis}",
            f"Is {self.better} better than {self.than} by {TITLES[self.metric]}?",
            f"{plural(len(variants) * len(self.seeds), 'training')} of {each} each, on {', '.join(sets)}: "
            f"{plural(len(variants), 'variant')}, seeds {', '.join(map(str, self.seeds))}.",
            *(f"- {name}: {', '.join(f'{key} {values[k]}' for key, values in differing)}" for k, name in enumerate(variants)),
            f"Each model draws {s.n:,} images by {s.sampler} in {s.steps} steps{eta}, of the same noise for all variants, scored "
            f"against {without_places(s.against)} by the extractor {without_places(s.extractor)}.",
        ]


@dataclass(frozen=True)
class _File:
    """The keys of a file; those without a default are required."""

    hypothesis: str
    better: str
    than: str
    variants: dict[str, Any]
    seeds: list[int]
    budget: Budget
    recipe: str = "garments"
    metric: str = "fid"
    scoring: Scoring = field(default_factory=Scoring)


def read_experiment(path: str | Path) -> Experiment:
    """The definition of an experiment from a TOML file.

    Args:
        path: a file, or the name of an experiment that ships with alphabar: range, schedule, prediction or average.

    Raises:
        ValueError: for an unknown or missing key, fewer than two variants, names that are not variants, and variants whose
            recipes are the same.

    >>> experiment = read_experiment("prediction")
    >>> experiment.better, experiment.than, experiment.seeds, experiment.budget.images
    ('v', 'eps', (0, 1, 2), 64000)
    >>> experiment.variants["eps"].model.prediction
    'eps'
    """
    file = shipped_experiments().get(str(path), as_path(path))
    if not file.is_file():
        raise ValueError(f"experiment {path} is neither a file nor one of {', '.join(shipped_experiments())}")
    values = read_toml(file)
    check_keys(values, _File, str(file))
    if missing := [k for k in ("hypothesis", "better", "than", "seeds", "budget", "variants") if k not in values]:
        raise ValueError(f"{file} has no {', '.join(missing)}: see `alphabar experiment --help`")
    metric, seeds = values.get("metric", "fid"), values["seeds"]
    with naming(str(file)):
        scoring, budget = Scoring(**values.get("scoring", {})), Budget(**values["budget"])
    if metric not in METRICS:
        raise ValueError(f"{file}: metric {metric!r} is unknown: use one of {', '.join(METRICS)}")
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int or s < 0 for s in seeds) or len({*seeds}) < len(seeds):
        raise ValueError(f"{file}: seeds = {seeds!r}: give different whole numbers, as [0, 1, 2]")
    variants = _variants(values, file)
    better, than = values["better"], values["than"]
    for key, name in (("better", better), ("than", than)):
        if name not in variants:
            raise ValueError(f"{file}: {key} = {name!r} is not a variant: there are {', '.join(variants)}")
    if better == than:
        raise ValueError(f"{file}: better and than are both {than!r}: name two variants")
    find(scoring.sampler)  # raises ValueError for an unknown one
    return Experiment(file.stem, str(values["hypothesis"]), better, than, variants, tuple(seeds), budget, scoring, metric)


def _variants(values: Mapping[str, Any], file: Path) -> dict[str, Recipe]:
    """The recipe of each variant: the named recipe, which may be a file next to this one, with the changes of the variant."""
    named = str(values.get("recipe", "garments"))
    local = file.parent / named
    base = tomllib.loads(resolve(local if local.is_file() else named).toml())
    tables = values["variants"]
    if not isinstance(tables, dict) or len(tables) < 2:
        raise ValueError(f"{file}: an experiment compares two variants or more: write [variants.NAME] for each")
    variants = {}
    for name, changes in tables.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{file}: a variant called {name!r}: use up to 32 letters, digits, '.', '_' and '+'")
        if not isinstance(changes, dict):
            raise ValueError(f"{file}: variants.{name} = {changes!r}: write a table of recipe keys, [variants.{name}]")
        changes, where = renamed(changes, RECIPE), f"{file}, variant {name}"
        check_keys(changes, Recipe, where)
        recipe = parse(_merged(base, changes), (), where)
        # previews and scores during training take time and do not change the weights
        variants[name] = replace(recipe, watch=replace(recipe.watch, preview_every=0, score_every=0))
    for one, other in combinations(variants, 2):
        if variants[one] == variants[other]:
            raise ValueError(f"{file}: the variants {one} and {other} are the same recipe: change a key in one of them")
    return variants


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        out[key] = _merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def shipped_experiments() -> dict[str, Path]:
    """The experiments that ship with alphabar, by name."""
    return {p.stem: p for p in sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))}
