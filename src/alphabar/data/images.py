"""Pixels (uint8, N x H x W x C) and the model's range ([-1, 1], N x C x H x W): one becomes the other here only."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphabar.types import Images, Pixels

CHANNELS = (1, 3)  # grey and RGB


def to_model(pixels: Pixels | Tensor, device: torch.device | str | None = None) -> Images:
    """uint8 N x H x W x C, 0..255 -> float32 N x C x H x W in [-1, 1]: x = p / 127.5 - 1.

    device: where the result lives; None leaves a tensor where it is and puts an array on the CPU.
    Raises ValueError for another type or number of axes.
    """
    if isinstance(pixels, np.ndarray):
        if pixels.dtype != np.uint8:
            raise ValueError(f"pixels of type {pixels.dtype}: wanted uint8; check_images(images) makes them of floats")
        # torch warns about memory that it may not write to, which is what a memory-mapped set is
        own = pixels if pixels.flags.writeable and pixels.flags.c_contiguous else np.array(pixels, order="C")
        tensor = torch.from_numpy(own.view(np.ndarray))
    else:
        tensor = pixels
    if tensor.dtype != torch.uint8 or tensor.ndim != 4:
        raise ValueError(
            f"pixels of type {tensor.dtype} and shape {tuple(tensor.shape)}: wanted uint8 of shape (n, h, w, c); "
            "check_images(images) makes them of floats"
        )
    # moved as bytes, a quarter of what floats would cost
    return tensor.to(device).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1


def to_pixels(x: Images) -> Pixels:
    """Float N x C x H x W in the model's range -> uint8 N x H x W x C on the CPU: rounded to the nearest level.

    The inverse of `to_model`. Values beyond [-1, 1], which every sampler makes, are clamped here and nowhere else.
    Raises ValueError for NaN or infinity, and for integers.
    """
    if not x.is_floating_point() or x.ndim != 4:
        raise ValueError(f"{x.dtype} of shape {tuple(x.shape)}: wanted floats of shape (n, c, h, w) in [-1, 1]")
    x = x.detach()
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise ValueError(f"NaN or infinity in {bad} of {len(x)} images: the denoiser or its training has diverged")
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()  # bfloat16 has too few bits for 256 levels
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    out: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return out


def check_images(images: Any) -> Pixels:
    """A user's images as uint8 N x H x W x C, or a ValueError that says what came and what to type.

    Takes arrays and tensors: uint8 0..255, or floats in [0, 1], which are rounded to 8 bit. Shapes: (n, h, w, c),
    (n, h, w) for grey, and (n, c, h, w) where only axis 1 can be the channels. Channels: 1 or 3.
    """
    tensor = isinstance(images, Tensor)
    array = images.detach().cpu() if tensor else images
    if tensor and array.dtype == torch.bfloat16:
        array = array.float()  # NumPy has no bfloat16
    if not tensor and not isinstance(array, np.ndarray):
        raise ValueError(f"images came as {type(images).__name__}: pass a NumPy array or a torch tensor, np.stack(images)")
    array = _channels_last(np.asarray(array), tensor)
    if array.shape[0] == 0 or 0 in array.shape:
        raise ValueError(f"no images: the shape is {array.shape}")
    return _to_8_bit(array)


def _channels_last(a: NDArray[Any], tensor: bool) -> NDArray[Any]:
    shape = a.shape
    if a.ndim == 3:
        # (3, h, w) as a tensor may be one RGB image, (h, w, 3) surely looks like one
        if shape[2] in (3, 4) or (tensor and shape[0] in (3, 4)):
            raise ValueError(
                f"shape {shape} may be one image in colour or many grey ones: pass images[None] for one image, "
                "images[..., None] for N x H x W grey images"
            )
        return a[..., None]
    if a.ndim != 4:
        raise ValueError(f"shape {shape}: wanted (n, h, w, c), or (n, h, w) for grey images")
    last, first = shape[3] in CHANNELS, shape[1] in CHANNELS
    if last and first and tensor and shape[1:] != (1, 1, 1):
        raise ValueError(
            f"shape {shape}: axis 1 and axis 3 may both be the channels; pass a NumPy array, which is always "
            "(n, h, w, c): images.permute(0, 2, 3, 1).numpy() for channels in axis 1"
        )
    if last:
        return a
    if first:
        return np.moveaxis(a, 1, 3)
    if 4 in (shape[1], shape[3]) or 2 in (shape[1], shape[3]):
        raise ValueError(f"shape {shape}: an alpha channel? Images have 1 or 3 channels: pass images[..., :3] if it is opaque")
    raise ValueError(f"shape {shape}: wanted 1 or 3 channels in the last axis, (n, h, w, c)")


def _to_8_bit(a: NDArray[Any]) -> Pixels:
    if a.dtype == np.uint8:
        return np.ascontiguousarray(a)
    low, high = a.min(), a.max()
    seen = f"{a.dtype} images from {low:.4g} to {high:.4g}" if a.dtype != np.bool_ else "bool images"
    wanted = "wanted uint8 in 0..255 or floats in [0, 1]"
    if a.dtype == np.bool_:
        raise ValueError(f"{seen}: {wanted}; pass images.astype(np.uint8) * 255")
    if not np.issubdtype(a.dtype, np.floating):
        if np.issubdtype(a.dtype, np.integer) and low >= 0 and high <= 255:
            raise ValueError(f"{seen}: {wanted}; pass images.astype(np.uint8)")
        if np.issubdtype(a.dtype, np.integer) and low >= 0:
            raise ValueError(f"{seen}: {wanted}; 8 bit cannot hold them: scale them yourself, images / {_full_scale(high)}")
        raise ValueError(f"{seen}: {wanted}")
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{a.dtype} images with NaN or infinity: {wanted}")
    if low < 0 or high > 1:
        if low >= -1 and high <= 1:
            how = "if they are in [-1, 1], pass (images + 1) / 2"
        elif low >= -1.5 and high <= 1.5:
            how = "if they overshoot, pass ((images + 1) / 2).clip(0, 1) for [-1, 1], images.clip(0, 1) for [0, 1]"
        elif low >= 0 and high <= 255:
            how = "if they are in [0, 255], pass images.round().astype(np.uint8)"
        else:
            how = "scale them to [0, 1] first"
        raise ValueError(f"{seen}: {wanted}; {how}")
    wide = a.astype(np.float32) if a.dtype == np.float16 else a
    out: NDArray[np.uint8] = np.ascontiguousarray(np.rint(wide * 255).astype(np.uint8))
    return out


def _full_scale(high: Any) -> int:
    return next((2**bits - 1 for bits in (12, 16, 32) if high < 2**bits), int(high))
