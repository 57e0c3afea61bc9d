"""Samples: images with the record of how they were made, in an .npz file or a folder of PNGs."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from alphabar.core.files import write_atomically, write_npz
from alphabar.core.types import Pixels
from alphabar.data.decode import decode, probe
from alphabar.data.formats import write_png

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Samples:
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

    def sheet(self, columns: int | None = None, scale: int = 1, pad: int = 1) -> "Image":
        """One picture of all images.

        Args:
            columns: images in a row. None: about as many as rows.
            scale: edge length of a pixel.
            pad: pixels between images.
        """
        from alphabar.data.contact_sheet import contact_sheet

        return contact_sheet(self.images, columns=columns, scale=scale, pad=pad)

    def save(self, path: str | Path) -> Path:
        """Writes an .npz file with `images`, `record` (JSON text) and, if kept, `x0` (steps x N x H x W x C), or a folder of PNGs
        000000.png ... of 8 or 16 bits per channel with record.json, without x0.

        Args:
            path: of the .npz file (the suffix may be left out), or of a folder if it ends in a slash. Images of an earlier
                set in that folder are removed.

        Returns:
            Where the samples are.

        Raises:
            ValueError: for a folder with other files in it, and for floats or a number of channels that PNG does not hold.
        """
        if not _is_folder(path):
            target = npz_path(path)
            x0 = {} if self.x0 is None else {"x0": np.stack(self.x0)}
            write_npz(target, {"images": self.images, "record": np.array(json.dumps(self.record)), **x0})
            return target
        check_target(path, self.images.shape[-1], self.images.dtype)
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("[0-9]*.png"):
            stale.unlink()
        for k, image in enumerate(self.images):
            write_png(folder / f"{k:06d}.png", image)
        write_atomically(folder / "record.json", json.dumps(self.record, indent=1) + "\n")
        return folder

    @staticmethod
    def load(path: str | Path) -> "Samples":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: if there is nothing at the path.
            ValueError: for files that `save` did not write.
        """
        folder = Path(path)
        if folder.is_dir():
            if not (folder / "record.json").exists():
                raise ValueError(f"{folder}/ has no record.json: it was not written by alphabar")
            blobs = [(f.read_bytes(), str(f)) for f in sorted(folder.glob("[0-9]*.png"))]
            images = np.stack([decode(data, where, probe(data, where).c) for data, where in blobs])
            return Samples(images, json.loads((folder / "record.json").read_text()))
        target = npz_path(path)
        if not target.exists():
            raise FileNotFoundError(f"no samples at {target}: make some with `alphabar sample RUN --out {path}`")
        with target.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not {"images", "record"} <= set(file.files):
                raise ValueError(f"{target} holds {', '.join(file.files)}: samples have `images` and `record`")
            x0 = list(file["x0"]) if "x0" in file.files else None
            return Samples(file["images"], json.loads(str(file["record"])), x0)


def check_target(path: str | Path, channels: int, dtype: DTypeLike = np.uint8) -> None:
    """Raises ValueError if samples cannot be saved at a path, before any of them is made."""
    folder = Path(path)
    if not _is_folder(path):
        return
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels do not fit PNG, which takes 1 or 3: save to a .npz")
    if np.dtype(dtype).kind == "f":
        raise ValueError(f"{np.dtype(dtype)} images do not fit PNG, which holds 8 or 16 bits a channel: save to a .npz")
    if folder.exists() and not (folder / "record.json").exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}/ holds files that are not samples: choose an empty folder")


def parts_folder(path: str | Path) -> Path:
    """Where finished batches are kept until the samples at `path` are complete."""
    base = Path(path) if _is_folder(path) else npz_path(path).with_suffix("")
    return base.with_name(base.name + ".part")


def npz_path(path: str | Path) -> Path:
    """The path with the suffix .npz."""
    return Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")


def _is_folder(path: str | Path) -> bool:
    return str(path).endswith(("/", os.sep))
