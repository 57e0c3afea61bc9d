"""Simulated fluorescence microscopy: 300 images of cells, 28x28 pixels, 12 bit in 16-bit TIFF files.

python examples/make_cells.py FOLDER [N]
"""

import sys
from pathlib import Path

import numpy as np
import tifffile

SIZE = 28


def cell(rng: np.random.Generator) -> np.ndarray:
    """Photon counts of one cell: a soft elliptic body, a bright nucleus, a few granules, background, shot noise."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2

    def ellipse(cy: float, cx: float, radius: float, stretch: float, angle: float, edge: float) -> np.ndarray:
        u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        distance = np.hypot(u / stretch, v * stretch) - radius
        return 1 / (1 + np.exp(np.clip(distance / edge, -50, 50)))

    cy, cx = rng.normal(0, 1.2, 2)
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    counts = 120 + rng.uniform(500, 900) * ellipse(cy, cx, rng.uniform(8, 10.5), stretch, angle, 0.8)
    ny, nx = rng.normal((cy, cx), 1.5)
    counts += rng.uniform(1400, 2200) * ellipse(ny, nx, rng.uniform(3, 4.2), rng.uniform(1, 1.25), angle, 0.6)
    for _ in range(rng.integers(2, 6)):
        gy, gx = rng.normal((cy, cx), 4)
        counts += rng.uniform(600, 1200) * ellipse(gy, gx, 0.8, 1, 0, 0.35)
    return np.clip(rng.poisson(counts), 0, 4095).astype(np.uint16)


def main(folder: str, n: int = 300) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(n):
        tifffile.imwrite(out / f"cell{k:03d}.tif", cell(rng))


if __name__ == "__main__":
    main(sys.argv[1], *(int(a) for a in sys.argv[2:3]))
