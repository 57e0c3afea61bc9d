"""The Inception-v3 of FID: the network of the TensorFlow graph of 2015-12-05 (Heusel et al. 2017, arXiv:1706.08500).

The architecture is that of Szegedy et al. 2015 (arXiv:1512.00567, table 1 and figures 5 to 7), with the graph's own
traits: 1008 logits, averages that leave the padding out, and a maximum in the pooling branch of the last block. The
names and shapes of the weights are those of the public file pt_inception-2015-12-05-6726825d.pth, which loads unchanged.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.core.types import Features, Images
from alphabar.data.cache import cache_folder
from alphabar.features.classifier import fold_norm
from alphabar.features.module_extractor import ModuleExtractor
from alphabar.features.read_pth import fetch, read_weights, sha256_of

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIZE = (299, 299)
LAYERS = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "Mixed_7c"}  # features -> what is averaged


@dataclass(frozen=True)
class Conv:
    """A row of the tables: convolution without bias, batch norm, ReLU. Padding keeps the size where the stride is 1."""

    name: str
    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True

    @property
    def padding(self) -> tuple[int, int]:
        h, w = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        return (h // 2, w // 2) if self.padded and self.stride == 1 else (0, 0)


@dataclass(frozen=True)
class Pool:
    """3 x 3. "average" leaves the padding out of the mean."""

    kind: str
    stride: int = 1


@dataclass(frozen=True)
class Fork:
    """Convolutions side by side on one input, their outputs one after the other."""

    arms: tuple[Conv, ...]


Branch = tuple[Conv | Pool | Fork, ...]


def _block_a(pooled: int) -> tuple[Branch, ...]:  # 35 x 35, figure 5
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)),
        (Pool("average"), Conv("branch_pool", pooled)),
    )


def _block_b() -> tuple[Branch, ...]:  # 35 x 35 -> 17 x 17
    return (
        (Conv("branch3x3", 384, 3, 2),),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3, 2)),
        (Pool("maximum", 2),),
    )


def _block_c(c: int) -> tuple[Branch, ...]:  # 17 x 17, figure 6 with n = 7
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", c), Conv("branch7x7_2", c, (1, 7)), Conv("branch7x7_3", 192, (7, 1))),
        (
            *(Conv("branch7x7dbl_1", c), Conv("branch7x7dbl_2", c, (7, 1)), Conv("branch7x7dbl_3", c, (1, 7))),
            *(Conv("branch7x7dbl_4", c, (7, 1)), Conv("branch7x7dbl_5", 192, (1, 7))),
        ),
        (Pool("average"), Conv("branch_pool", 192)),
    )


def _block_d() -> tuple[Branch, ...]:  # 17 x 17 -> 8 x 8
    return (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 2)),
        (
            *(Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, (1, 7)), Conv("branch7x7x3_3", 192, (7, 1))),
            Conv("branch7x7x3_4", 192, 3, 2),
        ),
        (Pool("maximum", 2),),
    )


def _block_e(pool: str) -> tuple[Branch, ...]:  # 8 x 8, figure 7
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), Fork((Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))))),
        (
            *(Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, 3)),
            Fork((Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1)))),
        ),
        (Pool(pool), Conv("branch_pool", 192)),
    )


STEM: tuple[Conv | str, ...] = (
    Conv("Conv2d_1a_3x3", 32, 3, 2),
    Conv("Conv2d_2a_3x3", 32, 3, padded=False),
    Conv("Conv2d_2b_3x3", 64, 3),
    "MaxPool_1",
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, 3, padded=False),
    "MaxPool_2",
)
BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _block_b(),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _block_d(),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("maximum"),
}


class _ConvNorm(nn.Module):
    """A `Conv` of the tables. `fold` makes the batch norm part of the convolution."""

    def __init__(self, c_in: int, row: Conv) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, row.channels, row.kernel, row.stride, row.padding, bias=False)
        self.bn: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(row.channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=not torch.is_grad_enabled())

    def fold(self) -> None:
        if isinstance(self.bn, nn.BatchNorm2d):
            fold_norm(self.conv, self.bn)
            self.bn = nn.Identity()


class _Mixed(nn.Module):
    """Branches side by side, their outputs one after the other along the channels."""

    def __init__(self, c_in: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.out_channels = 0
        for branch in branches:
            c = c_in
            for step in branch:
                for row in _rows(step):
                    self.add_module(row.name, _ConvNorm(c, row))
                c = sum(row.channels for row in _rows(step)) or c
            self.out_channels += c

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._branch(x, branch) for branch in self.branches], 1)

    def _branch(self, x: Tensor, branch: Branch) -> Tensor:
        for step in branch:
            if not isinstance(step, Pool):
                x = torch.cat([self.get_submodule(row.name)(x) for row in _rows(step)], 1)
            elif step.kind == "average":
                x = F.avg_pool2d(x, 3, step.stride, padding=1, count_include_pad=False)
            else:
                x = F.max_pool2d(x, 3, step.stride, padding=1 if step.stride == 1 else 0)
        return x


def _rows(step: Conv | Pool | Fork) -> tuple[Conv, ...]:
    if isinstance(step, Fork):
        return step.arms
    return (step,) if isinstance(step, Conv) else ()


class InceptionV3(nn.Module):
    """Images NCHW, 299 x 299, (pixel - 128) / 128 of 0..255 -> features (`forward`) and logits.

    dim: which features: 2048 of the last block, or 768, 192, 64 of earlier ones; always the mean over the image.
    The network is whole whatever `dim`, so that the public weights fit; what is not needed is not computed.
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
        """Layer's name -> its output NCHW, for every layer of the table up to `last`."""
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

    def fold(self) -> None:
        """Make every batch norm part of its convolution: the same network in fewer passes over memory."""
        for module in self.modules():
            if isinstance(module, _ConvNorm):
                module.fold()

    def load(self, weights: Mapping[str, Tensor], origin: str = "the weights") -> None:
        """Take the weights of the public file. Raises ValueError, naming what is missing, is too much, or does not fit."""
        mine = {k: v.shape for k, v in self.state_dict().items() if not k.endswith("num_batches_tracked")}
        given = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
        missing, extra = sorted(set(mine) - set(given)), sorted(set(given) - set(mine))
        unfit = sorted(k for k in set(mine) & set(given) if given[k].shape != mine[k] or not given[k].is_floating_point())
        for names, what in ((missing, "lack"), (extra, "have unknown"), (unfit, "have, in another shape or type,")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise ValueError(f"{origin} {what} {names[0]}{more}: they are not those of the Inception of FID; fetch {URL}")
        self.load_state_dict({k: v.float() for k, v in given.items()}, strict=False)


class InceptionExtractor(ModuleExtractor):
    """The Inception of FID with one of its two resizes: "original" (TensorFlow 1) or "clean" (clean-fid).

    weights: a state dict of the public file's layout. dim: 2048, 768, 192 or 64 features. device, batch: as for
    `ModuleExtractor`. Grey images are repeated to 3 channels.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        resize: str,
        *,
        dim: int = 2048,
        device: torch.device | str | None = None,
        batch: int = 32,
        origin: str = "the weights",
    ) -> None:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced in the next line
            network = InceptionV3(dim)
        network.load(weights, origin)
        plain = {k: v.clone() for k, v in network.state_dict().items()}
        network.fold()
        super().__init__(
            network,
            f"inception:{resize}" if dim == 2048 else f"inception:{resize}:{dim}",
            dim,
            preprocessing={"network": "Inception-v3, TensorFlow 2015-12-05", "layer": f"mean of {LAYERS[dim]}"},
            resize=resize,
            size=SIZE,
            mean=128 / 255,
            std=128 / 255,
            device=device,
            batch=batch,
            weights=plain,
        )


NAME = re.compile(r"inception:(?P<resize>original|clean)(:(?P<dim>64|192|768|2048))?(@(?P<path>.+))?")


def load_inception(name: str, *, show: bool = True) -> InceptionExtractor:
    """The extractor of a name: inception:original or inception:clean, with :DIM (64, 192, 768) and @PATH where wanted.

    The weights are read from PATH, else from the variable ALPHABAR_INCEPTION, else from the cache, else they are fetched
    (96 MB) into the cache. A file in the cache must be the public one; a file that is given may hold any weights of its
    layout, which the fingerprint tells apart. show: a progress bar while fetching.

    Raises ValueError for a name or a file that is not one of these, FileNotFoundError where there is no file and no network.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"extractor {name!r} is unknown: use inception:original or inception:clean (two resizes, whose scores do not "
            "compare), with :DIM after it for 64, 192 or 768 features, and @PATH for a file of weights"
        )
    path = weights_path(match["path"], show=show)
    return InceptionExtractor(read_weights(path), match["resize"], dim=int(match["dim"] or 2048), origin=str(path))


def weights_path(given: str | None = None, *, show: bool = True) -> Path:
    """Where the weights are: the given path, or ALPHABAR_INCEPTION's, or the cache, into which they are fetched."""
    if chosen := given or os.environ.get("ALPHABAR_INCEPTION"):
        path = Path(chosen).expanduser()
        if not path.is_file():
            whose = "the name of the extractor" if given else "the variable ALPHABAR_INCEPTION"
            raise FileNotFoundError(f"no weights at {path}, which {whose} says: fetch them, curl -L -o {path} {URL}")
        return path
    path = cache_folder() / "weights" / URL.rpartition("/")[2]
    if path.is_file() and sha256_of(path) == SHA256:
        return path
    try:
        return fetch(URL, path, SHA256, show=show)
    except OSError as error:
        raise FileNotFoundError(f"{error}, or anywhere, and set ALPHABAR_INCEPTION to its path") from error
