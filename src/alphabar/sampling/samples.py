"""Samples: images with the record of how they were made, in an .npz file or a folder of PNGs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from alphabar.core import processes
from alphabar.core.files import json_text, write_json, write_npz
from alphabar.core.messages import as_path, command, plural
from alphabar.core.npz import npz_names, read_npz
from alphabar.core.outputs import check_output, check_sample_folder
from alphabar.core.parts import Parts
from alphabar.core.stored_values import (
    FINITE,
    PAIR,
    REAL,
    TABLE,
    TEXT,
    Kind,
    StoredValues,
    listed,
    naming,
    parse_object,
    read_object,
    whole,
)
from alphabar.core.types import Pixels
from alphabar.data.decode import decode, probe
from alphabar.data.formats import write_png
from alphabar.data.shown import Shown
from alphabar.data.values import SCALE, check_range

RECORD = {  # kinds of the values of a sampling record
    **dict.fromkeys(("n", "batch", "steps", "seed", "first_index"), whole(0, 2**64)),
    **dict.fromkeys(("nfe", "seconds", "seconds_per_image", "eta", "guidance", "threshold", "interval_factor"), FINITE),
    **dict.fromkeys(("grid", "x0_steps", "image_shape", "indices", "classes"), listed(FINITE, 10**7)),
    **dict.fromkeys(("sampler", "model", "grid_name", "plan", "variance", "pixels", "precision", "device", "fit"), TEXT),
    **dict.fromkeys(("versions", "tuned", "options", "calls", "fast", "precision_check"), TABLE), "value_range": PAIR,
    "guidance_interval": listed(Kind(lambda v: v is None or REAL.good(v), "a number, or null for no bound"), 2, 2),
}  # fmt: skip


def addresses(indices: Sequence[int]) -> dict[str, Any]:
    """Which images of the seed samples are, for their record: "indices" only where they are not consecutive."""
    first, n = (int(indices[0]) if len(indices) else 0), len(indices)
    consecutive = list(indices) == list(range(first, first + n))
    return {"first_index": first, "n": n} | ({} if consecutive else {"indices": [int(k) for k in indices]})


@dataclass(frozen=True)
class Samples(Shown):
    """Images made by `sample`, with the record of how they were made.

    >>> import tempfile
    >>> from alphabar import load_model, sample
    >>> samples = sample(load_model("bundled"), 2, steps=3, keep_x0=True, progress=False)
    >>> samples.images.shape, samples.images.dtype, len(samples.x0)
    ((2, 28, 28, 1), dtype('uint8'), 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = samples.save(folder + "/garments")
    ...     path.name, Samples.load(path).record["nfe"]
    ('garments.npz', 3.0)
    """

    images: Pixels
    """N x H x W x C, of the type (uint8, uint16, float32) of the images that the model was trained on."""
    record: dict[str, Any]
    """How the images were made, as plain data. `alphabar.data.values.to_values` with its "value_range" gives back values in the
    range that was declared for the training images."""
    x0: list[Pixels] | None = None
    """x0_hat at the steps that record["x0_steps"] names, each like `images`. None: not kept."""

    @property
    def _pixels(self) -> Pixels:
        return self.images

    @property
    def _words(self) -> str:
        n, h, w, c = self.images.shape
        nfe, seed = self.record.get("nfe"), self.record.get("seed")
        return (
            f"{plural(n, 'image')} of {h}x{w}x{c}, {self.record.get('sampler', 'unknown sampler')}"
            + ("" if nfe is None else f", {plural(round(nfe, 1), 'network call')} each")
            + ("" if seed is None else f", seed {seed}")
        )

    def _part(self, chosen: NDArray[np.int64]) -> "Samples":
        first, known = self.record.get("first_index", 0), self.record.get("indices")
        indices = [int(known[k]) if known is not None else first + int(k) for k in chosen]
        record = {k: v for k, v in self.record.items() if k != "indices"} | addresses(indices)
        x0 = None if self.x0 is None else [step[chosen] for step in self.x0]
        return Samples(self.images[chosen], record, x0)

    def save(self, path: str | Path) -> Path:
        """Writes an .npz file with `images`, `record` (JSON text) and, if kept, `x0` (steps x N x H x W x C), or a folder of PNGs
        000000.png ... of 8 or 16 bits per channel with record.json, without x0.

        Args:
            path: of the .npz file (the suffix may be left out), or of a folder if it ends in a slash. Images of an earlier
                set in that folder are removed.

        Returns:
            Where the samples are.

        Raises:
            OSError: for a path with a file, or in the folder with files, that are not samples.
            ValueError: for floats or a number of channels that PNG does not hold.
        """
        if not _is_folder(path):
            target = npz_path(path)
            check_output(target, "samples")
            x0 = {} if self.x0 is None else {"x0": np.stack(self.x0)}
            write_npz(target, {"images": self.images, "record": np.array(json_text(self.record)), **x0})
            return target
        check_target(path, self.images.shape[-1], self.images.dtype)
        folder = as_path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for stale in check_sample_folder(folder):
            stale.unlink()
        # before the images: a folder whose writing was interrupted is still one of samples
        write_json(folder / "record.json", {**self.record, "n": len(self.images)})
        for k, image in enumerate(self.images):
            write_png(folder / f"{k:06d}.png", image)
        return folder

    @staticmethod
    def load(path: str | Path) -> "Samples":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is nothing at the path.
            ValueError: for files that `save` did not write.
        """
        folder = as_path(path)
        if folder.is_dir():
            if not (folder / "record.json").exists():
                raise ValueError(f"{folder}/ has no record.json: it was not written by alphabar")
            record = check_record(read_object(folder / "record.json"), str(folder / "record.json"))
            blobs = [(f.read_bytes(), str(f)) for f in sorted(folder.glob("[0-9]*.png"))]
            each = [decode(data, where, probe(data, where).c) for data, where in blobs]
            if len(shapes := {(image.shape, image.dtype.name) for image in each}) != 1:
                kinds = ", ".join(sorted(f"{dtype} {shape}" for shape, dtype in shapes)) or "no images"
                raise ValueError(f"{folder}/ holds {kinds}; samples have one size and type: draw them again")
            return Samples(np.stack(each), record)
        target = npz_path(folder)
        if not target.exists():
            make = command("alphabar", "sample", "RUN", "--out", path)
            raise FileNotFoundError(f"no samples at {target}: make some with `{make}`")
        arrays = read_npz(target, ("images", "record", "x0"))
        if not {"images", "record"} <= arrays.keys():
            raise ValueError(f"{target} holds {', '.join(sorted(npz_names(target)))}: samples have `images` and `record`")
        images, x0 = arrays["images"], arrays.get("x0")
        if images.dtype.name not in SCALE or images.ndim != 4 or 0 in images.shape:
            wanted = f"{', '.join(SCALE)} of shape (n, h, w, c)"
            raise ValueError(f"{target}: images is {images.dtype} of shape {images.shape}; wanted {wanted}")
        if x0 is not None and (x0.dtype != images.dtype or x0.shape[1:] != images.shape):
            raise ValueError(f"{target}: x0 is {x0.dtype} of shape {x0.shape}; wanted steps of {images.dtype} {images.shape}")
        return Samples(images, _parsed(arrays["record"], target), None if x0 is None else list(x0))


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of stored samples, without their images; None for images of another program."""
    if path.is_dir():
        file = path / "record.json"
        return check_record(read_object(file), str(file)) if file.exists() else None
    if path.suffix != ".npz" or not {"images", "record"} <= npz_names(path):
        return None
    return _parsed(read_npz(path, ("record",))["record"], path)


def _parsed(text: NDArray[Any], target: Path) -> dict[str, Any]:
    if text.dtype.kind != "U" or text.ndim:
        raise ValueError(f"{target}: record is {text.dtype} of shape {text.shape}; wanted a text of JSON")
    return check_record(parse_object(str(text), f"{target}: record"), f"{target}: record")


def check_record(record: dict[str, Any], where: str) -> dict[str, Any]:
    """The record. Raises ValueError, beginning with `where`, for a value that no sampling writes; any may be absent or null."""
    StoredValues(record, where).check(RECORD, null=RECORD)
    if record.get("value_range") is not None:
        with naming(where):
            check_range(record["value_range"])
    return record


def check_target(path: str | Path, channels: int, dtype: DTypeLike = np.uint8) -> None:
    """Raises ValueError or OSError if samples cannot be saved at a path, before any of them is made."""
    if not _is_folder(path):
        check_output(npz_path(path), "samples")
        return
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels do not fit PNG, which takes 1 or 3: save to a .npz")
    if np.dtype(dtype).kind == "f":
        raise ValueError(f"{np.dtype(dtype)} images do not fit PNG, which holds 8 or 16 bits a channel: save to a .npz")
    check_sample_folder(as_path(path))


def parts_folder(path: str | Path) -> Path:
    """Where finished batches are kept until the samples at `path` are complete."""
    base = as_path(path) if _is_folder(path) else npz_path(path).with_suffix("")
    return base.with_name(base.name + ".part")


@contextmanager
def unfinished(out: str | Path | None, protocol: Mapping[str, Any], what: str = "unfinished samples") -> Iterator[Parts | None]:
    """The folder of finished batches of this protocol, which no other program may use meanwhile; None without `out`.

    Of several processes that share the work, the first one makes it, and empties it when the block ends without an exception;
    by then it has saved what the batches are for.
    """
    if out is None:
        yield None
        return
    parts = Parts(parts_folder(out), what)
    with ExitStack() as stack:
        with processes.rank_zero_first():
            if processes.world()[0] == 0:
                stack.enter_context(parts.locked())
                if protocol["model"] is None:
                    parts.clear()  # a model without a fingerprint: the batches may be another model's
            parts.claim(protocol)
        yield parts
        if processes.world()[0] == 0:
            parts.clear()
        processes.everyone(True)


def sheet_path(path: str | Path) -> Path:
    """Where the contact sheet of the samples at `path` goes: OUT.png, whatever dots OUT has."""
    return as_path(f"{str(path).rstrip('/').removesuffix('.npz')}.png")


def npz_path(path: str | Path) -> Path:
    """The path with the suffix .npz."""
    return as_path(path) if str(path).endswith(".npz") else as_path(f"{path}.npz")


def _is_folder(path: str | Path) -> bool:
    return str(path).endswith(("/", os.sep))
