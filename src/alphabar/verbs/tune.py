"""`tune`: samplers fitted to a run, for a few numbers of calls, judged on noise and by an extractor that no fit has seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from alphabar.core.machine import best_device, versions
from alphabar.core.progress import track
from alphabar.core.seeds import SeededNoise, starting_noise
from alphabar.core.types import Denoiser, Grid, Images
from alphabar.data.image_set import ImageSet, load, parse_set
from alphabar.denoiser.wrappers import Labelled
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.extract import extract
from alphabar.features.load import load_extractor
from alphabar.features.stats import FeatureStats
from alphabar.fitting import descent as fits
from alphabar.fitting.frechet_loss import Embeds, FrechetPull
from alphabar.sampling.catalogue import SAMPLERS
from alphabar.sampling.clipping import Clipping
from alphabar.sampling.fitted import (
    Tuned,
    all_tuned,
    check_name,
    find_tuned,
    folders_of,
    load_tuned,
    path_of,
    run_tuned,
    save_tuned,
)
from alphabar.sampling.guidance import every_class
from alphabar.sampling.model import Model
from alphabar.sampling.sample import sample
from alphabar.schedule.grid import GRIDS, default_grid, make_grid
from alphabar.training.checkpoint import load_model

Fit = Literal["grid", "solver", "images", "features"]
FITS: tuple[str, ...] = get_args(Fit)
BASES = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis")  # one call a step, no noise: linear in what they are told
JUDGED = ("fid", "kid")
FINALISTS = 3  # of the samplers that a fit by features may begin with
SEED = 1_000_000  # of fits; judging takes the next one: nobody samples with either by habit


@dataclass(frozen=True, eq=False)
class Tuning:
    """A fitted sampler, where it is kept, and how it did on noise that no fit has seen.

    distance: root mean square from the fine trajectory's finished images, of the fitted sampler and of others by name.
    compared: fitted against what its descent began with, by the judge (of a fit by features).
    """

    fit: Tuned
    path: Path
    distance: dict[str, float]
    compared: list[Comparison]

    def to_json(self) -> dict[str, Any]:
        return {
            "fit": self.fit.to_json(), "path": str(self.path), "distance": self.distance,
            "compared": [c.to_json() for c in self.compared],
        }  # fmt: skip


@dataclass(frozen=True)
class Descent:
    """How a fit by gradient goes about it: `rounds` descents (`alphabar.fitting.descent.descend`) of `steps` steps with `batch`
    images, the first with `rate` and each next one with 0.6 of it.

    eta: the most fresh noise that it begins with, as DDIM's (0 keeps the sampler without noise). remember: images whose features
    count beside those of the batch, drawn anew for each round, as old ones are of another sampler. bf16: multiply in bfloat16
    while fitting.
    """

    rounds: int = 3
    steps: int = 14
    batch: int = 512
    rate: float = 0.02
    eta: float = 0.3
    remember: int = 2048
    bf16: bool = False


def tune(
    run: str | Path,
    calls: Sequence[int],
    *,
    fit: str = "solver",
    base: str | None = None,
    name: str | None = None,
    against: str | None = None,
    extractor: str | None = None,
    judge: str = "bundled",
    n: int = 256,
    n_judge: int = 2000,
    seed: int = SEED,
    descent: Descent = Descent(),
    begin: str | Mapping[int, Tuned] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    reading: Mapping[str, Any] | None = None,
    checkpoint: str = "last",
    device: str | None = None,
    batch: int = 64,
    progress: bool = True,
) -> list[Tuning]:
    """Fits a sampler to a run for each number of calls, and keeps it with the run, where `sample(sampler="tuned")` finds it.

    fit: "grid", the levels, under the best of the samplers of one call a step; "solver", levels and coefficients by least
    squares; "images", those and then the gradient of the distance from the fine trajectory; "features": of those and the usual
    samplers on every grid the one whose images have the least Fréchet distance to the training images of `against` in the
    features of `extractor`, and then, with fresh noise, the gradient of that distance.
    A class-conditional model is told its classes in turns, without guidance, in fitting and in judging.

    base: the sampler whose coefficients a fit of the levels takes, or begins with; None: the best of `BASES`. Name the one that
    is to walk an exported grid: dpmpp_2m is diffusers' DPMSolverMultistepScheduler.
    judge: another extractor, against the test images; n_judge images of a seed that no fit has seen.
    name: under which it is kept (None: that of the fit). n: starting noises of the fine trajectory. seed: of the fit; the
    judge's is seed + 1. begin: fitted samplers to descend from, by calls, instead of the solver; or the name under which the
    run has them, with as many calls or, the next best, fewer, which grow (`Coefficients.grown`); or the path of a .json file,
    which may be of another model, such as this one before it was trained on. Noise that they have is kept.
    Give another seed then, for fresh noise to fit to. out: folder for the files (None: tuned/ in the run's home, or here).
    batch: images a call while no gradient is needed.

    A fit is written before it is judged, and again with what the judge found.

    Raises ValueError for calls out of range, an unknown fit, features without `against` and `extractor`, a judge that is the
    fit's own extractor, or fewer images than it needs; FileExistsError where a fit of that name and calls is there and overwrite
    is False.
    """
    if fit not in FITS:
        raise ValueError(f"fit {fit!r} is unknown: use one of {', '.join(FITS)}")
    if base is not None and base not in BASES:
        raise ValueError(f"base {base!r}: use one of {', '.join(BASES)}, which call once a step and draw no noise")
    if not calls or min(calls) < 1 or max(calls) > fits.FINE or len(set(calls)) < len(calls):
        raise ValueError(f"calls = {list(calls)}: give unlike numbers from 1 to {fits.FINE}")
    if n < 8:
        raise ValueError(f"n = {n}: a fine trajectory needs at least 8 starting noises, 256 are usual")
    model = load_model(run, checkpoint).to(device or best_device())
    model.requires_grad_(False)
    if isinstance(begin, str):
        of_file = load_tuned(begin) if begin.endswith(".json") else None
        begin = {k: of_file or _of_at_most(model, k, begin) for k in calls}
    highest = float(model.schedule.sigma_max)
    for k, fitted in (begin or {}).items():
        if fitted.sigmas[0] > highest * (1 + 1e-6):
            raise ValueError(
                f"begin[{k}] starts at level {fitted.sigmas[0]:g} of the model it was fitted to, and this one knows none above "
                f"{highest:g}: leave begin out"
            )
        if not (fitted.calls == k or 2 <= fitted.calls < k):
            raise ValueError(
                f"begin[{k}] is a fitted sampler of {fitted.calls} calls: give one of {k}, or of 2 to {k}, which grows"
            )
    levels = len(fits.fine_grid(model.schedule)) - 1
    if max(calls) > levels:
        raise ValueError(
            f"calls = {list(calls)}: give unlike numbers from 1 to {levels}, the levels of this model's fine trajectory"
        )
    shown = str(run) == "bundled"
    folder = Path(out) if out is not None else folders_of(model)[-1 if shown else 0]
    fingerprint = model.fingerprint
    title = check_name(name or fit)
    _refuse_existing([path_of(folder, fingerprint, title, k) for k in calls], overwrite)
    pull, ruler = None, None
    if fit == "features":
        pull, ruler = _features(model, against, extractor, judge, n_judge, descent, reading, progress)

    bench = _Bench.of(model, n, seed, batch, progress)
    made = []
    for k in calls:
        where = {"fit": fit, "classes": bench.classes, "seed": seed, "n": n, "fine": bench.teacher, "versions": versions()}
        if begin is not None and k in begin:
            c, how = fits.Coefficients.of(begin[k]).grown(k), f"{begin[k].name} ({begin[k].digest})"
            how += "" if begin[k].calls == k else f", grown from {begin[k].calls} calls"
            how += "" if begin[k].model == fingerprint else f", fitted to model {begin[k].model}"
            if pull is not None and not bool((c.fresh > 0).any()):  # one that has noise keeps it
                c = c.with_noise(descent.eta)
        else:
            bases = BASES if base is None else (base,)
            c, how = bench.best(k, bases, solver=fit != "grid")
            if pull is not None:  # who comes nearest to the fine trajectory need not come nearest to real images
                c, how = bench.race({how: c, **bench.usual(k, bases)}, pull, descent)
        where["began with"] = how
        start = bench.tuned(c, "start", fingerprint)
        losses: list[float] = []
        if fit in ("images", "features"):
            c, losses = bench.descend(c, descent, pull)
            where |= {"descent": asdict(descent), "losses": [float(f"{v:.5g}") for v in losses]}
            if pull is not None:
                where |= {"extractor": pull.extractor.fingerprint, "against": against}
        done = replace(bench.tuned(c, title, fingerprint), how=where)
        save_tuned(done, folder, overwrite)  # kept before it is judged, which takes long and may be stopped
        distance = {"fitted": bench.distance(done), **bench.others(k)}
        compared: list[Comparison] = []
        if ruler is not None:
            drawn = [
                sample(
                    model,
                    n_judge,
                    tuned=f,
                    sampler="tuned",
                    seed=seed + 1,
                    batch=2 * batch,
                    progress=progress,
                    classes=every_class(model),
                )
                for f in (done, start)
            ]
            measured = [ruler.measure(s.images, s.record, JUDGED) for s in drawn]
            compared = compare_measured(measured[0], measured[1], names=("fitted", "its start"))
            where["judge"] = {"extractor": judge, "n": n_judge, "seed": seed + 1, "found": [c.to_json() for c in compared]}
        where["distance"] = distance
        done = replace(done, how=where)
        made.append(Tuning(done, save_tuned(done, folder, overwrite=True), distance, compared))
    return made


@dataclass(frozen=True, eq=False)
class _Bench:
    """A model with its fine trajectories: one to fit to, walked when it is first asked for (a descent by features from given
    coefficients never asks), and one (`unseen`) to judge by. starts: unit noise of both, as many images (n, c, h, w) as they
    have. told: the model; one that knows classes (how many, else 0) is told them in turns, image by image. denoise: the same,
    with x0_hat held; hold: what that does to x0_hat, if anything."""

    model: Model
    classes: int
    told: Denoiser | fits.ByRow
    denoise: Denoiser | fits.ByRow
    hold: Callable[[Images], Images] | None
    limits: tuple[float, float | None, float | None]
    unseen: fits.Trajectory
    starts: Tensor
    unseen_starts: Tensor
    device: torch.device
    batch: int
    seed: int
    progress: bool

    @staticmethod
    def of(model: Any, n: int, seed: int, batch: int, progress: bool) -> "_Bench":
        own = getattr(model, "defaults", None)
        limits = (0.0, None, None) if own is None else (float(own.clip or 0), own.threshold, own.threshold_max)
        device = next(model.parameters()).device
        classes = len(every_class(model) or ())

        def labelled(rows: Sequence[int]) -> Denoiser:
            return Labelled(model, torch.tensor([k % classes for k in rows], device=device))

        told: Denoiser | fits.ByRow = model
        denoise: Denoiser | fits.ByRow = Clipping(*limits)(model)
        if classes:
            told = fits.ByRow(labelled, model.schedule)
            denoise = fits.ByRow(lambda rows: Clipping(*limits)(labelled(rows)), model.schedule)
        hold = (
            None if Clipping(*limits)(model) is model else lambda x: Clipping(*limits)(lambda x, sigma: x)(x, x.new_zeros(len(x)))
        )
        starts = [
            starting_noise(s, range(m), model.image_shape).to(device).contiguous(memory_format=torch.channels_last)
            for s, m in ((seed, n), (seed + 1, 64))
        ]
        unseen = fits.record(denoise, starts[1], fits.fine_grid(model.schedule), batch=batch, progress=progress)
        return _Bench(model, classes, told, denoise, hold, limits, unseen, starts[0], starts[1], device, batch, seed, progress)

    @cached_property
    def fine(self) -> fits.Trajectory:
        return fits.record(self.denoise, self.starts, self.unseen.sigmas, batch=self.batch, progress=self.progress)

    @cached_property
    def costs(self) -> dict[int, Tensor]:
        """What a step of the fine trajectory's levels misses, from one answer (0) and from two (1)."""
        grams = fits.grams_of(self.fine)
        return {back: fits.step_costs(self.fine, back, grams) for back in (0, 1)}

    @property
    def teacher(self) -> str:
        return f"{fits.teacher_of(self.unseen.sigmas)}, {len(self.unseen.x)} levels"

    def tuned(self, c: fits.Coefficients, name: str, model: str) -> Tuned:
        clip, threshold, threshold_max = self.limits
        return Tuned(name, model, *c.plain(), clip=clip, threshold=threshold, threshold_max=threshold_max)

    def distance(self, fit: Tuned, cut: int | None = None) -> float:
        """Root mean square distance of finished images from the fine trajectory's, on noise that no fit has seen; with a cut, on
        that of the images to fit to from that one on."""
        starts, end = (self.unseen_starts, self.unseen.end) if cut is None else (self.starts[cut:], self.fine.end[cut:])
        denoise = fits.denoiser_of(self.denoise, range(cut or 0, (cut or 0) + len(starts)))
        noise = SeededNoise(self.seed + 1, range(len(starts)))
        return _apart(run_tuned(denoise, starts * fit.sigmas[0], fit.grid, fit=fit, noise=noise), end)

    def others(self, calls: int) -> dict[str, float]:
        """The distance of the usual samplers on the usual grids, by name."""
        found = {}
        denoise = fits.denoiser_of(self.denoise, range(len(self.unseen_starts)))
        for name, grid in product(
            ("ddim", "dpmpp_2m", "unipc", "ipndm"), dict.fromkeys((default_grid(self.model.schedule), "karras"))
        ):
            try:
                sigmas = make_grid(self.model.schedule, calls, grid)
            except ValueError:  # more steps than timesteps
                continue
            found[f"{name}, {grid}"] = _apart(
                SAMPLERS[name].fn(denoise, self.unseen_starts * float(sigmas[0]), sigmas), self.unseen.end
            )
        return found

    def best(self, calls: int, bases: Sequence[str], solver: bool) -> tuple[fits.Coefficients, str]:
        """The candidate that ends nearest to the fine trajectory on the last quarter of the noise, which was not fitted to."""
        cut = len(self.starts) * 3 // 4
        known = self.fine.part(0, cut)
        found: list[tuple[float, fits.Coefficients, str]] = []
        grids: dict[tuple[float, ...], tuple[Grid, str]] = {}
        for (back, cost), power in product(self.costs.items(), (1.0, 2.0)):
            grid = fits.best_levels(self.fine, cost, calls, power)
            grids.setdefault(
                tuple(grid.tolist()), (grid, f"levels by {'Euler steps' if back == 0 else 'two answers'}, power {power:g}")
            )
        for grid, how in grids.values():
            tried = {b: fits.coefficients_of(SAMPLERS[b].fn, grid) for b in bases}
            if solver:
                for memory in (2, 3, 4):
                    tried[f"least squares, {memory} answers"] = fits.least_squares(
                        self.denoise, self.starts[:cut], grid, known, memory=memory, batch=self.batch, progress=self.progress
                    )
            for what, c in tried.items():
                off = self.distance(self.tuned(c, "candidate", "?"), cut)
                found.append((off, c, f"{what}; {how}"))
        _, c, how = min(found, key=lambda row: row[0])
        return c, how

    def usual(self, calls: int, bases: Sequence[str]) -> dict[str, fits.Coefficients]:
        """The coefficients of samplers on every grid that the schedule has so many levels of, by name."""
        found = {}
        for base, grid in product(bases, GRIDS):
            try:
                sigmas = make_grid(self.model.schedule, calls, grid)
            except ValueError:  # more steps than timesteps
                continue
            found[f"{base}, {grid}"] = fits.coefficients_of(SAMPLERS[base].fn, sigmas)
        return found

    def race(self, candidates: Mapping[str, fits.Coefficients], pull: FrechetPull, how: Descent) -> tuple[fits.Coefficients, str]:
        """The candidate whose images' features come nearest to the real ones', with a third of how.eta of fresh noise (little
        enough to compare by, and not none, which no gradient would move) or with all of it. All start, from the same noise,
        with a quarter of the images that decide between the best few, half of what a descent remembers."""

        def distance(name: str, eta: float, n: int) -> float:
            self._fill(pull, candidates[name].with_noise(eta), n, self.seed + 2)
            advance(1)
            return pull.distance()

        runs = [(name, how.eta / 3) for name in candidates]
        few = min(len(candidates), FINALISTS)
        etas = sorted({how.eta / 3, how.eta})
        with track(len(runs) + few * len(etas), "where to begin", unit="samplers", show=self.progress) as advance:
            heat = {name: distance(name, eta, max(64, how.remember // 8)) for name, eta in runs}
            best = sorted(heat, key=lambda name: heat[name])[:few]
            final = {(name, eta): distance(name, eta, max(64, how.remember // 2)) for name, eta in product(best, etas)}
        name, eta = min(final, key=lambda run: final[run])
        return candidates[name].with_noise(eta), f"{name}; eta {eta:g}"

    def descend(self, c: fits.Coefficients, how: Descent, pull: FrechetPull | None) -> tuple[fits.Coefficients, list[float]]:
        """The coefficients after all rounds, and the losses on the way. pull: the loss; None: distance from the trajectory."""
        losses: list[float] = []
        loss: fits.Loss = fits.ToTeacher(self.fine) if pull is None else pull
        for k in range(how.rounds):
            seed = self.seed if pull is None else self.seed + 2 + k
            try:
                if pull is not None:
                    self._fill(pull, c, how.remember, seed)
                found = fits.descend(
                    self.told, c, loss, steps=how.steps, batch=how.batch if pull is not None else min(how.batch, len(self.fine)),
                    rate=how.rate * 0.6**k, seed=seed, pool=len(self.fine) if pull is None else None, bf16=how.bf16,
                    hold=self.hold, shape=self.model.image_shape, device=self.device, first=how.remember,
                    what=f"{len(c.sigmas)} calls, round {k + 1} of {how.rounds}", progress=self.progress,
                )  # fmt: skip
            except KeyboardInterrupt:  # before the first step of a round: what the rounds before have found is kept
                if k == 0:
                    raise
                break
            c = found.coefficients
            losses += found.losses
            if found.stopped:
                break
        return c, losses

    def _fill(self, pull: FrechetPull, c: fits.Coefficients, remember: int, seed: int) -> None:
        """Features of so many images of where a descent begins: the first ones of the seed."""
        pull.forget()
        fit = self.tuned(c, "start", "?")
        for start in range(0, remember, self.batch):
            rows = range(start, start + self.batch)
            x = starting_noise(seed, rows, self.model.image_shape).to(self.device) * fit.sigmas[0]
            pull.add(run_tuned(fits.denoiser_of(self.denoise, rows), x, fit.grid, fit=fit, noise=SeededNoise(seed, rows)))


def _features(
    model: Any, against: str | None, extractor: str | None, judge: str, n_judge: int, descent: Descent,
    reading: Mapping[str, Any] | None, progress: bool,
) -> tuple[FrechetPull, ImageEval]:  # fmt: skip
    if against is None or extractor is None:
        raise ValueError(
            "a fit by features needs real images and an extractor, and another extractor to judge: --against SET "
            "--extractor PATH (alphabar extractor train SET --seed 1 --out PATH) --judge bundled"
        )
    ours, other = load_extractor(extractor), load_extractor(judge)
    if not isinstance(ours, Embeds):
        raise ValueError(
            f"extractor {extractor} has no `embed`, through which a gradient flows: use one of `alphabar extractor train`"
        )
    if ours.fingerprint == other.fingerprint:
        raise ValueError(f"the judge is the extractor that is fitted to ({extractor}): name another one, --judge PATH")
    options = dict(reading or {})
    name, split = parse_set(against)
    real: ImageSet = load(name, split, **options)
    try:
        test = load(name, "test", **options)
    except FileNotFoundError:  # no test split: the judge sees the images that the fit saw, by an extractor of its own
        test = real
    ruler = ImageEval(other, test, progress=progress)
    ruler.check_model(model, n_judge, JUDGED)
    stats = FeatureStats.of(extract(real, ours, progress=progress).rows(slice(None)), ours.fingerprint)
    return FrechetPull(ours, stats, remember=descent.remember, crop=model.crop), ruler


def _of_at_most(model: Any, calls: int, name: str) -> Tuned:
    """The fitted sampler of that name with so many calls, else with the most below."""
    fewer = [f for f in all_tuned(folders_of(model), model.fingerprint) if f.name == name and 2 <= f.calls <= calls]
    if fewer:
        return max(fewer, key=lambda f: f.calls)
    return find_tuned(folders_of(model), model.fingerprint, calls, name)  # which says what there is


def _refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Before the work, not after it."""
    there = [str(p) for p in paths if p.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{', '.join(there)} is there already: give another --name, or --overwrite it")


def _apart(x: Tensor, end: Tensor) -> float:
    return float((x.cpu().clamp(-1, 1) - end.clamp(-1, 1)).square().mean().sqrt())
