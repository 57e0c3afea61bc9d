"""Run folders as training leaves them, made up: no model is trained here."""

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alphabar.recipe import resolve
from alphabar.record import Run
from alphabar.sampling.draw import Samples

MakeRun = Callable[..., Path]


def score(metric: str, value: float, floor: float = 1.1, n: int = 1024) -> dict[str, Any]:
    return {
        "metric": metric, "value": value, "n": n, "n_reference": 10_000, "floor": floor, "floor_n": n,
        "floor_source": "fashion_mnist:train, the part held out by content", "extractor": "0123456789abcdef",
        "preprocessing": {"range": [-1, 1]}, "reference": "fedcba9876543210", "reference_name": "fashion_mnist:test",
        "interval": None, "floor_interval": None, "floor_seed": 0, "nfe": 25.0, "seeds": {"seed": 1, "first_index": 0},
        "sampler": {"sampler": "ddim", "eta": 0.0, "steps": 25, "grid_name": "time", "plan": None, "clip": False},
        "versions": {"alphabar": "0.1.0"},
    }  # fmt: skip


@cache
def _recipe(tokens: tuple[str, ...]) -> str:
    return resolve("garments", tokens).toml()


def fill(path: Path, *, images: int = 2_000_000, every: int = 6_400, lr: float = 2e-3, offset: float = 0.0, end: str = "finished",
         previews: int = 5, tokens: tuple[str, ...] = ()) -> Path:  # fmt: skip
    """A run of `images` images: losses that fall, held-out losses in five bands, scores, previews and an end."""
    run = Run(path)
    run.start(_recipe(("--train.lr", str(lr), "--train.images", str(images), *tokens)))
    rng = np.random.default_rng(round(1000 * offset))
    events: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []

    def event(kind: str, seen: int, **values: Any) -> None:
        events.append({"event": kind, "time": 1.8e9 + seen / 300, "images": seen, **values})

    for k in range(1, images // every + 1):
        seen = k * every
        curve = 0.14 + offset + 0.5 * math.exp(-seen / (0.03 * images)) + 0.1 * math.exp(-seen / (0.3 * images))
        rate = lr * (1 + math.cos(math.pi * seen / images)) / 2
        event("loss", seen, loss=curve + 0.004 * rng.standard_normal(), lr=rate, images_per_second=312.5)
        if k % 8 == 0:
            edges = [0.006, 0.33, 0.74, 1.4, 3.1, 72.0]
            bands = [{"sigma": [edges[b], edges[b + 1]], "loss": curve * (1.8 - 0.35 * b)} for b in range(5)]
            event("heldout", seen, loss=curve + 0.006, se=0.005, n=512, bands=bands)
        if k % (images // every // 5) == 0:
            fid = 12 + 60 * math.exp(-seen / (0.2 * images)) + 20 * offset
            rows = [score("fid", fid), score("kid", 0.002 + 0.1 * curve, 0.0002)]
            event("score", seen, scores=rows)
            scores += [{"images": seen, **row} for row in rows]
    if end == "diverged":
        event("diverged", images, loss="nan")
    elif end:
        event(end, images, seconds=6543.2)
    for file, rows in ((run.events, events), (run.scores, scores)):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.samples.mkdir()
    for k in range(previews):
        seen = images * (k + 1) // previews
        picture = rng.integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(picture).save(run.samples / f"preview_{seen:010d}.png")
    return path


def drawn(seed: int, n: int = 16, shape: tuple[int, int, int] = (12, 10, 1)) -> NDArray[np.uint8]:
    """Images of smooth blobs: of a seed the same."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, shape[2])).astype(np.uint8)
    h, w, _ = shape
    return coarse.repeat(-(-h // 4), 1).repeat(-(-w // 4), 2)[:, :h, :w]


def add_sheets(path: Path, seen: Sequence[int], shape: tuple[int, int, int] = (12, 10, 1), n: int = 16) -> None:
    """Sheets as `Preview` writes them, with their events. Image k after s images of training is image k of drawn(s)."""
    run = Run(path)
    for images in seen:
        made = drawn(images, n, shape)
        sheet = run.samples / f"preview_{images:010d}.png"
        Samples(made, {}).sheet(scale=2).save(sheet)
        layout = {"columns": 4, "scale": 2, "pad": 1, "image": list(shape[:2])}
        run.event("preview", images=images, path=f"samples/{sheet.name}", steps=25, seed=0, n=n, sheet=layout)


def add_way(path: Path, steps: int = 10, shape: tuple[int, int, int] = (12, 10, 1), n: int = 8) -> Samples:
    """A way as `Preview` keeps it: the guesses of call k are drawn(k)."""
    grid = [*np.geomspace(80.0, 0.01, steps).tolist(), 0.0]
    record = {
        "sampler": "ddim", "grid": grid, "seed": 0, "x0_steps": list(range(steps)), "image_shape": [shape[2], *shape[:2]],
        "model": "0123456789abcdef", "images_seen": 64_000,
    }  # fmt: skip
    made = Samples(drawn(steps, n, shape), record, [drawn(k, n, shape) for k in range(steps)])
    made.save(Run(path).trajectory)
    return made


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run("a", lr=1e-3) -> the folder of a made-up run (`fill` says what can be asked for)."""

    def make(name: str = "garments", **options: Any) -> Path:
        return fill(tmp_path / name, **{"images": 64_000, "every": 1_600, **options})

    return make
