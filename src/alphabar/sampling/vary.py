"""`vary`: variations of images by SDEdit (Meng et al. 2021, arXiv:2108.01073): noise is added, and the model removes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alphabar.core.bounds import Count
from alphabar.core.options import takes
from alphabar.core.seeds import DRAW, starting_noise
from alphabar.core.types import Sampled
from alphabar.sampling.given_images import given_images, to_coordinate
from alphabar.sampling.model import Model
from alphabar.sampling.options import VaryOptions
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.sampling.start import Start
from alphabar.training.checkpoint import load_model


@takes(VaryOptions)
def vary(
    model: Model | str | Path, images: Any, options: VaryOptions = VaryOptions(), *, n: Count | None = None,
    reading: Mapping[str, Any] | None = None, out: str | Path | None = None, keep_x0: bool | Sequence[int] = False,
    progress: bool = True, device: torch.device | str | None = None,
) -> Samples:  # fmt: skip
    """Variations of images: x = x0 + sigma noise, and the sampler goes on from there (algorithm 1 of the paper).

    Variation d of image k is a function of (seed, k, d), whatever the number of images and of draws.

    >>> from alphabar import vary
    >>> vary("bundled", "fashion_mnist:test[:3]", strength=0.5, draws=2, steps=4, progress=False).images.shape
    (6, 28, 28, 1)

    Args:
        model: as for `sample`.
        images: as for `given_images`: SET[:SPLIT], the path of an image or of an .npz, or images in memory.
        options: those of `sample`, with strength and draws. Its fields may also be passed as keywords.
        n: the first n images of the set; None: all.
        reading: options of `alphabar.load` for the images, as {"size": 28}.
        out: as for `sample`.
        keep_x0: likewise.
        progress: likewise.
        device: likewise.

    Returns:
        Samples of the type of the given images: the first variation of each image in order, then the second of each, ...

    Raises:
        ValueError: as `sample`, for images of another size or range than the model's, and for a fitted sampler.
    """
    model = load_model(model) if isinstance(model, str | Path) else model
    found = given_images(model, images, n, reading)
    steps = options.carried_out

    def noised(indices: Sequence[int], sigma: float) -> Sampled:
        x0 = to_coordinate(model, found.pixels[[k % DRAW for k in indices]])
        return x0 + sigma * starting_noise(options.seed, indices, tuple(x0.shape[1:]))

    record = {"from": "images", "images": found.fingerprint, "strength": options.strength, "steps": steps, "draws": options.draws}
    start = Start(noised, steps, found.pixels.dtype.name, record)
    indices = [k + d * DRAW for d in range(options.draws) for k in range(len(found))]
    return sample(
        model, len(indices), options, start=start, indices=indices, out=out, keep_x0=keep_x0, progress=progress, device=device,
        channels_last=True,
    )  # fmt: skip
