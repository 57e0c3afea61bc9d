"""What lies in a folder: its images, and everything else, which is counted and named."""

import os
import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from alphabar.core.outputs import written_by_alphabar
from alphabar.data.decode import SUFFIXES

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"
)
UNREAD = frozenset({".heic", ".heif", ".jxl", ".tga", ".exr", ".dcm", ".svg"})  # image formats not supported
_SYSTEM = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"})
_MAGIC = re.compile(  # the first bytes of images: PNG, JPEG, GIF, WebP, JPEG 2000, AVIF, TIFF, BMP
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|\xff\x4f\xff\x51|\0\0\0\x0cjP  |....ftypavi[fs]|II\*\0|MM\0\*"
    rb"|BM....\0\0\0\0",
    re.DOTALL,
)
_SHOWN = 5  # files that the line about what is left out names


def split_of(name: str) -> str | None:
    """The split that a folder or file is named after, as in Training, test_set or train-00000-of-00002.parquet: train, test,
    validation (not read), or None.

    >>> split_of("Training"), split_of("test_set"), split_of("val-00000-of-00001"), split_of("trains")
    ('train', 'test', 'validation', None)
    """
    word = re.sub(r"[-_. ]", "", re.split(r"[-_.]\d", name.lower(), maxsplit=1)[0])
    return _SPLITS.get(re.sub(r"(set|data|images)$", "", word))


def shown(path: Path | str) -> str:
    """A path that every output can write: bytes that are not UTF-8 as \\xe9."""
    return os.fsencode(path).decode(errors="backslashreplace")


@dataclass
class Listing:
    """The files of a folder, as paths relative to it, sorted."""

    images: list[Path]
    others: dict[Path, str]  # what is no image, with the reason if it is not obvious
    hidden: int  # hidden files and folders, and those of operating systems, such as .DS_Store and __MACOSX

    def left_out(self, used: Iterable[Path] = (), images: Iterable[Path] = ()) -> tuple[str, ...]:
        """What a reader that used some files, and left out some images, has to name."""
        reasons = {**self.others, **dict.fromkeys(images, "")}
        for path in used:
            reasons.pop(path, None)
        return tuple(shown(p) + (f" ({reasons[p]})" if reasons[p] else "") for p in sorted(reasons))


def line_of(left_out: tuple[str, ...]) -> str:
    """One line about files that are left out; folders with many are named once."""
    tops = Counter(name.split("/")[0] for name in left_out)
    names = [f"{top}/ ({n})" if n > 1 else next(p for p in left_out if p.split("/")[0] == top) for top, n in tops.items()]
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"left out: {len(left_out)} file{'s' * (len(left_out) > 1)}: {', '.join(names[:_SHOWN])}{more}"


def list_folder(root: Path) -> Listing:
    """All files below a folder; links are followed, each folder once. Raises OSError for a folder that cannot be opened."""
    images, others, hidden = [], {}, 0
    seen = {_identity(p) for p in root.resolve().parents}
    folders, links = deque([root]), deque[Path]()  # links last, so that a folder is read under its own name
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        if (identity := _identity(folder)) in seen:
            others[folder.relative_to(root)] = "a link to a folder that is read, or holds this one"
            continue
        seen.add(identity)
        for name in os.listdir(folder):
            path = folder / name
            if is_hidden(name):
                hidden += 1
            elif path.is_dir():
                (links if path.is_symlink() else folders).append(path)
            elif (reason := _not_an_image(path)) is None:
                images.append(path.relative_to(root))
            else:
                others[path.relative_to(root)] = reason
    return Listing(sorted(images, key=lambda p: p.parts), others, hidden)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over: it is hidden, or of an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _not_an_image(path: Path) -> str | None:
    """Why a file is left out, or None for an image. The suffix decides; content does where there is none."""
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() else "not a file"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES | UNREAD:
        return "a picture that alphabar made" if written_by_alphabar(path, "picture") else None
    with path.open("rb") as file:
        known = _MAGIC.match(file.read(32))
    if known is None:
        return ""
    return "an image by its content: give it its suffix, such as .png" if suffix else None
