"""x0_hat at chosen steps of a sampling, kept as pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor

from alphabar.core.types import Pixels
from alphabar.data.images import to_pixels


def chosen(keep: bool | Sequence[int], steps: int) -> tuple[int, ...]:
    """The steps to keep, from the noisiest: True for all, False for none, or their numbers (-1 is the last).

    Raises ValueError for a step that does not exist.
    """
    if isinstance(keep, bool):
        return tuple(range(steps)) if keep else ()
    if not isinstance(keep, Sequence) or any(type(k) is not int for k in keep):
        raise ValueError(f"keep_x0 = {keep!r:.60}: give True for all steps, or a list of their numbers")
    if bad := [k for k in keep if not -steps <= k < steps]:
        raise ValueError(f"keep x0_hat at step {bad[0]}: there are steps 0 to {steps - 1}")
    return tuple(sorted({k % steps for k in keep}))


def spread_out(steps: int, most: int) -> tuple[int, ...]:
    """At most `most` of the steps 0 to steps - 1, evenly spaced, with the first and the last."""
    if steps <= most:
        return tuple(range(steps))
    return tuple(dict.fromkeys(round(k * (steps - 1) / (most - 1)) for k in range(most))) if most > 1 else (0,)


class KeepX0:
    """An `on_step` that keeps x0_hat of one or more batches at these steps as pixels of `dtype`, N x H x W x C, clamped to
    [-1, 1], without `crop` pixels on each side."""

    def __init__(self, steps: Sequence[int], crop: int = 0, dtype: DTypeLike = np.uint8) -> None:
        self.steps = tuple(steps)
        self.crop = crop
        self.dtype = dtype
        self._kept: dict[int, list[Pixels]] = {k: [] for k in self.steps}

    def __call__(self, step: int, sigma: float, x: Tensor, x0_hat: Tensor) -> None:
        if step in self._kept:
            self._kept[step].append(to_pixels(cropped(x0_hat, self.crop), self.dtype))

    def x0(self) -> list[Pixels]:
        """One array per kept step."""
        return [np.concatenate(self._kept[k]) for k in self.steps]


def cropped(x: Tensor, crop: int) -> Tensor:
    """x without `crop` pixels on each of its four sides."""
    return x[..., crop : x.shape[-2] - crop, crop : x.shape[-1] - crop] if crop else x
