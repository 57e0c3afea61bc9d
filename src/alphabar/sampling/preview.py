"""A hook that writes a sheet of samples of the same seed at intervals of a training, and the trajectory of the first of them."""

import math
from collections.abc import Sequence

import numpy as np

from alphabar.core.outputs import save_picture
from alphabar.data.contact_sheet import Levels, shown, shown_note
from alphabar.sampling.batches import spread_out
from alphabar.sampling.guidance import every_class
from alphabar.sampling.model import Model
from alphabar.sampling.options import SampleOptions
from alphabar.sampling.resolved import resolve_options
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.training.hooks import AT_ONCE, Hook, Training

WATCHED = 8  # images whose trajectory is kept
FRAMES = 25  # x0_hat that are kept of each of them, at most
SCALE, PAD = 2, 1  # of a sheet


def watched(model: Model, n: int, steps: int, seed: int = 0, batch: int = AT_ONCE) -> Samples:
    """The first n images of a seed by DDIM, of all classes in turn for a conditional model, with x0_hat at up to 25 steps."""
    return _drawn(model, range(n), steps, seed, batch, spread_out(steps, FRAMES))


class Preview(Hook):
    """Writes samples/preview_IMAGES.png into the run folder every `every` images: n images by DDIM in `steps` steps, of all
    classes in turn for a conditional model. samples/trajectory.npz has x0_hat of the first 8, of the latest preview only: it
    shows how the images form, and costs no network calls. levels: of the sheets, as `contact_sheet` takes them."""

    watches = "preview"

    def __init__(self, every: int, n: int = 64, steps: int = 25, seed: int = 0, first: int = 0, levels: Levels = (0, 1)) -> None:
        self.every, self.n, self.steps, self.seed, self.first, self.levels = every, n, steps, seed, first, levels

    def check(self, training: Training) -> None:
        if self.n < 1:
            raise ValueError(f"watch.preview_n {self.n}: give 1 or more images, or --watch.preview-every 0 for no previews")
        check_steps(training.ema, self.steps)

    def on_interval(self, training: Training) -> None:
        first = min(self.n, WATCHED)
        some = watched(training.ema, first, self.steps, self.seed, training.at_once)
        images = some.images
        if self.n > first:
            rest = _drawn(training.ema, range(first, self.n), self.steps, self.seed, training.at_once)
            images = np.concatenate([images, rest.images])
        folder = training.run.samples
        path = folder / f"preview_{training.images:010d}.png"
        save_picture(Samples(images, some.record).sheet(scale=SCALE, pad=PAD, levels=self.levels), path)
        Samples(some.images, some.record | {"images_seen": training.images}, some.x0).save(training.run.trajectory)
        training.report(
            "preview", path=str(path.relative_to(training.run.path)), steps=self.steps, seed=self.seed, n=len(images),
            sheet={  # where image k lies on it
                "columns": math.ceil(math.sqrt(len(images))), "scale": SCALE, "pad": PAD,
                "image": list(shown(images[:1]).shape[1:3]), "note": shown_note(images, self.levels),
            },
        )  # fmt: skip


def check_steps(model: Model, steps: int) -> None:
    """Raises ValueError where a model cannot be sampled by DDIM in so many steps of a preview or of a score."""
    try:
        resolve_options(model, SampleOptions(steps=steps))
    except ValueError as e:
        raise ValueError(f"watch.preview_steps {steps}: {e}") from None


def _drawn(model: Model, rows: Sequence[int], steps: int, seed: int, batch: int, keep: Sequence[int] = ()) -> Samples:
    return sample(
        model, len(rows), steps=steps, seed=seed, batch=batch, classes=every_class(model), indices=rows, keep_x0=keep,
        progress=False,
    )  # fmt: skip
