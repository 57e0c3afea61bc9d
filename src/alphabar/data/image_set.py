"""`load`: images from anywhere as an `ImageSet`, decoded block by block once, and memory-mapped from the cache."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core.messages import as_path, plural, say
from alphabar.core.seeds import permutation
from alphabar.core.types import Pixels
from alphabar.data.cache import SPLITS, Entry, Source, cache_folder, fingerprint_of, open_entry, open_or_build
from alphabar.data.latents import FILE as LATENTS
from alphabar.data.latents import Latents, holds_latents, read_latents
from alphabar.data.named_sets import NAMED, open_named
from alphabar.data.readers.archive import find_in_folder, unpacked
from alphabar.data.readers.encoded import listed
from alphabar.data.readers.find import find_source, nothing_found
from alphabar.data.readers.hub import find_on_hub
from alphabar.data.readers.listing import line_of
from alphabar.data.readers.objects import find_in_memory
from alphabar.data.shown import Shown
from alphabar.data.values import Range, Reading, reading_of

HELD_OUT = "heldout"  # the split of SET:heldout


@dataclass(frozen=True, eq=False)
class ImageSet(Shown):
    """The images of one split of a set, with what is known about them. `load` makes it."""

    name: str
    split: str  # train or test
    pixels: Pixels
    """uint8, uint16 or float32 of shape (n, h, w, c), usually memory-mapped and read-only."""
    labels: NDArray[np.int64] | None
    """The class of each image, an index into `classes`; None if the set has no labels."""
    classes: tuple[str, ...] | None
    """Names of the classes; None if they are not known."""
    fingerprint: str
    """16 hex digits of the stored pixels in their order; the same whatever file format they came from."""
    hashes: NDArray[np.uint64]
    """One 64-bit hash of the content of each image."""
    source: str
    """The path or hub address that the images were read from."""
    reading: Reading = Reading()
    """The options that it was read with."""
    skipped: tuple[str, ...] = ()
    """What is wrong with each broken image that was left out."""
    left_out: tuple[str, ...] = ()
    """Files of the folder that were not read, relative to it."""
    hidden: int = 0
    """Number of hidden files and files of operating systems, such as .DS_Store, that were passed over."""
    jpeg: float | None = None
    """Share of the images that were stored as JPEG; None if it is not known."""
    known: bool = False
    """Whether it is a set that is known by its name, such as cifar10, which a folder may have too."""
    latents: Latents | None = None
    """What the pixels are latents of; None for images. `hashes` are then those of the images, `source` is the folder."""

    @property
    def _pixels(self) -> Pixels:
        return self.pixels

    @property
    def _words(self) -> str:
        c, h, w = self.image_shape
        names = class_names(self)
        return f"{self.title}: {plural(len(self), 'image')} of {h}x{w}x{c}" + (
            f" in {plural(len(names), 'class')}" if names else ""
        )

    def _part(self, chosen: NDArray[np.int64]) -> "ImageSet":
        return self.subset(chosen)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, h, w, c = self.pixels.shape
        return c, h, w

    @property
    def value_range(self) -> Range | None:
        """The declared values of the bottom and the top of the scale, to which `to_values` maps pixels; None if not declared."""
        return self.reading.value_range

    @property
    def title(self) -> str:
        """SET:SPLIT, and how its images got their size, as in "photos:train, crop to 64x64"."""
        return ", ".join(filter(None, (f"{self.name}:{self.split}", str(self.reading))))

    def train_split(self) -> "ImageSet | None":
        """The train split of the set, known by name, of which this is the test split; None for any other."""
        return load(self.name, "train", **vars(self.reading)) if self.known and self.split == "test" else None

    def subset(self, indices: NDArray[np.int64] | Sequence[int]) -> "ImageSet":
        """The images at `indices`, in that order, as a set with its own fingerprint. Their pixels are copied."""
        chosen = np.asarray(indices, dtype=np.int64)
        hashes = self.hashes[chosen]
        labels = None if self.labels is None else self.labels[chosen]
        fingerprint = _fingerprint(self.pixels, hashes, self.latents)
        return replace(self, pixels=np.asarray(self.pixels[chosen]), labels=labels, fingerprint=fingerprint, hashes=hashes)

    @property
    def fingerprint_of_images(self) -> str:
        """The fingerprint of the images, of latents that of the images that they were made from."""
        c, h, w = (self.latents or self).image_shape
        return fingerprint_of((h, w, c), self.hashes)

    def originals(self) -> "ImageSet":
        """The images that latents were made from; images themselves. Raises OSError or ValueError where they are not there."""
        if self.latents is None:
            return self
        _, place, reading = read_latents(Path(self.source))
        try:
            found = load(place, self.split, **reading).limited(len(self))
        except Exception as e:  # gone, or the file is damaged and names other places and options
            kind = FileNotFoundError if isinstance(e, FileNotFoundError) else ValueError
            raise kind(f"the images of {Path(self.source) / LATENTS} cannot be read: {e}") from e
        if not np.array_equal(found.hashes, self.hashes):
            raise ValueError(f"{place} holds other images than those that {self.source} was made from: encode them again")
        return found

    def limited(self, n: int) -> "ImageSet":
        """`n` images drawn at random, the same at every call, in their order in the set; 0: all. No class is missed because its
        images stand next to each other, or at equal distances."""
        return self.subset(np.sort(permutation(0, 0, len(self))[:n])) if 0 < n < len(self) else self


def class_names(images: ImageSet) -> tuple[str, ...]:
    """The names of the classes, their numbers if the set names none, or () for a set without labels."""
    if images.labels is None or not len(images.labels):
        return ()
    return images.classes or tuple(str(k) for k in range(int(images.labels.max()) + 1))


def parse_set(text: str) -> tuple[str, str]:
    """ "SET" or "SET:SPLIT" -> (set, split); the default split is train. Other colons belong to the set. The split heldout stands
    for the images that a run held out; the verbs find them through its record.

    >>> parse_set("fashion_mnist:test"), parse_set("hf:owner/name")
    (('fashion_mnist', 'test'), ('hf:owner/name', 'train'))
    """
    name, colon, split = text.rpartition(":")
    if colon and split in (*SPLITS, HELD_OUT) and name:
        return name, split
    if not text:
        raise ValueError("the set has no name: pass fashion_mnist, cifar10, a path, or hf:owner/name")
    return text, "train"


def load(
    name: str | os.PathLike[str] | Any, split: str = "train", *, labels: Any = None,
    root: str | os.PathLike[str] | None = None, cache: str | os.PathLike[str] | None = None,
    value_range: Sequence[float] | None = None, alpha: str | Sequence[int] = "refuse", skip_broken: bool = False,
    axes: str | None = None, size: int | str | Sequence[int] | None = None, fit: str | None = None,
) -> ImageSet:  # fmt: skip
    """Loads a set of images by name, by path, or from the Hugging Face hub. Nothing is clipped or guessed, nor resized unasked.

    Args:
        name: fashion_mnist, cifar10; the path of a folder of images or of a .zip, .npz, .npy, .parquet or .arrow file; or
            hf:owner/name. Or images in memory: an array or a tensor, or a list, torch Dataset or Hugging Face Dataset whose items
            are images (arrays, tensors (c, h, w), PIL images, paths), pairs (image, label) or dictionaries.
        split: train or test. A source without splits has only the split train.
        labels: class number of each image in memory, in place of those that items hold.
        root: folder where sets are searched first; None uses the environment variable ALPHABAR_DATA.
        cache: folder for decoded images; None uses ALPHABAR_CACHE, else ~/.cache/alphabar.
        value_range: (low, high), the values at the bottom and the top of the scale, as (0, 4095) for 12 bits in 16-bit files or
            (-1000, 3000) for floats; a value outside is refused. None: 0..255, 0..65535, or 0..1 for floats.
        alpha: what to do with images that are transparent somewhere: "refuse", "keep" (as one more channel), or the
            background to put them on ("white", "black", (r, g, b) or "R,G,B" with numbers from 0 to 255).
        skip_broken: leave damaged images out, with a message on stderr. Otherwise they are refused, all in one error.
        axes: "nhwc" or "nchw", for arrays whose shape does not show which axis holds the channels.
        size: one size for images of several: 64, or (48, 64), height and width. None: they must have one.
        fit: the way to it, `alphabar.data.fit_size.fitted`: "crop" (the default), "pad" or "stretch".

    Raises:
        FileNotFoundError: if the set is nowhere; the message lists the ways to get it.
        ValueError: for a damaged file, images of several sizes or types, or images that cannot be read without loss.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(f"{folder.name}/grey.npy", np.arange(128, dtype=np.uint8).reshape(2, 8, 8))
    >>> images = load(f"{folder.name}/grey.npy", cache=folder.name)
    >>> len(images), images.image_shape, images.pixels.dtype, images.labels
    (2, (1, 8, 8), dtype('uint8'), None)
    >>> folder.cleanup()
    """
    if isinstance(name, ImageSet):
        return name
    if not isinstance(name, (str, os.PathLike)):
        reading = reading_of(value_range, alpha, skip_broken, axes, size, fit)
        found = find_in_memory(name, labels, reading)
        return _image_set("images", split, found.place, open_or_build(found.key(), found.build, cache_folder(cache)), reading)
    if labels is not None:
        raise ValueError(f"labels are for images in memory, and {name} is a set: its own labels are read with it")
    name = os.fspath(name)
    if split == HELD_OUT:
        raise ValueError(f"which images of {name} were held out depends on the run: commands that are given a run take it")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of {name} is unknown: use train or test, as in {name}:test")
    reading = reading_of(value_range, alpha, skip_broken, axes, size, fit)
    data = root or os.environ.get("ALPHABAR_DATA")
    data_root = as_path(data) if data else None
    folder = cache_folder(cache)
    if name in NAMED:
        place, entry = open_named(name, split, data_root, folder, reading)
        return _image_set(name, split, place, entry, reading)
    if name.startswith("hf:"):
        found = find_on_hub(os.path.expanduser(name.removeprefix("hf:")), split, None, reading)
        return _image_set(name, split, found, open_or_build(found.key(), found.build, folder), reading)
    for path in (as_path(name), *([data_root / name] if data_root else [])):
        if holds_latents(path):
            if reading != Reading():
                raise ValueError(
                    f"{path} holds latents, read as they were encoded: leave --range, --alpha, --axes and the like out"
                )
            return _latent_set(path, split)
        if path.exists():
            short = Path(name).stem if path.is_file() else path.name
            if path.is_file() and path.suffix.lower() == ".zip":
                with unpacked(path, folder) as inside:
                    found = replace(find_in_folder(inside, split, reading), place=str(path))
                    return _image_set(short, split, found, open_or_build(found.key(), found.build, folder), reading)
            if (at_path := find_source(path, split, reading)) is None:
                raise FileNotFoundError(nothing_found(path, split))
            return _image_set(short, split, at_path, open_or_build(at_path.key(), at_path.build, folder), reading)
    raise FileNotFoundError(
        f"there is no set {name}: pass {', '.join(NAMED)}, the path of a folder of images or of a .zip, .npz, .npy, "
        f".parquet or .arrow file, or hf:owner/name for the Hugging Face hub; a split is written SET:train or SET:test"
    )


def _latent_set(folder: Path, split: str) -> ImageSet:
    latents, _, _ = read_latents(folder)
    if not (folder / split).is_dir():
        raise FileNotFoundError(f"{folder} has no latents of a {split} split")
    if (entry := open_entry(folder / split)) is None or entry.pixels.shape[3] != len(latents.mean):
        raise ValueError(f"{folder / split} is damaged: encode the images again")
    fingerprint, scale = _fingerprint(entry.pixels, entry.hashes, latents), Reading((-latents.limit, latents.limit))
    return ImageSet(
        folder.name, split, entry.pixels, entry.labels, entry.classes, fingerprint, entry.hashes, str(folder), scale,
        latents=latents,
    )  # fmt: skip


def _fingerprint(pixels: Pixels, hashes: NDArray[np.uint64], latents: Latents | None) -> str:
    more = () if latents is None else (int(hashlib.sha256(latents.autoencoder.encode()).hexdigest()[:15], 16),)
    return fingerprint_of((*pixels.shape[1:], *more), hashes)


def _image_set(name: str, split: str, source: Source | str, entry: Entry, reading: Reading) -> ImageSet:
    place, left_out, hidden = (source, (), 0) if isinstance(source, str) else (source.place, source.left_out, source.hidden)
    if left_out:
        say(f"{place}: {line_of(left_out)}", sys.stderr)
    if entry.skipped:  # at every load, also from the cache
        n = len(entry.pixels) + len(entry.skipped)
        say(f"{len(entry.skipped)} of {n} images of {place} are broken and left out:{listed(entry.skipped)}", sys.stderr)
    fingerprint = _fingerprint(entry.pixels, entry.hashes, None)
    jpeg = None if entry.jpeg is None else entry.jpeg / (len(entry.pixels) + len(entry.skipped))
    return ImageSet(
        name, split, entry.pixels, entry.labels, entry.classes, fingerprint, entry.hashes, place, reading, entry.skipped,
        left_out, hidden, jpeg, name in NAMED and isinstance(source, str),
    )  # fmt: skip
