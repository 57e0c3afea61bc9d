"""`tune`: fits samplers of a few network calls to a run, and scores them on noise and by an extractor not used in fitting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alphabar.core.files import Record, locked
from alphabar.core.machine import device_of, memory_for, versions
from alphabar.core.messages import as_path
from alphabar.core.options import takes
from alphabar.core.outputs import check_output
from alphabar.data.image_set import HELD_OUT, parse_set
from alphabar.evaluation.compare import Comparison
from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.descent import descend_in_rounds
from alphabar.fitting.frechet_loss import RealImages
from alphabar.fitting.options import TuneOptions
from alphabar.fitting.problem import FittingProblem
from alphabar.fitting.starts import best_by_features, best_start, usual_starts
from alphabar.fitting.trajectory import FINE, fine_grid
from alphabar.sampling.fitted import Tuned, all_tuned, check_name, find_tuned, folders_of, load_tuned, path_of, save_tuned
from alphabar.sampling.sample_set import reading_for
from alphabar.training.checkpoint import load_model
from alphabar.verbs.extractor import AUTO, FILE, extractor_for, run_of
from alphabar.verbs.memorisation import heldout_of, reference

DESCENT = ("rounds", "steps", "batch", "rate", "eta", "remember", "bf16")  # the options of a descent, for the record


@dataclass(frozen=True, eq=False)
class Tuning(Record):
    """A fitted sampler with its scores.

    Attributes:
        fit: the sampler.
        path: its file.
        distance: root mean square distance from the images of the fine trajectory, on noise that was not fitted to, of the fitted
            sampler and of usual ones, by name.
        compared: for a fit by features, held-out scores of the fitted sampler against those of its start.
    """

    fit: Tuned
    path: Path
    distance: dict[str, float]
    compared: list[Comparison]


@takes(TuneOptions)
@memory_for("the fit", "give a smaller --batch or --n")
def tune(
    run: str | Path, calls: Sequence[int], options: TuneOptions = TuneOptions(), *, out: str | Path | None = None,
    overwrite: bool = False, reading: Mapping[str, Any] | None = None, checkpoint: str = "last", device: str | None = None,
    progress: bool = True,
) -> list[Tuning]:  # fmt: skip
    """Fits a sampler to a run for each number of network calls; `sample(model, n, sampler="tuned", steps=calls)` uses it.

    The classes of a class-conditional model are taken in turns, without guidance. A sampler is saved before it is scored, and
    again with its scores.

    Args:
        run: a run folder, a .safetensors file, bundled, diffusers:PATH, lucidrains:FILE@SIZE, or hf:OWNER/NAME.
        calls: different numbers of network calls per image, from 1 to 80.
        options: how the samplers are fitted. Its fields may also be passed as keywords: `tune(run, [5], fit="grid")`.
        out: folder for the files. None: tuned/ in the run's folder, or in the current folder for bundled and single files.
        overwrite: whether fitted samplers of that name and number of calls are replaced.
        reading: options of `alphabar.data.image_set.load` for the images of `options.against`.
        checkpoint: last, best or ema:LENGTH.
        device: where the network runs. None: the fastest device there is.
        progress: whether to show progress bars.

    Returns:
        One `Tuning` for each number of calls, in their order.

    Raises:
        ValueError: for calls out of range, and for a fit by features without `against` and `extractor`, with the same extractor
            for fitting and scoring, or with too few images.
        FileExistsError: if a sampler of that name and number of calls exists and `overwrite` is False.
        OSError: if another process fits samplers in the same folder.
    """
    model = load_model(run, checkpoint).to(device_of(device))
    model.requires_grad_(False)
    _check_calls(calls, FINE, "")
    _check_calls(calls, len(fine_grid(model.schedule)) - 1, ", the levels of this model's fine trajectory")
    starts = _given_starts(model, calls, options)
    folder = as_path(out) if out is not None else folders_of(model)[-1 if str(run) == "bundled" else 0]
    name = check_name(options.name or options.fit)
    with locked(folder):
        _refuse_existing([path_of(folder, model.fingerprint, name, k) for k in calls], overwrite)
        if options.against is not None and AUTO in (options.extractor, options.heldout_extractor):
            options = _with_auto(run, options, reading_for(model, reading), progress)
        own = options.against is not None and parse_set(options.against)[1] == HELD_OUT
        heldout = heldout_of([run], options.against, reading) if own else None
        real = RealImages.of(model, options, reading, progress, heldout) if options.fit == "features" else None

        problem = FittingProblem.of(model, options, progress)
        made = []
        for k in calls:
            start, how = _start(problem, k, starts.get(k), real)
            c, losses = start, list[float]()
            if options.fit in ("images", "features"):
                c, losses = descend_in_rounds(problem, start, None if real is None else real.loss)
            notes = _notes(problem, how, losses, real)
            fitted = problem.fitted(c, name, notes)
            save_tuned(fitted, folder, overwrite)  # saved before it is scored, which takes long and may be interrupted
            distance = {"fitted": problem.distance(fitted), **problem.usual_distances(k)}
            compared = []
            if real is not None:
                compared = real.compare(model, fitted, problem.fitted(start, "start"), options, progress)
                notes["heldout"] = {
                    "extractor": options.heldout_extractor, "n": options.n_heldout, "seed": options.seed + 1,
                    "found": [c.to_json() for c in compared],
                }  # fmt: skip
            scored = replace(fitted, how=notes | {"distance": distance})
            made.append(Tuning(scored, save_tuned(scored, folder, overwrite=True), distance, compared))
    return made


def _start(problem: FittingProblem, calls: int, given: Tuned | None, real: RealImages | None) -> tuple[Coefficients, str]:
    """The coefficients that a descent starts from, or that are the result of a fit without one, and where they come from."""
    options = problem.options
    if given is not None:
        c, how = Coefficients.of(given).grown(calls), f"{given.name} ({given.digest})"
        how += "" if given.calls == calls else f", grown from {given.calls} calls"
        how += "" if given.model == problem.fingerprint else f", fitted to model {given.model}"
        if real is not None and not bool((c.fresh > 0).any()):  # a sampler with noise keeps its own
            c = c.with_noise(options.eta)
        return c, how
    c, how = best_start(problem, calls, solver=options.fit != "grid")
    if real is not None:  # the nearest to the fine trajectory need not be the nearest to real images
        c, how = best_by_features(problem, {how: c, **usual_starts(problem, calls)}, real.loss)
    return c, how


def _notes(problem: FittingProblem, how: str, losses: Sequence[float], real: RealImages | None) -> dict[str, Any]:
    """How the sampler was fitted, as plain data."""
    options = problem.options
    notes: dict[str, Any] = {
        "fit": options.fit, "classes": problem.classes, "seed": options.seed, "n": options.n, "fine": problem.fine_name,
        "versions": versions(), "start": how,
    }  # fmt: skip
    if options.fit in ("images", "features"):
        notes["descent"] = {name: getattr(options, name) for name in DESCENT}
        notes["losses"] = [float(f"{v:.5g}") for v in losses]
    if real is not None:
        notes |= {"extractor": real.loss.extractor.fingerprint, "against": options.against}
    return notes


def _check_calls(calls: Sequence[int], most: int, what: str) -> None:
    if not calls or min(calls) < 1 or max(calls) > most or len(set(calls)) < len(calls):
        raise ValueError(f"calls = {list(calls)}: give different numbers from 1 to {most}{what}")


def _given_starts(model: Any, calls: Sequence[int], options: TuneOptions) -> dict[int, Tuned]:
    """The samplers of options.init_from, by calls. Raises ValueError for one that cannot be extended or starts too high."""
    given = options.init_from
    if given is None:
        return {}
    if isinstance(given, str):
        of_file = load_tuned(given) if given.endswith(".json") else None
        given = {k: of_file or _of_at_most(model, k, given) for k in calls}
    highest = float(model.schedule.sigma_max)
    for k, fitted in given.items():
        if fitted.sigmas[0] > highest * (1 + 1e-6):
            raise ValueError(
                f"init_from[{k}] starts at level {fitted.sigmas[0]:g} of the model it was fitted to, and this model has none "
                f"above {highest:g}: leave init_from out"
            )
        if not (fitted.calls == k or 2 <= fitted.calls < k):
            raise ValueError(
                f"init_from[{k}] is a fitted sampler of {fitted.calls} calls: give one of {k}, or of 2 to {k}, which is extended"
            )
    return dict(given)


def _of_at_most(model: Any, calls: int, name: str) -> Tuned:
    """The model's fitted sampler of that name with the most calls up to `calls`."""
    fewer = [f for f in all_tuned(folders_of(model), model.fingerprint) if f.name == name and 2 <= f.calls <= calls]
    if fewer:
        return max(fewer, key=lambda f: f.calls)
    return find_tuned(folders_of(model), model.fingerprint, calls, name)  # raises, naming what the model has


def _with_auto(run: str | Path, options: TuneOptions, reading: Mapping[str, Any], progress: bool) -> TuneOptions:
    """The options with the file of the run's extractor in place of "auto"."""
    against = str(options.against)
    extractor_for(AUTO, reference(against, [run], reading)[0], [run], against, progress)
    path = str((run_of(run) or Path()) / FILE)
    chosen = {k: path for k in ("extractor", "heldout_extractor") if getattr(options, k) == AUTO}
    return replace(options, **chosen)  # type: ignore[arg-type]


def _refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    there = [str(p) for p in paths if p.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{', '.join(there)} exists already: pass another --name, or --overwrite")
    for path in paths:
        check_output(path, "fitted sampler")
        check_output(path.with_suffix(".png"), "picture")
