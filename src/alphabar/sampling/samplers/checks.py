"""Checks of the arguments that several samplers take."""

from collections.abc import Collection

from alphabar.core.types import Noise


def check_eta(eta: float, noise: Noise | None) -> None:
    """Raises ValueError for eta outside [0, 1], and for eta > 0 without noise."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: give 0 (deterministic) to 1 (DDPM's noise)")
    if eta > 0:
        check_noise(noise, f"eta = {eta} adds noise at every step")


def check_noise(noise: Noise | None, why: str) -> None:
    """Raises ValueError if the noise that is needed is missing."""
    if noise is None:
        raise ValueError(f"{why}: pass noise=SeededNoise(seed, indices)")


def check_order(order: int, highest: int) -> None:
    """Raises ValueError unless `order` is a whole number from 1 to `highest`."""
    if order not in range(1, highest + 1):
        raise ValueError(f"order = {order}: give a whole number from 1 to {highest}")


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError for a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{option} {value!r} is unknown: use one of {', '.join(choices)}")
