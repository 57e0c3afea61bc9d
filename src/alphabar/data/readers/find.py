"""Which reader takes a path: the table of readers of files, and folders of images with splits and classes as subfolders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from alphabar.data.cache import SPLITS, Decoded, Source, content_key
from alphabar.data.decode import SUFFIXES
from alphabar.data.labels import numbered, ordered
from alphabar.data.readers.arrays import has_split, names_in_npz, read_npy, read_npz, unread_in_npz
from alphabar.data.readers.encoded import decoded_from_blobs
from alphabar.data.readers.idx import find_idx
from alphabar.data.readers.label_files import labels_beside
from alphabar.data.readers.listing import UNREAD, Listing, list_folder, shown, split_of
from alphabar.data.readers.tables import names_in_tables, read_tables
from alphabar.data.values import Reading

_Reader = Callable[[list[Path], tuple[str, ...] | None, Reading], Decoded]
_FILES: dict[str, _Reader] = {".parquet": read_tables, ".arrow": read_tables, ".npz": read_npz, ".npy": read_npy}
_NAMES: Mapping[str, Callable[[Sequence[Path]], set[str]]] = dict.fromkeys((".parquet", ".arrow"), names_in_tables) | {
    ".npz": names_in_npz
}
_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")  # of datasets.save_to_disk, next to its Arrow files


def find_source(path: Path, split: str, reading: Reading, classes: tuple[str, ...] | None = None) -> Source | None:
    """The source of a split at a path that exists, or None if the path has no such split.

    A folder may hold MNIST's IDX files, SPLIT.parquet, SPLIT.npz or SPLIT.npy, the shards that the hub stores
    (train-00000-of-00002.parquet, also one level below), what `datasets.save_to_disk` writes, or image files. `classes` are
    names that replace the source's. Raises FileNotFoundError for the test split of a single file, ValueError if it is unclear
    which files or classes are meant.
    """
    if path.is_file():
        if path.suffix.lower() == ".npz" and has_split(path, split):
            classes = classes or (_names([[path]], ".npz") if all(has_split(path, s) for s in SPLITS) else None)
            key = partial(content_key, f".npz {split}", [("0", path)], [*(classes or ()), *reading.key()])
            return Source(str(path), key, partial(read_npz, [path], classes, reading, split), unread_in_npz(path))
        if split != "train":
            names = f"train{path.suffix} and test{path.suffix}"
            advice = f"ask for {path}:train, or put {names} in a folder and name the folder"
            raise FileNotFoundError(f"{path} is one file and has no {split} split: {advice}")
        left_out = unread_in_npz(path) if path.suffix.lower() == ".npz" else ()
        return replace(_files_source([path], classes, reading), left_out=left_out)
    listing = list_folder(path)
    if (idx := find_idx(path, split, classes, reading)) is not None:
        return _naming(idx, path, listing, [p for p in listing.others if p.name.startswith(("train-", "t10k-"))])
    for suffix in _FILES:
        if files := _split_files(path, listing, suffix):
            used = [f.relative_to(path) for shards in files.values() for f in shards]
            used += [f for f in listing.others if suffix == ".arrow" and f.name in _SAVED]
            if len(files) > 1:
                classes = classes or _names(files.values(), suffix)
            source = _files_source(files[split], classes, reading) if split in files else None
            return None if source is None else _naming(source, path, listing, used)
    return find_folder(path, split, reading, listing)


def _names(splits: Iterable[list[Path]], suffix: str) -> tuple[str, ...] | None:
    """The names of classes in the labels of all splits: one that a split lacks must not shift the others. None: no names."""
    found: set[str] = set()
    for files in splits:
        with suppress(Exception):  # of a file that cannot be read, its reader says what is wrong
            found |= _NAMES[suffix](files) if suffix in _NAMES else set()
    return ordered(found) or None


def _naming(source: Source, path: Path, listing: Listing, used: Sequence[Path]) -> Source:
    return replace(source, left_out=listing.left_out(used, listing.images), hidden=listing.hidden)


def _split_files(path: Path, listing: Listing, suffix: str) -> dict[str, list[Path]]:
    """The files with a suffix that are named after train and test, in `path` or one level below."""
    for depth in (1, 2):
        of_split: dict[str, list[Path]] = {}
        for file in sorted(listing.others):
            if suffix == ".arrow":  # data-00000-of-00001.arrow, of several splits in folders named after them
                split = None if not file.stem.startswith("data") else split_of(file.parts[0]) if depth == 2 else "train"
            else:
                split = split_of(file.stem)
            if file.suffix.lower() == suffix and len(file.parts) == depth and split in SPLITS:
                of_split.setdefault(split, []).append(path / file)
        for split, files in of_split.items():
            if len({f.parent for f in files}) > 1:
                where = ", ".join(sorted({f.parent.name for f in files}))
                raise ValueError(f"{path} holds several sets, {where}: name one, as in {files[0].parent}")
            if len(files) > 1 and (suffix not in (".parquet", ".arrow") or not all("-" in f.stem for f in files)):
                raise ValueError(f"{path} holds {' and '.join(f.name for f in files)}, both {split} images: name one of them")
        if of_split:
            return of_split
    return {}


def _files_source(files: list[Path], classes: tuple[str, ...] | None, reading: Reading) -> Source:
    suffix = files[0].suffix.lower()
    if suffix not in _FILES:
        raise ValueError(f"{files[0]} ends in {suffix!r}: wanted a folder of images, .zip, {', '.join(_FILES)}")
    parts = [(str(i), f) for i, f in enumerate(files)]
    place = str(files[0]) if len(files) == 1 else str(files[0].parent)
    key = partial(content_key, suffix, parts, [*(classes or ()), *reading.key()])
    return Source(place, key, partial(_FILES[suffix], files, classes, reading))


def nothing_found(path: Path, split: str) -> str:
    """The error message for a folder without images of a split."""
    listing = list_folder(path)
    others = sorted(p.name for p in path.iterdir() if p.is_dir() and split_of(p.name) not in (None, split))
    if others:
        advice = f"pass {path / others[0]}" if split_of(others[0]) not in SPLITS else f"pass {path}:{split_of(others[0])}"
        return f"{path} has no {split} images, only {', '.join(others)}: {advice}, or put some in {path / split}/"
    if single := next((p for p in listing.others if p.suffix.lower() in _FILES), None):
        return f"{path} holds no {split} images; it holds {single}: pass {path / single}"
    return (
        f"{path} holds no {split} images: put images ({', '.join(sorted(SUFFIXES))}) in it, in subfolders named after "
        "their classes if they have any, under train/ and test/ if there are splits"
    )


def find_folder(path: Path, split: str, reading: Reading, listing: Listing) -> Source | None:
    """The image files of a split, or None if there are none. With train/ or test/ (in any spelling) in `path` the split's images
    stand there; otherwise all images belong to train. Labels are those of dataset.json or metadata.csv, or the subfolders."""
    folders = _split_folders(path, listing)
    if split not in (folders or ("train",)):
        return None
    here = path / folders.get(split, "")
    images = {s: [p.relative_to(f) for p in listing.images if not f.parts or p.parts[0] == f.name]
              for s, f in (folders or {"train": Path()}).items()}  # fmt: skip
    if not (own := images[split]):
        return None
    if unread := next((p for p in own if p.suffix.lower() in UNREAD), None):  # leaving it out would change the set silently
        raise ValueError(f"{shown(here / unread)} is of a format that is not read: convert it to PNG, or move it away")
    labels = {s: _labels(path / folders.get(s, ""), path, found) for s, found in images.items() if found}
    values, classes, numbers = labels[split][0], None, None
    if values is not None:  # classes of all splits together: one that is missing from a split must not shift the others
        together = [v for found, _ in labels.values() if found is not None for v in found]
        words = values if all(type(v) is int for v in together) else [str(v) for v in values]
        classes = None if words is values and type(values[0]) is int else ordered(map(str, together))
        numbers, classes = numbered(words, len(own), classes, f"labels of {path / (labels[split][1] or here.relative_to(path))}")
    used = [f for _, f in labels.values() if f is not None]
    elsewhere = [p for p in listing.images if folders and p.parts[0] not in {f.name for f in folders.values()}]
    files = [here / p for p in own]
    named = [(p.as_posix(), f) for p, f in zip(own, files, strict=True)]
    extra = [*(classes or ()), *reading.key()]
    if used and numbers is not None:
        extra.append(numbers.tobytes().hex())
    key = partial(content_key, "folder", named, extra)
    build = partial(
        decoded_from_blobs, lambda: ((shown(f), f.read_bytes()) for f in files), numbers, classes,
        shown(here), reading,
    )  # fmt: skip
    return Source(shown(here), key, build, listing.left_out(used, elsewhere), listing.hidden)


def _split_folders(path: Path, listing: Listing) -> dict[str, Path]:
    """The folders of train and test in `path`, relative to it; {} if it has none. Raises ValueError where it is unclear whether
    a folder is a split or a class: "train" may be a class, and the others would be lost."""
    folders = [d.name for d in sorted(path.iterdir()) if d.is_dir() and not d.name.startswith(".")]
    splits = [d for d in folders if split_of(d) in SPLITS]
    with_images = {p.parts[0] for p in listing.images if len(p.parts) > 1}
    only_others = bool(with_images) and all(split_of(d) == "validation" for d in with_images)
    if not splits and not only_others:
        return {}
    if strange := sorted(d for d in with_images if split_of(d) is None):
        raise ValueError(
            f"{path} holds {' and '.join(splits)}/ next to {shown(strange[0])}/: splits or classes? Put the classes under "
            "train/, or move the other folders away"
        )
    found: dict[str, Path] = {}
    for name in splits or sorted(with_images):
        if (twin := found.setdefault(split_of(name) or "", Path(name))).name != name:
            raise ValueError(f"{path} holds {twin}/ and {name}/, both {split_of(name)} images: move one of them away")
    return found


def _labels(here: Path, path: Path, images: list[Path]) -> tuple[list[Any] | None, Path | None]:
    """The label of each image of a split (None without labels), and the file, relative to `path`, that they are from."""
    for folder in dict.fromkeys((here, path)):
        if (beside := labels_beside(folder)) is None:
            continue
        file, labels = beside
        if labels is not None:
            names = [(here / p).relative_to(folder).as_posix() for p in images]
            if missing := [n for n in names if n not in labels]:
                raise ValueError(
                    f"{file} has no label for {len(missing)} of {len(images)} images, as {shown(missing[0])}: complete it, or "
                    "move it away"
                )
            return [labels[n] for n in names], file.relative_to(path)
        if file.name == "dataset.json":  # its subfolders are parts of a set without labels, not classes
            return None, file.relative_to(path)
    loose = [p for p in images if len(p.parts) == 1]
    if loose and len(loose) < len(images):
        inner = shown(next(here / p.parent for p in images if len(p.parts) > 1))
        advice = "put every image in a subfolder named after its class, or all of them in one folder"
        raise ValueError(f"{shown(here)} holds {len(loose)} images next to subfolders with images ({inner}): {advice}")
    return (None if loose else [shown(p.parts[0]) for p in images]), None
