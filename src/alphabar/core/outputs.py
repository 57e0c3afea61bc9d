"""Outputs: what alphabar wrote bears a mark, only that is ever replaced, and what is refused is refused before work begins."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphabar.core.files import replacing
from alphabar.core.messages import as_path
from alphabar.core.stored_values import parse_object, read_object

if TYPE_CHECKING:
    from PIL.Image import Image

SOFTWARE = {"Software": "alphabar"}  # the text chunk of every picture, also those of matplotlib
_HEAD = 65_536  # bytes at the start of a file that hold its mark
_MARKS = {  # all of a kind stand in the head of a file of that kind
    "picture": (b"Software\0alphabar",),
    "page": ("· alphabar</title>".encode(),),
    "extractor": (b'"alphabar_extractor"',),
    "autoencoder": (b'"alphabar_autoencoder"',),
    "fitted sampler": (b'"format"', b'"sigmas"'),
    "ONNX model": (b"\x12\x08alphabar",),  # the field producer_name
    "list of timesteps": (b'"timesteps"', b'"moved"'),
    "results of a demo": (b'"finished"', b'"minutes_asked"'),
}
_IN_RUN = (
    "machine.json", "data.json", "cost.json", "events.jsonl", "scores.jsonl", "comparisons.jsonl", "samples", "checkpoints",
    "tracking", "snapshots", "autoencoder",
)  # fmt: skip


def written_by_alphabar(path: Path, kind: str) -> bool:
    """Whether a file bears the mark of a kind: "samples", or one of those above. False for what cannot be read."""
    try:
        if kind == "samples":
            return isinstance(_record(path), dict)
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return all(mark in head for mark in _MARKS[kind])


def check_output(path: str | Path, kind: str, inputs: Iterable[str | Path] = ()) -> None:
    """To be called before the work whose result a file of this kind will hold.

    Raises OSError or ValueError where a folder stands at the path, a file that alphabar did not write as this kind, or one of the
    inputs, where it lies in an input that is a folder of images, and where no file can be written.
    """
    path = as_path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, and the {kind} is a file: give its name too, as {path / 'NAME'}")
    _check_place(path, kind, inputs)
    if path.exists() and not written_by_alphabar(path, kind):
        raise FileExistsError(f"{path} exists and is no {kind} that alphabar wrote: give another name, or move it away")


def check_run_folder(folder: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Refuses a folder for a new run in which a file of a run, or of anyone, would be replaced. Other files may lie there."""
    check_folder(folder, "run", inputs)
    if there := [name for name in _IN_RUN if (folder / name).exists()]:
        raise FileExistsError(f"{folder / there[0]} exists, and {folder} is no run: give another folder, or move it away")


def check_folder(folder: Path, kind: str, inputs: Iterable[str | Path] = (), ours: Iterable[str] | None = None) -> None:
    """Refuses a file at the path of a folder, a folder among the inputs, and, with `ours`, one that holds files, none of which
    is one of `ours`."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, and the {kind} is a folder: give another name")
    _check_place(folder, kind, inputs)
    if ours is not None and folder.is_dir() and any(folder.iterdir()) and not any((folder / name).is_file() for name in ours):
        raise FileExistsError(f"{folder} holds files, and no {kind} of alphabar: give an empty folder or another name")


def _check_place(path: Path, kind: str, inputs: Iterable[str | Path]) -> None:
    """Whether the output can be made where it stands, apart from the inputs."""
    place = path.resolve()
    above = next(p for p in (*place.parents, place) if p.exists())  # the root alone has no parents
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "may not be written to" if above.is_dir() else "is a file"
        raise OSError(f"no {kind} can be written at {path}: {above} {what}; give another path")
    for given in map(as_path, inputs):
        if given.exists() and (given.samefile(path) if path.exists() else False):
            raise ValueError(f"{path} is the input {given}: give another name for the {kind}")
        inside = given.is_dir() and not (given / "recipe.toml").exists() and given.resolve() in place.parents
        if inside:
            raise ValueError(f"the {kind} {path} would lie among the images of {given}: give a path outside that folder")


def check_sample_folder(folder: Path) -> list[Path]:
    """The images of earlier samples in a folder, which new samples replace. Refuses a folder with any other file."""
    check_folder(folder, "folder of samples")
    if not folder.exists():
        return []
    inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    record = _record(folder) if inside else {}
    n = number if isinstance(record, dict) and isinstance(number := record.get("n", 0), int) else 0
    images = [p for p in inside if p.stem.isdecimal() and p.name == f"{int(p.stem):06d}.png" and int(p.stem) < n]
    known = {p.name for p in images} | ({"record.json"} if isinstance(record, dict) else set())
    if other := sorted({p.name for p in inside} - known):
        raise FileExistsError(f"{folder}/ holds files that are not samples of alphabar ({other[0]}): choose an empty folder")
    return images


def _record(path: Path) -> Any:
    """The sampling record in an .npz file or in a folder; None where there is none."""
    from alphabar.core.npz import npz_names, read_npz

    try:
        if path.is_dir():
            return read_object(path / "record.json")
        own = {"images", "record"} <= npz_names(path)
        return parse_object(str(read_npz(path, ["record"])["record"]), str(path)) if own else None
    except (OSError, ValueError, KeyError):
        return None


def save_picture(image: "Image", path: Path, **more: Any) -> Path:
    """Writes a picture with alphabar's mark, as a PNG or in another format that the suffix names. more: what Pillow takes."""
    from PIL.Image import registered_extensions
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", SOFTWARE["Software"])
    kind = registered_extensions().get(path.suffix.lower(), "PNG")
    with replacing(path) as part:
        image.save(part, kind, pnginfo=info, comment=b"Software\0alphabar", **more)
    return path
