"""Fitted samplers as lists of timesteps, which diffusers' `set_timesteps(timesteps=...)` takes."""

from typing import Any

from alphabar.denoiser.model import Model
from alphabar.sampling.fitted import all_tuned, folders_of
from alphabar.schedule.grid import timesteps_of


def fitted_timesteps(model: Model) -> list[dict[str, Any]]:
    """One row per fitted sampler of a model: its name, calls, `timesteps`, and `moved`, the largest distance of a level from its
    timestep. Another solver can use the levels of a fitted sampler, but not its coefficients and noise.

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
