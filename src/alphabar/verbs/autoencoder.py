"""`autoencoder check` and `encode`: how well an autoencoder restores images, and sets of latents made with it."""

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphabar.core.files import json_text, remove_leftovers, room_for, sync, temporary, write_atomically
from alphabar.core.machine import best_device
from alphabar.core.messages import as_path
from alphabar.core.outputs import check_folder
from alphabar.core.places import PRIVATE, without_places
from alphabar.core.progress import track
from alphabar.core.types import Pixels
from alphabar.data.cache import SPLITS
from alphabar.data.image_set import ImageSet, load
from alphabar.data.images import to_model, to_pixels
from alphabar.data.latents import AUTOENCODER, FILE, Latents
from alphabar.data.split import holdout
from alphabar.data.values import scale_of
from alphabar.denoiser.autoencoder import Autoencoder, read_autoencoder
from alphabar.evaluation.estimate import Estimate, over_seeds
from alphabar.evaluation.image_eval import ImageEval
from alphabar.evaluation.score import Score
from alphabar.features.extractor import FeatureExtractor

SHOWN = 40  # pairs of images that are kept, at most
BLOCK = 64  # images that are encoded between two steps of the progress bar


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """How well images are restored: means over images, with 95 % intervals.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, 10 log10(scale^2 / mean squared error); identical images count as 120 dB.
        error: mean absolute error, in levels of the scale of the images.
        scores: FID (where there are enough images) and KID of restored images, next to those of as many originals: no model of
            these latents can be expected to score better.
        pixels, restored: some of the images that were compared.
    """

    n: int
    psnr: Estimate
    error: Estimate
    scores: tuple[Score, ...]
    pixels: Pixels
    restored: Pixels

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the images."""
        means = {k: {"value": e.value, "interval": e.interval} for k, e in (("psnr", self.psnr), ("error", self.error))}
        return {"n": self.n, **means, "scores": [s.to_json() for s in self.scores]}


def check_autoencoder(
    autoencoder: Autoencoder,
    images: ImageSet,
    extractor: FeatureExtractor | str | None = None,
    *,
    n: int = 2000,
    progress: bool = True,
) -> Reconstruction:
    """Restores images that the autoencoder was not trained on, and compares them with the originals.

    Args:
        autoencoder: as `read_autoencoder` returns it.
        images: a set; of the one that it was trained on, the held-out images are taken.
        extractor: an extractor for the scores, or its name or path; None: no scores.
        n: images, at most.
        progress: show progress bars.

    Raises:
        ValueError: where no image was held out, or for images of other channels than the autoencoder takes.
    """
    record, images = autoencoder.record, images.originals()
    if images.fingerprint == record.get("set_fingerprint"):
        _, heldout = holdout(images.pixels, record["options"]["holdout"], hashes=images.hashes)
        images = images.subset(heldout)
    if not len(images):
        raise ValueError(f"the autoencoder was trained on all images of {images.name}: give others, --against SET:test")
    some = images.limited(n)
    restored = _reconstructed(autoencoder, some.pixels, progress)
    scale, psnr, error = scale_of(some.pixels.dtype), [], []
    for a, b in zip(some.pixels, restored, strict=True):
        off = a.astype(np.float64) - b
        psnr.append(min(120.0, -10 * np.log10(max(float(np.mean((off / scale) ** 2)), 1e-12))))
        error.append(float(np.abs(off).mean()))
    scores: tuple[Score, ...] = ()
    if extractor is not None:
        evaluator = ImageEval(extractor, images, progress=progress)
        pool = evaluator.real.pool[np.sort(evaluator.real.floor_order(0)[:n])]
        try:
            evaluator.check_shape(images.image_shape, pool.dtype, len(pool), ("fid", "kid"))
            metrics: tuple[str, ...] = ("fid", "kid")
        except ValueError:  # too few for FID; what else is wrong is raised again
            metrics = ("kid",)
        scores = evaluator.score(_reconstructed(autoencoder, pool, progress), metrics=metrics)
    shown = slice(None, None, -(-len(some) // SHOWN))
    return Reconstruction(len(some), over_seeds(psnr), over_seeds(error), scores, some.pixels[shown], restored[shown])


def _reconstructed(autoencoder: Autoencoder, pixels: Pixels, progress: bool) -> Pixels:
    found = []
    with track(len(pixels), "encoding and decoding", show=progress) as advance:
        for start in range(0, len(pixels), BLOCK):
            found.append(autoencoder.reconstruct(pixels[start : start + BLOCK]))
            advance(len(found[-1]))
    return np.concatenate(found)


def encode(
    image_set: str, path: str | Path, out: str | Path, *, reading: Mapping[str, Any] | None = None, progress: bool = True
) -> dict[str, Any]:
    """Encodes the splits of a set into a folder of latents, which `train` takes in place of the images.

    Every channel gets mean 0 and standard deviation 1 over the train split (`data.latents.Latents`). The folder is written whole
    or not at all.

    Args:
        image_set: a name, a path, or hf:owner/name, without a split.
        path: of an autoencoder: a file or folder of ours, or a folder of diffusers.
        out: the folder to write, which must not exist.
        reading: options of `load`.
        progress: show progress bars.

    Returns:
        What the folder holds, as plain data.

    Raises:
        FileExistsError: where `out` holds files.
        ValueError: for images that the autoencoder does not take, and for latents.
    """
    out, autoencoder = as_path(out), read_autoencoder(path).to(best_device())
    check_folder(out, "folder of latents", [image_set], ours=())
    sets = {"train": load(image_set, "train", **dict(reading or {}))}
    with contextlib.suppress(FileNotFoundError):  # the set has one split
        sets["test"] = load(image_set, "test", **dict(reading or {}))
    if (train := sets["train"]).latents is not None:
        raise ValueError(f"{image_set} holds latents already: name the set of images")
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out.parent)
    scratch = tempfile.TemporaryDirectory(suffix=temporary(""), prefix=".latents", dir=out.parent, ignore_cleanup_errors=True)
    with scratch as name, room_for(out):
        folder = Path(name) / "latents"
        for split in SPLITS[: len(sets)]:
            _encode_split(sets[split], autoencoder, folder / split, progress)
        mean, std, limit = _scale([np.load(folder / split / "pixels.npy", mmap_mode="r") for split in sets])
        for split in sets:
            latents = np.lib.format.open_memmap(folder / split / "pixels.npy", mode="r+")
            for start in range(0, len(latents), BLOCK):
                rows = latents[start : start + BLOCK]
                rows[:] = np.clip((rows - mean) / (2 * limit * std) + 0.5, 0, 1)  # the clip takes off errors of rounding alone
            latents.flush()
        del latents, rows  # Windows renames no folder with open files
        scaled = Latents(
            autoencoder.fingerprint, tuple(mean.tolist()), tuple(std.tolist()), limit, train.image_shape,
            train.pixels.dtype.name, train.value_range, train.reading.fit,
        )  # fmt: skip
        place = str(as_path(image_set).absolute()) if as_path(image_set).exists() else image_set
        about = {"format": 1, "set": without_places(place), "reading": dict(reading or {}), "latents": scaled.spec()}
        if about["set"] != place:
            write_atomically(folder / PRIVATE, json_text({"set": place}))
        autoencoder.save(folder / AUTOENCODER)
        write_atomically(folder / FILE, json_text(about, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        for path in folder.rglob("*"):
            sync(path)
        folder.rename(out)
        sync(out.parent)
    return {
        **{s: len(sets[s]) for s in sets},
        "shape": [*np.load(out / "train" / "pixels.npy", mmap_mode="r").shape[1:]],
        **about,
    }


def decoded(images: ImageSet) -> Pixels:
    """The pixels of a set; of latents the images that the autoencoder in their folder decodes them to."""
    if (of := images.latents) is None:
        return np.asarray(images.pixels)
    z = of.encoded(to_model(np.asarray(images.pixels), best_device()))
    found = read_autoencoder(Path(images.source) / AUTOENCODER)
    return to_pixels(found.decode(z, of.image_shape), np.dtype(of.pixels))


def _encode_split(images: ImageSet, autoencoder: Autoencoder, folder: Path, progress: bool) -> None:
    """Writes the latents of a split, not scaled yet, in the layout of the cache."""
    folder.mkdir(parents=True)
    latents = None
    with track(len(images), f"encoding {images.split}", show=progress) as advance:
        for start in range(0, len(images), BLOCK):
            z = autoencoder.encode(images.pixels[start : start + BLOCK]).permute(0, 2, 3, 1).numpy()
            if latents is None:
                shape = (len(images), *z.shape[1:])
                latents = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.float32, shape=shape)
            if not np.isfinite(z).all():
                raise ValueError(f"latents of images {start} to {start + len(z) - 1} are NaN or infinite: train another one")
            latents[start : start + len(z)] = z
            advance(len(z))
    np.save(folder / "hashes.npy", images.hashes, allow_pickle=False)
    if images.labels is not None:
        np.save(folder / "labels.npy", images.labels, allow_pickle=False)
    meta = {"labels": images.labels is not None, "classes": images.classes, "skipped": list(images.skipped)}
    write_atomically(folder / "meta.json", json_text(meta))


def _scale(splits: list[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean and standard deviation of every channel of the first split, and the most of them that any latent is from the mean."""
    flat = splits[0].reshape(-1, splits[0].shape[-1])
    mean, std = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    std = np.where(std > 1e-9, std, 1.0)
    farthest = max(float((np.abs(split - mean) / std).max()) for split in splits)
    return mean, std, float(f"{max(1.0, 1.001 * farthest):.4g}")
