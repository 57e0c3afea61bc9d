"""The tasks by name: the operator of each, the size of its measurements, and what images without noise still have."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from alphabar.core.messages import as_path
from alphabar.core.seeds import MEASURE, generator
from alphabar.core.types import Measured
from alphabar.data.values import scale_of
from alphabar.restoration.operators import LUMA, Blur, BoxAverage, Grey, Mask, Spectral, identity

TASKS = ("inpaint", "super-resolution", "deblur", "denoise", "color")
MASKS = ("box", "half", "random")
_FLOAT_NOISE = 1e-4  # of float32 images, which have no levels


def rounding_noise(dtype: DTypeLike) -> float:
    """The standard deviation, in the model's range, of the error of rounding to the levels of a type: a step / sqrt(12)."""
    scale = scale_of(dtype)
    return _FLOAT_NOISE if scale == 1 else 2 / scale / 12**0.5


def make_mask(
    mask: str | Path, shape: tuple[int, int, int], *, share: float = 0.8, seed: int = 0, indices: Sequence[int] = (0,)
) -> Mask:
    """A mask by name, or from a picture, in which white is what is restored.

    Args:
        mask: "box", the middle half of either side; "half", the right half; "random", for each image its own share of pixels;
            or the path of a picture of the size of the images, where pixels of at least half white are restored.
        shape: (c, h, w) of the images.
        share: of the pixels that "random" takes away.
        seed: of "random".
        indices: of the images, for "random".

    Raises:
        FileNotFoundError: where there is neither such a mask nor such a picture.
        ValueError: for a picture of another size, or one that restores nothing or leaves nothing.
    """
    _, h, w = shape
    if mask == "random":
        kept = [generator(seed, k, stream=MEASURE).random((h, w)) >= share for k in indices]
        return Mask(torch.from_numpy(np.stack(kept)[:, None].astype(np.float32)))
    keep = torch.ones(1, 1, h, w)
    if mask == "box":
        keep[..., h // 4 : h - h // 4, w // 4 : w - w // 4] = 0
    elif mask == "half":
        keep[..., w // 2 :] = 0
    else:
        keep = _read_mask(as_path(mask), h, w)
    return Mask(keep)


def _read_mask(path: Path, h: int, w: int) -> Tensor:
    from alphabar.data.decode import decode, probe

    if not path.is_file():
        raise FileNotFoundError(f"there is no mask {path}: give box, half, random, or a picture in which white is restored")
    data = path.read_bytes()
    picture = decode(data, str(path), probe(data, str(path)).c)
    if picture.shape[:2] != (h, w):
        raise ValueError(
            f"the mask {path} has {picture.shape[0]} x {picture.shape[1]} pixels, and the images of the model have {h} x {w}: "
            "give a mask of that size"
        )
    keep = (picture[..., :3].astype(np.float64).mean(2) < scale_of(picture.dtype) / 2).astype(np.float32)
    if keep.all() or not keep.any():
        what = "is black everywhere, so nothing would be restored" if keep.all() else "is white everywhere: nothing is left"
        raise ValueError(f"the mask {path} {what}; paint white what is to be restored, and leave the rest black")
    return torch.from_numpy(keep)[None, None]


def operator_of(
    task: str, shape: tuple[int, int, int], *, mask: str | Path = "box", share: float = 0.8, factor: int = 4, blur: float = 1.5,
    seed: int = 0, indices: Sequence[int] = (0,),
) -> Spectral:  # fmt: skip
    """The operator of a task on images of `shape` (c, h, w). Raises ValueError where the images do not allow it."""
    c, h, w = shape
    if task == "inpaint":
        return make_mask(mask, shape, share=share, seed=seed, indices=indices)
    if task == "super-resolution":
        if h % factor or w % factor or factor < 2:
            good = [k for k in range(2, min(h, w) + 1) if h % k == 0 and w % k == 0]
            raise ValueError(f"factor {factor} for images of {h} x {w}: give one of {', '.join(map(str, good[:8]))}")
        return BoxAverage(factor)
    if task == "deblur":
        return Blur(blur, (h, w))
    if task == "denoise":
        return identity()
    if task == "color":
        if c < 2:
            raise ValueError("the images of this model are grey: the task color needs a model of images in color")
        return Grey(LUMA if c == 3 else (1 / c,) * c)
    raise ValueError(f"task {task!r}: give one of {', '.join(TASKS)}")


def measurement_shape(task: str, shape: tuple[int, int, int], factor: int = 4) -> tuple[int, int, int]:
    """(c, h, w) of the measurements of images of `shape`."""
    c, h, w = shape
    if task == "super-resolution":
        return c, h // factor, w // factor
    return (1, h, w) if task == "color" else shape


def estimated_noise(y: Measured) -> float:
    """The standard deviation of white noise in images: the median over images of median |d| / 0.6745, where d are the finest
    diagonal coefficients of the Haar wavelet (Donoho & Johnstone 1994, section 4). Too low where pixels were clipped.

    Raises ValueError for images smaller than 4 x 4.
    """
    h, w = (side - side % 2 for side in y.shape[2:])
    if min(h, w) < 4:
        raise ValueError(f"images of {y.shape[2]} x {y.shape[3]} are too small to estimate their noise: give --sigma")
    a, b, c, d = (y[..., i:h:2, j:w:2] for i in (0, 1) for j in (0, 1))
    return float((((a - b - c + d) / 2).abs().flatten(1).median(1).values / 0.6745).median())
