"""Another length for a run that is finished, stopped or killed. Its recipe keeps the earlier lengths, which decide the rate."""

import contextlib
from typing import Any

from alphabar.core.progress import duration
from alphabar.core.run import Run
from alphabar.core.stored_values import read_object
from alphabar.data.image_set import ImageSet
from alphabar.data.split import holdout
from alphabar.training.checkpoint import find_checkpoint, last_good, read_state
from alphabar.training.config import Recipe
from alphabar.training.intervals import expected_seconds
from alphabar.training.speed import measure

PLAN = "plan.json"  # of a run: what was planned, and the minutes that were asked for


def last_state(run: Run) -> dict[str, Any]:
    """The state of the checkpoint from which a run is resumed."""
    try:
        return read_state(find_checkpoint(run.checkpoint()))
    except ValueError:  # it is damaged, and the one before it is taken
        return last_good(run).state


def with_length(run: Run, stored: Recipe, images: int) -> Recipe:
    """A run's recipe with `images` as the new length of the whole training, from the last checkpoint on.

    Raises ValueError where the run has seen as many images already.
    """
    train = stored.train
    if images == train.images:
        return stored
    if images <= (seen := last_state(run)["images"]):
        raise ValueError(
            f"{run.path} has seen {seen:,} images, and {images:,} is the length of the whole training: give --images above {seen}"
        )
    earlier = train.earlier_lengths
    if earlier[-2:-1] != (seen,):  # else no step was taken under the last length
        earlier = (*earlier, seen, train.images)
    return stored.with_(train={"images": images, "earlier_lengths": earlier})


def length_in_images(run: Run, stored: Recipe, image_set: ImageSet, minutes: float) -> int:
    """The length at which a run has trained for `minutes`, earlier sessions included, by its speed on this machine now.

    The minutes that the run has from its plan mean its present length. Raises ValueError where it has trained as long already.
    """
    with contextlib.suppress(OSError, ValueError):
        if read_object(run.path / PLAN).get("minutes") == minutes:
            return stored.train.images
    state = last_state(run)
    if 60 * minutes <= (seconds := float(state.get("seconds", 0))):
        raise ValueError(
            f"{run.path} has trained for {duration(seconds)}, and --minutes {minutes:g} is the length of the whole training: "
            f"give more than {seconds / 60:.1f}"
        )
    indices, heldout = holdout(image_set.pixels, stored.data.holdout, hashes=image_set.hashes)
    speed, _ = measure(stored, image_set, indices)
    images_a_second = stored.train.images / expected_seconds(stored, speed, len(heldout))
    batches = (60 * minutes - seconds) * images_a_second / stored.train.batch
    return int(state["images"]) + max(round(batches), 1) * stored.train.batch
