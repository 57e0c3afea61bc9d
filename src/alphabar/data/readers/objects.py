"""Images that are Python objects: arrays, tensors, lists of images or paths, torch's and Hugging Face's data sets."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from alphabar.data.cache import Decoded, Source, blob_key
from alphabar.data.labels import NAMES as LABEL_NAMES
from alphabar.data.labels import numbered
from alphabar.data.readers.arrays import Array, decoded_from_array, slices
from alphabar.data.readers.encoded import OnceJPEG, decoded_from_blobs
from alphabar.data.values import Reading

IMAGE_KEYS = ("image", "img", "images", "pixel_values")
WANTED = (
    "wanted a NumPy array or torch tensor of images, or a list, torch Dataset or Hugging Face Dataset whose items are images, "
    "pairs (image, label) or dictionaries with 'image' and 'label', an image being an array, a tensor, a PIL image or a path"
)


def find_in_memory(images: Any, labels: Any, reading: Reading) -> Source:
    """The images of a Python object. labels: one class number per image, in place of those that items hold.

    Raises TypeError for an object that holds no images, ValueError for images that cannot be read.
    """
    given = None if labels is None else np.asarray(labels)
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return _arrays(_as_array(images), given, None, reading, f"{type(images).__name__} of shape {tuple(images.shape)}")
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")) or isinstance(images, (bytes, Mapping)):
        raise TypeError(f"images came as {type(images).__name__}: {_instead(images)}")
    place = f"{type(images).__name__} of {len(images)} items"
    if len(images) == 0:
        raise ValueError(f"{place} holds no images")
    first, label = _parts(images[0], place)
    if given is None and label is not None:
        given = np.asarray([_parts(images[k], place)[1] for k in range(len(images))])
    classes = _class_names(images)
    if isinstance(first, (np.ndarray, torch.Tensor)):
        arrays = [_as_array(_parts(images[k], place)[0]) for k in range(len(images))]
        if len({a.shape for a in arrays}) == 1:  # several sizes are treated as those of files are
            return _arrays(np.stack(arrays), given, classes, reading, place)

    def blobs() -> Iterator[tuple[str, bytes]]:
        for k in range(len(images)):
            yield f"{place}, item {k}", _encoded(_parts(images[k], place)[0], f"{place}, item {k}")

    def build() -> Decoded:
        if given is None:
            return decoded_from_blobs(blobs, None, None, place, reading)
        return decoded_from_blobs(blobs, *numbered(given, len(images), classes, f"labels of {place}"), place, reading)

    def parts() -> Iterator[bytes]:
        return (b"JPEG" * isinstance(data, OnceJPEG) + data for _, data in blobs())

    return Source(place, lambda: blob_key("objects", parts(), _extra(given, classes, reading)), build)


def _instead(images: Any) -> str:
    """What to pass in place of an object that is no sequence of images."""
    if isinstance(images, Mapping) and images:
        return f"pass one of its parts, as images[{next(iter(images))!r}]"
    if hasattr(images, "dataset"):
        return "pass the data set that it loads, images.dataset"
    return "pass list(images)" if isinstance(images, Iterable) and not isinstance(images, (str, bytes, Mapping)) else WANTED


def _arrays(
    array: NDArray[Any], labels: NDArray[Any] | None, classes: tuple[str, ...] | None, reading: Reading, place: str
) -> Source:
    def build() -> Decoded:
        whole = Array(array.shape, array.dtype, lambda: slices(array))
        if labels is None:
            return decoded_from_array(whole, None, None, reading, place)
        return decoded_from_array(whole, *numbered(labels, len(array), classes, f"labels of {place}"), reading, place)

    about = [str(array.shape), array.dtype.str, *_extra(labels, classes, reading)]
    return Source(place, lambda: blob_key("array", (np.ascontiguousarray(b).tobytes() for b in slices(array)), about), build)


def _extra(labels: NDArray[Any] | None, classes: Sequence[str] | None, reading: Reading) -> list[str]:
    return [*(classes or ()), "" if labels is None else repr(labels.tolist()), *reading.key()]


def _as_array(image: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """On the CPU; bfloat16, which NumPy lacks, as float32; the channels of tensors (..., c, h, w) last."""
    if isinstance(image, np.ndarray):
        return image
    tensor = image.detach().cpu()
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.asarray((tensor.movedim(-3, -1) if tensor.ndim == 4 or _channels_first(tensor.shape) else tensor).numpy())


def _channels_first(shape: Sequence[int]) -> bool:
    """Whether (a, b, c) is a tensor (channels, height, width), as torchvision's ToTensor makes it."""
    return len(shape) == 3 and shape[0] < min(shape[1:])


def _parts(item: Any, place: str) -> tuple[Any, Any]:
    """(image, label or None) of an item."""
    image, label = item, None
    if isinstance(item, Mapping):
        image = next((item[k] for k in IMAGE_KEYS if k in item), None)
        pictures = [v for v in item.values() if isinstance(v, Picture)]
        image = pictures[0] if image is None and len(pictures) == 1 else image
        label = next((item[k] for k in LABEL_NAMES if k in item), None)
        if image is None:
            raise TypeError(f"{place} has items with the keys {', '.join(map(str, item))}: {WANTED}")
    elif isinstance(item, (tuple, list)) and len(item) > 0:
        image, label = item[0], item[1] if len(item) > 1 else None
    if isinstance(label, torch.Tensor):
        label = label.item() if label.numel() == 1 else label
    return image, label


def _encoded(image: Any, where: str) -> bytes:
    """The bytes of an image file: read from a path, or made without loss from a PIL image or an array."""
    import tifffile

    if isinstance(image, (str, os.PathLike)):
        path = Path(image).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{where}: there is no file {path}")
        return path.read_bytes()
    buffer = io.BytesIO()
    if isinstance(image, (np.ndarray, torch.Tensor)):
        values = _as_array(image)
        if values.ndim not in (2, 3) or 0 in values.shape or values.dtype.kind not in "iuf":
            raise TypeError(f"{where} is an array of {values.dtype} of shape {values.shape}: wanted (h, w, c) or (h, w)")
        channels = values.shape[2] if values.ndim == 3 else 1
        layout = {} if channels == 1 else {"planarconfig": "contig"}
        plain = values[..., 0] if values.ndim == 3 and channels == 1 else values
        tifffile.imwrite(buffer, plain, photometric="rgb" if channels == 3 else "minisblack", metadata=None, **layout)
        return buffer.getvalue()
    if not isinstance(image, Picture):
        raise TypeError(f"{where} is of type {type(image).__name__}: {WANTED}")
    image.save(buffer, "TIFF" if image.mode in ("F", "I", "CMYK") else "PNG")
    return OnceJPEG(buffer.getvalue()) if image.format in ("JPEG", "MPO") else buffer.getvalue()


def _class_names(images: Any) -> tuple[str, ...] | None:
    """The names of the classes, as Hugging Face's features and torchvision's data sets hold them."""
    features = getattr(images, "features", None)
    if isinstance(features, Mapping):
        named = [features[k] for k in LABEL_NAMES if hasattr(features.get(k), "names")]
        return tuple(map(str, named[0].names)) if named else None
    classes = getattr(images, "classes", None)
    return tuple(map(str, classes)) if isinstance(classes, Sequence) and not isinstance(classes, str) else None
