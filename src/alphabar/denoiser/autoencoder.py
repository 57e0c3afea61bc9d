"""Autoencoders: our own small one, which is trained on the images, and those in folders of diffusers. Files are not trusted."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.core import stored_values
from alphabar.core.files import json_text, write_atomically
from alphabar.core.messages import as_path
from alphabar.core.stored_values import FINITE, TABLE, TEXT, StoredValues, listed, naming, parse_object, read_object, whole
from alphabar.core.types import Images, Pixels
from alphabar.core.weights import fill, read_tensors
from alphabar.data.images import to_model, to_pixels
from alphabar.data.values import MAX_CHANNELS

FILE, CONFIG, WEIGHTS = "autoencoder.safetensors", "config.json", "diffusion_pytorch_model.safetensors"
MARK = "alphabar_autoencoder"
DIFFUSERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
ARGUMENTS = {  # of `ConvAutoencoder`
    "channels": whole(1, MAX_CHANNELS), "latent": whole(1, 64), "factor": whole(2, 16), "width": whole(8, 1024),
    "blocks": whole(1, 16),
}  # fmt: skip
PIXELS_AT_ONCE = 2**18  # of the images that are encoded or decoded together
_HOW = "give the file that `alphabar autoencoder train SET --out PATH` wrote, or a folder of diffusers with config.json"


class _Norm(nn.Module):
    """Divides the channels of every pixel by their root mean square (Zhang & Sennrich 2019, arXiv:1910.07467). Unlike group norm
    it mixes no pixels, so that a part of an image has the latents that it has in the whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        return F.rms_norm(rows, rows.shape[-1:], self.weight.to(x.dtype), 1e-6).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Residual block: norm, SiLU, conv, norm, SiLU, conv (initialised to zero)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _Norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            _Norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        for p in self.layers[-1].parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.layers(x))


class ConvAutoencoder(nn.Module):
    """A convolutional autoencoder: images (n, channels, h, w) <-> latents (n, latent, h / factor, w / factor).

    A batch norm without parameters gives every channel of the latents mean 0 and variance 1. With noise added in training they
    are a Gaussian channel of limited power, whose capacity normally distributed latents use best. Arguments: ARGUMENTS.
    """

    def __init__(self, channels: int, latent: int, factor: int, width: int, blocks: int) -> None:
        super().__init__()
        if (steps := int(math.log2(factor))) < 1 or 2**steps != factor:
            raise ValueError(f"factor = {factor}: give 2, 4, 8 or 16")
        widths = [width * min(2**k, 4) for k in range(steps)]
        down: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 3, padding=1)]
        for k, c in enumerate(widths):
            down += [nn.Conv2d(widths[k - 1], c, 3, stride=2, padding=1)] if k else []
            down += [_Block(c) for _ in range(blocks)]
        for k in reversed(range(steps)):
            up += [_Block(widths[k]) for _ in range(blocks)]
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[k], widths[k - 1], 3, padding=1)] if k else []
        down += [_Norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], latent, 3, padding=1)]
        up += [_Norm(width), nn.SiLU(), nn.Conv2d(width, 4 * channels, 3, padding=1), nn.PixelShuffle(2)]
        self.encoder = nn.Sequential(*down, nn.BatchNorm2d(latent, affine=False))
        self.decoder = nn.Sequential(*up)


class Autoencoder:
    """A trained autoencoder between pixels and latents.

    Attributes:
        spec: plain data from which the network can be made again, with the mean and standard deviation of its input by channel.
        network: a `ConvAutoencoder` or an autoencoder of diffusers.
        record: how it was trained, plain data; not part of the fingerprint.
        channels: of the images that it takes.
        fingerprint: sixteen hex digits of a hash of specification and weights.
        file: of the weights, where they were read from one.
    """

    file: Path | None = None

    def __init__(self, spec: Mapping[str, Any], network: nn.Module, record: Mapping[str, Any] | None = None) -> None:
        self.spec, self.network, self.record = dict(spec), network.eval().requires_grad_(False), dict(record or {})
        self.own = isinstance(network, ConvAutoencoder)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.channels = int(spec["arguments"]["channels"] if self.own else spec.get("in_channels", 3))
        digest = hashlib.sha256(json.dumps(self.spec, sort_keys=True).encode())
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @cached_property
    def factor(self) -> int:
        """How many times smaller latents are along each side."""
        return 64 // self._encoded(torch.zeros(1, self.channels, 64, 64, device=self._device)).shape[-1]

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> "Autoencoder":
        """Moves the network, and returns this autoencoder."""
        self.network.to(device)
        return self

    def encode(self, pixels: Pixels) -> Tensor:
        """Latents (n, latent, h / factor, w / factor) of images (n, h, w, c), float32 on the CPU; where the network gives a
        distribution, its mode. Sides that the factor does not divide are continued by their last row and column."""
        if pixels.shape[3] != self.channels:
            raise ValueError(
                f"images of {pixels.shape[3]} channels, and the autoencoder takes {self.channels}: train one on your images, "
                "alphabar autoencoder train SET --out PATH"
            )
        (h, w), found = pixels.shape[1:3], []
        for rows in _parts(len(pixels), h * w):
            x = to_model(np.ascontiguousarray(pixels[rows]), self._device).contiguous(memory_format=torch.channels_last)
            found.append(self._encoded(F.pad(x, (0, -w % self.factor, 0, -h % self.factor), mode="replicate")).float().cpu())
        return torch.cat(found)

    def decode(self, z: Tensor, image_shape: tuple[int, int, int]) -> Images:
        """Images (n, c, h, w) of the shape (c, h, w), nominally in [-1, 1], of latents, on their device."""
        self.network.to(z.device)
        _, h, w = image_shape
        return torch.cat([self._decoded(z[rows])[..., :h, :w] for rows in _parts(len(z), h * w)])

    def reconstruct(self, pixels: Pixels) -> Pixels:
        """The images encoded and decoded, in their type. Raises ValueError, naming the file, for weights that give NaN."""
        _, h, w, c = pixels.shape
        x = self.decode(self.encode(pixels).to(self._device), (c, h, w))
        if not bool(x.isfinite().all()):
            raise ValueError(f"{self.file or 'the autoencoder'} gives NaN or infinity for images: train or download it again")
        return to_pixels(x, pixels.dtype)

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(self.spec[k], dtype=like.dtype, device=like.device) for k in ("mean", "std"))
        return mean[:, None, None], std[:, None, None]

    @torch.no_grad()
    def _encoded(self, x: Images) -> Tensor:
        network: Any = self.network
        if self.own:
            mean, std = self._scale(x)
            return cast(Tensor, network.encoder((x - mean) / std))
        out = network.encode(x)
        return cast(Tensor, out.latent_dist.mode() if hasattr(out, "latent_dist") else out[0])

    @torch.no_grad()
    def _decoded(self, z: Tensor) -> Images:
        network: Any = self.network
        if not self.own:
            return cast(Tensor, network.decode(z).sample)
        mean, std = self._scale(z)
        return cast(Tensor, network.decoder(z.contiguous(memory_format=torch.channels_last)) * std + mean)

    def save(self, path: Path) -> Path:
        """Writes our own autoencoder as a file (PATH.safetensors) or into a folder, and one of diffusers as its folder."""
        from safetensors.torch import save

        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        if self.own:
            path = path if path.suffix == ".safetensors" else path / FILE
            header = {MARK: json_text({**self.spec, "record": self.record, "fingerprint": self.fingerprint})}
            write_atomically(path, save(weights, metadata=header))
        else:
            write_atomically(path / WEIGHTS, save(weights))
            write_atomically(path / CONFIG, json_text(self.spec, indent=1) + "\n")
        return path


def _parts(n: int, pixels: int) -> Iterator[slice]:
    size = max(1, PIXELS_AT_ONCE // pixels)
    return (slice(start, start + size) for start in range(0, n, size))


def read_autoencoder(path: str | Path) -> Autoencoder:
    """The autoencoder in a file or a folder of ours, or in a folder of diffusers, on the CPU.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: naming the file, where it is damaged or of another kind.
    """
    path = as_path(path)
    for file in (path, path / FILE):
        if file.is_file():
            found = _read_own(file)
            found.file = file
            return found
    for folder in (path, path / "vae"):
        if (folder / CONFIG).is_file():
            found = _read_diffusers(folder)
            found.file = folder / WEIGHTS
            return found
    raise FileNotFoundError(f"there is no autoencoder at {path}: {_HOW}")


def _read_own(file: Path) -> Autoencoder:
    weights, header = read_tensors(file)
    if MARK not in header:
        raise ValueError(f"{file} holds weights, but no autoencoder: {_HOW}")
    stored = StoredValues(parse_object(header[MARK], f"{file}: its description"), str(file))
    stored.get("format", whole(1, 1))
    arguments, record = stored.table("arguments"), stored.get("record", TABLE)
    if "set_fingerprint" in record:  # then the share that was held out decides what `autoencoder check` compares
        stored.table("record").table("options").get("holdout", stored_values.number(0, 0.999))
    c = {key: arguments.get(key, kind) for key, kind in ARGUMENTS.items()}
    for key in ("mean", "std"):
        if not all(key == "mean" or v > 0 for v in stored.get(key, listed(FINITE, c["channels"], c["channels"]))):
            raise ValueError(f"{file}: a standard deviation of {min(stored.values[key])}")
    spec = {"format": 1, "arguments": c, "mean": stored.values["mean"], "std": stored.values["std"]}
    found = Autoencoder(spec, _filled(lambda: ConvAutoencoder(**c), weights, str(file)), record)
    if found.fingerprint != stored.get("fingerprint", TEXT):
        raise ValueError(f"{file} says another fingerprint than its content gives ({found.fingerprint}): fetch it again")
    return found


def _read_diffusers(folder: Path) -> Autoencoder:
    file = folder / CONFIG
    config = read_object(file)
    if (name := config.get("_class_name")) not in DIFFUSERS:
        raise ValueError(f"{file} is of a {name!r:.60}: wanted {', '.join(DIFFUSERS)}, or train one: alphabar autoencoder train")
    _check_config(config, str(file))
    try:
        import diffusers
    except ImportError as e:
        raise ImportError(f"{folder} is an autoencoder of diffusers: pip install 'alphabar[diffusers]'") from e
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: save it with save_pretrained(PATH), which writes safetensors")
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    if name == "AutoencoderTiny":
        plain.pop("block_out_channels", None)  # it is written, and is no argument
    network = _filled(lambda: getattr(diffusers, name)(**plain), read_tensors(folder / WEIGHTS)[0], f"{folder / WEIGHTS}")
    return Autoencoder({"_class_name": name, **plain}, network)


def _filled(make: Callable[[], nn.Module], weights: Mapping[str, Tensor], where: str) -> nn.Module:
    with naming(f"{where}: its network cannot be made"), torch.device("meta"):  # allocates nothing, whatever the file asks for
        network = make()
    fill(network, weights, where)
    return network


def _check_config(value: Any, where: str, depth: int = 0) -> None:
    """Raises ValueError for a configuration that asks for a network of absurd size."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if len(inner) > 64 or depth > 3 or (number and not abs(value) <= 65_536) or (isinstance(value, str) and len(value) > 500):
        raise ValueError(f"{where}: {value!r:.60} is not of an autoencoder that can be read")
    for one in inner:
        _check_config(one, where, depth + 1)
