"""`likelihood`: how likely images are under a run, in bits per dimension."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from alphabar.core.bounds import Count
from alphabar.core.machine import best_device, memory_for
from alphabar.core.options import takes
from alphabar.core.progress import track
from alphabar.data.image_set import ImageSet, class_names
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.wrappers import CountCalls
from alphabar.evaluation.estimate import mean_of
from alphabar.evaluation.likelihood import LOWEST, Likelihood, Scale, bound_bits, ode_bits, ode_levels
from alphabar.sampling.given_images import given_images
from alphabar.sampling.guidance import every_class
from alphabar.sampling.model import Model, check_denoises_pixels, fingerprint, move_model
from alphabar.training.checkpoint import load_model
from alphabar.training.stream import pad_pixels
from alphabar.verbs.memorisation import with_heldout
from alphabar.verbs.options import LikelihoodOptions

COUNT = 41  # levels at which the bound measures the loss


@takes(LikelihoodOptions)
def likelihood(
    run: Model | str | Path, images: Any, *, options: LikelihoodOptions = LikelihoodOptions(), n: Count | None = None,
    reading: Mapping[str, Any] | None = None, progress: bool = True, device: torch.device | str | None = None,
) -> Likelihood:  # fmt: skip
    """Measures how many bits per dimension a model needs for images: -log2 of their probability, by the number of values.

    Args:
        run: a model, or what `load_model` takes; not a distilled one, nor one of latents, whose density is not that of images.
        images: as for `given_images`: SET[:SPLIT], the path of an image or of an .npz, or images in memory. A class-conditional
            model takes the classes of the set, and those of a set without labels as unknown.
        options: see `LikelihoodOptions`; its fields may also be passed as keywords.
        n: the first n images of the set; None: all.
        reading: options of `alphabar.load` for the images.
        progress: show progress bars.
        device: where to compute; None: the fastest there is for a run, and for a model where it is.

    Raises:
        ValueError: for a model without density of images, images of another size or range, and classes that do not fit.
    """
    home = run
    if isinstance(run, str | Path):
        run, device = load_model(run), device or best_device()
    check_denoises_pixels(run, "the likelihood")
    found = given_images(run, with_heldout(home, images, reading), n, reading)
    scale, labels = Scale.of(found.pixels, options.levels), labels_of(run, found)
    pixels = pad_pixels(np.asarray(found.pixels), int(getattr(run, "crop", 0)))
    d = int(np.prod(found.pixels.shape[1:]))
    levels = ode_levels(run.schedule, scale)
    device = move_model(run, device, channels_last=True)
    count, exact, start = CountCalls(run), options.trace == "exact", time.perf_counter()
    ode: Tensor | None = None
    bound: Tensor | None = None
    shared: dict[str, Any] = {"seed": options.seed, "device": device, "labels": labels, "dimensions": d, "draws": options.draws}
    with eval_mode(run), memory_for(f"a batch of {options.batch} images", "give a smaller --batch (batch=)"):
        if options.method != "bound":
            with track(len(pixels), "probability-flow ODE", unit="images", show=progress) as advance:
                ode = ode_bits(
                    count, pixels, scale, levels, steps=options.steps, batch=options.batch, exact=exact, advance=advance, **shared
                ).mean(0)  # fmt: skip
        if options.method != "ode":
            lowest = max(run.schedule.sigma_min, LOWEST), levels[1]
            with track(len(pixels) * COUNT * options.draws, "denoising", show=progress) as advance:
                bound = bound_bits(count, pixels, scale, lowest, count=COUNT, batch=options.batch, advance=advance, **shared)
    return Likelihood(
        None if ode is None else mean_of(ode.numpy()), None if bound is None else mean_of(bound.numpy()), len(pixels), d,
        scale.levels, levels, count.images / len(pixels), time.perf_counter() - start, found.fingerprint, fingerprint(run),
        None if ode is None else ode.numpy(), None if bound is None else bound.numpy(), np.asarray(found.pixels),
    )  # fmt: skip


def labels_of(model: Model, images: ImageSet) -> Int64[Tensor, " n"] | None:
    """The classes of images for a conditional model; None for any other, and for images without labels.

    Raises ValueError for a set whose classes are not the model's, and for images without labels where the model needs a class.
    """
    known = every_class(model)
    if not known:
        return None
    if images.labels is None:
        model.no_class(1)  # type: ignore[attr-defined]  # raises for a model that needs a class
        return None
    names, own = class_names(images), tuple(getattr(model, "class_names", ()))
    if unknown := [name for name in names if own and name not in own]:
        raise ValueError(f"{images.name} has the class {unknown[0]!r}, which the model does not know: it knows {', '.join(own)}")
    numbers = [own.index(name) if own else k for k, name in enumerate(names)]
    return torch.tensor(numbers, dtype=torch.int64)[torch.from_numpy(np.asarray(images.labels, np.int64))]
