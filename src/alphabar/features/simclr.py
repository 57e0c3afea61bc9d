"""Extractors of unlabelled images, by SimCLR (Chen et al. 2020, arXiv:2002.05709).

Two random views of each image should have similar features, and features unlike those of all other images in the batch.
A network becomes insensitive to whatever its views differ in. They differ in crop, mirroring and contrast, but not in blur,
noise, inversion or large shifts, since scores must detect those. Nothing makes it sensitive to what all images have alike,
though: where none is noisy, it overlooks noise. So some images get noise and blur, both views the same, and a second loss is
the error of a linear map from the features to their strengths. The features are taken before the projector, which loses most
of this information (section 4.2 of the paper). `alphabar extractor check` measures what the features detect.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
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
NOISE, BLUR = 0.7, 2.0  # at strength 1: standard deviation of white noise over that of the images, and of a Gaussian in pixels
TELL = 4.0  # weight of the error in the strengths, which has a variance of 0.07 or so, beside that of the views


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
        gauge = nn.Linear(width, 2)
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    projector, gauge = projector.to(where), gauge.to(where)

    spread = float(to_model(image_set.pixels[kept[:1000]]).std())  # of low contrast, images have weak noise

    def loss_of(batch: Indices, rng: np.random.Generator) -> Tensor:
        x = to_model(np.ascontiguousarray(image_set.pixels[batch]), where)
        pairs = [views(x, rng, crop=options.crop, flip=options.flip, contrast=options.contrast) for _ in range(2)]
        amounts = strengths(len(batch), options.degrade, rng)
        images = torch.cat([degraded(view, amounts, NOISE * spread, rng) for view in pairs])
        with torch.autocast(where.type, torch.bfloat16, enabled=options.bf16):
            features = network.embed(images.contiguous(memory_format=torch.channels_last))
            z: Tensor = projector(features)
            estimate: Tensor = gauge(features)
        apart = nn.functional.mse_loss(estimate.float(), torch.from_numpy(amounts).to(where).repeat(2, 1))
        return nt_xent(z.float(), options.temperature) + TELL * apart

    loss, seconds = run_epochs(
        nn.ModuleList([network, projector, gauge]), loss_of, kept, options,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=options.lr),
        warmup=0.1, description="training the extractor without labels", progress=progress, on_epoch=on_epoch,
        part=part, fingerprint=image_set.fingerprint,
    )  # fmt: skip
    record = {
        "method": METHOD, "images": len(kept), "held_out_images": len(heldout), "loss": loss,
        "chance_loss": float(np.log(2 * options.batch - 1)), "seconds": seconds,
    }  # fmt: skip
    return make_extractor(network, image_set, options, record, name=name)


def strengths(n: int, share: float, rng: np.random.Generator) -> Float32[NDArray[np.float32], "n 2"]:
    """Strengths of noise and of blur, 0 to 1, of n images, of which the share has at least one of both."""
    which = np.array([[1, 0], [0, 1], [1, 1]])[rng.integers(0, 3, n)] * (rng.random((n, 1)) < share)
    amounts: NDArray[np.float32] = (rng.random((n, 2)) * which).astype(np.float32)
    return amounts


def degraded(x: Images, amounts: Float32[NDArray[np.float32], "n 2"], most: float, rng: np.random.Generator) -> Images:
    """Images in [-1, 1] under a Gaussian blur, and then white noise, of these strengths.

    The standard deviation of the noise is `most` times the square of its strength, so that weak noise is frequent. Nothing is
    clipped.
    """
    noise, blur = torch.from_numpy(amounts).to(x.device).unbind(1)
    n, c, h, w = x.shape
    t = torch.arange(-3.0 * BLUR, 3 * BLUR + 1, device=x.device)
    weights = torch.exp(-0.5 * (t / (BLUR * blur).clamp_min(1e-3)[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(c, 0)  # one kernel per channel of an image
    out, reach = x.reshape(1, n * c, h, w), len(t) // 2
    for shape, pad in (((-1, 1, len(t), 1), (0, 0, reach, reach)), ((-1, 1, 1, len(t)), (reach, reach, 0, 0))):
        out = nn.functional.conv2d(nn.functional.pad(out, pad, mode="replicate"), weights.view(shape), groups=n * c)
    white = torch.from_numpy(rng.standard_normal((n, c, h, w), dtype=np.float32)).to(x.device)
    return out.view(n, c, h, w) + (noise**2 * most)[:, None, None, None] * white


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
