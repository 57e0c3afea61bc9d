"""Weights of multistep methods: the exact integral over a step of the polynomial through past values.

A step needs the integral of f over [0, 1] (u: the completed share of the step) with some weight function; f is known at `nodes`
(0 is now, -1 one step of the same length ago, 1 the end of the step). The weights w of f(nodes) that are right for 1, u, u^2, ...
solve sum_j w_j nodes_j^k = moment_k, where moment_k is the integral of the weight function times u^k. Each method chooses the
weight function and the variable in which f is a polynomial.
"""

from collections.abc import Sequence
from math import exp, expm1, factorial

import numpy as np


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """w with sum_j w_j nodes_j^k = moments_k, k = 0 .. len(nodes) - 1, for different nodes."""
    powers = np.vander(np.asarray(nodes, dtype=np.float64), increasing=True).T
    w: list[float] = np.linalg.solve(powers, np.asarray(moments[: len(nodes)], dtype=np.float64)).tolist()
    return w


def exponential_moments(z: float, n: int) -> list[float]:
    """M_k = integral over [0, 1] of z e^(-z (1 - u)) u^k, k = 0 .. n - 1, for z > 0: a linear drift solved exactly.

    M_0 = 1 - e^(-z) and, by parts, M_k = 1 - k / z M_(k-1), which loses digits for small z, where a series is used.
    """
    if z < 1:
        return [z * exp(-z) * sum(z**j / (factorial(j) * (j + k + 1)) for j in range(18)) for k in range(n)]
    moments = [-expm1(-z)]
    for k in range(1, n):
        moments.append(1 - k / z * moments[-1])
    return moments
