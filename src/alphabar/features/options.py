"""Options of the two ways to train an extractor. The module imports no torch, so that `--help` is fast."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

from alphabar.core.bounds import Batch, Bounds, Checked, Seed, Share

Epochs = Annotated[int, Bounds(1, 100_000)]
Rate = Annotated[float, Bounds(0, 1e3, above=True)]
Decay = Annotated[float, Bounds(0, 1e3)]
Width = Annotated[int, Bounds(1, 65_536)]
Pairs = Annotated[int, Bounds(2, 10**6)]

Kind = TypeVar("Kind", bound="ExtractorOptions")


def features_for(n: int) -> int:
    """The largest power of 2, from 8 to 512, of which n images have a covariance with an interval: half of n.

    >>> [features_for(n) for n in (15, 283, 5000)]
    [8, 128, 512]
    """
    return 1 << min(int(math.log2(max(n / 2, 8))), 9)


@dataclass(frozen=True)
class ExtractorOptions(Checked):
    """What training with labels and training without them have in common."""

    epochs: Epochs = 16
    """Passes over the training images, at least 1."""
    batch: Batch = 128
    """Images in a training step."""
    lr: Rate = 0.1
    """Highest learning rate of the one-cycle schedule (Smith & Topin 2019, arXiv:1708.07120)."""
    weight_decay: Decay = 5e-4
    """Weight decay of the convolutions and matrices; biases and norms have none."""
    flip: bool = True
    """Mirror half of the images at random; False where left and right mean different things, as in digits."""
    widths: Sequence[Width] = ()
    """Channels at half, a quarter, an eighth ... of the image size. Left out: 48 96 192, with 24, 12 ... before them for
    images of more than 48 pixels."""
    dim: Annotated[int, Bounds(0, 65_536)] = 0
    """Number of features per image. 0: 512, or as many as half of the held-out images have a covariance of."""
    seed: Seed = 0
    """Seed of the weights, the order of the images and their augmentation."""
    holdout: Annotated[float, Bounds(0, 1, below=True)] = 0.17
    """Share of the images, chosen by content, that is kept out of training, 0 <= holdout < 1."""
    bf16: bool = False
    """Multiply in bfloat16; 2 to 3 times as fast on GPUs and on processors that have it (AMX)."""


def of_set(options: Kind, image_shape: tuple[int, int, int], n: int) -> Kind:
    """The options with widths and dim, where left out, chosen for n images of shape (channels, height, width)."""
    doublings = max(0, math.ceil(math.log2(max(image_shape[1:]) / 48)))
    widths = (*(max(8, 48 >> k) for k in range(doublings, 0, -1)), 48, 96, 192)
    dim = features_for(round((options.holdout or 0.17) * n) // 2)
    return replace(options, widths=options.widths or widths, dim=options.dim or dim)


@dataclass(frozen=True)
class SupervisedOptions(ExtractorOptions):
    """Options of `train_extractor`: a classifier, trained by SGD with Nesterov momentum."""

    smoothing: Share = 0.1
    """Label smoothing, 0 to 1."""
    shift: Annotated[int, Bounds(0, 1024)] = 1
    """Largest random shift of an image in pixels."""
    erase: Share = 0.0
    """Share of the images in which a square is replaced by noise (random erasing, Zhong et al. 2020, arXiv:1708.04896)."""


@dataclass(frozen=True)
class SimCLROptions(ExtractorOptions):
    """Options of `train_self_supervised`: SimCLR (Chen et al. 2020, arXiv:2002.05709), trained by AdamW."""

    epochs: Epochs = 30
    """Passes over the training images, at least 1."""
    batch: Pairs = 256
    """Images in a training step, at least 2, each in two views; a larger batch gives better features."""
    lr: Rate = 2e-3
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: Decay = 1e-2
    """Weight decay of the convolutions and matrices; biases and norms have none."""
    temperature: Annotated[float, Bounds(0, 1e3, above=True)] = 0.5
    """Temperature of the loss, above 0; a lower one gives the most similar images more weight."""
    crop: Annotated[float, Bounds(0, 1, above=True)] = 0.3
    """Smallest share of the image's area that a view shows, 0 < crop <= 1."""
    contrast: Annotated[float, Bounds(0, 1, below=True)] = 0.4
    """A view's contrast is multiplied by 1 - contrast to 1 + contrast, 0 <= contrast < 1."""
    degrade: Share = 0.5
    """Share of the images whose two views get the same noise and blur, and the features have to tell how much. Without it,
    features of a few thousand images overlook noise."""
    projection: Width = 128
    """Width of the projector's output, on which the loss is computed; the projector is discarded after training."""
