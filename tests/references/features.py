"""Features whose bits every machine makes alike up to rounding; the kept values of other libraries were taken on them."""

import numpy as np
from numpy.typing import NDArray

# name -> (seed, n, m, width): m images of the second set
CASES = {
    "many": (0, 1000, 800, 64),
    "equal": (1, 500, 500, 48),
    "fewer images than features": (2, 40, 800, 64),
    "few on both sides": (3, 40, 50, 64),
    "alike": (4, 1000, 1000, 32),
}


def features(case: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two sets (n, d) and (m, d) of correlated, rectified features; RandomState's stream is frozen by NumPy."""
    seed, n, m, d = CASES[case]
    rng = np.random.RandomState(seed)
    mix = rng.standard_normal((d, d)) * np.logspace(0, -2, d)
    shift, scale = (0.0, 1.0) if case == "alike" else (0.05, 1.05)
    x = np.maximum(rng.standard_normal((n, d)) @ mix + 0.3, 0)
    y = np.maximum(scale * rng.standard_normal((m, d)) @ mix + 0.3 + shift, 0)
    return x, y
