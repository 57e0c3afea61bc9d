"""A page about images that a command worked on: a row an image, its columns, and scores where there are some."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alphabar.core.types import Pixels
from alphabar.data.contact_sheet import Levels, levels_of, shown_note
from alphabar.evaluation.estimate import Estimate
from alphabar.report import page
from alphabar.report.png import png_uri, smaller, strip
from alphabar.report.words import sig
from alphabar.sampling.invert import Inversion
from alphabar.sampling.samples import Samples

SHOWN = 16  # images, at most
DRAWS = 8  # variations of each, at most


def write_images_page(
    path: Path, verb: str, title: str, columns: Mapping[str, Pixels], record: Mapping[str, Any], facts: Mapping[str, Any], *,
    n: int, own_levels: Mapping[str, Levels] | None = None, scores: Sequence[tuple[str, Estimate]] = (),
    each: Mapping[str, ArrayLike] | None = None, scores_note: str = "", notes: Sequence[str] = (), near: Sequence[Path] = (),
) -> Path:  # fmt: skip
    """Writes the page, one file that works offline.

    Args:
        path: of the page.
        verb: the command.
        title: of the page.
        columns: by name the images (rows, h, w, c) of each column, which the first one gives its levels.
        record: how they were made, shown in full at the end.
        facts: what stands at the top, texts or numbers.
        n: the images that there are, of which the rows are the first.
        own_levels: columns by name that have other levels.
        scores: titles, and means over all images.
        each: titles, and the value of every image; NaN is left out.
        scores_note: below the scores.
        notes: below the images.
        near: files and folders that the page names without the folders that they lie in.
    """
    first, known = next(iter(columns.values())), own_levels or {}
    levels = levels_of(first)
    small = {name: smaller(images, 160, known.get(name, levels))[0] for name, images in columns.items()}
    rows = []
    for k in range(len(first)):
        own = {name: float(np.asarray(values)[k]) for name, values in (each or {}).items()}
        rows.append({
            "number": k, "images": [(name, png_uri(strip(small[name][k : k + 1]))) for name in columns],
            "scores": [(name, v) for name, v in own.items() if np.isfinite(v)],
        })  # fmt: skip
    changed = shown_note(first, levels)
    return page.write_page(
        path, "images.html.j2", near=near, verb=verb, title=title, columns=list(columns), rows=rows, record=record, facts=facts,
        scores=scores, scores_note=scores_note, notes=[*notes, *([f"{changed}."] if changed else [])], n=n,
    )  # fmt: skip


def write_vary_page(made: Samples, originals: Pixels, path: Path, near: Sequence[Path] = ()) -> Path:
    """The page of `vary`: original and variations of every image."""
    n, start = len(originals), made.record["start"]
    variations = made.images.reshape(-1, n, *made.images.shape[1:])
    columns = {"original": originals[:SHOWN]} | {f"variation {d + 1}": v[:SHOWN] for d, v in enumerate(variations[:DRAWS])}
    facts = {
        "strength": start["strength"], "noise at the start, sigma": made.record["grid"][0], "sampler": made.record["sampler"],
        "network calls of a variation": made.record["nfe"], "variations of each image": len(variations),
        "seconds a variation": made.record["seconds_per_image"],
    }  # fmt: skip
    notes = [f"The first {DRAWS} of {len(variations)} variations; the file has all."] if len(variations) > DRAWS else []
    return write_images_page(path, "vary", f"Variations: {n} images", columns, made.record, facts, n=n, notes=notes, near=near)


def write_invert_page(
    found: Inversion, columns: Mapping[str, Pixels], error: Estimate, path: Path, near: Sequence[Path] = ()
) -> Path:
    """The page of `invert`: the columns of its picture, and the error of the way back."""
    title, record = "RMS error of the way back", found.record
    facts = {
        "steps": record["steps"], "iterations of a step, at most": record["iterations"], "grid": str(record["grid_name"]),
        "network calls of an image": record["nfe"], "calls of the way back": record["nfe_back"],
        "largest error": float(found.rmse.max()),
    }  # fmt: skip
    return write_images_page(
        path, "invert", f"Inversion: {len(found.images)} images", columns, record, facts, n=len(found.images),
        scores=[(title, error)], each={title: found.rmse}, near=near,
        scores_note=f"Of images in [-1, 1], where half a grey level of 8 bits is {sig(1 / 255)}.",
        notes=["Grey is 0 in the picture of the noise, black -3 and white 3."] if "noise" in columns else (),
    )  # fmt: skip
