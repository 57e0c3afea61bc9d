"""What `sample` needs of a model."""

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor, nn

from alphabar.core.machine import device_of
from alphabar.core.types import Images, Levels, Pixels, Sampled
from alphabar.data.images import to_pixels
from alphabar.schedule.base import Schedule


@runtime_checkable
class Model(Protocol):
    """A denoiser with the schedule (in the one coordinate) and the shape (c, h, w) of the images that it was trained on.

    Optional attributes: `data_range` (default 1.0), `crop` (pixels to cut from each side of the finished images, 0),
    for models of latents `decoded` (x of the end of sampling -> images in [-1, 1]) and `decoded_shape`, `fingerprint`,
    `defaults` (`from_diffusers.Defaults`, the options of a diffusers pipeline), `classes` and `class_names`, and,
    of the training images, `pixels` (their type, in which samples are returned: "uint8") and `value_range` (None).
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __call__(self, x: Images, sigma: Levels, /) -> Images: ...


def image_shape(model: Model) -> tuple[int, int, int]:
    """(c, h, w) of the finished images of a model: decoded, and without its padding."""
    c, h, w = getattr(model, "decoded_shape", model.image_shape)
    crop = 2 * int(getattr(model, "crop", 0))
    return c, h - crop, w - crop


def to_images(model: Model, x: Sampled, pixels: DTypeLike | None = None) -> Pixels:
    """The images, in the type `pixels` (None: the model's), of x or x0_hat: decoded, without padding, clamped to the scale."""
    decode, crop = getattr(model, "decoded", None), int(getattr(model, "crop", 0))
    x = x if decode is None else decode(x)
    return to_pixels(cropped(x, crop), np.dtype(pixels or getattr(model, "pixels", "uint8")))


def check_estimates_x0(model: object, what: str) -> None:
    """Raises ValueError for a distilled model, whose output is no E[x0 | x], on which `what` rests."""
    if getattr(model, "consistency", False):
        raise ValueError(
            f"{what} needs E[x0 | x], and this model was distilled (consistency tuning), so that it gives finished images: name "
            "the run that it was made from"
        )


def check_denoises_pixels(model: object, what: str) -> None:
    """Raises ValueError for a distilled model, and for one of latents, since `what` is of pixels."""
    check_estimates_x0(model, what)
    if getattr(model, "latents", None) is not None:
        raise ValueError(f"{what} is of pixels, and this model makes latents: name a run that was trained on images")


def cropped(x: Tensor, crop: int) -> Tensor:
    """x without `crop` pixels on each of its four sides."""
    return x[..., crop : x.shape[-2] - crop, crop : x.shape[-1] - crop] if crop else x


def fingerprint(model: object) -> str | None:
    """Identifies a model: its own `fingerprint`, else a hash of a module's weights, else None."""
    own = getattr(model, "fingerprint", None)
    if own is not None:
        return str(own() if callable(own) else own)
    if not isinstance(model, nn.Module):
        return None
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def move_model(model: Model, device: torch.device | str | None, channels_last: bool) -> torch.device:
    """Moves a module to a device (None: leaves it) and a memory layout. Returns the device on which images are made."""
    device = None if device is None else device_of(device)
    if isinstance(model, nn.Module):
        if device is not None:
            model.to(device)
        if channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if device is None and (first := next(model.parameters(), None)) is not None:
            return first.device
    return torch.device("cpu" if device is None else device)
