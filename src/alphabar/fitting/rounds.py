"""Rounds of gradient descent, each with a smaller rate and, by features, with other noise."""

from alphabar.fitting.coefficients import Coefficients
from alphabar.fitting.descent import Loss, TrajectoryLoss, descend
from alphabar.fitting.frechet_loss import FrechetLoss
from alphabar.fitting.problem import FittingProblem
from alphabar.fitting.starts import fill_statistics

SLOWER = 0.6  # the rate of a round over that of the round before


def descend_in_rounds(problem: FittingProblem, c: Coefficients, features: FrechetLoss | None) -> tuple[Coefficients, list[float]]:
    """The coefficients after all rounds of options.rounds, and the losses of all steps.

    features: the loss; None: the distance from the fine trajectory. Ctrl-C ends the descent, and what was found is returned.
    """
    options = problem.options
    losses: list[float] = []
    loss: Loss = TrajectoryLoss(problem.fine) if features is None else features
    pool = len(problem.fine) if features is None else None
    for k in range(options.rounds):
        seed = options.seed if features is None else options.seed + 2 + k
        try:
            if features is not None:  # the features of earlier rounds are of another sampler
                fill_statistics(problem, features, c, options.remember, seed)
            found = descend(
                problem.network, c, loss, shape=problem.model.image_shape, steps=options.steps,
                batch=options.batch if pool is None else min(options.batch, pool), rate=options.rate * SLOWER**k, seed=seed,
                pool=pool, first=options.remember, bf16=options.bf16, clip=problem.clip, device=problem.device,
                title=f"{len(c.sigmas)} calls, round {k + 1} of {options.rounds}", progress=problem.progress,
            )  # fmt: skip
        except KeyboardInterrupt:  # before the first step of a round: the result of the rounds before is kept
            if k == 0:
                raise
            break
        c = found.coefficients
        losses += found.losses
        if found.stopped:
            break
    return c, losses
