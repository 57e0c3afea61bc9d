"""How a run's images form: x0_hat from noise to image, as the run kept it during training, or sampled now."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from alphabar.core.messages import say
from alphabar.core.progress import duration
from alphabar.core.run import Run
from alphabar.data.contact_sheet import levels_of
from alphabar.report.png import EDGES, Picture, picture, png, smaller, strip
from alphabar.report.words import sig
from alphabar.results.runs import BUNDLED, RunData
from alphabar.sampling.samples import Samples
from alphabar.training.checkpoint import read_state

STEPS = 25  # network calls of a trajectory that is sampled for the page
PATIENCE = 15.0  # seconds that a page may spend on sampling unless more is allowed
BUDGET = 4_000_000  # bytes of all frames of all runs together


@dataclass(frozen=True)
class Frame:
    """One position of the slider. words: "call 3 of 25, sigma 12.3"."""

    picture: Picture
    words: str


@dataclass(frozen=True)
class Trajectory:
    """The frames of a run, noise first. index: number of the run, for its colour. about: how it was sampled, in one line."""

    name: str
    index: int
    images: int
    frames: list[Frame]
    about: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Trajectories:
    """The trajectories of all runs that have one. missing: why others have none. steps: positions of the slider."""

    found: list[Trajectory]
    missing: list[str]
    steps: int
    notes: list[str]


def trajectories(runs: Sequence[RunData], names: Sequence[str], draw: bool | None = None, budget: int = BUDGET) -> Trajectories:
    """The trajectory in samples/trajectory.npz of each run, or one sampled from its last checkpoint, which is then kept there.

    draw: True samples always, None only while that takes seconds, False never. Images are made smaller to fit `budget` bytes.
    """
    patience = PATIENCE
    made: list[tuple[int, Samples]] = []
    missing: list[str] = []
    for k, (run, name) in enumerate(zip(runs, names, strict=True)):
        start = time.monotonic()
        found = _kept(run)
        if found is None and draw is not False:
            found = _sample(run, name, None if draw else patience)
            patience = max(patience - (time.monotonic() - start), 0.0)
        if isinstance(found, Samples):
            made.append((k, found))
        else:
            missing.append(f"{name}: {found or 'the run has no trajectory, and --no-trajectory forbids sampling one'}.")
    frames: list[list[tuple[bytes, str]]] = []
    for edge in EDGES:  # the largest images that fit
        frames = [_frames(samples, edge) for _, samples in made]
        if sum(len(data) for own in frames for data, _ in own) <= budget:
            break
    out = [_trajectory(names[k], k, samples, own) for (k, samples), own in zip(made, frames, strict=True)]
    notes = []
    if any(max(samples.images.shape[1:3]) > edge for _, samples in made):
        notes.append(f"Images are shown at most {edge} pixels wide and high.")
    if len({(s.record.get("seed"), tuple(s.record.get("image_shape") or ())) for _, s in made}) > 1:
        notes.append("The images of these runs differ in seed or size: image k of one does not correspond to that of another.")
    return Trajectories(out, missing, max((len(t.frames) for t in out), default=0), notes)


def _kept(run: RunData) -> Samples | str | None:
    """What the run holds; None where it holds none; or why it cannot be shown."""
    path = Run(run.path).trajectory
    if not path.exists():
        return None
    try:
        samples = Samples.load(path)
        if samples.x0 is None or len(samples.x0) != len(samples.record["x0_steps"]) or not len(samples.images):
            raise ValueError("it holds no x0_hat")
        [float(samples.record["grid"][k]) for k in samples.record["x0_steps"]]
        return samples
    except (OSError, ValueError, KeyError, IndexError, TypeError, BadZipFile) as e:
        return f"samples/{path.name} cannot be read ({e})"


def _sample(run: RunData, name: str, seconds: float | None) -> Samples | str:
    """A trajectory of the last checkpoint, or why there is none. seconds: what it may take, estimated from one call."""
    from alphabar.core.machine import best_device
    from alphabar.sampling.preview import WATCHED, watched
    from alphabar.training.checkpoint import load_model

    bundled = run.path == BUNDLED
    if not bundled and not (run.path / "checkpoints").is_dir():
        return "the run has no trajectory, and no checkpoint to sample one from"
    if seconds is not None and seconds <= 0:
        return f"the run has no trajectory, and other runs used the {PATIENCE:g} s for sampling; --trajectory samples all"
    try:
        model = load_model("bundled" if bundled else run.path).to(best_device())
        steps = min(STEPS, model.schedule.steps or STEPS)
        if seconds is not None and (cost := steps * _seconds_a_call(model, WATCHED, 10 * seconds / steps)) > seconds:
            return f"the run has no trajectory; sampling one would take about {duration(cost)} here: allow it with --trajectory"
        samples = watched(model, WATCHED, steps)
    except (OSError, ValueError, RuntimeError, ImportError) as e:
        return f"the run has no trajectory, and none can be sampled from the last checkpoint ({e})"
    samples = Samples(samples.images, samples.record | {"images_seen": None if bundled else _images_seen(run.path)}, samples.x0)
    if not bundled:
        try:
            samples.save(Run(run.path).trajectory)
        except OSError as e:  # a read-only folder: the page has the trajectory all the same
            say(f"{name}: the trajectory could not be saved in the run ({e})", sys.stderr)
    return samples


def _seconds_a_call(model: Any, n: int, enough: float) -> float:
    """The time of a network call for n images: of the second call, unless the first one took more than `enough`."""
    import torch

    with torch.inference_mode():
        x = torch.zeros(n, *model.image_shape, device=next(model.parameters()).device)
        for _ in range(2):  # the first call includes what is done once
            start = time.perf_counter()
            model(x, torch.ones(n, device=x.device)).flatten()[0].item()
            if (seconds := time.perf_counter() - start) > enough:
                break
    return seconds


def _images_seen(run: Path) -> int | None:
    try:
        return int(read_state(Run(run).checkpoint())["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _frames(samples: Samples, edge: int) -> list[tuple[bytes, str]]:
    """A PNG file and its words for x0_hat at each step, and for the final images."""
    grid, steps = samples.record["grid"], samples.record["x0_steps"]
    words = [f"call {k + 1} of {len(grid) - 1}, sigma {sig(float(grid[k]))}" for k in steps] + ["final images"]
    pixels = [*(samples.x0 or []), samples.images]
    levels = levels_of(samples.images)
    return [(png(strip(smaller(images, edge, levels)[0])), text) for images, text in zip(pixels, words, strict=True)]


def _trajectory(name: str, index: int, samples: Samples, frames: Sequence[tuple[bytes, str]]) -> Trajectory:
    record, seen = samples.record, samples.record.get("images_seen")
    after = f"after {seen:,} images of training, " if isinstance(seen, int) else ""
    about = f"{after}{record.get('sampler')}, {len(record['grid']) - 1} calls, seed {record.get('seed')}"
    return Trajectory(name, index, len(samples.images), [Frame(picture(data), words) for data, words in frames], about, record)
