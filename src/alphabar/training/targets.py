"""Stable targets: at high noise a network learns the mean of many training images instead of one of them (Xu, Tong & Jaakkola
2023, arXiv:2302.00670)."""

import math
from bisect import bisect

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from alphabar.core import seeds
from alphabar.core.types import Images, Labels, Levels, Pixels
from alphabar.data.images import to_model
from alphabar.denoiser.model import Model
from alphabar.schedule.noising import add_noise
from alphabar.training.config import TrainRecipe
from alphabar.training.stream import Indices, pad_pixels

LEVELS = torch.logspace(-2, 2, 41).tolist()  # at which it is tried where a mean begins to differ from the image
NUMBERS = 2**21  # of the reference, for every image of a batch: 512 MiB for a batch of 64
SOME = 64  # images that it is tried with
NEGLIGIBLE = 0.05  # share of all other images in the mean, below which the image itself stands for it


def reference_size(n: int, image_shape: tuple[int, int, int], batch: int) -> int:
    """Of n training images, as many as cost little: they are read at every step, whose work grows with the batch. 0 where that
    is less than half of them: the mean over a small part is another one.

    >>> reference_size(60_000, (1, 28, 28), 64), reference_size(60_000, (3, 32, 32), 64), reference_size(60_000, (3, 64, 64), 64)
    (60000, 43690, 0)
    """
    size = min(n, NUMBERS * batch // math.prod(image_shape))
    return size if 2 * size >= n else 0


class StableTargets:
    """For x = x0 + sigma noise, the mean of x0 given x over training images, and the noise that leads from it to the same x.

    A loss whose minimum is E[x0 | x] has the same minimum with either pair; what it learns from the second has less noise. Below
    `sigma_from` no second image has a share in the mean, and the pair does not change, nor does that of an augmented image.

    Attributes:
        x: the training images, flattened, in [-1, 1].
        labels: their classes, for a conditional model; only images of the same class count then.
        hidden: the label of a hidden class, for which all images count.
        some: whether they are a part of the training images; each x0 then counts beside them.
    """

    def __init__(self, x: Float[Tensor, "n d"], labels: Labels | None = None, hidden: int = 0, some: bool = False) -> None:
        self.x, self.labels, self.hidden, self.some = x, labels, hidden, some
        self.half_squares = x.square().sum(1) / 2
        rows = torch.from_numpy(seeds.evenly(len(x), SOME)).to(x.device)
        noise = torch.randn((len(rows), x.shape[1]), generator=torch.Generator().manual_seed(0)).to(x)
        of_images, of_noise = torch.addmm(-self.half_squares, x[rows], x.T), noise @ x.T

        def of_others(level: float) -> float:
            shares = ((of_images + level * of_noise) / level**2).softmax(1)
            return 1 - float(shares.gather(1, rows[:, None]).mean())

        below = bisect(LEVELS, NEGLIGIBLE, key=of_others)  # the share grows with the level
        self.sigma_from = LEVELS[below - 1] if below else 0.0

    @staticmethod
    def of(
        recipe: TrainRecipe, model: Model, pixels: Pixels, indices: Indices, labels: Indices | None, device: torch.device
    ) -> "StableTargets | None":
        """Those that the recipe asks for, with `train.stable_targets` images drawn from `indices` by the seed; None for none."""
        if not recipe.stable_targets:
            return None
        rows = np.sort(indices[seeds.permutation(recipe.seed, 0, len(indices))[: recipe.stable_targets]])
        x = to_model(pad_pixels(pixels[rows], model.crop), device)
        classes = None if labels is None or not model.classes else torch.from_numpy(labels[rows]).to(device)
        if recipe.flip:
            x, classes = torch.cat([x, x.flip(-1)]), None if classes is None else classes.repeat(2)
        return StableTargets(x.flatten(1), classes, model.classes, some=len(rows) < len(indices))

    @torch.no_grad()
    def __call__(
        self, x0: Images, sigma: Levels, noise: Images, labels: Labels | None = None, augment: Tensor | None = None
    ) -> tuple[Images, Images]:
        """The pair (mean of x0 given x, noise), float32; labels and augment as the network gets them."""
        high = sigma.to(x0.device) > self.sigma_from
        if augment is not None:
            high &= (augment == 0).all(1).to(high.device)
        if not bool(high.any()):
            return x0, noise
        level = sigma.to(x0)[high]
        x = add_noise(x0[high], level, noise[high])
        with torch.autocast(x.device.type, enabled=False):
            scores = torch.addmm(-self.half_squares, x.flatten(1).float(), self.x.T) / level[:, None].square()
            if labels is not None and self.labels is not None:
                own = labels.to(x.device)[high, None]
                scores.masked_fill_((own != self.labels) & (own != self.hidden), -math.inf)
            if self.some:
                own_score = ((x - x0[high] / 2) * x0[high]).flatten(1).sum(1, keepdim=True) / level[:, None].square()
                shares = torch.cat([own_score, scores], 1).softmax(1)
                mean = shares[:, 0].view(-1, 1, 1, 1) * x0[high] + (shares[:, 1:] @ self.x).view_as(x)
            else:
                mean = (scores.softmax(1) @ self.x).view_as(x)
        x0, noise = x0.clone(), noise.clone()
        x0[high], noise[high] = mean, (x - mean) / level.view(-1, 1, 1, 1)
        return x0, noise
