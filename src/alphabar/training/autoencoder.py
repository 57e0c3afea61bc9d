"""Training of our own autoencoder on a set of images."""

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alphabar.core import seeds
from alphabar.core.machine import device_of, memory_for, peak_memory
from alphabar.core.messages import say
from alphabar.core.options import takes
from alphabar.core.progress import duration, track
from alphabar.core.types import Images, Pixels
from alphabar.data.image_set import ImageSet
from alphabar.data.images import to_model
from alphabar.data.split import holdout
from alphabar.denoiser.autoencoder import Autoencoder, ConvAutoencoder
from alphabar.training.muon import Muon
from alphabar.training.optim import rate
from alphabar.training.options import AutoencoderOptions
from alphabar.training.stopping import Diverged
from alphabar.training.unfinished import unfinished

SCALES = 3  # at which the loss compares images: full size, half, a quarter
STREAM = seeds.TRAIN + 32


@takes(AutoencoderOptions)
def train_autoencoder(
    image_set: ImageSet, options: AutoencoderOptions = AutoencoderOptions(), *, part: Path, out: Path | None = None,
    device: str | None = None, progress: bool = True,
) -> Autoencoder:  # fmt: skip
    """Trains a `ConvAutoencoder` on the images that are not held out, by Muon.

    Args:
        image_set: images of any size, type, and number of channels.
        options: see `AutoencoderOptions`; its fields may also be passed as keywords.
        part: a folder for the state, from which the same call continues after an interruption; removed at the end.
        out: the file to save it as, before the state is removed.
        device: the fastest there is if None.
        progress: show a progress bar, after what is trained and how long it takes.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with the state kept in `part`.
        Diverged: when the loss is NaN.
        ValueError: for images smaller than the factor, or where `part` holds the state of another training.
    """
    image_set = image_set.originals()
    kept, heldout = holdout(image_set.pixels, options.holdout, hashes=image_set.hashes)
    c, h, w = image_set.image_shape
    if not len(kept) or min(h, w) < options.factor:
        raise ValueError(f"{len(kept)} images of {h}x{w} to train on: wanted 1 or more, each side at least {options.factor}")
    side = tuple(min(s - s % options.factor, options.crop - options.crop % options.factor) for s in (h, w))
    where = device_of(device)
    mean, std = _moments(image_set.pixels, kept)
    arguments = {"channels": c, **{k: getattr(options, k) for k in ("latent", "factor", "width", "blocks")}}
    with seeds.weights_of(options.seed):
        network = ConvAutoencoder(**arguments).to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Muon(network.encoder, network.decoder, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01)
    steps, scale = math.ceil(options.images / options.batch), (t.to(where)[:, None, None] for t in (mean, std))
    shift, width = scale
    memory = memory_for(f"a batch of {options.batch} images", "give a smaller --batch or --crop")
    protocol = {**asdict(options), "optimizer": "muon", "images_fingerprint": image_set.fingerprint}
    with unfinished(part, "autoencoders", protocol, network, optimizer) as state, memory:
        first, before = state.step, state.seconds
        with track(steps * options.batch, "training the autoencoder", done=first * options.batch, show=progress) as advance:
            for step in range(first, steps):
                x = (to_model(_squares(image_set.pixels, kept, options, side, step), where) - shift) / width
                lr, _ = rate("cosine", step, steps, options.lr, warmup=min(200, steps // 10))
                loss = _step(network, optimizer, x.contiguous(memory_format=torch.channels_last), lr, options, step)
                advance(options.batch, f"loss {loss:.4f}")
                if not math.isfinite(loss):
                    raise Diverged(
                        f"after {step * options.batch} images the loss is {loss}: give a lower --lr than {options.lr:g}"
                    )
                if step == min(first + 9, steps - 1) and progress:
                    left = (state.seconds - before) / (step + 1 - first) * (steps - first)
                    say(_promise(network, image_set, len(kept), options, left), sys.stderr)
                state.after(step + 1, steps, options.batch)
        record = {
            "set": f"{image_set.name}:{image_set.split}", "set_fingerprint": image_set.fingerprint, "images": len(kept),
            "held_out": len(heldout), "pixels": image_set.pixels.dtype.name, "value_range": image_set.value_range,
            "seconds": round(state.seconds, 1), "options": asdict(options),
            "torch": torch.__version__.split("+")[0],
        }  # fmt: skip
        spec = {"format": 1, "arguments": arguments, "mean": mean.tolist(), "std": std.tolist()}
        made = Autoencoder(spec, network, record)
        if out is not None:
            made.save(out)
    return made


def difference(out: Images, x: Images) -> Tensor:
    """Mean absolute error of the pixels and of the differences between neighbouring pixels, summed over full size, half and a
    quarter: the second part keeps edges, the third colours and shapes."""
    error, total = out.float() - x, torch.zeros((), device=x.device)
    for _ in range(SCALES):
        total = total + error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        if min(error.shape[-2:]) < 4:
            break
        error = F.avg_pool2d(error, 2)
    return total


def _step(
    network: ConvAutoencoder, optimizer: torch.optim.Optimizer, x: Images, lr: float, options: AutoencoderOptions, step: int
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    with torch.autocast(x.device.type, torch.bfloat16, enabled=options.bf16):
        z = network.encoder(x)
        noise = torch.from_numpy(seeds.generator(options.seed, step, 1, stream=STREAM).standard_normal(z.shape, np.float32))
        loss = difference(network.decoder(z + options.noise * noise.to(z)), x)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _squares(
    pixels: Pixels, kept: NDArray[np.int64], options: AutoencoderOptions, side: tuple[int, ...], step: int
) -> NDArray[Any]:
    """The batch of a step: images in a new order in every epoch, cut at a random place, every second one mirrored."""
    rng, out = seeds.generator(options.seed, step, stream=STREAM), list[NDArray[Any]]()
    for number in range(step * options.batch, (step + 1) * options.batch):
        epoch, position = divmod(number, len(kept))
        if not out or not position:
            order = kept[seeds.permutation(options.seed, epoch, len(kept))]
        image = pixels[order[position]]
        top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(image.shape[:2], side, strict=True))
        image = image[top : top + side[0], left : left + side[1]]
        out.append(image[:, ::-1] if rng.random() < 0.5 else image)
    return np.stack(out)


def _moments(pixels: Pixels, kept: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel in the model's range, of at most 1,000 images; 1 for a constant channel."""
    x = to_model(np.asarray(pixels[np.sort(kept[seeds.permutation(0, 0, len(kept))[:1000]])])).double()
    std = x.std((0, 2, 3), correction=0)
    return x.mean((0, 2, 3)).float(), torch.where(std > 1e-6, std, 1.0).float()


def _promise(network: ConvAutoencoder, images: ImageSet, kept: int, options: AutoencoderOptions, seconds: float) -> str:
    (c, h, w), f = images.image_shape, options.factor
    size = sum(p.numel() for p in network.parameters()) / 1e6
    return (
        f"{kept:,} images of {h}x{w}x{c} to latents of {math.ceil(h / f)}x{math.ceil(w / f)}x{options.latent}, {size:.2g} M "
        f"parameters. {options.images:,} images ({options.images / kept:.0f} passes) take about {duration(seconds)} here and "
        f"{peak_memory() / 2**30:.1f} GiB."
    )
