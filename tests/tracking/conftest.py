import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.tracking import GeneralTracker

from alphabar.core.run import Run
from alphabar.training.config import Recipe, resolve
from alphabar.verbs import train as api

SMALL = [
    "--model.channels", "8", "16", "--model.groups", "4", "--model.embedding", "8", "--train.batch", "32", "--train.warmup", "0",
    "--train.log-every", "64", "--train.checkpoint-every", "128", "--train.heldout-every", "128", "--watch.preview-every", "128",
    "--watch.preview-n", "4", "--watch.preview-steps", "2", "--watch.score-every", "0", "--data.holdout", "0.1",
]  # fmt: skip


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 small images in an .npy file."""
    g = np.random.default_rng(0)
    pixels = (np.arange(8, dtype=np.uint8) * 8)[None, None, :, None].repeat(160, 0).repeat(8, 1).copy()
    for image in pixels:
        top, left = g.integers(0, 5, 2)
        image[top : top + 3, left : left + 3] = g.integers(150, 256)
    path = tmp_path_factory.mktemp("squares") / "squares.npy"
    np.save(path, pixels)
    return path


def small(squares: Path, images: int = 256, track: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Recipe:
    words = [*SMALL, "--data.set", str(squares), "--train.images", str(images), *more]
    return resolve("garments", [*words, *(("--track", *track) if track else ())])


@pytest.fixture(scope="session")
def trained(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 256 images whose record has two previews, two held-out losses, four losses and two scores."""
    path = tmp_path_factory.mktemp("trained") / "squares run"
    api.train(small(squares), path, progress=False)
    run = Run(path)
    lines = run.events.read_text().splitlines()
    for images in (128, 256):  # as the hook that scores reports them
        place = max(k for k, line in enumerate(lines) if json.loads(line).get("images") == images and "preview" in line)
        row = {
            "event": "score", "time": 0.0, "images": images, "step": images // 32,
            "scores": [{"metric": "fid", "value": 4.5, "interval": [4.0, 5.0], "floor": 0.5}, {"metric": "kid", "value": 0.25}],
        }  # fmt: skip
        lines.insert(place + 1, json.dumps(row))
    run.events.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / trained.name))


LOG: dict[str, list[tuple[Any, ...]]] = {}  # what the trackers below received, by run


class Diary(GeneralTracker):
    """A custom tracker with the least that is required."""

    name = "diary"
    requires_logging_directory = False

    def __init__(self, run_name: str) -> None:
        self.run_name, self.tracker = run_name, LOG.setdefault(run_name, [])
        super().__init__()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.tracker.append(("configuration", values))

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.tracker.append(("values", step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.tracker.append(("images", step, values))


class Broken(Diary):
    """Fails at every number until `works` is set."""

    works = False
    failed, received = threading.Event(), threading.Event()

    def log(self, values: dict[str, float], step: int | None = None, **more: Any) -> None:
        if not Broken.works:
            Broken.failed.set()
            raise ConnectionError("no route to the tracker\nand more")
        super().log(values, step, **more)
        Broken.received.set()


@pytest.fixture
def log() -> Callable[[str], list[tuple[Any, ...]]]:
    LOG.clear()
    Broken.works = False
    Broken.failed.clear()
    Broken.received.clear()
    return lambda name: LOG.get(name, [])
