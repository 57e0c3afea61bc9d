"""The coefficients from which a descent starts: the best candidate by distance from the fine trajectory, or by features."""

from collections.abc import Mapping
from itertools import product

from alphabar.core.progress import track
from alphabar.core.types import Grid
from alphabar.fitting.coefficients import Coefficients, coefficients_of, least_squares
from alphabar.fitting.frechet_loss import FrechetLoss
from alphabar.fitting.levels import best_levels
from alphabar.fitting.problem import FittingProblem, usual_settings
from alphabar.sampling.catalogue import SAMPLERS
from alphabar.schedule.grid import GRIDS

FINALISTS = 3  # candidates that are compared with more images


def best_start(problem: FittingProblem, calls: int, *, solver: bool) -> tuple[Coefficients, str]:
    """The candidate nearest to the fine trajectory on the last quarter of its noise, which is not fitted to, and its name.

    Candidates are the base samplers on levels found by dynamic programming, and, with `solver`, least squares.
    """
    cut = len(problem.starts) * 3 // 4
    fine = problem.fine.part(0, cut)
    found: list[tuple[float, Coefficients, str]] = []
    for grid, how in _grids(problem, calls):
        tried = {base: coefficients_of(SAMPLERS[base].fn, grid) for base in problem.options.bases}
        for memory in (2, 3, 4) if solver else ():
            tried[f"least squares, {memory} answers"] = least_squares(
                problem.denoise, problem.starts[:cut], grid, fine, memory=memory, batch=problem.options.call_batch,
                progress=problem.progress,
            )  # fmt: skip
        found += [(problem.distance(problem.fitted(c), cut), c, f"{name}; {how}") for name, c in tried.items()]
    _, c, how = min(found, key=lambda row: row[0])
    return c, how


def usual_starts(problem: FittingProblem, calls: int) -> dict[str, Coefficients]:
    """The coefficients of the base samplers on every grid that has so many levels, by name."""
    settings = usual_settings(problem.model.schedule, calls, problem.options.bases, tuple(GRIDS))
    return {name: coefficients_of(SAMPLERS[sampler].fn, sigmas) for name, sampler, sigmas in settings}


def best_by_features(
    problem: FittingProblem, candidates: Mapping[str, Coefficients], loss: FrechetLoss
) -> tuple[Coefficients, str]:
    """The candidate, with fresh noise, whose images have the smallest Fréchet distance to the real ones, and its name.

    All are compared on the same noise with a third of options.eta (no noise at all would have no gradient), on an eighth of
    the images that a descent remembers; the best `FINALISTS` again with all of options.eta too, on half of them.
    """
    options = problem.options
    few = min(len(candidates), FINALISTS)
    etas = sorted({options.eta / 3, options.eta})
    with track(len(candidates) + few * len(etas), "choosing the start", unit="samplers", show=problem.progress) as advance:

        def distance(name: str, eta: float, n: int) -> float:
            fill_statistics(problem, loss, candidates[name].with_noise(eta), n, options.seed + 2)
            advance(1)
            return loss.distance()

        first = {name: distance(name, options.eta / 3, max(64, options.remember // 8)) for name in candidates}
        best = sorted(first, key=lambda name: first[name])[:few]
        final = {(name, eta): distance(name, eta, max(64, options.remember // 2)) for name, eta in product(best, etas)}
    name, eta = min(final, key=lambda pair: final[pair])
    return candidates[name].with_noise(eta), f"{name}; eta {eta:g}"


def fill_statistics(problem: FittingProblem, loss: FrechetLoss, c: Coefficients, n: int, seed: int) -> None:
    """Replaces the statistics of the loss by those of about n images, the first ones of the seed."""
    loss.forget()
    fit = problem.fitted(c)
    batch = problem.options.call_batch
    for first in range(0, n, batch):
        loss.add(problem.images(fit, seed, range(first, first + batch)))


def _grids(problem: FittingProblem, calls: int) -> list[tuple[Grid, str]]:
    """Different grids of best levels, by two kinds of step and two powers of its error, each with its name."""
    grids: dict[tuple[float, ...], tuple[Grid, str]] = {}
    for (back, costs), power in product(problem.level_costs.items(), (1.0, 2.0)):
        grid = best_levels(problem.fine, costs, calls, power)
        how = f"levels by {'Euler steps' if back == 0 else 'two answers'}, power {power:g}"
        grids.setdefault(tuple(grid.tolist()), (grid, how))
    return list(grids.values())
