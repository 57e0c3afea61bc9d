"""Training of extractors: of labelled images (`train_extractor`), and the loop that `simclr`, without labels, shares."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alphabar.core import seeds
from alphabar.core.machine import device_of, memory_for
from alphabar.core.options import takes
from alphabar.core.progress import track
from alphabar.core.types import Pixels
from alphabar.data.images import to_model
from alphabar.data.split import holdout
from alphabar.data.values import scale_of
from alphabar.features.classifier import Classifier
from alphabar.features.extractor import Extractor
from alphabar.features.options import ExtractorOptions, SupervisedOptions, of_set
from alphabar.training.unfinished import unfinished

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
    """Indices of the images to train on and of the held-out ones.

    Raises ValueError for less than one batch, or a batch that leaves one number per channel, which has no variance.
    """
    kept, heldout = holdout(image_set.pixels, options.holdout, hashes=image_set.hashes)
    if len(kept) < options.batch:
        raise ValueError(f"{len(kept)} training images are fewer than one batch of {options.batch}: pass a smaller batch")
    if options.batch == 1 and max(image_set.image_shape[1:]) <= 2 ** len(options.widths):
        raise ValueError(f"batch = 1: {len(options.widths)} halvings bring such images to one pixel; pass --batch 2 or more")
    return kept, heldout


def pick_device(device: str | torch.device | None) -> torch.device:
    """The given device; None means CUDA where there is a GPU, else the CPU."""
    return torch.device(device_of(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"))


def run_epochs(
    trained: nn.Module, loss_of: LossOf, kept: Indices, options: ExtractorOptions, *,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], warmup: float,
    description: str, progress: bool, on_epoch: Callable[[Epoch], None] | None, part: Path | None, fingerprint: str,
) -> tuple[float, float]:  # fmt: skip
    """Train on the images `kept` under a one-cycle schedule; returns the mean loss of the last epoch, and the seconds taken.

    `trained` may include a head that is discarded later; `optimizer` gets two groups of its parameters, with and without
    weight decay; `warmup` is the share of the steps in which the learning rate rises; the state is kept in `part`, for these
    options and the images with this fingerprint. Raises RuntimeError for a loss of NaN.
    """
    steps = len(kept) // options.batch  # a last, shorter batch would give batch norm worse statistics
    parameters = list(trained.parameters())
    optim = optimizer([
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ])  # fmt: skip
    total = options.epochs * steps
    rise = warmup if warmup * total != 1 else math.nextafter(warmup, 1)  # the scheduler divides by warmup * total - 1
    cycle = torch.optim.lr_scheduler.OneCycleLR(optim, max_lr=options.lr, total_steps=total, pct_start=rise, cycle_momentum=False)
    rng, losses = seeds.generator(0), torch.zeros(())
    protocol = {"training": description, "images_fingerprint": fingerprint, **asdict(options)}

    def position() -> dict[str, Any]:
        return {"random": rng.bit_generator.state, "losses": float(losses)}

    with (
        unfinished(part, "extractors", protocol, trained, optim) as state,
        track(total * options.batch, description, done=state.step * options.batch, show=progress) as advance,
    ):
        mean = state.more.get("losses", math.nan) / steps
        if state.step:
            vars(cycle).update(last_epoch=state.step - 1, _step_count=state.step + 1)
            cycle.step()
        for epoch in range(state.step // steps, options.epochs):
            trained.train()
            rng = seeds.generator(options.seed, epoch, stream=seeds.TRAIN)
            order = kept[seeds.permutation(options.seed, epoch, len(kept))]
            losses, first = torch.zeros((), device=parameters[0].device), max(state.step - epoch * steps, 0)
            if first:
                rng.bit_generator.state = state.more["random"]
                losses += state.more["losses"]
            for step, batch in enumerate(
                order[: steps * options.batch].reshape(steps, options.batch)[first:], epoch * steps + first
            ):
                loss = loss_of(np.sort(batch), rng)  # sorted: a memory map is read forwards
                optim.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optim.step()
                cycle.step()
                losses += loss.detach()
                advance(options.batch)
                state.after(step + 1, total, options.batch, position)
            mean = float(losses) / steps
            if not np.isfinite(mean):
                raise RuntimeError(f"the loss became {mean} in epoch {epoch + 1}: train with a smaller lr than {options.lr}")
            if on_epoch is not None:
                left = state.seconds / (epoch + 1) * (options.epochs - epoch - 1)
                on_epoch(Epoch(epoch + 1, options.epochs, mean, state.seconds, left))
    return mean, round(state.seconds, 1)


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
        "set": f"{image_set.name}:{image_set.split}", "set_fingerprint": image_set.fingerprint, **record,
        **{key: value for key, value in asdict(options).items() if key not in architecture},
        "torch": torch.__version__.split("+")[0], **({"fit": image_set.reading.fit} if image_set.reading.fit else {}),
    }  # fmt: skip
    weights = {k: v.cpu() for k, v in network.state_dict().items()}
    label = name or image_set.name
    return Extractor(label, architecture, weights, image_shape=(c, h, w), classes=classes, training=training)


@takes(SupervisedOptions)
@memory_for("the training of the extractor", "give a smaller --batch or fewer --widths")
def train_extractor(
    image_set: "ImageSet", options: SupervisedOptions = SupervisedOptions(), *, test: "ImageSet | None" = None,
    device: str | torch.device | None = None, progress: bool = True, on_epoch: Callable[[Epoch], None] | None = None,
    name: str | None = None, part: Path | None = None,
) -> Extractor:  # fmt: skip
    """Train a classifier on a labelled set and return it as a feature extractor.

    The images that `holdout` keeps out of the training remain for scores: neither extractor nor model was trained on them.

    Args:
        image_set: the labelled images, of any size and number of channels.
        options: epochs, learning rate, augmentation and so on; each field can also be passed as a keyword.
        test: labelled set on which the accuracy is measured; None means the held-out images.
        device: where to train; None means CUDA where there is a GPU, else the CPU.
        progress: show a progress bar.
        on_epoch: called after every epoch, with the accuracy on at most 2,000 test images.
        name: name of the extractor; None means the name of the set.
        part: a folder for the state, from which the same call continues exactly after Ctrl-C; removed at the end.

    Returns:
        The extractor, on the CPU, with `training_record` describing how it was made and how accurate it is.

    Raises:
        ValueError: for a set without labels, with fewer than two classes, or with fewer images than one batch.
    """
    options = of_set(options, image_set.image_shape, len(image_set))
    where = pick_device(device)
    labels = _labels(image_set)
    classes = _number_of_classes(image_set, labels)
    kept, heldout = split(image_set, options)
    with seeds.weights_of(options.seed):
        network = Classifier(image_set.image_shape[0], options.widths, options.dim, classes)
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(batch: Indices, rng: np.random.Generator) -> Tensor:
        pixels = augment(image_set.pixels[batch], rng, flip=options.flip, shift=options.shift, erase=options.erase)
        x = to_model(np.ascontiguousarray(pixels), where).contiguous(memory_format=torch.channels_last)
        with torch.autocast(where.type, torch.bfloat16, enabled=options.bf16):
            logits: Tensor = network(x)
        y = torch.from_numpy(labels[batch]).to(where)
        return nn.functional.cross_entropy(logits.float(), y, label_smoothing=options.smoothing)

    def accuracy_on(pixels: Pixels, truth: Indices) -> float | None:
        return accuracy(network, pixels, truth, where) if len(pixels) else None

    heldout_pixels, heldout_labels = image_set.pixels[heldout], labels[heldout]
    test_pixels, test_labels = (heldout_pixels, heldout_labels) if test is None else (test.pixels, _labels(test))

    some = np.sort(seeds.permutation(0, 0, len(test_pixels))[:2000])

    def report(epoch: Epoch) -> None:
        if on_epoch is not None:
            on_epoch(replace(epoch, accuracy=accuracy_on(test_pixels[some], test_labels[some])))

    _, seconds = run_epochs(
        network, loss_of, kept, options,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True),
        warmup=0.2, description="training the extractor", progress=progress, on_epoch=report,
        part=part, fingerprint=image_set.fingerprint,
    )  # fmt: skip
    record = {
        "pixels": image_set.pixels.dtype.name, "value_range": image_set.value_range,
        "images": len(kept), "held_out_images": len(heldout),
        "held_out_accuracy": accuracy_on(heldout_pixels, heldout_labels),
        "test": "held out" if test is None else f"{test.name}:{test.split}",
        "test_images": len(test_pixels), "accuracy": accuracy_on(test_pixels, test_labels),
        "seconds": seconds,
    }  # fmt: skip
    return make_extractor(network, image_set, options, record, name=name, classes=image_set.classes)


def _labels(image_set: "ImageSet") -> Indices:
    if image_set.labels is None:
        raise ValueError(
            f"the set {image_set.name!r} has no labels, and this extractor is a classifier: use a folder with one subfolder per "
            "class, or train without labels: alphabar extractor train SET --self-supervised --out PATH"
        )
    return np.asarray(image_set.labels, dtype=np.int64)


def _number_of_classes(image_set: "ImageSet", labels: Indices) -> int:
    number = len(image_set.classes) if image_set.classes is not None else int(labels.max()) + 1
    if number < 2 or labels.min() < 0 or labels.max() >= number:
        raise ValueError(
            f"labels of {image_set.name!r} run from {labels.min()} to {labels.max()} with {number} class(es): "
            "an extractor needs at least two classes, labelled 0, 1, ..."
        )
    return number


def augment(pixels: Pixels, rng: np.random.Generator, *, flip: bool, shift: int, erase: float = 0.0) -> Pixels:
    """Copies of images, randomly shifted by at most `shift` pixels along each axis (the edge is repeated) and mirrored.

    In the share `erase` of the images a square of at most a sixth of the area becomes noise (random erasing, Zhong et al. 2020,
    arXiv:1708.04896).
    """
    n, h, w, _ = pixels.shape
    rows = np.clip(np.arange(h) + rng.integers(-shift, shift + 1, (n, 1)), 0, h - 1)
    columns = np.clip(np.arange(w) + rng.integers(-shift, shift + 1, (n, 1)), 0, w - 1)
    if flip:
        columns = np.where(rng.random((n, 1)) < 0.5, columns[:, ::-1], columns)
    out: Pixels = pixels[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    scale = scale_of(pixels.dtype)
    for k in np.flatnonzero(rng.random(n) < erase):
        side = int(rng.integers(max(1, min(h, w) // 8), max(2, int(0.42 * min(h, w)))))
        top, left = int(rng.integers(0, h - side + 1)), int(rng.integers(0, w - side + 1))
        square = (side, side, 1)
        noise = rng.random(square, np.float32) if scale == 1 else rng.integers(0, scale + 1, square, pixels.dtype.type)
        out[k, top : top + side, left : left + side] = noise
    return out


def accuracy(network: Classifier, pixels: Pixels, labels: Indices, device: torch.device, batch: int = 500) -> float:
    """Share of the images whose largest logit is that of their label, 0 to 1."""
    correct = 0
    training = network.training
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            x = to_model(np.ascontiguousarray(pixels[start : start + batch]), device)
            guess = network(x.contiguous(memory_format=torch.channels_last)).argmax(1).cpu().numpy()
            correct += int((guess == labels[start : start + batch]).sum())
    network.train(training)
    return correct / len(pixels)
