"""Options of the two ways to train an extractor. The module imports no torch, so that `--help` is fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from alphabar.core.bounds import Batch, Bounds, Checked, Seed, Share

Epochs = Annotated[int, Bounds(1, 100_000)]
Rate = Annotated[float, Bounds(0, 1e3, above=True)]
Decay = Annotated[float, Bounds(0, 1e3)]
Width = Annotated[int, Bounds(1, 65_536)]
Pairs = Annotated[int, Bounds(2, 10**6)]


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
    widths: Sequence[Width] = (48, 96, 192)
    """Channels at half, a quarter, an eighth ... of the image size; give more of them for larger images."""
    dim: Width = 512
    """Number of features per image."""
    seed: Seed = 0
    """Seed of the weights, the order of the images and their augmentation."""
    holdout: Annotated[float, Bounds(0, 1, below=True)] = 0.17
    """Share of the images, chosen by content, that is kept out of training, 0 <= holdout < 1."""
    bf16: bool = False
    """Multiply in bfloat16; 2 to 3 times as fast on GPUs and on processors that have it (AMX)."""


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
    projection: Width = 128
    """Width of the projector's output, on which the loss is computed; the projector is discarded after training."""
