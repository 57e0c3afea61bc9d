"""Extractors of unlabelled images, by SimCLR (Chen et al. 2020, arXiv:2002.05709).

Two random views of each image should have similar features, and features unlike those of all other images in the batch.
A network becomes insensitive to whatever its views differ in. They differ in crop, mirroring and contrast, but not in blur,
noise, inversion or large shifts, since scores must detect those. The features are taken before the projector, which loses
most of this information (section 4.2 of the paper). `alphabar extractor check` measures what the features detect.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.machine import memory_for
from alphabar.core.options import takes
from alphabar.core.types import Images
from alphabar.data.images import to_model
from alphabar.features.classifier import Classifier
from alphabar.features.extractor import Extractor
from alphabar.features.options import SimCLROptions, of_set
from alphabar.features.train import Epoch, Indices, make_extractor, pick_device, run_epochs, split

if TYPE_CHECKING:
    from alphabar.data.image_set import ImageSet

METHOD = "self-supervised: SimCLR"


@takes(SimCLROptions)
@memory_for("the training of the extractor", "give a smaller --batch or fewer --widths")
def train_self_supervised(
    image_set: "ImageSet", options: SimCLROptions = SimCLROptions(), *, device: str | torch.device | None = None,
    progress: bool = True, on_epoch: Callable[[Epoch], None] | None = None, name: str | None = None, part: Path | None = None,
) -> Extractor:  # fmt: skip
    """Train a feature extractor on images alone; labels are ignored, and the extractor has no logits.

    The arguments are those of `train_extractor`; the loss of random features is log(2 batch - 1). Raises ValueError for fewer
    images than one batch.
    """
    options = of_set(options, image_set.image_shape, len(image_set))
    where = pick_device(device)
    kept, heldout = split(image_set, options)
    width = options.dim
    with seeds.weights_of(options.seed):
        network = Classifier(image_set.image_shape[0], options.widths, width, 0)
        projector = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, options.projection))
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    projector = projector.to(where)

    def loss_of(batch: Indices, rng: np.random.Generator) -> Tensor:
        x = to_model(np.ascontiguousarray(image_set.pixels[batch]), where)
        pairs = [views(x, rng, crop=options.crop, flip=options.flip, contrast=options.contrast) for _ in range(2)]
        with torch.autocast(where.type, torch.bfloat16, enabled=options.bf16):
            z: Tensor = projector(network.embed(torch.cat(pairs).contiguous(memory_format=torch.channels_last)))
        return nt_xent(z.float(), options.temperature)

    loss, seconds = run_epochs(
        nn.ModuleList([network, projector]), loss_of, kept, options,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=options.lr),
        warmup=0.1, description="training the extractor without labels", progress=progress, on_epoch=on_epoch,
        part=part, fingerprint=image_set.fingerprint,
    )  # fmt: skip
    record = {
        "method": METHOD, "images": len(kept), "held_out_images": len(heldout), "loss": loss,
        "chance_loss": float(np.log(2 * options.batch - 1)), "seconds": seconds,
    }  # fmt: skip
    return make_extractor(network, image_set, options, record, name=name)


def nt_xent(z: Float[Tensor, "m d"], temperature: float) -> Float[Tensor, ""]:
    """The loss of SimCLR, eq. 1: row i of the first half of z belongs to row i of the second, and to no other row."""
    z = nn.functional.normalize(z, dim=1)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return nn.functional.cross_entropy((z @ z.T / temperature).masked_fill(own, -torch.inf), partner)


def views(x: Images, rng: np.random.Generator, *, crop: float, flip: bool, contrast: float) -> Images:
    """A random view of every image in [-1, 1]: a crop of at least the share `crop` of its area, resized to its size (bilinear).

    With `flip` half of the views are mirrored. The distance of every pixel from black is multiplied by a factor from
    1 - contrast to 1 + contrast, without clipping.
    """
    n = len(x)
    side = np.sqrt(rng.uniform(crop, 1, n))
    right, down = rng.uniform(-1, 1, (2, n)) * (1 - side)
    mirror = np.where(rng.random(n) < 0.5, -1, 1) if flip else np.ones(n)
    zero = np.zeros(n)
    affine = np.stack([side * mirror, zero, right, zero, side, down], 1).reshape(n, 2, 3).astype(np.float32)
    grid = nn.functional.affine_grid(torch.from_numpy(affine).to(x.device), list(x.shape), align_corners=False)
    out = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    factor = rng.uniform(1 - contrast, 1 + contrast, (n, 1, 1, 1)).astype(np.float32)
    return (out + 1) * torch.from_numpy(factor).to(x.device) - 1
