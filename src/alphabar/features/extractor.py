"""Feature extractors: the protocol that scores rely on, the extractor that alphabar trains, and its file.

General networks say little about garments or medical scans; the features of a classifier of the same kind of images say more.
The file is safetensors with JSON in its header; nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from alphabar.core.files import json_text, write_atomically
from alphabar.core.messages import as_path
from alphabar.core.outputs import check_output
from alphabar.core.stored_names import EXTRACTOR, renamed
from alphabar.core.stored_values import SHAPE, TABLE, TEXT, StoredValues, listed, naming, parse_object, whole
from alphabar.core.types import Features, Images, Pixels
from alphabar.core.weights import fill, read_tensors
from alphabar.data.images import to_model
from alphabar.data.values import SCALE
from alphabar.features.classifier import Classifier

FORMAT = 1  # version of the file format; later ones are refused
NOT_CHECKED = "not checked"
_WIDTH = whole(1, 65536)
ARCHITECTURE = {"in_channels": _WIDTH, "widths": listed(_WIDTH, 16, 1), "dim": _WIDTH, "classes": whole(0, 10**6)}  # of a file
DESCRIBED = {"classes": listed(TEXT, 10**6), "training": TABLE, "check": TABLE}  # of a file, where they may be null or absent
BUNDLED = Path(__file__).parents[1] / "assets" / "fashion_mnist_extractor.safetensors"
_TRAIN = "alphabar extractor train SET --out PATH"


@runtime_checkable
class FeatureExtractor(Protocol):
    """What scores need of an extractor, ours or a wrapped one: the same pixels always give the same features."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...  # number of features per image
    @property
    def fingerprint(self) -> str: ...  # 16 hex digits of weights and preprocessing; features of two of them never mix
    @property
    def preprocessing(self) -> Mapping[str, Any]: ...  # plain JSON; how pixels reach the network

    def features(self, pixels: Pixels) -> Features: ...


class Extractor(nn.Module):
    """A trained, frozen `Classifier` (its arguments and folded weights) for images of one shape, (channels, height, width).

    `training` (how it was trained) and `check` (the result of `alphabar extractor check`) are plain JSON. They and the name
    are not part of the fingerprint.
    """

    def __init__(
        self, name: str, architecture: Mapping[str, Any], weights: Mapping[str, Tensor], *,
        image_shape: tuple[int, int, int], classes: Sequence[str] | None = None,
        training: Mapping[str, Any] | None = None, check: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name = name
        self.architecture = dict(architecture)
        self.dim = int(architecture["dim"])
        self.image_shape = image_shape
        self.classes = tuple(classes) if classes is not None else None
        self.training_record = dict(training or {})
        self.check = dict(check) if check is not None else None
        # the wording is part of every fingerprint; the pixels may also be uint16 or float32
        self.preprocessing: dict[str, Any] = {
            "input": "uint8 NHWC", "shape": list(image_shape), "range": [-1, 1], "network": dict(architecture),
        }  # fmt: skip
        with torch.device("meta"):
            self.network = Classifier(**self.architecture)
        self.network.fold()
        fill(self.network, {k: v.clone() for k, v in weights.items()}, f"the weights of extractor {name!r}")
        self.network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()
        self.fingerprint = fingerprint(self.preprocessing, self.network.state_dict())

    @property
    def fit(self) -> str | None:
        """How its training images got the size `image_shape`: crop, pad or stretch; None where they had it."""
        found = self.training_record.get("fit")
        return found if isinstance(found, str) else None

    @property
    def check_result(self) -> str:
        """ "passed", "failed: " with the corruptions that it does not rank ("shift", "shift (KID)"), or "not checked"."""
        return NOT_CHECKED if self.check is None else str(self.check["verdict"])

    def check_result_of(self, metric: str) -> str:
        """The result for one metric, "fid" or "kid": "passed", "failed: " with the corruptions, or "not checked"."""
        results = {} if self.check is None else self.check["corruptions"]
        ranked = {name: result["ranked"][metric] for name, result in results.items() if metric in result["ranked"]}
        failed = [name for name, good in ranked.items() if not good]
        return NOT_CHECKED if not ranked else f"failed: {', '.join(failed)}" if failed else "passed"

    def embed(self, x: Images) -> Features:
        """Features of images [n, c, h, w] in [-1, 1], on the extractor's device, with gradients to the images."""
        return self.network.embed(x.to(next(self.network.parameters()).device))

    def features(self, pixels: Pixels, batch: int = 256) -> Features:
        """Features [n, dim], float32 on the CPU, of images [n, h, w, c]. Raises ValueError for another shape."""
        return self._run(pixels, logits=False, batch=batch)

    def logits(self, pixels: Pixels, batch: int = 256) -> Tensor:
        """Logits [n, classes], float32 on the CPU, of images [n, h, w, c]."""
        if not self.network.classes:
            raise ValueError(f"extractor {self.name!r} was trained without labels, so it has features but no logits")
        return self._run(pixels, logits=True, batch=batch)

    def _run(self, pixels: Pixels, *, logits: bool, batch: int) -> Tensor:
        c, h, w = self.image_shape
        if not isinstance(pixels, np.ndarray):
            raise ValueError(f"images came as {type(pixels).__name__}: check_images(images) makes pixels of them")
        if pixels.dtype.name not in SCALE or pixels.ndim != 4 or pixels.shape[1:] != (h, w, c):
            raise ValueError(
                f"extractor {self.name!r} was given {pixels.dtype} images of shape {tuple(pixels.shape)}; it wants uint8, uint16 "
                f"or float32 of shape (n, {h}, {w}, {c}). Resize the images, or train an extractor on images like yours: {_TRAIN}"
            )
        device = next(self.network.parameters()).device
        out = torch.empty((len(pixels), self.network.classes if logits else self.dim), dtype=torch.float32)
        call = self.network.forward if logits else self.network.embed
        # TensorFloat-32, the default of cuDNN's convolutions, would change the fourth digit of the features
        exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
        with torch.inference_mode(), exact:
            for start in range(0, len(pixels), batch):
                x = to_model(np.ascontiguousarray(pixels[start : start + batch]), device)
                out[start : start + batch] = call(x.contiguous(memory_format=torch.channels_last)).float().cpu()
        return out

    def save(self, path: str | Path) -> Path:
        """Write weights and description to one safetensors file. Raises OSError where another file stands at the path."""
        from safetensors.torch import save

        check_output(path, "extractor")
        header = {
            "format": FORMAT, "name": self.name, "architecture": self.architecture, "image_shape": self.image_shape,
            "classes": self.classes, "preprocessing": self.preprocessing, "fingerprint": self.fingerprint,
            "training": self.training_record, "check": self.check,
        }  # fmt: skip
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        write_atomically(as_path(path), save(weights, metadata={"alphabar_extractor": json_text(header)}))
        return as_path(path)


def fingerprint(preprocessing: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the sha256 of the preprocessing's JSON and the weights, sorted by name."""
    digest = hashlib.sha256(json.dumps(dict(preprocessing), sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode() + b"\0" + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_extractor(path: str | Path) -> Extractor:
    """Read a file that `Extractor.save` wrote. Raises what `load_extractor` raises."""
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no extractor at {path}: give 'bundled', or the path of a .safetensors file made by "
            f"`{_TRAIN}`, or 'inception:original' or 'inception:clean'"
        )
    weights, texts = read_tensors(path)
    if "alphabar_extractor" not in texts:
        raise ValueError(
            f"{path} holds weights but no extractor (its header lacks 'alphabar_extractor'): give a file made by `{_TRAIN}`"
        )
    header = StoredValues(renamed(parse_object(texts["alphabar_extractor"], f"{path}: its description"), EXTRACTOR), str(path))
    if (version := header.get("format", whole(1, 2**31))) > FORMAT:
        raise ValueError(f"{path} has format {version}, this alphabar reads up to {FORMAT}: update alphabar")
    name, shape, stored = header.get("name", TEXT), header.get("image_shape", SHAPE), header.get("fingerprint", TEXT)
    architecture = header.table("architecture")
    for key, kind in ARCHITECTURE.items():
        architecture.get(key, kind)
    described = {key: header.values.get(key) for key in DESCRIBED}
    header.check(DESCRIBED, null=DESCRIBED)
    if described["check"] is not None:
        header.table("check").get("verdict", TEXT)
        results = header.table("check").table("corruptions")
        for corruption in results.values:
            results.table(corruption).table("ranked")
    with naming(str(path)):
        extractor = Extractor(name, architecture.values, weights, image_shape=tuple(shape), **described)
    if extractor.fingerprint != stored:
        raise ValueError(
            f"{path} says that its fingerprint is {stored:.40}, its content gives {extractor.fingerprint}: "
            "the file was changed or made by another version; train the extractor again or fetch the file again"
        )
    if extractor.check is not None and extractor.check.get("extractor") != extractor.fingerprint:
        extractor.check = None  # the check was of other weights
    return extractor


def write_check_result(path: str | Path, check: Mapping[str, Any]) -> Extractor:
    """Store `CheckResult.summary()` in an extractor's file. Raises ValueError for a check of another extractor."""
    extractor = read_extractor(path)
    if check.get("extractor") != extractor.fingerprint:
        raise ValueError(f"a check of extractor {check.get('extractor')} cannot be written into {path}, {extractor.fingerprint}")
    extractor.check = dict(check)
    extractor.save(path)
    return extractor
