"""What turns images into features: a small residual classifier that was trained on a labelled set, and its file.

A general network says little about garments or scans; the features of a classifier of the same kind of image say more.
The file is safetensors with JSON in its header; nothing is ever unpickled.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from alphabar.core.stored_names import EXTRACTOR, renamed
from alphabar.core.types import Features, Images, Pixels
from alphabar.data.images import to_model
from alphabar.data.values import SCALE

FORMAT = 1  # of the file; a later one is refused
NOT_CHECKED = "not checked"
BUNDLED = Path(__file__).parents[1] / "assets" / "fashion_mnist_extractor.safetensors"


@runtime_checkable
class FeatureExtractor(Protocol):
    """What scores ask of an extractor, ours or a foreign one: the same pixels always give the same features."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...  # features an image
    @property
    def fingerprint(self) -> str: ...  # 16 hex digits of weights and preprocessing: two of them never mix
    @property
    def preprocessing(self) -> Mapping[str, Any]: ...  # plain JSON; how pixels reach the network

    def features(self, pixels: Pixels) -> Features: ...


class _Conv(nn.Module):
    """Convolution and batch norm, which `fold` turns into the convolution's bias and scale."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out

    @torch.no_grad()
    def fold(self) -> None:
        norm, bias = self.norm, self.conv.bias
        if isinstance(norm, nn.Identity) or bias is None:
            return
        if norm.running_mean is None or norm.running_var is None:
            raise RuntimeError("this batch norm keeps no running statistics, so it cannot be folded")
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias.copy_((bias.double() - norm.running_mean.double()) * scale + norm.bias.double())
        self.conv.weight.copy_(self.conv.weight.double() * scale[:, None, None, None])
        self.norm = nn.Identity()


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
    """The network: images NCHW in [-1, 1] -> features (`embed`) -> logits (`forward`).

    in_channels: of the images. widths: channels at half, a quarter, an eighth ... of the size. dim: number of features,
    which are averages over the image of the last layer before the logits. classes: number of logits; 0 for a network that was
    trained without labels.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], dim: int, classes: int) -> None:
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
        """Turn every batch norm into part of its convolution: from here on, an image's features depend on it alone."""
        for module in self.modules():
            if isinstance(module, _Conv):
                module.fold()


class Extractor(nn.Module):
    """A trained classifier with its preprocessing, frozen.

    architecture: the arguments of `Classifier`. weights: its folded state. image_shape: (channels, height, width) of
    the set it was trained on; images of any other shape are refused. classes: the names of the classes, or None.
    training: what is known of how it was made; check: what `alphabar extractor check`
    found (both plain JSON, and no part of the fingerprint).
    """

    def __init__(
        self,
        name: str,
        architecture: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        *,
        image_shape: tuple[int, int, int],
        classes: Sequence[str] | None = None,
        training: Mapping[str, Any] | None = None,
        check: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.architecture = dict(architecture)
        self.dim = int(architecture["dim"])
        self.image_shape = image_shape
        self.classes = tuple(classes) if classes is not None else None
        self.training_record = dict(training or {})
        self.check = dict(check) if check is not None else None
        # the words are part of every fingerprint: they name the order of axes, and the type of pixels is to_model's affair
        self.preprocessing: dict[str, Any] = {
            "input": "uint8 NHWC", "shape": list(image_shape), "range": [-1, 1], "network": dict(architecture),
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced in the next line
            self.network = Classifier(**self.architecture)
        self.network.fold()
        self.network.load_state_dict(dict(weights))
        self.network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()
        self.fingerprint = fingerprint(self.preprocessing, self.network.state_dict())

    @property
    def warrant(self) -> str:
        """ "passed", "failed: " with the kinds of damage that it does not rank, as "shift" or "shift (KID)", or "not checked"."""
        return NOT_CHECKED if self.check is None else str(self.check["verdict"])

    def warrant_of(self, metric: str) -> str:
        """The same for one metric, "fid" or "kid": "passed", "failed: " and the corruptions, or "not checked"."""
        results = {} if self.check is None else self.check["corruptions"]
        ranked = {name: result["ranked"][metric] for name, result in results.items() if metric in result["ranked"]}
        failed = [name for name, good in ranked.items() if not good]
        if not ranked:
            return NOT_CHECKED
        return f"failed: {', '.join(failed)}" if failed else "passed"

    def _check(self, pixels: Pixels) -> None:
        c, h, w = self.image_shape
        if pixels.dtype.name not in SCALE or pixels.ndim != 4 or pixels.shape[1:] != (h, w, c):
            raise ValueError(
                f"extractor {self.name!r} was given {pixels.dtype} images of shape {tuple(pixels.shape)}; it wants "
                f"uint8, uint16 or float32 of shape (n, {h}, {w}, {c}). Resize the images, or train an extractor on "
                "images like yours: alphabar extractor train SET --out PATH"
            )

    def _run(self, pixels: Pixels, *, logits: bool, batch: int) -> Tensor:
        self._check(pixels)
        device = next(self.network.parameters()).device
        width = self.network.classes if logits else self.dim
        out = torch.empty((len(pixels), width), dtype=torch.float32)
        call = self.network.forward if logits else self.network.embed
        # TF32, which CUDA's convolutions take unless told otherwise, would move features in their fourth digit
        exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
        with torch.inference_mode(), exact:
            for start in range(0, len(pixels), batch):
                x = to_model(np.ascontiguousarray(pixels[start : start + batch]), device)
                out[start : start + batch] = call(x.contiguous(memory_format=torch.channels_last)).float().cpu()
        return out

    def embed(self, x: Images) -> Features:
        """Features of images NCHW in [-1, 1], with a gradient with respect to the images. They are where the extractor is."""
        return self.network.embed(x.to(next(self.network.parameters()).device))

    def features(self, pixels: Pixels, batch: int = 256) -> Features:
        """Features [n, dim], float32 on the CPU, of images [n, h, w, c]. Raises ValueError for another shape."""
        return self._run(pixels, logits=False, batch=batch)

    def logits(self, pixels: Pixels, batch: int = 256) -> Tensor:
        """Logits [n, classes], float32 on the CPU, of images [n, h, w, c]."""
        if not self.network.classes:
            raise ValueError(f"extractor {self.name!r} was trained without labels, so it has features but no logits")
        return self._run(pixels, logits=True, batch=batch)

    def save(self, path: str | Path) -> Path:
        """Write weights and description to one safetensors file."""
        from safetensors.torch import save

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "name": self.name,
            "architecture": self.architecture,
            "image_shape": list(self.image_shape),
            "classes": None if self.classes is None else list(self.classes),
            "preprocessing": self.preprocessing,
            "fingerprint": self.fingerprint,
            "training": self.training_record,
            "check": self.check,
        }
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        part = path.with_name(path.name + ".part")
        part.write_bytes(save(weights, metadata={"alphabar_extractor": json.dumps(about)}))
        part.replace(path)
        return path


def fingerprint(preprocessing: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of sha256 over the preprocessing's JSON and the weights, in the order of their names."""
    digest = hashlib.sha256(json.dumps(dict(preprocessing), sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode() + b"\0" + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_extractor(path: str | Path) -> Extractor:
    """Read the file that `Extractor.save` wrote; raises what `load_extractor` does."""
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no extractor at {path}: give 'bundled', or the path of a .safetensors file made by "
            "`alphabar extractor train SET --out PATH`, or 'inception:original' or 'inception:clean'"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except Exception as error:
        raise ValueError(f"{path} is not a safetensors file ({error}): give one that `Extractor.save` wrote") from error
    if "alphabar_extractor" not in header:
        raise ValueError(
            f"{path} holds weights but no extractor (its header lacks 'alphabar_extractor'): give a file made by "
            "`alphabar extractor train SET --out PATH`"
        )
    about = renamed(json.loads(header["alphabar_extractor"]), EXTRACTOR)
    if about["format"] > FORMAT:
        raise ValueError(f"{path} has format {about['format']}, this alphabar reads up to {FORMAT}: update alphabar")
    c, h, w = about["image_shape"]
    extractor = Extractor(
        about["name"], about["architecture"], weights,
        image_shape=(c, h, w), classes=about["classes"],
        training=about["training"], check=about.get("check"),
    )  # fmt: skip
    if extractor.fingerprint != about["fingerprint"]:
        raise ValueError(
            f"{path} says that its fingerprint is {about['fingerprint']}, its content gives {extractor.fingerprint}: "
            "the file was changed or made by another version; train the extractor again or fetch the file again"
        )
    if extractor.check is not None and extractor.check.get("extractor") != extractor.fingerprint:
        extractor.check = None  # of other weights
    return extractor


def mark(path: str | Path, check: Mapping[str, Any]) -> Extractor:
    """Writes what a check found (`CheckResult.summary()`) into an extractor's file; weights and fingerprint stay as they are.

    Raises what `read_extractor` does, and ValueError where the check was of another extractor.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    path = Path(path)
    extractor = read_extractor(path)
    if check.get("extractor") != extractor.fingerprint:
        raise ValueError(f"a check of extractor {check.get('extractor')} cannot be written into {path}, {extractor.fingerprint}")
    with safe_open(path, framework="pt") as file:
        header, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    about = json.loads(header["alphabar_extractor"]) | {"check": dict(check)}
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(weights, metadata={**header, "alphabar_extractor": json.dumps(about)}))
    part.replace(path)
    extractor.check = dict(check)
    return extractor
