"""The two pictures of README.

python docs/make_readme_figure.py demo DEMO_FOLDER docs/figures/demo.png            # after `make demo`
python docs/make_readme_figure.py cells CELLS DRAWN.npz docs/figures/cells.png      # after README's commands
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from alphabar import Samples, load

SCALE, LABEL, GAP = 3, 190, 4
DEMO = {
    "DDPM, 1,000 calls": "ddpm_all", "DDIM, 10 calls": "ddim_10_eta_0", "fitted, 5 calls": "tuned_5",
    "distilled, 2 calls": "distilled_2", "distilled, 1 call": "distilled_1",
}  # fmt: skip


def draw_rows(rows: dict[str, NDArray[np.uint8]], out: str) -> None:
    """One labelled row of grey images (n, h, w) after another."""
    n, h, w = next(iter(rows.values())).shape
    picture = Image.new("L", (LABEL + n * w * SCALE, len(rows) * (h * SCALE + GAP)), 255)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for k, (label, images) in enumerate(rows.items()):
        top = k * (h * SCALE + GAP)
        draw.text((GAP, top + h * SCALE // 2 - 11), label, 0, font)
        for j, image in enumerate(images):
            tile = Image.fromarray(image).resize((w * SCALE, h * SCALE), Image.Resampling.NEAREST)
            picture.paste(tile, (LABEL + j * w * SCALE, top))
    picture.save(out, optimize=True)


def demo(folder: str, out: str) -> None:
    rows = {label: Samples.load(Path(folder) / "samples" / f"{name}.npz").images[:8] for label, name in DEMO.items()}
    rows["real images"] = np.asarray(load("fashion_mnist", "test").pixels[:8])
    draw_rows({label: 255 - images[..., 0] for label, images in rows.items()}, out)


def cells(folder: str, drawn: str, out: str) -> None:
    real, made = load(folder, value_range=(0, 4095)).pixels[:16], Samples.load(drawn).images[:16]
    rows = {"given": real[:8], "given ": real[8:], "drawn": made[:8], "drawn ": made[8:]}
    draw_rows({label: (np.asarray(images)[..., 0] >> 8).astype(np.uint8) for label, images in rows.items()}, out)


if __name__ == "__main__":
    {"demo": demo, "cells": cells}[sys.argv[1]](*sys.argv[2:])
