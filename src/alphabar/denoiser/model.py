"""The model: a denoiser with its specification, made from a recipe or read from a weight file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alphabar.core.files import json_text
from alphabar.core.messages import plural
from alphabar.core.stored_values import naming, parse_object
from alphabar.core.types import Images, Sampled
from alphabar.core.weights import fill, read_tensors
from alphabar.data.latents import Latents, latents_of
from alphabar.denoiser.autoencoder import Autoencoder
from alphabar.denoiser.model_spec import ModelRecipe, check_spec, model_spec
from alphabar.denoiser.own_networks import BUILT_IN, find_network
from alphabar.denoiser.precondition import Preconditioned
from alphabar.denoiser.unet import DiffusersUNet, LucidrainsUNet, UNet
from alphabar.schedule.kinds import schedule_from


class Model(Preconditioned):
    """A denoiser that knows its specification, and so can be stored and made again, and its fingerprint.

    Attributes:
        spec: the specification, plain data (`model_spec`).
        crop: pixels that padding added on each side in training; they are cut off after sampling.
        pixels: the type in which its images are stored: "uint8", "uint16" or "float32".
        value_range: the values that the ends of the scale of pixels stand for, or None where no range was declared.
        fit: how the training images were brought to their size (crop, pad, stretch); None where they had it.
        class_names: one name per class; empty for an unconditional model.
        consistency: whether it gives the image at the end of a path (consistency tuning) and not E[x0 | x].
        null_class: whether a class-conditional model has a label that stands for no class; without it, it has no guidance.
        latents: what the model makes in place of images, or None; `decoded` makes images of them by `autoencoder`.
        home: the folder for files derived from the model, as `load_model` sets it; None where it came from no folder.
        source: the hf: address with its commit, as `load_model` sets it; None for a model that was not fetched.
    """

    home: Path | None = None
    source: str | None = None
    autoencoder: Autoencoder | None = None

    def __init__(self, spec: Mapping[str, Any]) -> None:
        check_spec(spec)
        c, h, w = spec["image_shape"]
        if spec["network"] in BUILT_IN:
            built_in = dict(zip(BUILT_IN, (UNet, DiffusersUNet, LucidrainsUNet), strict=True))
            network: nn.Module = built_in[spec["network"]](**spec["arguments"])
        else:
            network = find_network(spec["network"])((c, h, w), len(spec.get("classes", ())))
            if not isinstance(network, nn.Module):
                raise ValueError(f"the network {spec['network']!r} is of type {type(network).__name__}: make an nn.Module")
        super().__init__(network, schedule_from(spec["schedule"]), spec["prediction"], spec["data_range"], (c, h, w))
        self.spec = dict(spec)
        self.crop: int = spec.get("crop", 0)
        self.pixels: str = spec.get("pixels", "uint8")
        declared = spec.get("value_range")
        self.value_range: tuple[float, float] | None = None if declared is None else (float(declared[0]), float(declared[1]))
        self.fit: str | None = spec.get("fit")
        self.class_names: tuple[str, ...] = tuple(spec.get("classes", ()))
        self.consistency: bool = spec.get("consistency", False)
        self.null_class: bool = spec.get("null_class", True)
        self.latents = None if spec.get("latents") is None else latents_of(spec["latents"], "model description: latents")

    def __str__(self) -> str:
        """What the model is, in a few lines; repr() lists its layers."""
        c, h, w = self.decoded_shape
        kind = "consistency model, 1 or 2 network calls an image" if self.consistency else f"denoiser, predicts {self.prediction}"
        return "\n".join((
            f"Model {self.fingerprint}: {kind}",
            f"images of {h - 2 * self.crop}x{w - 2 * self.crop}x{c}, {self.pixels}"
            + (f", in {plural(self.classes, 'class')}" if self.classes else ""),
            f"{self.spec['network']}, {sum(p.numel() for p in self.parameters()) / 1e6:.1f} M parameters"
            + ("" if self.latents is None else ", of latents"),
            f"schedule {self.spec['schedule']['kind']}, sigma {self.schedule.sigma_min:.3g} to {self.schedule.sigma_max:.3g}",
            f"from {self.source or self.home}" if self.home is not None else "from no run folder",
        ))  # fmt: skip

    def _repr_pretty_(self, p: Any, cycle: bool) -> None:
        """For IPython and notebooks."""
        p.text(str(self))

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def decoded_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of its images, with padding."""
        return self.image_shape if self.latents is None else self.latents.image_shape

    def decoded(self, x: Sampled) -> Images:
        """Images in [-1, 1] of what sampling ends with. Raises ValueError for a model of latents without its autoencoder."""
        if self.latents is None:
            return x
        if self.autoencoder is None or self.autoencoder.fingerprint != self.latents.autoencoder:
            raise ValueError(
                "the model makes latents, and their autoencoder is not with it: name its run, which holds autoencoder/"
            )
        return self.autoencoder.decode(self.latents.encoded(x.float()), self.latents.image_shape)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of a hash of the specification and the present weights."""
        digest = hashlib.sha256(json.dumps(self.spec, sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def build(
    recipe: ModelRecipe, schedule: Mapping[str, Any], image_shape: tuple[int, int, int], seed: int = 0, crop: int = 0, *,
    pixels: str = "uint8", value_range: tuple[float, float] | None = None, classes: Sequence[str] = (), augment: int = 0,
    fit: str | None = None, consistency: bool = False, latents: Latents | None = None,
) -> Model:  # fmt: skip
    """A new model with random weights.

    >>> model = build(ModelRecipe(channels=(8, 16), groups=4), {"kind": "cosine"}, (1, 28, 28), seed=0)
    >>> model(torch.zeros(2, 1, 28, 28), torch.tensor([0.5, 2.0])).shape
    torch.Size([2, 1, 28, 28])

    Args:
        recipe: the network and what it predicts.
        schedule: the noise schedule as plain data, as `schedule_from` reads it.
        image_shape: (channels, height, width) of the network's input.
        seed: of the weights; torch's global random state is left unchanged.
        crop: pixels that padding added on each side, which sampling cuts off.
        pixels: the type in which images are stored, and samples too: "uint8", "uint16" or "float32".
        value_range: the values that the ends of the pixels' scale stand for; None where no range was declared.
        classes: names of the set's classes; used only by a conditional recipe.
        augment: length of the vector that describes an image's augmentation; 0 for training without augmentation.
        fit: how images are brought to that size: crop, pad or stretch; None where they have it.
        consistency: the model is for consistency tuning.
        latents: what a set of latents holds, which the model is trained on in place of images.

    Raises:
        ValueError: for a conditional recipe without classes, for `augment` with "unet2d", and for sizes that do not fit.
    """
    spec = model_spec(recipe, schedule, image_shape, crop, pixels, value_range, classes, augment, fit, latents)
    spec |= {"consistency": True} if consistency else {}
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        model = Model(spec)
        if recipe.init == "lesson":
            _lesson_init(model.network)
    return model


def _lesson_init(network: nn.Module) -> None:
    """Second convolutions of residual blocks and the last convolution are set to zero, down-samplers are made orthogonal."""
    convolutions = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    for name, module in convolutions:
        if name.endswith((".conv2", ".conv_out", ".leave")):
            for p in module.parameters():
                nn.init.zeros_(p)
        elif module.stride == (2, 2):
            nn.init.orthogonal_(module.weight)


def save_weights(path: Path, model: Model, weights: Mapping[str, Tensor] | None = None) -> None:
    """Writes weights (None: the model's present ones) and the specification, as JSON in the header, to one safetensors file."""
    from safetensors.torch import save_file

    state = weights if weights is not None else model.state_dict()
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    save_file(tensors, path, metadata={"alphabar": json_text(model.spec)})


def load_weights(path: Path) -> Model:
    """The model that a weight file describes, in evaluation mode on the CPU.

    Raises ValueError if the file is not a safetensors file of alphabar, is truncated, or does not match its specification.
    """
    tensors, header = read_tensors(path)
    if "alphabar" not in header:
        raise ValueError(f"{path} holds weights but no specification of their model: it was not written by alphabar")
    return model_of(parse_object(header["alphabar"], f"{path}: its specification"), tensors, str(path))


def model_of(spec: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> Model:
    """The model of a specification with these weights, in evaluation mode. Raises ValueError, beginning with `where`."""
    mismatch = f"{where}: its weights do not match its specification"
    if own := isinstance(name := spec.get("network"), str) and name not in BUILT_IN:
        with naming(where):
            find_network(name)
    # the device "meta" allocates nothing, however large a network the specification asks for; code of a user may not work there
    with naming(mismatch), torch.random.fork_rng([], enabled=own), nullcontext() if own else torch.device("meta"):
        model = Model(spec)
    fill(model, weights, mismatch)
    return model.eval()
