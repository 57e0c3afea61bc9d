"""Options of the training of an autoencoder. The module imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import Annotated, Literal

from alphabar.core.bounds import Batch, Bounds, Checked, Count, Seed, Share


@dataclass(frozen=True)
class AutoencoderOptions(Checked):
    """The network of an autoencoder, and how long it is trained."""

    factor: Literal[2, 4, 8, 16] = 4
    """How many times smaller than the images latents are, along each side."""
    latent: Annotated[int, Bounds(1, 64)] = 4
    """Channels of the latents. More of them reconstruct better, and are harder to learn for the model of the latents."""
    width: Annotated[int, Bounds(8, 1024)] = 32
    """Channels at half the size of the images; doubled at a quarter, doubled again below."""
    blocks: Annotated[int, Bounds(1, 16)] = 2
    """Residual blocks at every size, in encoder and decoder."""
    noise: Share = 0.1
    """Noise that training adds to the latents, whose standard deviation is 1, so that near latents decode to similar images."""
    images: Count = 100_000
    """Length of the training: images seen, repeated ones included."""
    batch: Batch = 16
    """Images in a training step. Larger batches take fewer steps for as many images, and restore worse after a short training."""
    crop: Annotated[int, Bounds(16, 4096)] = 64
    """Side of the square that is cut, at random, out of larger images in training."""
    lr: Annotated[float, Bounds(0, 1, above=True)] = 4e-3
    """Highest learning rate of the optimiser, Muon."""
    seed: Seed = 0
    """Seed of the weights, the order of the images, and the squares."""
    holdout: Annotated[float, Bounds(0, 1, below=True)] = 0.17
    """Share of the images, chosen by content, that is kept out of training; the same images as `alphabar train` keeps out."""
    bf16: bool = False
    """Multiply in bfloat16; faster on GPUs and on processors that have it."""
