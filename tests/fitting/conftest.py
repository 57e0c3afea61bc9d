"""Fine trajectories of a mixture: one to fit to, and the end of one on other noise."""

import pytest

from alphabar.fitting.trajectory import fine_trajectory
from tests.fitting.shared import FINE, starts


@pytest.fixture(scope="session")
def fine(mixture):
    return fine_trajectory(mixture, starts(192), FINE, progress=False)


@pytest.fixture(scope="session")
def unseen(mixture):
    """Noise that nothing was fitted to, and where the fine trajectory carries it."""
    unit = starts(256, seed=1)
    return unit, fine_trajectory(mixture, unit, FINE, progress=False).end
