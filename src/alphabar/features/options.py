"""Options of the two ways to train an extractor. The module imports no torch, so that `--help` is fast."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExtractorOptions:
    """What training with labels and training without them have in common."""

    epochs: int = 16
    """Passes over the training images, at least 1."""
    batch: int = 128
    """Images in a training step."""
    lr: float = 0.1
    """Highest learning rate of the one-cycle schedule (Smith & Topin 2019, arXiv:1708.07120)."""
    weight_decay: float = 5e-4
    """Weight decay of the convolutions and matrices; biases and norms have none."""
    flip: bool = True
    """Mirror half of the images at random; False where left and right mean different things, as in digits."""
    widths: Sequence[int] = (48, 96, 192)
    """Channels at half, a quarter, an eighth ... of the image size; give more of them for larger images."""
    dim: int = 512
    """Number of features per image."""
    seed: int = 0
    """Seed of the weights, the order of the images and their augmentation."""
    holdout: float = 0.17
    """Share of the images, chosen by content, that is kept out of training, 0 <= holdout < 1."""
    bf16: bool = False
    """Multiply in bfloat16; 2 to 3 times as fast on GPUs and on processors that have it (AMX)."""

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, self.epochs >= 1, "at least 1")
        _check("batch", self.batch, self.batch >= 1, "at least 1")


@dataclass(frozen=True)
class SupervisedOptions(ExtractorOptions):
    """Options of `train_extractor`: a classifier, trained by SGD with Nesterov momentum."""

    smoothing: float = 0.1
    """Label smoothing, 0 to 1."""
    shift: int = 1
    """Largest random shift of an image in pixels."""
    erase: float = 0.0
    """Share of the images in which a square is replaced by noise (random erasing, Zhong et al. 2020, arXiv:1708.04896)."""


@dataclass(frozen=True)
class SimCLROptions(ExtractorOptions):
    """Options of `train_self_supervised`: SimCLR (Chen et al. 2020, arXiv:2002.05709), trained by AdamW."""

    epochs: int = 30
    """Passes over the training images, at least 1."""
    batch: int = 256
    """Images in a training step, at least 2, each in two views; a larger batch gives better features."""
    lr: float = 2e-3
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: float = 1e-2
    """Weight decay of the convolutions and matrices; biases and norms have none."""
    temperature: float = 0.5
    """Temperature of the loss, above 0; a lower one gives the most similar images more weight."""
    crop: float = 0.3
    """Smallest share of the image's area that a view shows, 0 < crop <= 1."""
    contrast: float = 0.4
    """A view's contrast is multiplied by 1 - contrast to 1 + contrast, 0 <= contrast < 1."""
    projection: int = 128
    """Width of the projector's output, on which the loss is computed; the projector is discarded after training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("batch", self.batch, self.batch >= 2, "at least 2")
        _check("temperature", self.temperature, self.temperature > 0, "a number above 0")
        _check("crop", self.crop, 0 < self.crop <= 1, "0 < crop <= 1")
        _check("contrast", self.contrast, 0 <= self.contrast < 1, "0 <= contrast < 1")


def _check(name: str, value: float, good: bool, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} = {value}: give {wanted}")
