"""Which reader takes a path: the table of readers of files, and folders of images with splits and classes as subfolders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from alphabar.core.outputs import written_by_alphabar
from alphabar.data.cache import SPLITS, Decoded, Source, content_key
from alphabar.data.decode import SUFFIXES
from alphabar.data.readers.arrays import has_split, read_npy, read_npz
from alphabar.data.readers.encoded import decoded_from_blobs
from alphabar.data.readers.hub import read_parquet
from alphabar.data.readers.idx import find_idx
from alphabar.data.values import Reading

_Reader = Callable[[list[Path], tuple[str, ...] | None, Reading], Decoded]
_FILES: dict[str, _Reader] = {".parquet": read_parquet, ".npz": read_npz, ".npy": read_npy}
_OTHER_SPLITS = ("val", "valid", "validation", "dev")  # allowed next to train/ and test/, not read
_UNREAD = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".exr", ".dcm", ".svg"})  # image formats not supported


def find_source(path: Path, split: str, reading: Reading, classes: tuple[str, ...] | None = None) -> Source | None:
    """The source of a split at a path that exists, or None if the path has no such split.

    A folder may hold MNIST's IDX files, SPLIT.parquet, SPLIT.npz or SPLIT.npy, the shards that the hub stores
    (train-00000-of-00002.parquet, also one level below), or image files. `classes` are names that replace the source's. Raises
    FileNotFoundError for the test split of a single file, ValueError if it is unclear which files or classes are meant.
    """
    if path.is_file():
        if path.suffix.lower() == ".npz" and has_split(path, split):
            key = partial(content_key, f".npz {split}", [("0", path)], [*(classes or ()), *reading.key()])
            return Source(str(path), key, partial(read_npz, [path], classes, reading, split))
        if split != "train":
            names = f"train{path.suffix} and test{path.suffix}"
            advice = f"ask for {path}:train, or put {names} in a folder and name the folder"
            raise FileNotFoundError(f"{path} is one file and has no {split} split: {advice}")
        return _files_source([path], classes, reading)
    if (idx := find_idx(path, split, classes, reading)) is not None:
        return idx
    for suffix in _FILES:
        if (file := path / f"{split}{suffix}").is_file():
            return _files_source([file], classes, reading)
    for pattern in (f"{split}-*.parquet", f"*/{split}-*.parquet"):
        if shards := sorted(path.glob(pattern)):
            if len({s.parent for s in shards}) > 1:
                where = ", ".join(sorted({s.parent.name for s in shards}))
                raise ValueError(f"{path} holds several sets, {where}: name one, as in {shards[0].parent}")
            return _files_source(shards, classes, reading)
    return find_folder(path, split, reading)


def _files_source(files: list[Path], classes: tuple[str, ...] | None, reading: Reading) -> Source:
    suffix = files[0].suffix.lower()
    if suffix not in _FILES:
        raise ValueError(f"{files[0]} ends in {suffix!r}: wanted a folder of images, {', '.join(_FILES)}")
    parts = [(str(i), f) for i, f in enumerate(files)]
    place = str(files[0]) if len(files) == 1 else str(files[0].parent)
    key = partial(content_key, suffix, parts, [*(classes or ()), *reading.key()])
    return Source(place, key, partial(_FILES[suffix], files, classes, reading))


def nothing_found(path: Path, split: str) -> str:
    """The error message for a folder without images of a split."""
    if other := [s for s in SPLITS if s != split and (path / s).is_dir()]:
        return f"{path} has no {split} images, only {other[0]}: pass {path}:{other[0]}, or put some in {path / split}/"
    return (
        f"{path} holds no {split} images: put images ({', '.join(sorted(SUFFIXES))}) in it, in subfolders named after "
        "their classes if they have any, under train/ and test/ if there are splits"
    )


def find_folder(path: Path, split: str, reading: Reading) -> Source | None:
    """The image files of a split, or None if there are none. With train/ or test/ in `path` the split's images stand there;
    otherwise all images belong to train. Subfolders are classes."""
    with_splits = any((path / s).is_dir() for s in SPLITS)
    if with_splits:
        _check_split_folders(path)
    here = path / split if with_splits else path
    if not here.is_dir() or (not with_splits and split != "train") or not (files := _images_in(here)):
        return None
    loose = [f for f in files if f.parent == here]
    if loose and len(loose) < len(files):
        inner = next(f.parent for f in files if f.parent != here)
        advice = "put every image in a subfolder named after its class, or all of them in one folder"
        raise ValueError(f"{here} holds {len(loose)} images next to subfolders with images ({inner}): {advice}")
    classes, labels = None, None
    if not loose:  # classes of all splits together: one that is missing from a split must not shift the numbers of the others
        splits = [path / s for s in SPLITS if (path / s).is_dir()] if with_splits else [here]
        classes = tuple(sorted({f.relative_to(s).parts[0] for s in splits for f in _images_in(s) if f.parent != s}))
        labels = np.array([classes.index(f.relative_to(here).parts[0]) for f in files], dtype=np.int64)
    named = [(f.relative_to(here).as_posix(), f) for f in files]
    key = partial(content_key, "folder", named, [*(classes or ()), *reading.key()])
    build = partial(decoded_from_blobs, lambda: ((str(f), f.read_bytes()) for f in files), labels, classes, str(here), reading)
    return Source(str(here), key, build)


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
    """Image files sorted by path, without hidden ones, such as the ._x.png of macOS, and without pictures of alphabar."""
    found = (f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES | _UNREAD and f.is_file())
    found = (f for f in found if not written_by_alphabar(f, "picture"))  # a contact sheet is no image of the set
    files = [f for f in found if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    if unread := next((f for f in files if f.suffix.lower() in _UNREAD), None):  # leaving it out would change the set silently
        raise ValueError(f"{unread} is of a format that is not read: convert it to PNG, or move it away")
    return sorted(files, key=lambda f: f.relative_to(folder).parts)
