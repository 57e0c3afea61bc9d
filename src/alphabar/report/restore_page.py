"""What `restore` shows: a sheet and a page, with original, measurement, draws, mean and uncertainty of every image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from alphabar.core.outputs import save_picture
from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import contact_sheet, levels_of, screen_scale, shown
from alphabar.data.values import scale_of
from alphabar.report.images_page import SHOWN, write_images_page
from alphabar.report.words import sig
from alphabar.restoration.result import TITLES, Restoration

DRAWS = 4  # draws of each, at most


def panels(found: Restoration, most: int = DRAWS) -> dict[str, Pixels]:
    """The columns by name, images of one size and type: original (where it is known), measurement, draws (`most` of each image at
    most), mean, uncertainty."""
    n, draws = min(SHOWN, len(found.mean)), min(most, len(found.draws))
    out = {} if found.originals is None else {"original": found.originals[:n]}
    out["measurement"] = _like(found.measurement[:n], found.mean)
    out |= {f"draw {k + 1}": found.draws[k, :n] for k in range(draws)}
    if len(found.draws) > 1:
        out["mean"] = found.mean[:n]
        out["uncertainty"] = uncertainty(found)[:n]
    return out


def uncertainty(found: Restoration) -> Pixels:
    """The standard deviation of every pixel as an image: white is the largest one of all images."""
    scale = scale_of(found.mean.dtype)
    values = found.std / max(float(found.std.max()), 1e-12) * scale
    return (np.rint(values) if scale > 1 else values).astype(found.mean.dtype)


def _like(images: Pixels, wanted: Shaped[np.ndarray, "m height width channels"]) -> Shaped[np.ndarray, "n height width channels"]:
    """Measurements at the size and with the channels of the images: pixels and grey are repeated."""
    _, h, w, c = wanted.shape
    if h % images.shape[1] or w % images.shape[2] or images.shape[3] not in (1, c):  # of an operator of your own
        return np.zeros((len(images), h, w, c), wanted.dtype)
    large: NDArray[Any] = images.repeat(h // images.shape[1], 1).repeat(w // images.shape[2], 2)
    return large.repeat(c // images.shape[3], 3)


def draw_sheet(found: Restoration, path: Path) -> Path:
    """Writes the sheet: a row an image."""
    columns = panels(found)
    levels = levels_of(found.mean)
    rows = [shown(column, (0.0, 1.0) if name == "uncertainty" else levels) for name, column in columns.items()]
    pixels = np.stack(rows, 1).reshape(-1, *rows[0].shape[1:])
    note = ", ".join(columns)
    return save_picture(contact_sheet(pixels, columns=len(columns), scale=screen_scale(pixels), note=note), path)


def write_restore_page(found: Restoration, path: Path, near: Sequence[Path] = ()) -> Path:
    """Writes the page, one file that works offline."""
    record, several, n = found.record, len(found.draws) > 1, len(found.mean)
    facts = {
        "method": record["method"], "network calls of a draw": record["nfe"], "draws of each image": len(found.draws),
        "noise of the measurement": record["sigma_y"], "seconds an image": record["seconds_per_image"],
    }  # fmt: skip
    where = " that were not measured" if record["task"] == "inpaint" else ""
    widest = f"{sig(float(found.std.max()))} of {scale_of(found.mean.dtype)} levels"
    note = f"Uncertainty is the standard deviation of the draws at each pixel: black is 0, white is {widest}."
    meaning = (
        "draws of the exact posterior have 90 % in the mean. Less: the draws are surer than they should be."
        if found.factor is None else f"the intervals were made {sig(found.factor)} times as wide as the draws say, so that they "
        f"hold 90 % in the expectation, by {record['calibrated_on']} other images with known originals."
    )  # fmt: skip
    return write_images_page(
        path, "restore", f"{record['task']}: {n} images", panels(found), record, facts, n=n, near=near,
        own_levels={"uncertainty": (0.0, 1.0)}, scores=[(TITLES[k], v) for k, v in found.scores.items()],
        each={TITLES[k]: v for k, v in found.each.items()}, notes=[note] if several else (),
        scores_note=f"The share inside is that of pixels{where}; {meaning}",
    )  # fmt: skip
