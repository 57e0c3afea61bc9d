"""The training loop that extractors with labels (`supervised`) and without labels (`simclr`) share."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.progress import track
from alphabar.data.split import holdout
from alphabar.features.classifier import Classifier
from alphabar.features.extractor import Extractor
from alphabar.features.options import ExtractorOptions

if TYPE_CHECKING:
    from alphabar.data.image_set import ImageSet

Indices = NDArray[np.int64]
LossOf = Callable[[Indices, np.random.Generator], Tensor]  # loss of the images with these indices; rng for augmentation


@dataclass(frozen=True)
class Epoch:
    """Progress of a training, passed to `on_epoch` after every epoch."""

    epoch: int  # 1 for the first
    epochs: int
    loss: float  # mean over the epoch, in nats
    seconds: float  # since the start of the training
    seconds_left: float
    accuracy: float | None = None  # on the test images, or else the held-out ones; None without labels


def split(image_set: "ImageSet", options: ExtractorOptions) -> tuple[Indices, Indices]:
    """Indices of the images to train on and of the held-out ones. Raises ValueError for less than one batch."""
    kept, heldout = holdout(image_set.pixels, options.holdout, hashes=image_set.hashes)
    if len(kept) < options.batch:
        raise ValueError(f"{len(kept)} training images are fewer than one batch of {options.batch}: pass a smaller batch")
    return kept, heldout


def pick_device(device: str | torch.device | None) -> torch.device:
    """The given device; None means CUDA where there is a GPU, else the CPU."""
    return torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")


def precision(device: torch.device, options: ExtractorOptions) -> AbstractContextManager[Any]:
    """The context in which the network runs: autocast to bfloat16 with `options.bf16`."""
    return torch.autocast(device.type, torch.bfloat16) if options.bf16 else nullcontext()


def run_epochs(
    trained: nn.Module, loss_of: LossOf, kept: Indices, options: ExtractorOptions, *,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], warmup: float,
    description: str, progress: bool, on_epoch: Callable[[Epoch], None] | None,
) -> float:  # fmt: skip
    """Train on the images `kept` under a one-cycle schedule; returns the mean loss of the last epoch.

    `trained` may include a head that is discarded later; `optimizer` gets two groups of its parameters, with and without
    weight decay; `warmup` is the share of the steps in which the learning rate rises. Raises RuntimeError for a loss of NaN.
    """
    started = time.perf_counter()
    steps = len(kept) // options.batch  # a last, shorter batch would give batch norm worse statistics
    parameters = list(trained.parameters())
    optim = optimizer([
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ])  # fmt: skip
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optim, max_lr=options.lr, total_steps=options.epochs * steps, pct_start=warmup, cycle_momentum=False
    )
    mean = float("nan")
    with track(options.epochs * steps * options.batch, description, unit="images", show=progress) as advance:
        for epoch in range(options.epochs):
            trained.train()
            rng = seeds.generator(options.seed, epoch, stream=seeds.TRAIN)
            order = kept[seeds.permutation(options.seed, epoch, len(kept))]
            total = torch.zeros((), device=parameters[0].device)
            for batch in order[: steps * options.batch].reshape(steps, options.batch):
                loss = loss_of(np.sort(batch), rng)  # sorted: a memory map is read forwards
                optim.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optim.step()
                cycle.step()
                total += loss.detach()
                advance(options.batch)
            mean = float(total) / steps
            if not np.isfinite(mean):
                raise RuntimeError(f"the loss became {mean} in epoch {epoch + 1}: train with a smaller lr than {options.lr}")
            if on_epoch is not None:
                seconds = time.perf_counter() - started
                left = seconds / (epoch + 1) * (options.epochs - epoch - 1)
                on_epoch(Epoch(epoch + 1, options.epochs, mean, seconds, left))
    return mean


def make_extractor(
    network: Classifier, image_set: "ImageSet", options: ExtractorOptions, record: Mapping[str, Any], *,
    name: str | None, classes: Sequence[str] | None = None,
) -> Extractor:  # fmt: skip
    """Fold a trained network into an extractor, whose training record has `record`, the set and the options."""
    network.eval()
    network.fold()
    c, h, w = image_set.image_shape
    architecture = {"in_channels": c, "widths": list(options.widths), "dim": options.dim, "classes": network.classes}
    training = {
        "set": f"{image_set.name}:{image_set.split}",
        "set_fingerprint": image_set.fingerprint,
        **record,
        **{key: value for key, value in asdict(options).items() if key not in architecture},
        "torch": torch.__version__.split("+")[0],
    }
    weights = {k: v.cpu() for k, v in network.state_dict().items()}
    label = name or image_set.name
    return Extractor(label, architecture, weights, image_shape=(c, h, w), classes=classes, training=training)
