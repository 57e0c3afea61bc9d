"""`loss`: the denoising loss of a run by noise level, on held-out and on training images."""

from pathlib import Path

import numpy as np
import torch

from alphabar.core import seeds
from alphabar.core.machine import best_device
from alphabar.evaluation.heldout import DenoisingLoss, heldout_loss
from alphabar.sampling.guidance import every_class
from alphabar.training.checkpoint import load_model
from alphabar.verbs.training_images import training_images


def loss(run: str, trained_on: str, *, n: int = 1000, progress: bool = True) -> DenoisingLoss:
    """The denoising loss of a run; a gap between held-out and training images is an early sign of memorisation.

    Args:
        run: a run folder, a .safetensors file, "bundled", or diffusers:PATH.
        trained_on: SET that it was trained on. Its held-out images are found by content, with the share in the run's recipe.
        n: images of either kind.
        progress: show a progress bar.
    """
    model = load_model(run)
    images, trained, heldout, _ = training_images(Path(run), trained_on, {"value_range": model.value_range})
    chosen = [np.sort(seeds.generator(0, stream=seeds.SUBSET).permutation(numbers)[:n]) for numbers in (trained, heldout)]
    seen, unseen = (np.asarray(images.pixels[rows]) for rows in chosen)
    labels = None
    if every_class(model) and images.labels is not None:
        known = [torch.from_numpy(np.asarray(images.labels[rows], np.int64)) for rows in chosen]
        labels = known[1], known[0]
    return heldout_loss(model.to(best_device()), unseen, seen, progress=progress, labels=labels)
