"""The two resizes of FID as matrices: both are linear and separable, so the resized image of x is A x B^T.

The resize alone changes FID by whole points (Parmar, Zhang & Zhu 2022, arXiv:2104.11222), so it has a name, which is part of
an extractor's fingerprint.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from alphabar.core.types import Images

RESIZES = {
    "original": "TensorFlow 1 bilinear: grid x * in / out, no antialiasing",
    "clean": "Pillow bicubic: half-pixel grid, antialiased, in floating point, then cut to the range of pixels",
}


def resize(x: Images, size: tuple[int, int], how: str) -> Float[Tensor, "b c height width"]:
    """Resize images [n, c, h, w] in [-1, 1] to `size`, (height, width).

    how: "original", as the TensorFlow graph of FID does it, or "clean", as clean-fid does it: bicubic, whose overshoot beyond
    black and white is clipped. Raises ValueError for another name.
    """
    if how not in RESIZES:
        raise ValueError(f"resize {how!r} is unknown: use one of {', '.join(RESIZES)}")
    height, width = size
    if x.shape[2:] == size:
        return x  # both are the identity there
    rows = resize_matrix(x.shape[2], height, how).to(x)
    columns = resize_matrix(x.shape[3], width, how).to(x)
    out = torch.einsum("oh,nchw->ncow", rows, torch.einsum("ow,nchw->ncho", columns, x))
    return out.clamp(-1, 1) if how == "clean" else out


@lru_cache(maxsize=32)
def resize_matrix(n_in: int, n_out: int, how: str) -> Float[Tensor, "n_out n_in"]:
    """Weights of n_in pixels in each of n_out pixels, computed in float64; every row sums to 1."""
    weights = _tensorflow(n_in, n_out) if how == "original" else _pillow(n_in, n_out)
    return torch.from_numpy(weights.astype(np.float32))


def _tensorflow(n_in: int, n_out: int) -> np.ndarray:
    """tf.image.resize_bilinear(align_corners=False) of TensorFlow 1: pixel i is read at i * n_in / n_out."""
    # the graph computes the position in float32
    at = np.arange(n_out, dtype=np.float32) * (np.float32(n_in) / np.float32(n_out))
    low = np.minimum(np.floor(at).astype(np.int64), n_in - 1)
    share = (at - low).astype(np.float64)
    weights = np.zeros((n_out, n_in))
    np.add.at(weights, (np.arange(n_out), low), 1 - share)
    np.add.at(weights, (np.arange(n_out), np.minimum(low + 1, n_in - 1)), share)  # pixels beyond the edge repeat it
    return weights


def _pillow(n_in: int, n_out: int) -> np.ndarray:
    """Image.resize(..., Image.BICUBIC): Keys' kernel with a = -1/2, stretched to the new pixels where those are wider."""
    scale = n_in / n_out
    wide = max(scale, 1.0)
    centre = (np.arange(n_out) + 0.5) * scale
    first = np.maximum((centre - 2 * wide + 0.5).astype(np.int64), 0)[:, None]
    last = np.minimum((centre + 2 * wide + 0.5).astype(np.int64), n_in)[:, None]
    pixel = np.arange(n_in)[None]
    weights = _keys((pixel + 0.5 - centre[:, None]) / wide) * ((pixel >= first) & (pixel < last))
    normed: np.ndarray = weights / weights.sum(1, keepdims=True)
    return normed


def _keys(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys 1981, eq. 4 ("Cubic convolution interpolation for digital image processing")."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
