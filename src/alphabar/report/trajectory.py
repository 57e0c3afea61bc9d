"""How a run's images come to be: x0_hat along the way from noise to image, as it was kept in training, or drawn now."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from alphabar.core.run import Run
from alphabar.report.png import png, smaller, strip, uri
from alphabar.report.words import duration, sig
from alphabar.results.runs import BUNDLED, RunData
from alphabar.sampling.samples import Samples

STEPS = 25  # calls of a way that is drawn for a page
PATIENCE = 15.0  # seconds that a page may spend on drawing unless it is asked for
BUDGET = 4_000_000  # bytes of all frames of all runs together
_EDGES = (96, 64, 48, 32, 24, 16)  # pixels of an image's longer side, as the budget allows


@dataclass(frozen=True)
class Frame:
    """One position of the slider. words: "call 3 of 25, sigma 12.3"."""

    uri: str
    width: int
    height: int
    words: str


@dataclass(frozen=True)
class Way:
    """A run's way, noise first. index: of the run, for its colour. about: a line on how it was made. record: all of that."""

    name: str
    index: int
    images: int
    frames: list[Frame]
    about: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Ways:
    """The ways of all runs that have one. missing: why others have none, a sentence each. steps: positions of the slider."""

    ways: list[Way]
    missing: list[str]
    steps: int
    notes: list[str]


def ways(runs: Sequence[RunData], names: Sequence[str], draw: bool | None = None, budget: int = BUDGET) -> Ways:
    """What the runs kept in samples/trajectory.npz, and of others what their last checkpoint draws.

    draw: True draws whatever it takes, None while it takes seconds, False not at all. What was drawn is kept with the run.
    """
    left = PATIENCE
    found: list[tuple[int, Samples]] = []
    missing: list[str] = []
    for k, (run, name) in enumerate(zip(runs, names, strict=True)):
        begun = time.monotonic()
        made = _kept(run)
        if made is None and draw is not False:
            made = _draw(run, name, None if draw else left)
            left = max(left - (time.monotonic() - begun), 0.0)
        if isinstance(made, Samples):
            found.append((k, made))
        else:
            missing.append(f"{name}: {made or 'no way was kept, and --no-trajectory said not to draw one'}.")
    for edge in _EDGES:
        left_bytes = float("inf") if edge == _EDGES[-1] else budget
        frames = []
        for _, made in found:
            frames.append(_frames(made, edge))
            left_bytes -= sum(len(data) for data, _ in frames[-1])
            if left_bytes < 0:
                break
        if left_bytes >= 0:
            break
    out = [_way(names[k], k, made, own) for (k, made), own in zip(found, frames if found else [], strict=True)]
    notes = []
    if any(max(made.images.shape[1:3]) > edge for _, made in found):
        notes.append(f"Images are shown at most {edge} pixels wide and high.")
    if len({(m.record.get("seed"), tuple(m.record.get("image_shape") or ())) for _, m in found}) > 1:
        notes.append("The runs' images differ in seed or size, so they do not go together one by one.")
    return Ways(out, missing, max((len(way.frames) for way in out), default=0), notes)


def _kept(run: RunData) -> Samples | str | None:
    """What the run holds; None where it holds none; or why it cannot be shown."""
    path = Run(run.path).trajectory
    if not path.exists():
        return None
    try:
        made = Samples.load(path)
        if made.x0 is None or len(made.x0) != len(made.record["x0_steps"]) or not len(made.images):
            raise ValueError("it holds no x0_hat")
        [float(made.record["grid"][k]) for k in made.record["x0_steps"]]
        return made
    except (OSError, ValueError, KeyError, IndexError, TypeError, BadZipFile) as e:
        return f"samples/{path.name} cannot be read ({e})"


def _draw(run: RunData, name: str, seconds: float | None) -> Samples | str:
    """The way of the last checkpoint's images; or why there is none. seconds: what it may take, by one measured call."""
    import torch

    from alphabar.core.machine import best_device
    from alphabar.sampling.preview import WATCHED, watched
    from alphabar.training.checkpoint import load_model

    bundled = run.path == BUNDLED
    if not bundled and not (run.path / "checkpoints").is_dir():
        return "no way was kept, and there is no checkpoint to draw one from"
    if seconds is not None and seconds <= 0:
        return f"no way was kept; others took the {PATIENCE:g} seconds that a page spends on drawing unless told --trajectory"
    try:
        model = load_model("bundled" if bundled else run.path).to(best_device())
        steps = min(STEPS, model.schedule.steps or STEPS)
        if seconds is not None:
            with torch.inference_mode():
                x = torch.zeros(WATCHED, *model.image_shape, device=next(model.parameters()).device)
                for _ in range(2):  # the first one pays for what is done once
                    begun = time.perf_counter()
                    model(x, torch.ones(len(x), device=x.device)).flatten()[0].item()
                    cost = steps * (time.perf_counter() - begun)
                    if cost > 10 * seconds:
                        break
            if cost > seconds:
                return f"no way was kept, and to draw one would take about {duration(cost)} here: add --trajectory if it may"
        made = watched(model, WATCHED, steps)
    except (OSError, ValueError, RuntimeError, ImportError) as e:
        return f"no way was kept, and the last checkpoint draws none ({e})"
    made = Samples(made.images, made.record | {"images_seen": None if bundled else _seen(run.path)}, made.x0)
    if not bundled:
        try:
            made.save(Run(run.path).trajectory)
        except OSError as e:  # a folder that is not ours to write: the page has it all the same
            print(f"{name}: the way could not be kept with the run ({e})", file=sys.stderr)
    return made


def _seen(run: Path) -> int | None:
    """Images that the last checkpoint has seen."""
    try:
        return int(json.loads((Run(run).checkpoint() / "state.json").read_text(encoding="utf-8"))["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _frames(made: Samples, edge: int) -> list[tuple[bytes, str]]:
    """A PNG file and its words for every guess, and for the images in the end."""
    record = made.record
    grid, steps = record["grid"], record["x0_steps"]
    calls = len(grid) - 1
    words = [f"call {k + 1} of {calls}, sigma {sig(float(grid[k]))}" for k in steps] + ["the images in the end"]
    return [
        (png(strip(smaller(images, edge)[0])), said) for images, said in zip([*(made.x0 or []), made.images], words, strict=True)
    ]


def _way(name: str, index: int, made: Samples, frames: Sequence[tuple[bytes, str]]) -> Way:
    record = made.record
    shown = [
        Frame(uri(data), int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), words) for data, words in frames
    ]
    seen = record.get("images_seen")
    after = "" if not isinstance(seen, int) else f"after {seen:,} images of training, "
    about = f"{after}{record.get('sampler')}, {len(record['grid']) - 1} calls, seed {record.get('seed')}"
    return Way(name, index, len(made.images), shown, about, record)
