"""`sample`: images from a model, by any sampler, with the record of how they were made and what they cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.core import processes
from alphabar.core.bounds import Count
from alphabar.core.machine import memory_for, versions
from alphabar.core.options import takes
from alphabar.core.parts import Parts
from alphabar.core.progress import track
from alphabar.core.stored_values import naming
from alphabar.core.types import Denoiser
from alphabar.denoiser.adaptive import call_statistics
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.runtime.fast_model import FastModel, speed_up
from alphabar.sampling.batches import Batch, BatchSampler, SamplingStep, chosen
from alphabar.sampling.model import Model, fingerprint, image_shape, move_model, to_images
from alphabar.sampling.options import Precision, SampleOptions
from alphabar.sampling.precision import faster_precision
from alphabar.sampling.resolved import ResolvedOptions, resolve_options
from alphabar.sampling.samples import Samples, check_target, parts_folder


@takes(SampleOptions)
def sample(
    model: Model, n: Count, options: SampleOptions = SampleOptions(), *, out: str | Path | None = None,
    indices: Sequence[int] | None = None, keep_x0: bool | Sequence[int] = False, progress: bool = True,
    on_step: Callable[[SamplingStep], None] | None = None, device: torch.device | str | None = None,
    channels_last: bool = False,
) -> Samples:  # fmt: skip
    """Makes n images with a model. Image k of a seed is the same whatever n, the batch and the order of the images.

    >>> from alphabar import load_model, sample
    >>> samples = sample(load_model("bundled"), 4, sampler="ddim", steps=5, seed=0, progress=False)
    >>> samples.images.shape, samples.record["nfe"]
    ((4, 28, 28, 1), 5.0)

    Args:
        model: a denoiser with a `schedule` and an `image_shape`: what `load_model` returns, or any object that fits `Model`.
        n: number of images, 1 or more.
        options: everything that decides the images. Its fields may also be passed as keywords, as above.
        out: PATH.npz, or a folder (ending in a slash) for PNGs: the samples are also saved there. Each finished batch is kept
            in OUT.part until all are complete, and the same call continues after an interruption. None: only returned.
        indices: which images of the seed to make, n of them. None: 0 to n - 1.
        keep_x0: steps whose x0_hat is kept in `Samples.x0`: True for all, or their numbers (-1 is the last).
        progress: whether to show a progress bar.
        on_step: called after each step with a `SamplingStep`. Its time is not counted in the record's seconds, and an
            exception that it raises ends the sampling.
        device: moves the model there first. None: the model stays where it is.
        channels_last: runs the network in that memory layout, which is faster for some networks and slower for others.

    Returns:
        The images with the record of how they were made and what they cost.

    Raises:
        ValueError: for n < 1, an unknown name, an option that the sampler does not have, levels outside those that the model
            was trained on, or an `out` that holds unfinished samples of other options.
    """
    indices = range(n) if indices is None else indices
    if len(indices) != n:
        raise ValueError(f"{len(indices)} indices for {n} images: give one an image, or none for 0 to {n - 1}")
    if bad := [k for k in indices if isinstance(k, bool) or not hasattr(k, "__index__") or not 0 <= int(k) < 2**64]:
        raise ValueError(f"index = {bad[0]}: give whole numbers from 0, the numbers of the images of the seed")
    if not isinstance(model, Model):
        raise ValueError(f"the model is {type(model).__name__}, without schedule and image_shape: give what load_model returns")
    resolved = resolve_options(model, options)
    x0_steps = chosen(keep_x0, resolved.steps)
    pixels = np.dtype(getattr(model, "pixels", "uint8"))
    if out is not None and (size := processes.world()[1]) > 1:
        raise ValueError(f"{out}: sampling is the work of one process, and torchrun started {size}: leave torchrun out")
    if out is not None:
        check_target(out, image_shape(model)[0], pixels)
    fast = None if options.fast == "none" else options.fast
    device = move_model(model, device, channels_last and fast is None)
    coarse, check = None, dict[str, Any]()
    if options.precision == "auto":
        known = None if out is None else _precision_of_parts(out)
        if known is None:
            work = n * resolved.sampler.calls(resolved.steps)
            coarse, check = faster_precision(model, fast or "channels_last", min(options.batch, n), work)
            known = "float32" if coarse is None else "bf16"
        options = replace(options, precision=known)

    protocol = _protocol(model, indices, options, resolved, x0_steps, pixels)
    with _unfinished(out, protocol) as parts:
        batches = {first: indices[first : first + options.batch] for first in range(0, n, options.batch)}
        finished = {
            k: b for k in batches if parts is not None and (b := _finished(parts, k, len(batches[k]), pixels)) is not None
        }
        done = sum(len(batch.images) for batch in finished.values())
        network: Denoiser = coarse or model
        if coarse is None and (fast is not None or options.precision != "float32"):
            work = (n - done) * resolved.sampler.calls(resolved.steps)
            fast = fast or "channels_last"
            network = speed_up(model, fast, batch=min(options.batch, n), precision=options.precision, work=work)

        title = f"sampling, {resolved.sampler.name} {resolved.steps}"
        bar = track(n, title, unit="images", done=done, show=progress)
        memory = memory_for(f"a batch of {options.batch} images", "give a smaller --batch (batch=)")
        with bar as advance, eval_mode(model), torch.inference_mode(), memory:
            sampler = BatchSampler(
                network, resolved, options.seed, model.image_shape, x0_steps, partial(to_images, model), device, channels_last,
                advance, on_step,
            )  # fmt: skip
            for first in [k for k in batches if k not in finished]:
                finished[first] = sampler.sample(first, batches[first])
                if parts is not None:
                    parts.save(_name(first), finished[first].arrays())

        costs = {"device": str(device)} | ({"fast": network.record()} if isinstance(network, FastModel) else {})
        costs |= {"precision_check": check} if check else {}
        samples = _joined([finished[first] for first in batches], protocol, costs)
        if out is not None and parts is not None:
            samples.save(out)
            parts.clear()
        return samples


def _protocol(
    model: Model, indices: Sequence[int], options: SampleOptions, resolved: ResolvedOptions, x0_steps: Sequence[int],
    pixels: np.dtype[Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything that decides the images, as plain data."""
    value_range = getattr(model, "value_range", None)
    n, first = len(indices), int(indices[0])
    protocol = resolved.record() | {
        "seed": options.seed, "first_index": first, "n": n, "batch": options.batch,
        "model": fingerprint(model), "image_shape": [*image_shape(model)],
        "x0_steps": list(x0_steps), "versions": versions(),
        "pixels": pixels.name, "value_range": None if value_range is None else [float(v) for v in value_range],
    } | resolved.further_record()  # fmt: skip
    if fit := getattr(model, "fit", None):
        protocol["fit"] = fit
    if options.precision != "float32":
        protocol["precision"] = options.precision
    if list(indices) != list(range(first, first + n)):
        protocol["indices"] = [int(k) for k in indices]
    return protocol


@contextmanager
def _unfinished(out: str | Path | None, protocol: Mapping[str, Any]) -> Iterator[Parts | None]:
    """The folder of finished batches of this protocol, which no other process may use meanwhile; None without `out`."""
    if out is None:
        yield None
        return
    parts = Parts(parts_folder(out), "unfinished samples")
    with parts.locked():
        if protocol["model"] is None:
            parts.clear()  # a model without a fingerprint: the batches may be another model's
        parts.claim(protocol)
        yield parts


def _finished(parts: Parts, first: int, n: int, pixels: np.dtype[Any]) -> Batch | None:
    """A batch that an earlier call has finished. Raises ValueError, naming its file, where that is damaged."""
    with naming(f"{parts.path(_name(first))} is damaged: delete it, and the batch is made again"):
        arrays = parts.load(_name(first))
        return None if arrays is None else Batch.of_arrays(arrays, n, pixels)


def _precision_of_parts(out: str | Path) -> Precision | None:
    """The precision of the batches that an earlier call has finished; None where there are none."""
    with suppress(OSError, ValueError):
        found = Parts(parts_folder(out), "unfinished samples").protocol().get("precision", "float32")
        return found if found in ("float32", "bf16") else None
    return None


def _name(first: int) -> str:
    return f"{first:08d}.npz"


def _joined(batches: Sequence[Batch], protocol: Mapping[str, Any], costs: Mapping[str, Any]) -> Samples:
    """The samples of all batches, with their costs in the record."""
    images = np.concatenate([b.images for b in batches])
    seconds = sum(b.seconds for b in batches)
    record = {
        **protocol, "nfe": sum(b.calls for b in batches) / len(images), "seconds": seconds,
        "seconds_per_image": seconds / len(images), **costs,
    }  # fmt: skip
    if each := [b.each for b in batches if b.each is not None]:
        record["calls"] = call_statistics(np.concatenate(each))
    x0 = [np.concatenate(step) for step in zip(*(b.x0 for b in batches), strict=True)]
    return Samples(images, record, x0 or None)
