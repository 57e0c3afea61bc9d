"""An extractor for images without labels, by self-supervision: two views of one image shall be alike, and unlike all others.

The method is SimCLR (Chen et al. 2020, arXiv:2002.05709): of a batch's views, each is to be told which other one comes from
its own image. It has one network, no second copy that trails behind it, and its loss is a plain cross-entropy, which says in
one number how well it goes. The loss comes from pytorch-metric-learning (MIT licence, kept since 2019, needs no torchvision):
its `SupConLoss` with one label an image is SimCLR's NT-Xent (Khosla et al. 2020, arXiv:2004.11362, eq. 2 with one positive),
and unlike the class called `NTXentLoss` it takes memory for pairs of views only, not for pairs of pairs.

A network is blind to what its views differ in. They are cropped, mirrored, and their contrast is scaled; blur, noise, inversion
and large shifts are no part of them, since scores are to see those. Features are taken before the projector, which is thrown
away, for it forgets most (the paper's section 4.2). `alphabar extractor check` says what is seen in the end.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.progress import track
from alphabar.core.types import Images, Pixels
from alphabar.data.images import to_model
from alphabar.data.split import HOLDOUT
from alphabar.data.split import holdout as split_off
from alphabar.features.extractor import Classifier, Extractor

if TYPE_CHECKING:
    from alphabar.data.sources import ImageSet

METHOD = "self-supervised: SimCLR"
INSTALL = "self-supervision needs pytorch-metric-learning: pip install 'alphabar[selfsup]'"


@dataclass(frozen=True)
class Epoch:
    """What is told after every epoch. loss: mean over it, nats; log(2 batch - 1) is chance."""

    epoch: int  # 1 for the first
    epochs: int
    loss: float
    seconds: float  # so far
    seconds_left: float


def views(x: Images, rng: np.random.Generator, *, crop: float, flip: bool, contrast: float) -> Images:
    """A random view of every image [n, c, h, w] in [-1, 1]: a square part of it, brought back to its size (bilinear).

    crop: least share of the area that is kept, 0 < crop <= 1. flip: mirror half of them. contrast: levels above black are
    multiplied by 1 - contrast .. 1 + contrast, and not clipped.
    """
    n = len(x)
    side = np.sqrt(rng.uniform(crop, 1, n))
    right, down = rng.uniform(-1, 1, (2, n)) * (1 - side)
    mirror = np.where(rng.random(n) < 0.5, -1, 1) if flip else np.ones(n)
    none = np.zeros(n)
    moves = np.stack([side * mirror, none, right, none, side, down], 1).reshape(n, 2, 3).astype(np.float32)
    grid = nn.functional.affine_grid(torch.from_numpy(moves).to(x.device), list(x.shape), align_corners=False)
    out = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    factor = rng.uniform(1 - contrast, 1 + contrast, (n, 1, 1, 1)).astype(np.float32)
    return (out + 1) * torch.from_numpy(factor).to(x.device) - 1


def train_self_supervised(
    image_set: "ImageSet",
    *,
    epochs: int = 30,
    batch: int = 256,
    lr: float = 2e-3,
    weight_decay: float = 1e-2,
    temperature: float = 0.5,
    crop: float = 0.3,
    flip: bool = True,
    contrast: float = 0.4,
    widths: Sequence[int] = (48, 96, 192),
    dim: int = 512,
    projection: int = 128,
    seed: int = 0,
    holdout: float = HOLDOUT,
    bf16: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
    name: str | None = None,
) -> Extractor:
    """Train an extractor of `dim` features on the images of a set; labels, where there are any, are not looked at.

    batch: images a step, each in two views; more of them make a harder task and better features. lr: the highest rate of a
    one-cycle schedule of AdamW. temperature: of the loss; lower ones look harder at the most similar images. crop, flip,
    contrast: of `views`. projection: width that the loss sees. holdout: the share of images, picked by content, that is kept
    out, as for `train_extractor`, so that scores have real images which neither extractor nor model has seen. bf16: multiply
    in bfloat16. seed: of weights, order and views.

    Raises ImportError without pytorch-metric-learning, ValueError for fewer images than one batch or arguments out of range.
    """
    for what, value, good in (
        ("crop", crop, 0 < crop <= 1),
        ("contrast", contrast, 0 <= contrast < 1),
        ("temperature", temperature, temperature > 0),
        ("epochs", epochs, epochs >= 1),
        ("batch", batch, batch >= 2),
    ):
        if not good:
            raise ValueError(f"{what} = {value}: give 0 < crop <= 1, 0 <= contrast < 1, temperature > 0, epochs >= 1, batch >= 2")
    try:
        from pytorch_metric_learning.losses import SelfSupervisedLoss, SupConLoss  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(INSTALL) from error
    started = time.perf_counter()
    where = torch.device(device) if device is not None else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = image_set.pixels
    kept, held = split_off(pixels, holdout, hashes=image_set.hashes)
    if len(kept) < batch:
        raise ValueError(f"{len(kept)} training images are fewer than one batch of {batch}: pass a smaller batch")
    c, h, w = image_set.image_shape
    architecture = {"in_channels": c, "widths": list(widths), "dim": dim, "classes": 0}
    with torch.random.fork_rng(devices=[]):  # torch's layers draw their weights from the global generator
        torch.manual_seed(seed)
        network = Classifier(c, widths, dim, 0)
        projector = nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, projection))
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    projector = projector.to(where)
    criterion = SelfSupervisedLoss(SupConLoss(temperature=temperature))
    parameters = [*network.parameters(), *projector.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    steps = len(kept) // batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=epochs * steps, pct_start=0.1, cycle_momentum=False
    )

    def loss_of(chosen: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        x = to_model(np.ascontiguousarray(pixels[np.sort(chosen)]), where)  # sorted: a memory map reads forwards
        both = torch.cat([views(x, rng, crop=crop, flip=flip, contrast=contrast) for _ in range(2)])
        with torch.autocast(where.type, torch.bfloat16) if bf16 else nullcontext():
            z: Tensor = projector(network.embed(both.contiguous(memory_format=torch.channels_last)))
        loss: Tensor = criterion(z[: len(x)].float(), z[len(x) :].float())
        return loss

    with track(epochs * steps * batch, "training the extractor without labels", unit="images", show=progress) as advance:
        for number in range(epochs):
            rng = seeds.generator(seed, number, stream=seeds.TRAIN)
            order = kept[seeds.permutation(seed, number, len(kept))]
            total = torch.zeros((), device=where)
            for step in range(steps):
                loss = loss_of(order[step * batch : (step + 1) * batch], rng)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                cycle.step()
                total += loss.detach()
                advance(batch)
            mean = float(total) / steps
            if not np.isfinite(mean):
                raise RuntimeError(f"the loss became {mean} in epoch {number + 1}: train with a smaller lr than {lr}")
            if on_epoch is not None:
                gone = time.perf_counter() - started
                on_epoch(Epoch(number + 1, epochs, mean, gone, gone / (number + 1) * (epochs - number - 1)))

    network.eval()
    network.fold()
    record: Mapping[str, Any] = {
        "method": METHOD,
        "set": f"{image_set.name}:{image_set.split}",
        "set_fingerprint": image_set.fingerprint,
        "images": len(kept),
        "holdout": holdout,
        "held_out_images": len(held),
        "loss": mean, "chance_loss": float(np.log(2 * batch - 1)),
        "epochs": epochs, "batch": batch, "lr": lr, "weight_decay": weight_decay, "temperature": temperature,
        "crop": crop, "flip": flip, "contrast": contrast, "projection": projection, "seed": seed, "bf16": bf16,
        "seconds": round(time.perf_counter() - started, 1),
        "torch": torch.__version__.split("+")[0],
    }  # fmt: skip
    return Extractor(
        name or image_set.name,
        architecture,
        {k: v.cpu() for k, v in network.state_dict().items()},
        image_shape=(c, h, w),
        training=record,
    )


def nearest_accuracy(
    extractor: Extractor, known: Pixels, labels: NDArray[np.int64], pixels: Pixels, truth: NDArray[np.int64], k: int = 20
) -> float:
    """Share of images whose label is the most frequent among their k nearest known images (cosine of features; ties: the
    lowest label): how much of the classes is in features that were learnt without them, 0..1."""
    a = nn.functional.normalize(extractor.features(known), dim=1)
    b = nn.functional.normalize(extractor.features(pixels), dim=1)
    of = torch.from_numpy(np.asarray(labels))
    right = 0
    for start in range(0, len(b), 1024):
        near = of[(b[start : start + 1024] @ a.T).topk(min(k, len(a)), dim=1).indices]
        votes = nn.functional.one_hot(near, int(of.max()) + 1).sum(1)
        right += int((votes.argmax(1).numpy() == truth[start : start + 1024]).sum())
    return right / len(pixels)
