"""Train an extractor on the user's own labelled images: a residual classifier, kept up to its last layer."""

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
from alphabar.core.types import Pixels
from alphabar.data.images import to_model
from alphabar.data.split import HOLDOUT
from alphabar.data.split import holdout as split_off
from alphabar.data.values import scale_of
from alphabar.features.extractor import Classifier, Extractor

if TYPE_CHECKING:
    from alphabar.data.sources import ImageSet


@dataclass(frozen=True)
class Epoch:
    """What is told after every epoch. accuracy: of the test images (or the held-out ones), None between reports."""

    epoch: int  # 1 for the first
    epochs: int
    loss: float  # mean over the epoch, with label smoothing
    accuracy: float | None
    seconds: float  # so far
    seconds_left: float


def augment(pixels: Pixels, rng: np.random.Generator, *, flip: bool, shift: int, erase: float = 0.0) -> Pixels:
    """Every image shifted by up to `shift` pixels each way (its edge is repeated), if `flip` half of them mirrored.

    erase: in this share of them a square of noise hides up to a sixth of the image (Zhong et al. 2020, arXiv:1708.04896).
    """
    n, h, w, _ = pixels.shape
    rows = np.clip(np.arange(h) + rng.integers(-shift, shift + 1, (n, 1)), 0, h - 1)
    columns = np.clip(np.arange(w) + rng.integers(-shift, shift + 1, (n, 1)), 0, w - 1)
    if flip:
        columns = np.where(rng.random((n, 1)) < 0.5, columns[:, ::-1], columns)
    out: Pixels = pixels[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    for k in np.flatnonzero(rng.random(n) < erase):
        side = int(rng.integers(max(1, min(h, w) // 8), max(2, int(0.42 * min(h, w)))))
        top, left = int(rng.integers(0, h - side + 1)), int(rng.integers(0, w - side + 1))
        out[k, top : top + side, left : left + side] = _noise(rng, (side, side, 1), pixels.dtype)
    return out


def _noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Pixels that are uniform over the whole scale of their type."""
    scale = scale_of(dtype)
    return rng.random(shape, dtype=np.float32) if scale == 1 else rng.integers(0, scale + 1, shape, dtype=dtype.type)


def accuracy(network: Classifier, pixels: Pixels, labels: NDArray[np.int64], device: torch.device, batch: int = 500) -> float:
    """Share of images whose largest logit is their label's, in 0..1."""
    right = 0
    training = network.training
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            x = to_model(np.ascontiguousarray(pixels[start : start + batch]), device)
            guess = network(x.contiguous(memory_format=torch.channels_last)).argmax(1).cpu().numpy()
            right += int((guess == labels[start : start + batch]).sum())
    network.train(training)
    return right / len(pixels)


def _labels(image_set: "ImageSet") -> NDArray[np.int64]:
    if image_set.labels is None:
        raise ValueError(
            f"the set {image_set.name!r} has no labels, and this extractor is a classifier: use a folder with one subfolder a "
            "class, or learn from the images alone: alphabar extractor train SET --self-supervised --out PATH"
        )
    return np.asarray(image_set.labels, dtype=np.int64)


def train_extractor(
    image_set: "ImageSet",
    *,
    test: "ImageSet | None" = None,
    epochs: int = 16,
    batch: int = 128,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    smoothing: float = 0.1,
    flip: bool = True,
    shift: int = 1,
    erase: float = 0.0,
    widths: Sequence[int] = (48, 96, 192),
    dim: int = 512,
    seed: int = 0,
    holdout: float = HOLDOUT,
    bf16: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
    name: str | None = None,
) -> Extractor:
    """Train a classifier on a labelled set and return it as an extractor of `dim` features.

    holdout: the share of image_set, picked by content, that is kept out of the training (0: none), so that scores have
    real images which neither extractor nor model has seen. test: a labelled set on which the accuracy is taken; None:
    the held-out images. lr: the highest rate of a one-cycle schedule (Smith & Topin 2019, arXiv:1708.07120) of SGD with
    Nesterov momentum. smoothing: of the labels, 0..1. flip: mirror images; False where left and right differ in kind.
    shift: in pixels. erase: share of images with a square hidden. bf16: multiply in bfloat16, 2 to 3 times as fast on
    processors that have it (AMX) and on GPUs.
    seed: of weights, order and augmentation.

    Raises ValueError for a set with no labels, fewer than two classes or fewer images than one batch.
    """
    started = time.perf_counter()
    where = torch.device(device) if device is not None else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = _labels(image_set)
    number = len(image_set.classes) if image_set.classes is not None else int(labels.max()) + 1
    if number < 2 or labels.min() < 0 or labels.max() >= number:
        raise ValueError(
            f"labels of {image_set.name!r} run from {labels.min()} to {labels.max()} with {number} class(es): "
            "an extractor needs at least two classes, labelled 0, 1, ..."
        )
    kept, held = split_off(image_set.pixels, holdout) if holdout > 0 else (np.arange(len(labels)), np.arange(0))
    if len(kept) < batch:
        raise ValueError(f"{len(kept)} training images are fewer than one batch of {batch}: pass a smaller batch")
    if test is not None:
        test_name, test_pixels, test_labels = f"{test.name}:{test.split}", test.pixels, _labels(test)
    else:
        test_name, test_pixels, test_labels = "held out", image_set.pixels[held], labels[held]

    c, h, w = image_set.image_shape
    architecture = {"in_channels": c, "widths": list(widths), "dim": dim, "classes": number}
    with torch.random.fork_rng(devices=[]):  # torch's layers draw their weights from the global generator
        torch.manual_seed(seed)
        network = Classifier(c, widths, dim, number)
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=lr, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = len(kept) // batch  # a last, shorter batch would give batch norm worse statistics
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=epochs * steps, pct_start=0.2, cycle_momentum=False
    )

    def epoch(number: int, advance: Callable[..., None]) -> float:
        network.train()
        rng = seeds.generator(seed, number, stream=seeds.TRAIN)
        order = kept[seeds.permutation(seed, number, len(kept))]
        total = torch.zeros((), device=where)
        for step in range(steps):
            chosen = np.sort(order[step * batch : (step + 1) * batch])  # sorted: a memory map reads forwards
            pixels = augment(image_set.pixels[chosen], rng, flip=flip, shift=shift, erase=erase)
            x = to_model(np.ascontiguousarray(pixels), where).contiguous(memory_format=torch.channels_last)
            y = torch.from_numpy(labels[chosen]).to(where)
            with torch.autocast(where.type, torch.bfloat16) if bf16 else nullcontext():
                logits: Tensor = network(x)
            loss = nn.functional.cross_entropy(logits.float(), y, label_smoothing=smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
            total += loss.detach()
            advance(batch)
        mean = float(total) / steps
        if not np.isfinite(mean):
            raise RuntimeError(f"the loss became {mean} in epoch {number + 1}: train with a smaller lr than {lr}")
        return mean

    def run(advance: Callable[..., None]) -> None:
        for k in range(epochs):
            loss = epoch(k, advance)
            seen = None
            if on_epoch is not None:
                seen = accuracy(network, test_pixels[:2000], test_labels[:2000], where) if len(test_pixels) else None
                gone = time.perf_counter() - started
                on_epoch(Epoch(k + 1, epochs, loss, seen, gone, gone / (k + 1) * (epochs - k - 1)))

    with track(epochs * steps * batch, "training the extractor", unit="images", show=progress) as advance:
        run(advance)

    network.eval()
    network.fold()
    record: Mapping[str, Any] = {
        "set": f"{image_set.name}:{image_set.split}",
        "set_fingerprint": image_set.fingerprint,
        "pixels": image_set.pixels.dtype.name,
        "value_range": image_set.value_range,
        "images": len(kept),
        "holdout": holdout,
        "held_out_images": len(held),
        "held_out_accuracy": accuracy(network, image_set.pixels[held], labels[held], where) if len(held) else None,
        "test": test_name,
        "test_images": len(test_pixels),
        "accuracy": accuracy(network, test_pixels, test_labels, where) if len(test_pixels) else None,
        "epochs": epochs, "batch": batch, "lr": lr, "weight_decay": weight_decay, "smoothing": smoothing,
        "flip": flip, "shift": shift, "erase": erase, "seed": seed, "bf16": bf16,
        "seconds": round(time.perf_counter() - started, 1),
        "torch": torch.__version__.split("+")[0],
    }  # fmt: skip
    return Extractor(
        name or image_set.name,
        architecture,
        {k: v.cpu() for k, v in network.state_dict().items()},
        image_shape=(c, h, w),
        classes=image_set.classes,
        training=record,
    )
