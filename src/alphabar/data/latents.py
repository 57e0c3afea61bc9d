"""Latents: images that an autoencoder has encoded, as a set that models are trained on in place of the images.

A folder of latents holds latents.json (`Latents` and where the images are from), autoencoder/ (a copy of it), and train/ and
test/ in the layout of the cache. Its hashes are those of the images, so that the same ones are held out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from alphabar.core import stored_values as kinds
from alphabar.core.messages import as_path
from alphabar.core.places import PRIVATE
from alphabar.core.stored_values import StoredValues, naming, read_object
from alphabar.data.fit_size import Fit
from alphabar.data.values import Range, check_range, scale_of

FILE, AUTOENCODER = "latents.json", "autoencoder"
_WIDTH = kinds.Kind(lambda v: kinds.FINITE.good(v) and v > 0, "a number above 0")


@dataclass(frozen=True)
class Latents:
    """What latents are of, and their scale: z = mean + limit std x, channel by channel, where x in [-1, 1] is what a set of
    latents holds and a model is trained on. It is part of the specification of that model."""

    autoencoder: str
    """The fingerprint of the autoencoder."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    limit: float
    """Standard deviations from the mean to the ends of the scale, which the farthest latent of the set reaches."""
    image_shape: tuple[int, int, int]
    """(channels, height, width) of the images."""
    pixels: str = "uint8"
    """The type of the images."""
    value_range: Range | None = None
    """The values that were declared for the ends of the scale of the images."""
    fit: str | None = None
    """How the images were brought to their size; None where they had it."""

    def spec(self) -> dict[str, Any]:
        """Plain data, which `latents_of` reads."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def encoded(self, x: Tensor) -> Tensor:
        """x of the set or the model -> latents of the autoencoder."""
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (self.mean, self.std))
        return mean + self.limit * std * x

    def scaled(self, z: Tensor) -> Tensor:
        """Latents of the autoencoder -> x of the model: the inverse of `encoded`."""
        mean, std = (torch.tensor(v, dtype=z.dtype, device=z.device)[:, None, None] for v in (self.mean, self.std))
        return (z - mean) / (self.limit * std)


def latents_of(values: Mapping[str, Any], where: str) -> Latents:
    """What `Latents.spec` wrote. Raises ValueError, beginning with `where`, for a value that it does not write."""
    c = StoredValues(values, where)
    mean, std = c.get("mean", kinds.listed(kinds.FINITE, 65_536, 1)), c.get("std", kinds.listed(_WIDTH, 65_536, 1))
    if len(mean) != len(std):
        raise ValueError(f"{where}: {len(mean)} means and {len(std)} standard deviations")
    shape, pixels, declared = c.get("image_shape", kinds.SHAPE), c.get("pixels", kinds.TEXT), values.get("value_range")
    with naming(where):
        scale_of(pixels)
        value_range = None if declared is None else check_range(c.get("value_range", kinds.PAIR))
        fit = None if values.get("fit") is None else c.get("fit", kinds.one_of(get_args(Fit)))
    return Latents(
        c.get("autoencoder", kinds.TEXT), tuple(mean), tuple(std), c.get("limit", _WIDTH), tuple(shape), pixels, value_range, fit
    )


def holds_latents(name: str | Path) -> bool:
    """Whether a set is a folder of latents."""
    return (as_path(name) / FILE).is_file()


def read_latents(folder: Path) -> tuple[Latents, str, dict[str, Any]]:
    """The latents of a folder, and the set that they were made from with the options of `load` by which it was read."""
    file = folder / FILE
    c = StoredValues(read_object(file), str(file))
    c.get("format", kinds.whole(1, 1))
    place = c.get("set", kinds.TEXT)
    if (private := folder / PRIVATE).is_file():
        place = StoredValues(read_object(private), str(private)).get("set", kinds.TEXT)
    return latents_of(c.table("latents").values, f"{file}: latents"), place, dict(c.get("reading", kinds.TABLE))
