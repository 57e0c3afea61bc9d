"""Pixels (N x H x W x C) <-> the model's range ([-1, 1], N x C x H x W). They are converted nowhere else.

The type of pixels decides their scale: uint8 is 0..255, uint16 0..65535, float32 0..1.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from alphabar.core.types import Images, Pixels
from alphabar.data.values import MAX_CHANNELS, SCALE, Axes, Survey, check_range, scale_of, stored_dtype, to_stored

_TENSORS = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}


def to_model(pixels: Pixels | Tensor, device: torch.device | str | None = None) -> Images:
    """Pixels -> the model's range, float32 (n, c, h, w) in [-1, 1]: x = 2 p / scale - 1, with scale 255, 65535 or 1.

    Raises ValueError for another type or number of axes, and for float32 beyond [0, 1].

    Args:
        pixels: uint8, uint16 or float32 in [0, 1], of shape (n, h, w, c).
        device: where the result lives; None keeps a tensor on its device and puts an array on the CPU.

    >>> to_model(np.array([[[[0], [255]]]], np.uint8)).tolist()
    [[[[-1.0, 1.0]]]]
    """
    if isinstance(pixels, np.ndarray):
        if pixels.dtype.name not in SCALE or not pixels.dtype.isnative:
            raise ValueError(f"pixels of type {pixels.dtype}: wanted {', '.join(SCALE)}; check_images(images) makes them")
        # torch warns about read-only memory, which a memory-mapped set is
        own = pixels if pixels.flags.writeable and pixels.flags.c_contiguous else np.array(pixels, order="C")
        tensor = torch.from_numpy(own.view(np.ndarray))
    else:
        tensor = pixels
    if tensor.dtype not in _TENSORS or tensor.ndim != 4:
        raise ValueError(
            f"pixels of type {tensor.dtype} and shape {tuple(tensor.shape)}: wanted uint8, uint16 or float32 of shape "
            "(n, h, w, c); check_images(images) makes them"
        )
    scale = _TENSORS[tensor.dtype]
    if scale == 1 and tensor.numel() and not bool(((tensor >= 0) & (tensor <= 1)).all()):
        raise ValueError(  # floats in [-1, 1], for example, would silently become [-3, 1]
            f"float pixels from {float(tensor.min()):.6g} to {float(tensor.max()):.6g}: wanted [0, 1]; "
            "check_images(images, value_range=(low, high)) makes them"
        )
    if scale == 65535:  # through int16, since few operations support uint16
        tensor = tensor.view(torch.int16).to(device).to(torch.int32).bitwise_and(0xFFFF)
    # transferred as stored: bytes cost a quarter of floats
    moved = tensor.to(device).permute(0, 3, 1, 2)
    return moved.to(torch.float32, memory_format=torch.contiguous_format) / (scale / 2) - 1


def to_pixels(x: Images, dtype: DTypeLike = np.uint8) -> Pixels:
    """The model's range -> pixels (n, h, w, c) on the CPU, the inverse of `to_model` (for float32 to 6e-8).

    Values beyond [-1, 1], which every sampler produces, are clamped here and nowhere else. NaN and infinity raise ValueError.

    Args:
        x: floats (n, c, h, w), nominally in [-1, 1].
        dtype: uint8 or uint16, rounded to the nearest level, or float32, (x + 1) / 2.
    """
    scale = scale_of(dtype)
    if not x.is_floating_point() or x.ndim != 4:
        raise ValueError(f"{x.dtype} of shape {tuple(x.shape)}: wanted floats of shape (n, c, h, w) in [-1, 1]")
    x = x.detach()
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise ValueError(f"NaN or infinity in {bad} of {len(x)} images: the denoiser or its training has diverged")
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()  # bfloat16 has too few bits for 256 levels
    levels = (x.clamp(-1, 1) + 1) * (scale / 2)
    if scale > 1:
        levels = levels.round().to(torch.uint8 if scale == 255 else torch.int32)
    return np.asarray(levels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), dtype)


def check_images(images: Any, *, value_range: Sequence[float] | None = None, axes: Axes | None = None) -> Pixels:
    """A user's images as pixels, uint8, uint16 or float32 (n, h, w, c). Nothing is clipped or guessed: ValueError otherwise.

    Args:
        images: an array or a tensor of shape (n, h, w, c) with c up to 64, (n, h, w) for grey, or (n, c, h, w) if only axis 1
            can be the channels. uint8 and uint16 are kept; floats in [0, 1] become float32, or uint8 if all are k / 255.
        value_range: (low, high), the values at the bottom and the top of the scale, for other ranges and types.
        axes: "nhwc" or "nchw" if the shape does not show which axis holds the channels.

    >>> check_images(np.linspace(0, 1, 8).reshape(2, 2, 2)).shape
    (2, 2, 2, 1)
    """
    tensor = isinstance(images, Tensor)
    array = images.detach().cpu() if tensor else images
    if tensor and array.dtype == torch.bfloat16:
        array = array.float()  # NumPy has no bfloat16
    if not tensor and not isinstance(array, np.ndarray):
        raise ValueError(f"images came as {type(images).__name__}: pass a NumPy array or a torch tensor, np.stack(images)")
    array = np.asarray(array)
    kind = layout(array.shape, tensor, axes)
    array = channels_last(array, kind)
    if 0 in array.shape:
        raise ValueError(f"no images: the shape is {array.shape}")
    survey = Survey(check_range(value_range))
    if value_range is not None or array.dtype.name not in ("uint8", "uint16"):
        survey.see(array)
        if (fault := survey.fault()) is not None:
            raise ValueError(fault)
    return as_pixels(array, survey)


def as_pixels(values: NDArray[Any], survey: Survey) -> NDArray[Any]:
    """Values in which `survey` found no fault, as pixels; floats that 8 bits hold exactly become uint8."""
    if stored_for(values.dtype, survey) == np.uint8 and values.dtype.kind == "f":
        return np.ascontiguousarray(np.rint(values.astype(np.float64) * 255), dtype=np.uint8)
    return to_stored(values, survey.value_range)


def stored_for(dtype: DTypeLike, survey: Survey) -> np.dtype[Any]:
    """`stored_dtype`, but uint8 for floats without a declared range that are all k / 255."""
    if np.dtype(dtype).kind == "f" and survey.value_range is None and survey.eight_bit:
        return np.dtype(np.uint8)
    return stored_dtype(dtype, survey.value_range)


def channels_last(a: NDArray[Any], kind: Literal["nhwc", "nchw", "nhw"]) -> NDArray[Any]:
    """A view of shape (n, h, w, c)."""
    if kind == "nhw":
        return a[..., None]
    return np.moveaxis(a, 1, 3) if kind == "nchw" else a


def layout(shape: tuple[int, ...], tensor: bool = False, axes: Axes | None = None) -> Literal["nhwc", "nchw", "nhw"]:
    """Which axis holds what, or a ValueError if the shape does not show it. The channels are an axis of 1 or 3 entries, or of up
    to 64 and fewer than both axes of the image."""
    if len(shape) == 3:
        # (3, h, w) as a tensor may be one RGB image, (h, w, 3) certainly looks like one
        if shape[2] in (3, 4) or (tensor and shape[0] in (3, 4)):
            raise ValueError(
                f"shape {shape} may be one image in colour or many grey ones: pass images[None] for one image, "
                "images[..., None] for N x H x W grey images"
            )
        return "nhw"
    if len(shape) != 4:
        raise ValueError(f"shape {shape}: wanted (n, h, w, c), or (n, h, w) for grey images")
    if axes is not None:
        c = shape[3] if axes == "nhwc" else shape[1]
        if c > MAX_CHANNELS:
            raise ValueError(f"shape {shape} as {axes} has {c} channels: wanted 1 to {MAX_CHANNELS}")
        return axes
    last, first = shape[3] in (1, 3), shape[1] in (1, 3)
    if last and first and tensor and shape[1:] != (1, 1, 1):
        raise ValueError(
            f"shape {shape}: axis 1 and axis 3 may both be the channels; pass a NumPy array, which is always "
            "(n, h, w, c): images.permute(0, 2, 3, 1).numpy() for channels in axis 1"
        )
    if not last and not first:
        last = shape[3] <= MAX_CHANNELS and shape[3] < min(shape[1:3])
        first = shape[1] <= MAX_CHANNELS and shape[1] < min(shape[2:])
    if last or first:
        return "nhwc" if last else "nchw"
    raise ValueError(
        f"shape {shape}: it is unclear which axis holds the channels (1 to {MAX_CHANNELS} of them). Pass axes='nhwc' "
        "(channels last) or axes='nchw', on the command line --axes nhwc"
    )
