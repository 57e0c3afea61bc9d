"""The extractor of a score: one that is named, or the one of a run, which is trained on the run's images where it is missing."""

import sys
from collections.abc import Sequence
from pathlib import Path

from alphabar.core import processes
from alphabar.core.files import locked
from alphabar.core.machine import best_device
from alphabar.core.messages import as_path, command, say
from alphabar.core.run import Run
from alphabar.data.image_set import ImageSet, class_names, parse_set
from alphabar.data.latents import holds_latents
from alphabar.denoiser.from_hub import local_run
from alphabar.features.auto import plan_extractor
from alphabar.features.extractor import Extractor, FeatureExtractor, read_extractor
from alphabar.features.load import load_extractor
from alphabar.training.config import resolve
from alphabar.verbs.train import images_of, of_set, recipe_images

AUTO = "auto"
FILE = Path("extractor") / "auto.safetensors"  # in the run


def extractor_for(
    name: str | Path, real: ImageSet, samples: Sequence[str | Path] = (), against: str = "", progress: bool = True
) -> FeatureExtractor:
    """The extractor of a name, or for "auto" that of the run behind the samples, which is trained and kept there if need be.

    Args:
        name: as `load_extractor` takes it, or auto.
        real: the real images that the samples are scored against.
        samples: what is scored: runs, or samples in folders of runs.
        against: where the real images are from.
        progress: say what is trained, and show a progress bar.

    Raises:
        ValueError: for an extractor of images of another shape, and for auto without a run or with other images than the run's.
    """
    run = next((home for one in samples if (home := run_of(one)) is not None), None)
    if str(name) == AUTO:
        if run is None:
            what = f"{samples[0]} belongs to no run" if samples else "there is no run here"
            raise ValueError(f"{what}, on whose images --extractor auto is trained: {_by_hand(real, against)}")
        with processes.rank_zero_first():
            return _of_run(run, real, against, progress)
    found = load_extractor(name)
    advice = (
        _by_hand(real, against)
        if run is None
        else f"add --extractor auto, which trains one on the images of {run} and keeps it there"
    )
    if isinstance(found, Extractor) and found.image_shape != real.image_shape:
        (c, h, w), (channels, height, width) = found.image_shape, real.image_shape
        raise ValueError(
            f"the extractor {name} is for images of {h}x{w}x{c}, and {real.name} has {height}x{width}x{channels}: {advice}"
        )
    if str(name) == "bundled" and real.name != "fashion_mnist" and progress:
        say(f"bundled is an extractor of garments, which may not see what matters in {real.name}: {advice}", sys.stderr)
    return found


def run_of(samples: str | Path) -> Path | None:
    """The run that a path is, or in whose folder it lies; None where there is none."""
    path = as_path(str(local_run(samples)).partition("[")[0])
    return next((p for p in (path, *path.parents) if Run(p).recipe.is_file()), None)


def _by_hand(real: ImageSet, against: str = "") -> str:
    """The lines that train an extractor of these images and use it."""
    name = (against and parse_set(against)[0]) or real.source or real.name
    way = () if class_names(real) else ("--self-supervised",)
    way = (*(() if holds_latents(name) else real.reading.words()), *way)
    line = command("alphabar", "extractor", "train", name, "--out", "extractor.safetensors", *way)
    return f"{line}, then --extractor extractor.safetensors"


def _of_run(run: Path, real: ImageSet, against: str, progress: bool) -> Extractor:
    path = run / FILE
    if path.exists():
        made = read_extractor(path)
        if made.image_shape != real.image_shape:
            raise ValueError(f"{path} is for images of shape {made.image_shape}, and {real.name} has {real.image_shape}")
    else:
        made = train_beside(run, real, against, progress)
    if progress and processes.world()[0] == 0:
        say(f"extractor {path} ({made.fingerprint}): {made.training_record.get('seen', 'trained on the run')}", sys.stderr)
    return made.to(best_device())


def train_beside(run: Path, real: ImageSet, against: str = "", progress: bool = True) -> Extractor:
    """Trains an extractor on a run's training images, says before how long it takes, and keeps it in the run."""
    recipe = resolve(Run(run).recipe)
    try:
        images = recipe_images(recipe, known=images_of(run))
    except FileNotFoundError:
        if not against:
            raise
        images = recipe_images(of_set(recipe, parse_set(against)[0]), known=images_of(run))
    if images_of(run) not in (None, images.fingerprint):
        raise ValueError(f"{recipe.data.set} holds other images than those that {run} was trained on: {_by_hand(images)}")
    images = images.originals()
    path = run / FILE
    part = path.with_suffix(".part")
    plan = plan_extractor(images, recipe.data.holdout, len(real) // 2, part)
    path.parent.mkdir(exist_ok=True)
    with locked(path.parent):
        if progress:
            say(plan.line(), sys.stderr)
        made = plan.train(progress, part)
        made.save(path)
    return made
