"""`Classifier`: the small residual network of our extractors, and how a batch norm becomes part of its convolution."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from alphabar.core.types import Features, Images


@torch.no_grad()
def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make a batch norm part of the convolution before it, in float64: the same function in one pass less over memory."""
    if norm.running_mean is None or norm.running_var is None:
        raise RuntimeError("this batch norm has no running statistics, so it cannot be folded")
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = 0.0 if conv.bias is None else conv.bias.double()
    conv.bias = nn.Parameter(((bias - norm.running_mean.double()) * scale + norm.bias.double()).to(conv.weight.dtype))
    conv.weight.copy_(conv.weight.double() * scale[:, None, None, None])


def fold_norms(network: nn.Module) -> None:
    """Fold the batch norm, `norm` or `bn`, of every module of a network that has one, into its `conv`."""
    for module in network.modules():
        for name in ("norm", "bn"):
            if isinstance(norm := getattr(module, name, None), nn.BatchNorm2d) and isinstance(module.conv, nn.Conv2d):
                fold_norm(module.conv, norm)
                setattr(module, name, nn.Identity())


class _Conv(nn.Module):
    """Convolution and batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = _Conv(c_in, c_out, 3, stride)
        self.second = _Conv(c_out, c_out, 3)
        self.skip = nn.Identity() if c_in == c_out and stride == 1 else _Conv(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.second(torch.relu(self.first(x))))


class Classifier(nn.Module):
    """Images [n, c, h, w] in [-1, 1] -> features [n, dim] (`embed`) -> logits [n, classes] (`forward`).

    The features are averages over the image of the last layer before the logits.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], dim: int, classes: int) -> None:
        """widths: channels at half, a quarter, an eighth ... of the image size. classes: 0 for training without labels."""
        super().__init__()
        first, last = widths[0], widths[-1]
        layers: list[nn.Module] = [_Conv(in_channels, first, 5, 2), nn.ReLU(), _Block(first, first, 1)]
        for before, after in pairwise(widths):
            layers += [_Block(before, after, 2), _Block(after, after, 1)]
        self.trunk = nn.Sequential(*layers, _Conv(last, dim, 1), nn.ReLU())
        self.classes = classes
        self.head = nn.Linear(dim, classes) if classes else nn.Identity()

    def embed(self, x: Images) -> Features:
        out: Tensor = self.trunk(x).mean((2, 3))
        return out

    def forward(self, x: Images) -> Tensor:
        out: Tensor = self.head(self.embed(x))
        return out

    def fold(self) -> None:
        """Fold every batch norm: from then on the features of an image do not depend on the other images of its batch."""
        fold_norms(self)
