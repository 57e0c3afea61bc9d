"""The Inception-v3 of FID: the network of the TensorFlow graph of 2015-12-05 (Heusel et al. 2017, arXiv:1706.08500).

The architecture is that of Szegedy et al. 2015 (arXiv:1512.00567, table 1 and figures 5 to 7), with 1008 logits and other
pooling branches. Its weights have the names and shapes of the public file pt_inception-2015-12-05-6726825d.pth.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.core.messages import as_path
from alphabar.core.types import Features, Images
from alphabar.core.weights import fill, read_weights
from alphabar.data.cache import cache_folder
from alphabar.features.classifier import fold_norms
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.features.read_pth import fetch, sha256_of

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = (299, 299)
LAYERS = {
    64: "MaxPool_1",
    192: "MaxPool_2",
    768: "Mixed_6e",
    2048: "Mixed_7c",
}  # number of features -> the layer whose mean they are


# The pooling branches are 3 x 3. The average leaves the padding out; the graph takes a maximum instead in its last block.
AVERAGE, MAXIMUM = nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), nn.MaxPool2d(3, 1, padding=1)
HALVE = nn.MaxPool2d(3, 2)
TALL, WIDE = (7, 1), (1, 7)  # kernels


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, batch norm and ReLU. The padding keeps the size where the stride is 1."""

    name: str
    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True

    @property
    def padding(self) -> tuple[int, int]:
        h, w = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        return (h // 2, w // 2) if self.padded and self.stride == 1 else (0, 0)


Branch = tuple[nn.Module | tuple[Conv, ...], ...]  # steps: a pooling, or convolutions of one input whose outputs are joined


def _chain(name: str, *rows: tuple[Any, ...]) -> Branch:
    """Convolutions in sequence, name_1, name_2 ...; a row: channels, kernel, stride."""
    return tuple((Conv(f"{name}_{k}", *row),) for k, row in enumerate(rows, 1))


def _fork(name: str) -> tuple[Conv, Conv]:
    return Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))


def _block_a(pooled: int) -> tuple[Branch, ...]:  # 35 x 35, figure 5
    return (
        ((Conv("branch1x1", 64),),),
        _chain("branch5x5", (48,), (64, 5)),
        _chain("branch3x3dbl", (64,), (96, 3), (96, 3)),
        (AVERAGE, (Conv("branch_pool", pooled),)),
    )


def _block_c(c: int) -> tuple[Branch, ...]:  # 17 x 17, figure 6 with n = 7
    return (
        ((Conv("branch1x1", 192),),),
        _chain("branch7x7", (c,), (c, WIDE), (192, TALL)),
        _chain("branch7x7dbl", (c,), (c, TALL), (c, WIDE), (c, TALL), (192, WIDE)),
        (AVERAGE, (Conv("branch_pool", 192),)),
    )


def _block_e(pool: nn.Module) -> tuple[Branch, ...]:  # 8 x 8, figure 7
    return (
        ((Conv("branch1x1", 320),),),
        (*_chain("branch3x3", (384,)), _fork("branch3x3_2")),
        (*_chain("branch3x3dbl", (448,), (384, 3)), _fork("branch3x3dbl_3")),
        (pool, (Conv("branch_pool", 192),)),
    )


# 35 x 35 -> 17 x 17, and 17 x 17 -> 8 x 8
BLOCK_B: tuple[Branch, ...] = (
    ((Conv("branch3x3", 384, 3, 2),),), _chain("branch3x3dbl", (64,), (96, 3), (96, 3, 2)), (HALVE,),
)  # fmt: skip
BLOCK_D: tuple[Branch, ...] = (
    _chain("branch3x3", (192,), (320, 3, 2)),
    _chain("branch7x7x3", (192,), (192, WIDE), (192, TALL), (192, 3, 2)),
    (HALVE,),
)
STEM: tuple[Conv | str, ...] = (
    Conv("Conv2d_1a_3x3", 32, 3, 2), Conv("Conv2d_2a_3x3", 32, 3, padded=False), Conv("Conv2d_2b_3x3", 64, 3), "MaxPool_1",
    Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, 3, padded=False), "MaxPool_2",
)  # fmt: skip
BLOCKS = {
    "Mixed_5b": _block_a(32), "Mixed_5c": _block_a(64), "Mixed_5d": _block_a(64), "Mixed_6a": BLOCK_B,
    "Mixed_6b": _block_c(128), "Mixed_6c": _block_c(160), "Mixed_6d": _block_c(160), "Mixed_6e": _block_c(192),
    "Mixed_7a": BLOCK_D, "Mixed_7b": _block_e(AVERAGE), "Mixed_7c": _block_e(MAXIMUM),
}  # fmt: skip


class _ConvNorm(nn.Module):
    """A `Conv` of the tables."""

    def __init__(self, c_in: int, row: Conv) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, row.channels, row.kernel, row.stride, row.padding, bias=False)
        self.bn = nn.BatchNorm2d(row.channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=not torch.is_grad_enabled())


class _Mixed(nn.Module):
    """Parallel branches, whose outputs are concatenated along the channels."""

    def __init__(self, c_in: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.out_channels = 0
        for branch in branches:
            c = c_in
            for step in branch:
                if isinstance(step, tuple):
                    for row in step:
                        self.add_module(row.name, _ConvNorm(c, row))
                    c = sum(row.channels for row in step)
            self.out_channels += c

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._branch(x, branch) for branch in self.branches], 1)

    def _branch(self, x: Tensor, branch: Branch) -> Tensor:
        for step in branch:
            x = torch.cat([self.get_submodule(row.name)(x) for row in step], 1) if isinstance(step, tuple) else step(x)
        return x


class InceptionV3(nn.Module):
    """Images [n, 3, 299, 299] of values (pixel - 128) / 128, pixels of 0 to 255 -> features [n, dim].

    `dim` is 2048 for the features of the last block, or 768, 192 or 64 for those of an earlier one; always means over the
    image. The network has all layers for every `dim`, so that the public weights fit; layers that are not needed do not run.
    """

    def __init__(self, dim: int = 2048) -> None:
        super().__init__()
        if dim not in LAYERS:
            raise ValueError(f"Inception has no layer of {dim} features: use one of {', '.join(map(str, LAYERS))}")
        self.dim = dim
        c = 3
        for row in STEM:
            if isinstance(row, Conv):
                self.add_module(row.name, _ConvNorm(c, row))
                c = row.channels
        for name, branches in BLOCKS.items():
            block = _Mixed(c, branches)
            self.add_module(name, block)
            c = block.out_channels
        self.fc = nn.Linear(c, 1008)

    def layers(self, x: Images, last: str = "Mixed_7c") -> dict[str, Tensor]:
        """The outputs [n, c, h, w], by the layer's name, of every layer up to `last`."""
        out: dict[str, Tensor] = {}
        for step in (*STEM, *BLOCKS):
            name = step.name if isinstance(step, Conv) else step
            x = F.max_pool2d(x, 3, 2) if name.startswith("MaxPool") else self.get_submodule(name)(x)
            out[name] = x
            if name == last:
                return out
        raise ValueError(f"Inception has no layer {last!r}: its layers are {', '.join(out)}")

    def forward(self, x: Images) -> Features:
        last = LAYERS[self.dim]
        return self.layers(x, last)[last].mean((2, 3))

    def load(self, weights: Mapping[str, Tensor], origin: str = "the weights") -> None:
        """Load the weights of the public file. Raises ValueError for a name that is missing or unknown, or does not fit."""
        counters = "num_batches_tracked"  # of batch norms: some files lack them, and no feature depends on them
        copies = {k: torch.zeros_like(v, device="cpu") for k, v in self.state_dict().items() if k.endswith(counters)}
        copies |= {k: v.clone() for k, v in weights.items() if not k.endswith(counters)}
        fill(self, copies, f"{origin}: not those of the Inception of FID (download {URL})")


class InceptionExtractor(ModuleExtractor):
    """The Inception of FID with the resize "original" (TensorFlow 1) or "clean" (clean-fid), for grey or RGB images.

    `weights` has the names and shapes of the public file, and error messages call it `origin`; `dim` is as for `InceptionV3`.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], resize: str, *, dim: int = 2048,
        device: torch.device | str | None = None, batch: int = 32, origin: str = "the weights",
    ) -> None:  # fmt: skip
        with torch.device("meta"):
            network = InceptionV3(dim)
        network.load(weights, origin)
        plain = {k: v.clone() for k, v in network.state_dict().items()}
        fold_norms(network)
        super().__init__(
            network, f"inception:{resize}" if dim == 2048 else f"inception:{resize}:{dim}", dim,
            preprocessing={"network": "Inception-v3, TensorFlow 2015-12-05", "layer": f"mean of {LAYERS[dim]}"},
            resize=resize, size=SIZE, mean=128 / 255, std=128 / 255, device=device, batch=batch, weights=plain,
        )  # fmt: skip


NAME = re.compile(r"inception:(?P<resize>original|clean)(:(?P<dim>64|192|768|2048))?(@(?P<path>.+))?")


def load_inception(name: str, *, show: bool = True) -> InceptionExtractor:
    """Load the Inception of FID by name: inception:original or inception:clean, then optionally :DIM and @PATH.

    DIM is 768, 192 or 64 features instead of 2048. PATH is a file of weights; without it the weights are those of the path in
    ALPHABAR_INCEPTION, or of the cache, into which they are downloaded (96 MB; `show`: with a progress bar). A file in the
    cache must be the public one; a given file may contain other weights, which then have another fingerprint. Raises
    ValueError for an unknown name or weights that do not fit, and FileNotFoundError where there are no weights.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"extractor {name!r} is unknown: use inception:original or inception:clean (two resizes, whose scores cannot "
            "be compared), with :DIM after it for 64, 192 or 768 features, and @PATH for a file of weights"
        )
    path = weights_path(match["path"], show=show)
    return InceptionExtractor(read_weights(path), match["resize"], dim=int(match["dim"] or 2048), origin=str(path))


def weights_path(given: str | None = None, *, show: bool = True) -> Path:
    """The file of weights: the given path, or that of ALPHABAR_INCEPTION, or the cache, into which they are downloaded."""
    if chosen := given or os.environ.get("ALPHABAR_INCEPTION"):
        path = as_path(chosen)
        if not path.is_file():
            whose = "the name of the extractor" if given else "the variable ALPHABAR_INCEPTION"
            raise FileNotFoundError(f"no weights at {path}, which {whose} gives: download them, curl -L -o {path} {URL}")
        return path
    path = cache_folder() / "weights" / URL.rpartition("/")[2]
    if path.is_file() and sha256_of(path) == SHA256:
        return path
    try:
        return fetch(URL, path, SHA256, show=show)
    except OSError as error:
        raise FileNotFoundError(f"{error}, or anywhere, and set ALPHABAR_INCEPTION to its path") from error
