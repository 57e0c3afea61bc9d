"""Folders of image files, with splits and classes as subfolders."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from alphabar.data.cache import content_key
from alphabar.data.decode import SUFFIXES
from alphabar.data.readers.encoded import decoded_from_blobs
from alphabar.data.readers.source import SPLITS, Source
from alphabar.data.values import Reading

_OTHER_SPLITS = ("val", "valid", "validation", "dev")  # allowed next to train/ and test/, not read
_UNREAD = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".exr", ".dcm", ".svg"})  # image formats not supported


def find_folder(path: Path, split: str, reading: Reading) -> Source | None:
    """The image files of a split, or None if there are none.

    With train/ or test/ in `path` the split's images stand there; otherwise all images belong to train. Subfolders are
    classes. Raises ValueError if it is unclear what the subfolders mean.
    """
    with_splits = any((path / s).is_dir() for s in SPLITS)
    if with_splits:
        _check_split_folders(path)
    here = path / split if with_splits else path
    if not here.is_dir() or (not with_splits and split != "train"):
        return None
    files = _images_in(here)
    if not files:
        return None
    loose = [f for f in files if f.parent == here]
    if loose and len(loose) < len(files):
        inner = next(f for f in files if f.parent != here)
        raise ValueError(
            f"{here} holds {len(loose)} images next to subfolders with images ({inner.parent}): put every image in a "
            "subfolder named after its class, or all of them in one folder"
        )
    classes, labels = None, None
    if not loose:
        # classes of all splits together, so that a class missing from one split does not shift the numbers of the others
        splits = [path / s for s in SPLITS if (path / s).is_dir()] if with_splits else [here]
        classes = tuple(sorted({f.relative_to(s).parts[0] for s in splits for f in _images_in(s) if f.parent != s}))
        labels = np.array([classes.index(f.relative_to(here).parts[0]) for f in files], dtype=np.int64)

    def blobs() -> Iterator[tuple[str, bytes]]:
        return ((str(f), f.read_bytes()) for f in files)

    named = [(f.relative_to(here).as_posix(), f) for f in files]
    key = partial(content_key, "folder", named, [*(classes or ()), *reading.key()])
    return Source(str(here), key, partial(decoded_from_blobs, blobs, labels, classes, str(here), reading))


def _check_split_folders(path: Path) -> None:
    """Refuses train/ or test/ next to other folders with images: "train" may be a class, and the others would be lost."""
    others = (d for d in sorted(path.iterdir()) if d.is_dir() and not d.name.startswith("."))
    for other in others:
        if other.name not in (*SPLITS, *_OTHER_SPLITS) and _images_in(other):
            raise ValueError(
                f"{path} holds {' and '.join(s for s in SPLITS if (path / s).is_dir())}/ next to {other.name}/: "
                "splits or classes? Put the classes under train/, or move the other folders away"
            )


def _images_in(folder: Path) -> list[Path]:
    """Image files sorted by path, without hidden ones, such as the ._x.png that macOS writes."""
    files = []
    for f in folder.rglob("*"):
        suffix = f.suffix.lower()
        if suffix not in SUFFIXES and suffix not in _UNREAD:
            continue
        if any(part.startswith(".") for part in f.relative_to(folder).parts) or not f.is_file():
            continue
        if suffix in _UNREAD:  # leaving it out silently would change the set
            raise ValueError(f"{f} is of a format that is not read: convert it to PNG, or move it away")
        files.append(f)
    return sorted(files, key=lambda f: f.relative_to(folder).parts)
