"""`sample`: images from a model, by any sampler, with the record of how they were made and what they cost."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
from alphabar.core.types import Denoiser
from alphabar.denoiser.adaptive import call_statistics
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.runtime.fast_model import FastModel, speed_up
from alphabar.sampling.batches import Batch, BatchSampler, SamplingStep, chosen, finished_batches, of_all_processes
from alphabar.sampling.model import Model, fingerprint, image_shape, move_model, to_images
from alphabar.sampling.options import Precision, SampleOptions
from alphabar.sampling.precision import faster_precision
from alphabar.sampling.resolved import ResolvedOptions, resolve_options
from alphabar.sampling.samples import Samples, addresses, check_target, parts_folder, unfinished
from alphabar.sampling.start import Start
from alphabar.training.checkpoint import load_model


@takes(SampleOptions)
def sample(
    model: Model | str | Path, n: Count, options: SampleOptions = SampleOptions(), *, out: str | Path | None = None,
    indices: Sequence[int] | None = None, keep_x0: bool | Sequence[int] = False, progress: bool = True,
    on_step: Callable[[SamplingStep], None] | None = None, device: torch.device | str | None = None,
    channels_last: bool = False, start: Start | None = None,
) -> Samples:  # fmt: skip
    """Makes n images with a model. Image k of a seed is the same whatever n, the batch and the order of the images.

    >>> from alphabar import load_model, sample
    >>> samples = sample(load_model("bundled"), 4, sampler="ddim", steps=5, seed=0, progress=False)
    >>> samples.images.shape, samples.record["nfe"]
    ((4, 28, 28, 1), 5.0)

    Args:
        model: a denoiser with a `schedule` and an `image_shape`: what `train` and `load_model` return, or any object that fits
            `Model`; or what `load_model` takes, as the path of a run.
        n: number of images, 1 or more.
        options: everything that decides the images. Its fields may also be passed as keywords, as above.
        out: PATH.npz, or a folder (ending in a slash) for PNGs: the samples are also saved there. Each finished batch is kept
            in OUT.part until all are complete, and the same call continues after an interruption. None: only returned. The
            processes of torchrun divide the batches of one call with `out` among themselves, and the first one saves.
        indices: which images of the seed to make, n of them. None: 0 to n - 1.
        keep_x0: steps whose x0_hat is kept in `Samples.x0`: True for all, or their numbers (-1 is the last).
        progress: whether to show a progress bar.
        on_step: called after each step with a `SamplingStep`. Its time is not counted in the record's seconds, and an
            exception that it raises ends the sampling.
        device: moves the model there first. None: the model stays where it is.
        channels_last: runs the network in that memory layout, which is faster for some networks and slower for others.
        start: where sampling starts, in place of noise: what `Inversion.start` returns, for example.

    Returns:
        The images with the record of how they were made and what they cost.

    Raises:
        ValueError: for n < 1, an unknown name, an option that the sampler does not have, levels outside those that the model
            was trained on, or an `out` that holds unfinished samples of other options.
    """
    indices = range(n) if indices is None else indices
    _check_indices(indices, n)
    model = load_model(model) if isinstance(model, str | Path) else model
    if not isinstance(model, Model):
        raise ValueError(f"the model is {type(model).__name__}, without schedule and image_shape: give what load_model returns")
    resolved = resolve_options(model, options)
    resolved = resolved if start is None else start.resolved(resolved)
    x0_steps = chosen(keep_x0, resolved.steps)
    pixels = np.dtype(str((start.pixels if start else None) or getattr(model, "pixels", "uint8")))
    if out is not None:
        check_target(out, image_shape(model)[0], pixels)
    fast = None if options.fast == "none" else options.fast
    device = move_model(model, device, channels_last and fast is None)
    rank, size = (0, 1) if out is None else processes.world()  # without a place to meet, each process makes all images
    work = n * resolved.sampler.calls(resolved.steps)
    options, coarse, check = _with_precision(options, model, fast or "channels_last", min(options.batch, n), work, out)
    protocol = _protocol(model, indices, options, resolved, x0_steps, pixels) | ({"start": {**start.record}} if start else {})
    with unfinished(out, protocol) as parts:
        batches = {first: indices[first : first + options.batch] for first in range(0, n, options.batch)}
        sizes = {first: len(some) for first, some in batches.items()}
        own = [*batches][rank::size]
        finished = finished_batches(parts, {first: sizes[first] for first in own}, pixels)
        done, total = (sum(sizes[k] for k in some) for some in (finished, own))
        network: Denoiser = model
        if fast is not None or options.precision != "float32":
            work = (total - done) * resolved.sampler.calls(resolved.steps)
            make = partial(speed_up, model, batch=min(options.batch, n), precision=options.precision, work=work)
            network = _of_first(coarse, fast or "channels_last", make, rank, size)

        title = f"sampling, {resolved.sampler.name} {resolved.steps}"
        bar = track(total, title, unit="images", done=done, show=progress and rank == 0)
        memory = memory_for(f"a batch of {options.batch} images", "give a smaller --batch (batch=)")
        with bar as advance, eval_mode(model), torch.inference_mode(), memory:
            sampler = BatchSampler(
                network, resolved, options.seed, model.image_shape, x0_steps, partial(to_images, model, pixels=pixels), device,
                channels_last, advance, on_step, start,
            )  # fmt: skip
            for first in [k for k in own if k not in finished]:
                finished[first] = sampler.sample(first, batches[first])
                if parts is not None:
                    finished[first].save(parts, first)
        every = of_all_processes(finished, parts, sizes, pixels)
        costs = {"device": str(device)} | ({"fast": network.record()} if isinstance(network, FastModel) else {})
        costs |= {"precision_check": check} if check else {}
        samples = _joined(every, protocol, costs)
        if out is not None and rank == 0:
            samples.save(out)
    return samples


def _check_indices(indices: Sequence[int], n: int) -> None:
    if len(indices) != n:
        raise ValueError(f"{len(indices)} indices for {n} images: give one an image, or none for 0 to {n - 1}")
    if bad := [k for k in indices if isinstance(k, bool) or not hasattr(k, "__index__") or not 0 <= int(k) < 2**64]:
        raise ValueError(f"index = {bad[0]}: give whole numbers from 0, the numbers of the images of the seed")


def _with_precision(
    options: SampleOptions, model: Model, fast: str, batch: int, work: int, out: str | Path | None
) -> tuple[SampleOptions, FastModel | None, dict[str, Any]]:
    """The options with precision "auto" decided (with `out`, in all processes as in the first); a model ready in bfloat16, if
    that was chosen, and why, for the record."""
    coarse, check = None, dict[str, Any]()
    if options.precision != "auto":
        return options, coarse, check
    rank, size = (0, 1) if out is None else processes.world()
    known = None if out is None else _precision_of_parts(out)
    if known is None and rank == 0:
        coarse, check = faster_precision(model, fast, batch, work)
        known = "float32" if coarse is None else "bf16"
    known = processes.gather(known)[0] if size > 1 else known
    return replace(options, precision=known or "float32"), coarse, check


def _of_first(ready: FastModel | None, method: str, make: Callable[[str], FastModel], rank: int, size: int) -> FastModel:
    """The fast model that is `ready` or made; by the method of process 0 in all, so that their images are those of one."""
    if rank == 0:
        ready = ready or make(method)
    method = processes.gather("" if ready is None else ready.method)[0] if size > 1 else method
    return ready or make(method)


def _protocol(
    model: Model, indices: Sequence[int], options: SampleOptions, resolved: ResolvedOptions, x0_steps: Sequence[int],
    pixels: np.dtype[Any],
) -> dict[str, Any]:  # fmt: skip
    """Everything that decides the images, as plain data."""
    value_range = getattr(model, "value_range", None)
    protocol = resolved.record() | addresses(indices) | {
        "seed": options.seed, "batch": options.batch,
        "model": fingerprint(model), "image_shape": [*image_shape(model)],
        "x0_steps": list(x0_steps), "versions": versions(),
        "pixels": pixels.name, "value_range": None if value_range is None else [float(v) for v in value_range],
    } | resolved.further_record()  # fmt: skip
    protocol |= {key: value for key in ("fit", "source") if (value := getattr(model, key, None))}
    if options.precision != "float32":
        protocol["precision"] = options.precision
    return protocol


def _precision_of_parts(out: str | Path) -> Precision | None:
    """The precision of the batches that an earlier call has finished; None where there are none."""
    with suppress(OSError, ValueError):
        found = Parts(parts_folder(out), "unfinished samples").protocol().get("precision", "float32")
        return found if found in ("float32", "bf16") else None
    return None


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
