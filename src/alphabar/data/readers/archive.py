"""Zip archives of images: unpacked once into the cache, within bounds, and then read as a folder."""

import errno
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from alphabar.core.files import remove_leftovers, room_for
from alphabar.core.messages import first_line
from alphabar.core.progress import track
from alphabar.data.cache import Source, content_key, scratch_folder
from alphabar.data.readers.find import find_source, nothing_found
from alphabar.data.readers.listing import is_hidden, split_of
from alphabar.data.values import Reading

MOST_FILES = 4_000_000
_INFLATION = 1032  # the most that deflate can shorten
_SHOWN_FROM = 1 << 28  # bytes


@contextmanager
def unpacked(path: Path, cache: Path) -> Iterator[Path]:
    """The folder of a zip archive's files, in the cache under a key of its content; in errors it is called as the archive.

    Raises ValueError for an archive that is damaged, encrypted or hostile, OSError where the disk has no room.
    """
    place = cache / "zips" / content_key("zip", [("0", path)])
    try:
        if not place.is_dir():
            remove_leftovers(place.parent)
            with scratch_folder(place.parent) as scratch, room_for(place):
                _unpack(path, Path(scratch))
                if not place.is_dir():  # another process may have been faster
                    os.rename(scratch, place)
        yield place
    except (ValueError, FileNotFoundError) as error:
        if str(place) not in str(error):
            raise
        raise type(error)(str(error).replace(str(place), str(path))) from error


def find_in_folder(path: Path, split: str, reading: Reading) -> Source:
    """The source of a split in an unpacked archive. Folders that hold nothing but one folder are passed through."""
    root, hidden = path, 0
    while True:
        names = [p for p in root.iterdir() if not is_hidden(p.name)]
        if len(names) != 1 or not names[0].is_dir() or split_of(names[0].name):
            break
        hidden += sum(is_hidden(p.name) for p in root.iterdir())
        root = names[0]
    if (source := find_source(root, split, reading)) is None:
        raise FileNotFoundError(nothing_found(root, split))
    return replace(source, hidden=source.hidden + hidden)


def _unpack(path: Path, out: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            files = _files(archive, path.stat().st_size)
            total = sum(file.file_size for file in files.values())
            if total > (free := shutil.disk_usage(out).free):
                message = f"{path} takes {total / 2**20:.0f} MiB unpacked, and {free / 2**20:.0f} MiB are free in {out.parent}"
                raise OSError(errno.ENOSPC, message)
            with track(float(total), "unpacking", "bytes", show=total > _SHOWN_FROM) as advance:
                for name, file in files.items():
                    target = out / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(file) as packed, target.open("xb") as unpacked_file:
                        shutil.copyfileobj(packed, unpacked_file)  # ends at file_size, whatever the data would give
                    advance(float(file.file_size))
    except Exception as error:  # zipfile and zlib raise many types for damaged files
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        why = getattr(error, "strerror", None) or first_line(error)
        raise ValueError(f"{path} cannot be unpacked ({why}): it is damaged or encrypted; write or fetch it again") from error


def _files(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by their paths. Raises ValueError for paths that leave the folder or stand twice, and for sizes
    that the archive cannot hold."""
    members = [m for m in archive.infolist() if not m.is_dir()]
    if len(members) > MOST_FILES:
        raise ValueError(f"it holds {len(members)} files, more than {MOST_FILES}")
    if sum(m.compress_size for m in members) > size or any(m.file_size > _INFLATION * m.compress_size for m in members):
        raise ValueError("its files are larger than the archive can hold")
    found: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in name.parts[0] or not name.parts:
            raise ValueError(f"its file {member.filename!r:.200} lies outside of it")
        if found.setdefault(str(name), member) is not member:
            raise ValueError(f"it holds {member.filename!r:.200} twice")
    return found
