"""The networks: a compact U-Net that is fast on a CPU, diffusers' UNet2DModel, and the Unet of denoising-diffusion-pytorch."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alphabar.core.types import Images, Labels, Timesteps

Layer = TypeVar("Layer", bound=nn.Module)


class Embedding(nn.Module):
    """Time -> features: cosines and sines of geometrically spaced frequencies (Ho et al. 2020), then two linear layers.

    t_scale is multiplied with t and brings its range to about 1000.
    """

    def __init__(self, width: int, t_scale: float) -> None:
        super().__init__()
        self.t_scale = t_scale
        half = 64
        # on the CPU even where the module is made on "meta": no file holds them
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device="cpu") / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor
        self.layers = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        angles = (t.to(torch.float32) * self.t_scale)[:, None] * self.frequencies
        return cast(Tensor, self.layers(torch.cat([angles.cos(), angles.sin()], dim=1)))


def _norm(channels: int, group_size: int) -> nn.GroupNorm:
    groups = max(1, channels // group_size)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def _zeroed(layer: Layer) -> Layer:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Block(nn.Module):
    """Residual block: norm, SiLU, conv, norm scaled and shifted by the time, SiLU, dropout, conv (initialised to zero)."""

    def __init__(self, c_in: int, c_out: int, embedding: int, group_size: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(c_in, group_size)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = _zeroed(nn.Linear(embedding, 2 * c_out))
        self.norm2 = _norm(c_out, group_size)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return cast(Tensor, self.skip(x) + self.conv2(self.dropout(F.silu(h))))


class Attention(nn.Module):
    """Self-attention over the pixels of a level (initialised to zero)."""

    def __init__(self, channels: int, group_size: int, head: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head)
        while channels % self.heads:
            self.heads -= 1
        self.norm = _norm(channels, group_size)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(-1, -2)
        y = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return x + cast(Tensor, self.out(y.transpose(-1, -2).reshape(b, c, h, w)))


class UNet(nn.Module):
    """alphabar's denoising network: (y, t) -> output of y's shape.

    A pixel-unshuffle (Shi et al. 2016, arXiv:1609.05158) gives its 3x3 convolutions enough channels to reach the peak speed of a
    CPU. Images of any size: zeros below and to the right make height and width divisible by patch * 2^(levels - 1), and the
    output is cut to the size of the input.

    Args:
        in_channels, patch, channels, blocks, attention, embedding, group_size, dropout: as in `ModelRecipe`. Attention is after
            the last block of a level, down and up; the way up has one more block per level.
        t_scale: see `Embedding`.
        classes: number of classes; label `classes` stands for no class. 0: unconditional.
        augment: length of the augmentation vector (b, augment), which is 0 for an image without augmentation. 0: none.
    """

    def __init__(
        self, in_channels: int = 1, patch: int = 2, channels: Sequence[int] = (64, 128), blocks: int = 2,
        attention: Sequence[int] = (1,), embedding: int = 128, group_size: int = 16, dropout: float = 0.0,
        t_scale: float = 1000.0, classes: int = 0, augment: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if bad := [k for k in attention if not 0 <= k < len(channels)]:
            raise ValueError(f"attention at level {bad[0]}: levels run from 0 to {len(channels) - 1} (one a number in channels)")
        self.recompute = False  # compute the activations of a block again in the backward pass, to save memory
        self.multiple = patch * 2 ** (len(channels) - 1)
        self.patch = patch
        self.embed = Embedding(embedding, t_scale)
        self.classes = nn.Embedding(classes + 1, embedding) if classes else None
        self.augment = _zeroed(nn.Linear(augment, embedding, bias=False)) if augment else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.3)  # about that of the time features
        pixels = in_channels * patch**2
        self.enter = nn.Conv2d(pixels, channels[0], 3, padding=1)
        block = partial(Block, embedding=embedding, group_size=group_size, dropout=dropout)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c = channels[0]
        skips = [c]
        for level, width in enumerate(channels):
            if level > 0:
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)
            for k in range(blocks):
                self.down.append(block(c, width))
                c = width
                if level in attention and k == blocks - 1:
                    self.down.append(Attention(c, group_size))
                skips.append(c)
        self.middle = block(c, c)
        for level, width in reversed(list(enumerate(channels))):
            for k in range(blocks + 1):
                self.up.append(block(c + skips.pop(), width))
                c = width
                if level in attention and k == blocks:
                    self.up.append(Attention(c, group_size))
            if level > 0:
                self.up.append(nn.Upsample(scale_factor=2.0, mode="nearest"))
        self.norm = _norm(c, group_size)
        self.leave = _zeroed(nn.Conv2d(c, pixels, 3, padding=1))

    def forward(self, y: Images, t: Timesteps, labels: Labels | None = None, augment: Tensor | None = None) -> Images:
        h, w = y.shape[-2:]
        emb = self.embed(t)
        if self.classes is not None and labels is not None:
            emb = emb + self.classes(labels)
        if self.augment is not None and augment is not None:
            emb = emb + self.augment(augment)
        below, right = -h % self.multiple, -w % self.multiple
        if below or right:
            y = F.pad(y, (0, right, 0, below))
        x = self.enter(F.pixel_unshuffle(y, self.patch))
        skips = [x]
        for layer in self.down:
            x = self._block(layer, x, emb) if isinstance(layer, Block) else layer(x)
            if isinstance(layer, Attention):
                skips.pop()
            skips.append(x)
        x = self._block(self.middle, x, emb)
        for layer in self.up:
            x = self._block(layer, torch.cat([x, skips.pop()], dim=1), emb) if isinstance(layer, Block) else layer(x)
        output = F.pixel_shuffle(self.leave(F.silu(self.norm(x))), self.patch)
        return output[..., :h, :w] if below or right else output

    def _block(self, block: Block, x: Tensor, emb: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, x, emb, use_reentrant=False))
        return cast(Tensor, block(x, emb))


class DiffusersUNet(nn.Module):
    """diffusers' UNet2DModel as a plain network (y, t) -> output."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.unet = unet2d_class()(**config)

    def train(self, mode: bool = True) -> "DiffusersUNet":
        """Sets training mode, but not in the residual blocks themselves (their dropout follows `mode`): there it makes diffusers
        convert the residual from channels-last to contiguous, which the next convolution undoes: two copies per block."""
        from diffusers.models.resnet import ResnetBlock2D

        super().train(mode)
        for block in self.unet.modules():
            if isinstance(block, ResnetBlock2D):
                block.training = False
        return self

    def forward(self, y: Images, t: Timesteps, labels: Labels | None = None) -> Images:
        return cast(Tensor, self.unet(y, t, class_labels=labels).sample)


def unet2d_class() -> Any:
    """diffusers' UNet2DModel. Raises ImportError, with the command to type, if diffusers is not installed."""
    try:
        from diffusers import UNet2DModel
    except ImportError as e:
        raise ImportError("the network 'unet2d' is diffusers' UNet2DModel: pip install 'alphabar[diffusers]'") from e
    return UNet2DModel


class LucidrainsUNet(nn.Module):
    """The Unet of denoising-diffusion-pytorch as a plain network (y, t) -> output. Raises ImportError where it is missing."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        try:
            from denoising_diffusion_pytorch import Unet
        except ImportError as e:
            raise ImportError(f"lucidrains: needs the Unet of its library ({e}): pip install denoising-diffusion-pytorch") from e
        self.unet = Unet(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})

    def forward(self, y: Images, t: Timesteps) -> Images:
        return cast(Tensor, self.unet(y, t))
