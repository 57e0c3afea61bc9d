"""Any PyTorch network as a feature extractor. Its fingerprint covers the weights and the preprocessing of the pixels."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from alphabar.core.machine import device_of
from alphabar.core.types import Features, Pixels
from alphabar.data.images import to_model
from alphabar.features.extractor import fingerprint
from alphabar.features.resize import RESIZES, resize

_FLOATS = 2**24  # values of resized images that are in memory at once, about 64 MiB


class ModuleExtractor:
    """A frozen network that turns images [n, c, h, w] into features [n, dim], with its preprocessing.

    Args:
        module: the network; it is copied, and runs in eval mode.
        name: name of the extractor; not part of the fingerprint.
        dim: number of features per image.
        preprocessing: plain JSON of everything else on which the features depend, such as the layer that gives them.
        resize: "original" or "clean" (see `alphabar.features.resize`), with `size`; None leaves the size unchanged.
        size: (height, width) after the resize.
        channels: of the network's input; grey images are repeated to 3 channels.
        mean: of each channel or of all, for pixels from 0 to 1; the network's input is (pixel - mean) / std.
        std: likewise.
        device: None means the GPU where there is one.
        batch: images at once; it changes only the speed.
        weights: the weights that the fingerprint covers; None means the module's state dict.

    Raises:
        ValueError: for an unknown resize, or one without a size, or means for another number of channels.
    """

    def __init__(
        self, module: nn.Module, name: str, dim: int, *, preprocessing: Mapping[str, Any] | None = None,
        resize: str | None = None, size: tuple[int, int] | None = None, channels: int = 3,
        mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5,
        device: torch.device | str | None = None, batch: int = 32, weights: Mapping[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        if (resize is None) != (size is None) or (resize is not None and resize not in RESIZES):
            raise ValueError(
                f"resize={resize!r} with size={size}: give both, as in resize='clean', size=(224, 224), or neither; "
                f"the resizes are {', '.join(RESIZES)}"
            )
        self.name, self.dim, self.batch = name, dim, batch
        self.resize, self.size, self.channels = resize, size, channels
        self.mean, self.std = _per_channel("mean", mean, channels), _per_channel("std", std, channels)
        self.preprocessing: dict[str, Any] = {
            "input": "NHWC; uint8, and wider types without rounding to 8 bit",
            "channels": f"{channels}; grey is repeated" if channels == 3 else str(channels),
            "resize": resize and RESIZES[resize], "size": size and list(size), "mean": self.mean, "std": self.std,
            **dict(preprocessing or {}),
        }  # fmt: skip
        self.device = device_of(device)
        self.fingerprint = fingerprint(self.preprocessing, _plain(module.state_dict() if weights is None else weights))
        self.network = copy.deepcopy(module).requires_grad_(False).eval()
        self.network.to(device=self.device)
        for parameter in self.network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def prepared(self, pixels: Pixels) -> Float[Tensor, "b channels height width"]:
        """The network's input for images [n, h, w, c]: float32, resized and normalised. Raises ValueError for other channels."""
        c = pixels.shape[-1] if pixels.ndim == 4 else None
        if c != self.channels and (c, self.channels) != (1, 3):
            wanted = "1 channel (repeated to 3) or 3" if self.channels == 3 else f"{self.channels}"
            raise ValueError(
                f"extractor {self.name!r} was given {pixels.dtype} images of shape {tuple(pixels.shape)}; it wants "
                f"(n, h, w, c) with c = {wanted}. Choose the channels yourself, as in images[..., :3], or train an extractor "
                "on images like yours: alphabar extractor train SET --out PATH"
            )
        x = to_model(np.ascontiguousarray(pixels), self.device)  # [-1, 1]
        if self.resize is not None and self.size is not None:
            x = resize(x, self.size, self.resize)
        # (x + 1) / 2 is the pixel from 0 to 1
        scale = torch.tensor([0.5 / s for s in self.std], device=self.device)[:, None, None]
        shift = torch.tensor([(0.5 - m) / s for m, s in zip(self.mean, self.std, strict=True)], device=self.device)[:, None, None]
        return x * scale + shift  # grey becomes 3 channels here

    def features(self, pixels: Pixels) -> Features:
        """Features [n, dim], float32 on the CPU, of images [n, h, w, c]. Raises ValueError for other channels."""
        out = torch.empty((len(pixels), self.dim), dtype=torch.float32)
        largest = max(int(np.prod(pixels.shape[1:])), 3 * self.size[0] * self.size[1] if self.size else 1)
        step = max(1, min(self.batch, _FLOATS // largest))
        # cuDNN's default, TensorFloat-32, would keep three digits
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for start in range(0, len(pixels), step):
                x = self.prepared(pixels[start : start + step]).contiguous(memory_format=torch.channels_last)
                f = self.network(x)
                if not isinstance(f, Tensor) or f.shape != (len(x), self.dim):
                    came = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
                    raise ValueError(
                        f"the network of extractor {self.name!r} gave {came} for {len(x)} images; wanted a tensor of shape "
                        f"({len(x)}, {self.dim}): wrap it in a module that returns the features alone"
                    )
                out[start : start + step] = f.float().cpu()
        return out


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> list[float]:
    values = [float(value)] * channels if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} numbers for {channels} channels: give one number, or one per channel")
    return values


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights for the fingerprint: NumPy has no bfloat16, and no feature depends on a batch norm's count of batches."""
    out: dict[str, Tensor] = {}
    for name, w in weights.items():
        if w.dtype == torch.bfloat16:
            out[f"{name} in bfloat16"] = w.float()
        elif not name.endswith("num_batches_tracked"):
            out[name] = w
    return out
