"""Checks that several samplers share, each with the way out in its message."""

from alphabar.core.types import Noise


def check_eta(eta: float, noise: Noise | None) -> None:
    """Raises ValueError for eta outside [0, 1], and for eta > 0 without noise."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: give 0 (deterministic) to 1 (DDPM's noise)")
    if eta > 0 and noise is None:
        raise ValueError(f"eta = {eta} adds noise at every step: pass noise=SeededNoise(seed, indices)")


def check_order(order: int, highest: int) -> None:
    """Raises ValueError unless `order` is a whole number from 1 to `highest`."""
    if order not in range(1, highest + 1):
        raise ValueError(f"order = {order}: give a whole number from 1 to {highest}")
