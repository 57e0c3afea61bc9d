"""Which reader takes a path: the table of readers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from alphabar.data.cache import Decoded, content_key
from alphabar.data.decode import SUFFIXES
from alphabar.data.readers.arrays import read_npy, read_npz
from alphabar.data.readers.folder import find_folder
from alphabar.data.readers.idx import find_idx
from alphabar.data.readers.parquet import read_parquet
from alphabar.data.readers.source import SPLITS, Source
from alphabar.data.values import Reading

_FILES: dict[str, Callable[[list[Path], tuple[str, ...] | None, Reading], Decoded]] = {
    ".parquet": read_parquet,
    ".npz": read_npz,
    ".npy": read_npy,
}


def find_source(path: Path, split: str, reading: Reading, classes: tuple[str, ...] | None = None) -> Source | None:
    """The source of a split at a path, or None if the path has no such split.

    A folder may hold MNIST's IDX files, SPLIT.parquet, SPLIT.npz or SPLIT.npy, the shards that the hub stores
    (train-00000-of-00002.parquet, also one level below), or image files.

    Args:
        path: a file or a folder that exists.
        split: train or test. A single file has only the split train.
        reading: how images are read.
        classes: names of the classes where the set is known by name; None reads them from the source.

    Raises:
        FileNotFoundError: if the test split of a single file is wanted.
        ValueError: if it is unclear which files or which classes are meant, naming them.
    """
    if path.is_file():
        if split != "train":
            raise FileNotFoundError(
                f"{path} is one file and has no {split} split: ask for {path}:train, or put train{path.suffix} and "
                f"test{path.suffix} in a folder and name the folder"
            )
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
    other = [s for s in SPLITS if s != split and (path / s).is_dir()]
    if other:
        return f"{path} has no {split} images, only {other[0]}: pass {path}:{other[0]}, or put some in {path / split}/"
    return (
        f"{path} holds no {split} images: put images ({', '.join(sorted(SUFFIXES))}) in it, in subfolders named after "
        "their classes if they have any, under train/ and test/ if there are splits"
    )
