"""`invert`: the noise from which DDIM makes a given image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from alphabar.core.bounds import Count
from alphabar.core.files import json_text, write_npz
from alphabar.core.machine import memory_for, versions
from alphabar.core.options import takes
from alphabar.core.outputs import check_output
from alphabar.core.progress import track
from alphabar.core.types import Denoiser, Grid, Pixels, Sampled
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.wrappers import CountCalls, select_rows
from alphabar.sampling.given_images import given_images, to_coordinate
from alphabar.sampling.model import Model, check_estimates_x0, cropped, fingerprint, move_model, to_images
from alphabar.sampling.options import InvertOptions, SampleOptions
from alphabar.sampling.resolved import resolve_options
from alphabar.sampling.samplers.ddim import ddim
from alphabar.sampling.samples import npz_path
from alphabar.sampling.start import Start
from alphabar.schedule.grid import check_grid
from alphabar.training.checkpoint import load_model


@torch.no_grad()
def ddim_inverse(denoise: Denoiser, x0: Sampled, sigmas: Grid, *, iterations: int = 1, tolerance: float = 1e-5) -> Sampled:
    """The steps of DDIM at eta 0, backwards: from images to x of level sigmas[0].

    A step of `ddim` from x' of level s' is x = x' - (s' - s) eps_hat(x', s'), with eps_hat = (x' - x0_hat) / s'. Its inverse is
    the fixed point of x' = x + (s' - s) eps_hat(x', s'). One iteration from x' = x is DDIM inversion (Song et al. 2021,
    arXiv:2010.02502, sec. 4.3; Dhariwal & Nichol 2021, arXiv:2105.05233, app. F), an error of second order in each step; more
    of them are fixed-point inversion (Pan et al. 2023, arXiv:2309.04907, eq. 8), whose way back is exact where it converges.

    Args:
        denoise: the denoiser.
        x0: clean images (b, c, h, w).
        sigmas: the grid of the sampler.
        iterations: at most so many network calls a step and image.
        tolerance: an image's iteration ends when its largest change is below tolerance * s'.

    Returns:
        x of level sigmas[0], which `ddim` turns into x0.
    """
    check_grid(sigmas)
    x, eps_hat = x0, torch.zeros_like(x0)
    for s, higher in pairwise(sigmas.flip(0).tolist()):
        before, x = x, x + (higher - s) * eps_hat
        rows = torch.arange(len(x))  # images that have not converged
        for _ in range(iterations):
            here = rows.to(x.device)
            y = x[here]
            eps_hat[here] = (y - select_rows(denoise, rows)(y, y.new_full((len(y),), higher))) / higher
            x[here] = before[here] + (higher - s) * eps_hat[here]
            rows = rows[((x[here] - y).abs().flatten(1).amax(1) > tolerance * higher).cpu()]
            if not len(rows):
                break
    return x


@dataclass(frozen=True, eq=False)
class Inversion:
    """The noise of images, and what the way back makes of it.

    Attributes:
        noise: x of the highest level divided by that level, float32 (n, c, h, w) of the model's own shape: the unit noise from
            which `sample` starts.
        images: the given images.
        back: what DDIM makes of the noise, of their type.
        rmse: root mean square difference of each image from its way back, images (or latents) in [-1, 1], before rounding.
        record: how the noise was found, plain data.
    """

    noise: Float32[Tensor, "n c h w"]
    images: Pixels
    back: Pixels
    rmse: Float64[np.ndarray, " n"]
    record: dict[str, Any]

    def start(self) -> Start:
        """For `sample(..., start=)`: image k of the samples starts from the noise of image k."""

        def x(indices: Sequence[int], sigma: float) -> Sampled:
            if max(indices) >= len(self.noise):
                raise ValueError(
                    f"image {max(indices)} is to start from the noise of {len(self.noise)} images: give n or indices"
                )
            return self.noise[list(indices)] * sigma

        return Start(x, pixels=self.images.dtype.name, record={"from": "inversion", **self.record})

    def save(self, path: str | Path) -> Path:
        """Writes an .npz file with `noise`, `originals`, `images` (the way back), `rmse` and the record, as JSON text."""
        target = npz_path(path)
        arrays = {"noise": self.noise.numpy(), "originals": self.images, "rmse": self.rmse}
        write_npz(target, {**arrays, "images": self.back, "record": np.array(json_text(self.record))})
        return target


@takes(InvertOptions)
def invert(
    model: Model | str | Path, images: Any, options: InvertOptions = InvertOptions(), *, n: Count | None = None,
    reading: Mapping[str, Any] | None = None, out: str | Path | None = None, progress: bool = True,
    device: torch.device | str | None = None,
) -> Inversion:  # fmt: skip
    """Finds the noise from which DDIM at eta 0 makes the images, and measures how far the way back is from them.

    >>> from alphabar import invert
    >>> found = invert("bundled", "fashion_mnist:test[:2]", steps=5, iterations=3, progress=False)
    >>> tuple(found.noise.shape), found.record["nfe"] <= 15
    ((2, 1, 28, 28), True)

    Args:
        model: as for `sample`; not a distilled one.
        images: as for `given_images`: SET[:SPLIT], the path of an image or of an .npz, or images in memory.
        options: see `InvertOptions`; its fields may also be passed as keywords.
        n: the first n images of the set; None: all.
        reading: options of `alphabar.load` for the images, as {"size": 28}.
        out: PATH.npz, where the result is also saved.
        progress: whether to show a progress bar.
        device: moves the model there first.

    Raises:
        ValueError: for a distilled model, and for images of another size or range than the model's.
    """
    model = load_model(model) if isinstance(model, str | Path) else model
    check_estimates_x0(model, "inversion")
    if out is not None:
        check_output(npz_path(out), "samples")
    found = given_images(model, images, n, reading)
    way_back = SampleOptions(
        "ddim", options.steps, 0.0, grid=options.grid, clip=False, classes=options.classes, guidance=options.guidance
    )
    resolved = resolve_options(model, way_back)
    device = move_model(model, device, channels_last=True)
    parts: list[tuple[Tensor, Pixels, Tensor]] = []
    up, back = CountCalls(model), CountCalls(model)
    memory = memory_for(f"a batch of {options.batch} images", "give a smaller --batch (batch=)")
    bar = track(len(found), "inverting", unit="images", show=progress)
    with bar as advance, eval_mode(model), torch.inference_mode(), memory:
        for first in range(0, len(found), options.batch):
            rows = range(first, min(first + options.batch, len(found)))
            x0 = to_coordinate(model, found.pixels[rows.start : rows.stop]).to(device)
            denoise = resolved.denoiser(up, rows, device)[0]
            x = ddim_inverse(denoise, x0, resolved.sigmas, iterations=options.iterations, tolerance=options.tolerance)
            y = ddim(resolved.denoiser(back, rows, device)[0], x, resolved.sigmas)
            off = cropped(y - x0, int(getattr(model, "crop", 0))).double().square().flatten(1).mean(1).sqrt()
            parts.append(((x / float(resolved.sigmas[0])).cpu(), to_images(model, y, found.pixels.dtype), off.cpu()))
            advance(len(rows))
    noise, pixels, rmse = zip(*parts, strict=True)
    record = resolved.record() | resolved.further_record() | {
        "n": len(found), "images": found.fingerprint, "model": fingerprint(model), "versions": versions(),
        "iterations": options.iterations, "tolerance": options.tolerance, "nfe": up.images / len(found),
        "nfe_back": back.images / len(found), "pixels": found.pixels.dtype.name,
    }  # fmt: skip
    result = Inversion(torch.cat(noise), np.asarray(found.pixels), np.concatenate(pixels), torch.cat(rmse).numpy(), record)
    if out is not None:
        result.save(out)
    return result
