"""The options of `sample` for one model: what each None stands for, and what the model or the sampler refuses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alphabar.core.suggest import did_you_mean
from alphabar.core.types import Denoiser, Grid, Images
from alphabar.denoiser.adaptive import AdaptiveCalls, apply_plan
from alphabar.denoiser.plan import Adaptive, Plan, parse_plan, timesteps
from alphabar.denoiser.wrappers import ClipX0, CountCalls, SkipCalls, ThresholdX0
from alphabar.sampling.catalogue import CONSISTENCY, SAMPLERS, Entry, default_sampler, find, own_sampler
from alphabar.sampling.fitted import Tuned, check_model, find_tuned, folders_of, load_tuned, run_tuned
from alphabar.sampling.guidance import ClassGuidance
from alphabar.sampling.model import Model, fingerprint
from alphabar.sampling.options import SampleOptions
from alphabar.schedule.base import Schedule
from alphabar.schedule.grid import check_grid, default_grid, for_consistency, make_grid

FITTED = ("eta", "options", "grid", "plan", "clip", "threshold", "variance")  # what a fitted sampler decides itself


@dataclass(frozen=True)
class Clipping:
    """How x0_hat is limited at every step: thresholded first, then clipped. As a function, it wraps a denoiser.

    Attributes:
        limit: x0_hat is clipped to [-limit, limit]; 0 is no clipping.
        threshold: share of pixels for dynamic thresholding (`ThresholdX0`); None is none.
        threshold_max: upper bound of that threshold; None is no bound.
    """

    limit: float = 0.0
    threshold: float | None = None
    threshold_max: float | None = None

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """Raises ValueError for a share or a bound out of range."""
        if self.threshold is not None:
            denoise = ThresholdX0(denoise, self.threshold, self.threshold_max)
        return ClipX0(denoise, -self.limit, self.limit) if self.limit else denoise

    def apply(self, x0_hat: Images) -> Images:
        """The limited x0_hat."""
        return self(lambda x, sigma: x)(x0_hat, x0_hat.new_zeros(len(x0_hat)))

    @property
    def active(self) -> bool:
        return bool(self.limit) or self.threshold is not None


@dataclass(frozen=True)
class ResolvedOptions:
    """`SampleOptions` for one model, in which nothing is left to a default."""

    sampler: Entry
    arguments: dict[str, Any]
    """Keyword arguments of the sampler's function."""
    fit: Tuned | None
    """The fitted sampler, if that is the sampler."""
    schedule: Schedule
    sigmas: Grid
    grid_name: str
    plan: Plan | Adaptive | None
    clipping: Clipping
    guidance: ClassGuidance | None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def denoiser(
        self, count: CountCalls, indices: Sequence[int], device: torch.device
    ) -> tuple[Denoiser, SkipCalls | AdaptiveCalls | None]:
        """The denoiser of one batch, with classes, guidance, call plan and clipping; and, separately, the call plan's wrapper."""
        denoise: Denoiser = count if self.guidance is None else self.guidance.denoiser(count, indices, device)
        if self.plan is None:
            return self.clipping(denoise), None
        skipping = apply_plan(denoise, self.plan, self.sigmas, timesteps(self.schedule, self.sigmas))
        return self.clipping(skipping), skipping

    def record(self) -> dict[str, Any]:
        """The fields of a sampling record that every sampling has."""
        limit = self.clipping.limit
        return {
            "sampler": self.sampler.name, "eta": self.arguments.get("eta"), "variance": self.arguments.get("variance"),
            "steps": self.steps, "grid": self.sigmas.tolist(), "grid_name": self.grid_name,
            "plan": None if self.plan is None else self.plan.name,
            "clip": limit if limit not in (0, 1) else limit == 1, "threshold": self.clipping.threshold,
        }  # fmt: skip

    def further_record(self) -> dict[str, Any]:
        """The fields that only some samplings have."""
        fields: dict[str, Any] = {}
        if self.fit is not None:
            fields["tuned"] = {"name": self.fit.name, "digest": self.fit.digest}
        elif more := {k: v for k, v in self.arguments.items() if k not in ("eta", "variance", "data_range")}:
            fields["options"] = more
        if self.guidance is not None:
            fields |= self.guidance.record()
        if self.clipping.threshold_max is not None:
            fields["threshold_max"] = self.clipping.threshold_max
        return fields


def resolve_options(model: Model, options: SampleOptions) -> ResolvedOptions:
    """What `sample` does with a model under these options.

    Raises:
        ValueError: for an unknown name, an option that the sampler does not have, or levels that the model was not trained on.
    """
    guidance = ClassGuidance.of(model, options)
    if (fit := _fitted_sampler(model, options)) is not None:
        if given := [name for name in FITTED if getattr(options, name) is not None]:
            raise ValueError(
                f"{given[0]} = {getattr(options, given[0])!r}: a fitted sampler has its own levels, coefficients, noise and "
                f"clipping, so leave {given[0]} out"
            )
        entry = Entry("tuned", run_tuned, 1, fit.stochastic, 1, "fitted to this model")
        sigmas, _ = _levels(model.schedule, options.steps, fit.grid)
        clipping = Clipping(fit.clip, fit.threshold, fit.threshold_max)
        return ResolvedOptions(entry, {"fit": fit}, fit, model.schedule, sigmas, "tuned", None, clipping, guidance)

    entry = own_sampler(options.sampler) if callable(options.sampler) else find(options.sampler or default_sampler(model))
    if getattr(model, "consistency", False) and entry is not CONSISTENCY:
        raise ValueError(
            f"sampler {entry.name} needs E[x0 | x], and this model was distilled, so that it gives finished images: leave the "
            f"sampler out, or use {CONSISTENCY.name}, with 1 or 2 steps"
        )
    pipeline = getattr(model, "defaults", None)  # of a diffusers pipeline
    grid = pipeline.grid if options.grid is None and pipeline is not None else options.grid
    if grid is None and entry is CONSISTENCY:
        sigmas, grid_name = for_consistency(model.schedule, options.steps), CONSISTENCY.name
    else:
        sigmas, grid_name = _levels(model.schedule, options.steps, grid)
    plan = parse_plan(options.plan) if isinstance(options.plan, str) else options.plan
    if not isinstance(plan, Plan | Adaptive | None):
        raise ValueError(
            f"plan is {type(plan).__name__}: give a text, as every(3), or from Python predicate(lambda step, t: ...)"
        )
    clipping = Clipping(float(options.clip or 0), options.threshold)
    if options.clip is None and options.threshold is None and pipeline is not None:
        clipping = Clipping(float(pipeline.clip or 0), pipeline.threshold, pipeline.threshold_max)
    clipping(model)  # checks the shares
    arguments = _sampler_arguments(entry, model, options)
    return ResolvedOptions(entry, arguments, None, model.schedule, sigmas, grid_name, plan, clipping, guidance)


def _fitted_sampler(model: Model, options: SampleOptions) -> Tuned | None:
    """The fitted sampler that was asked for, if any. Raises ValueError if there is none, or if it is another model's."""
    kind, _, name = ("" if options.sampler is None or callable(options.sampler) else options.sampler).partition(":")
    if options.tuned is None:
        if kind != "tuned":
            return None
        return find_tuned(folders_of(model), str(fingerprint(model)), options.steps, name or None)
    fit = options.tuned if isinstance(options.tuned, Tuned) else load_tuned(options.tuned)
    check_model(fit, fingerprint(model))
    if options.sampler not in (None, "tuned", f"tuned:{fit.name}"):
        raise ValueError(
            f"both sampler = {options.sampler!r} and the fitted sampler {fit.name!r} of {fit.calls} calls are given: give one"
        )
    return fit


def _levels(schedule: Schedule, steps: int, grid: str | Grid | None) -> tuple[Grid, str]:
    """The levels of a grid and its name. Raises ValueError for levels outside those that the model was trained on."""
    if grid is None or isinstance(grid, str):
        name = grid or default_grid(schedule)
        return make_grid(schedule, steps, name), name
    check_grid(grid)
    high, low = float(grid[0]), float(grid[-2])
    if high > schedule.sigma_max * (1 + 1e-6) or low < schedule.sigma_min * (1 - 1e-6):
        raise ValueError(
            f"the grid's levels {high:.6g}..{low:.6g} (before its 0) leave {schedule.sigma_max:.6g}.."
            f"{schedule.sigma_min:.6g}, which this model was trained on: keep within them"
        )
    return grid.detach().cpu(), "by hand"


def _sampler_arguments(entry: Entry, model: Model, options: SampleOptions) -> dict[str, Any]:
    """Every keyword option of the sampler with its value. Raises ValueError for an option that it does not have."""
    given = {**(options.options or {}), "eta": options.eta, "variance": options.variance}
    given = {name: value for name, value in given.items() if value is not None}
    arguments = entry.defaults
    for name, value in given.items():
        if name not in arguments and not (name == "eta" and value == 0):  # a sampler without eta is deterministic, or refuses
            having = [e.name for e in SAMPLERS.values() if name in e.options]
            known = [k for k in entry.options if k != "data_range"]
            hint = f"leave it out, or use {', '.join(having)}" if having else did_you_mean(name, known)
            raise ValueError(f"{name} = {value!r}, but the options of {entry.name} are: {', '.join(known) or 'none'}; {hint}")
        if isinstance(value, str) and isinstance(arguments.get(name), int | float):
            raise ValueError(f"{name} = {value!r:.60}: {entry.name} takes a number, as its default, {arguments[name]!r}")
    if options.eta is not None and not 0 <= options.eta <= 1:
        raise ValueError(f"eta = {options.eta}: give 0 (deterministic) to 1 (DDPM's noise)")
    if "data_range" in arguments:
        arguments["data_range"] = float(getattr(model, "data_range", 1.0))
    if "variance" in arguments and (pipeline := getattr(model, "defaults", None)) is not None:
        arguments["variance"] = pipeline.variance
    return {name: given.get(name, default) for name, default in arguments.items()}
