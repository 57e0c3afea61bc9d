"""`extract`: the features of a set of images, computed once, by all processes together, and cached."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.core import processes
from alphabar.core.machine import versions
from alphabar.core.progress import track
from alphabar.core.types import Features, Pixels
from alphabar.data.cache import fingerprint_of
from alphabar.data.image_set import ImageSet
from alphabar.data.split import image_hashes
from alphabar.features import cache as feature_cache
from alphabar.features.cache import Builder, Entry, describe, entry_folder, evict_features, open_entry
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.stats import check_finite, pieces
from alphabar.features.store import BLOCK, FeatureStore

_WAIT = 60.0  # seconds until the other processes must see a file that process 0 has written (network disks lag)


def extract(
    images: ImageSet | Pixels,
    extractor: FeatureExtractor,
    *,
    fingerprint: str | None = None,
    cache: str | os.PathLike[str] | bool | None = None,
    chunk: int = 1024,
    progress: bool = False,
    what: str = "features",
) -> FeatureStore:
    """Features of images; where the cache holds them, they are read and the extractor is not called.

    Under torchrun every process calls this with the same images. The chunks are divided among the processes, no image is
    counted twice, and every process gets the same complete features; all of them must see the same cache folder. A process
    that works alone calls this inside `processes.alone()`.

    Args:
        images: a set, an array [n, h, w, c] with n >= 1, or a memory map of one, which is read chunk by chunk.
        extractor: computes the features.
        fingerprint: of exactly these images (`alphabar.data.cache.fingerprint_of`); None means that of the set, or computed.
        cache: the cache folder; None or True means the usual one, False keeps the features in memory only (as on Windows,
            where the file locks that protect an entry are missing).
        chunk: images per call of the extractor.
        progress: show a progress bar.
        what: title of the progress bar.

    Raises:
        ValueError: for features that are NaN or infinite (with the image's number) or do not have the extractor's `dim`, for
            no images, for a fingerprint of other images, and where processes were given different images.
        OSError: where the cache cannot be written.
    """
    if isinstance(images, ImageSet):
        fingerprint = fingerprint or images.fingerprint
        images = images.pixels
    if len(images) == 0:
        raise ValueError("no images came: give at least one, (n, h, w, c)")
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: give the number of images per call, at least 1")
    cached = cache is not False and feature_cache.AVAILABLE
    if fingerprint is None and cached:
        hashes = [image_hashes(block) for block in pieces(images, range(0, len(images), BLOCK), BLOCK)]
        fingerprint = fingerprint_of(images.shape[1:], np.concatenate(hashes))
    if not processes.alike(json.dumps([len(images), extractor.dim, fingerprint, extractor.fingerprint, chunk, cached])):
        raise ValueError(
            "the processes were given different images, extractors or chunks: give all of them the same whole set (images "
            "that each process made for itself must be gathered first)"
        )
    if not cached or fingerprint is None:
        features, end = torch.empty((len(images), extractor.dim)), 0
        for rows in _extracted(images, extractor, chunk, 0, progress, what):
            features[end : end + len(rows)] = rows
            end += len(rows)
        return FeatureStore(extractor.fingerprint, fingerprint, features)
    about = describe(len(images), int(extractor.dim), fingerprint, extractor.fingerprint)
    folder = entry_folder(None if isinstance(cache, bool) else cache, about)
    entry = open_entry(folder, about, verify=processes.world()[0] == 0)
    if not processes.everyone(entry is not None):
        del entry  # releases its lock
        entry = _build(folder, about, images, extractor, chunk, progress, what)
    if entry is None:
        raise OSError(f"{folder} cannot be read back: is the disk full? Set ALPHABAR_CACHE to a folder with room")
    return FeatureStore(extractor.fingerprint, fingerprint, entry)


def _build(
    folder: Path, about: Mapping[str, Any], images: Pixels, extractor: FeatureExtractor, chunk: int, progress: bool, what: str
) -> Entry | None:
    """Compute the features in all processes, and write the entry in process 0; the other processes then open it."""
    entry: Entry | None = None
    builder = Builder(folder, about, chunk) if processes.world()[0] == 0 else None
    with builder or contextlib.nullcontext():
        done = processes.from_first(builder.done if builder is not None else 0)
        for rows in _extracted(images, extractor, chunk, done, progress, what):
            if builder is not None:
                builder.append(rows)
        if builder is not None:
            preprocessing = dict(extractor.preprocessing)
            details = {"extractor_name": extractor.name, "preprocessing": preprocessing, "versions": versions()}
            entry = builder.finish(details)
    processes.everyone(True)  # from here on it is written
    end = time.monotonic() + _WAIT
    while entry is None and (entry := open_entry(folder, about, verify=False)) is None and time.monotonic() < end:
        time.sleep(0.5)
    if not processes.everyone(entry is not None):
        raise OSError(
            f"not every process finds {folder}, which process 0 has written: set ALPHABAR_CACHE to a folder that all "
            "machines share, or pass cache=False"
        )
    if builder is not None:
        evict_features(cache=folder.parent.parent)
    return entry


def _extracted(
    images: Pixels, extractor: FeatureExtractor, chunk: int, done: int, progress: bool, what: str
) -> Iterator[Features]:
    """The features of chunk number `done` and of all later ones, in order and in every process, whoever computed them."""
    rank, size = processes.world()
    count = -(-len(images) // chunk)
    blocks = pieces(images, (k * chunk for k in range(done + rank, count, size)), chunk)
    first = done * chunk
    with track(len(images), what, "images", done=first, show=progress and rank == 0) as advance:
        for _ in range(done, count, size):
            block = next(blocks, None)
            features = torch.empty((0, extractor.dim)) if block is None else _features(extractor, block)
            for rows in processes.gather_rows(features):
                if len(rows):
                    check_finite(rows, first)  # after gathering, so that all processes raise
                    first += len(rows)
                    advance(len(rows))
                    yield rows


def _features(extractor: FeatureExtractor, block: Pixels) -> Features:
    features = extractor.features(block).detach()
    if tuple(features.shape) != (len(block), extractor.dim):
        raise ValueError(
            f"extractor {extractor.name!r} gave features of shape {tuple(features.shape)} for {len(block)} images; its dim "
            f"says ({len(block)}, {extractor.dim})"
        )
    return features.to("cpu", torch.float32).contiguous()
