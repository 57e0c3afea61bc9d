"""How often a planned training is looked at: previews, held-out losses, scores and checkpoints, within shares of its time."""

import math
from dataclasses import replace

from alphabar.data.split import HOLDOUT
from alphabar.training.config import Recipe, WatchRecipe
from alphabar.training.speed import Speed

FIRST_SIGHT = 90.0  # seconds until the first loss and the first sheet of samples
PREVIEW_SHARE = 0.05  # of the time that sheets take, and of the time that held-out losses take, at most
SHEETS = (64, 36, 16, 9, 4)  # samples on a sheet; the most that take at most SHEET_SECONDS and PREVIEW_SHARE of the time
SHEET_SECONDS = 40.0
LOSSES = (512, 256, 128, 64, 32)  # images of a held-out loss; the most that can be measured LEAST_LOSSES times in PREVIEW_SHARE
LEAST_LOSSES = 4
LOSS_SECONDS = 20.0  # between two held-out losses at least: the best checkpoint is written after them
SCORE_SHARE = 0.07  # of the time that scores take, at most
SCORED = (1024, 512, 256, 128, 64)  # samples of a score; the most that can be scored SCORES times in that time
SCORES = 4
MOST_SCORES = 12
SCORING = 2.0  # seconds that a score takes in addition to its samples: features and intervals
HELD_OUT = 300  # images that a small set holds out, if they are not more than MOST_HELD_OUT of it
MOST_HELD_OUT = 0.25


def heldout_share(n: int) -> float:
    """The share of n images to hold out, of which enough to score remain in a small set.

    >>> [heldout_share(n) for n in (300, 1500, 3324)]
    [0.25, 0.2, 0.17]
    """
    return max(HOLDOUT, min(MOST_HELD_OUT, round(HELD_OUT / max(n, 1), 3)))


def with_intervals(recipe: Recipe, length: float, speed: Speed, heldout: int) -> Recipe:
    """The recipe with its length, and intervals by which something is seen early and little time is spent on looking."""
    train, watch = recipe.train, recipe.watch
    rate, batch = speed.images_a_second, train.batch
    total = max(math.ceil(length / batch), 1) * batch
    most = min(SHEET_SECONDS, PREVIEW_SHARE * total / rate)
    sizes = (replace(watch, preview_n=n) for n in SHEETS)
    watch = next((each for each in sizes if sheet_seconds(each, speed) <= most), replace(watch, preview_n=SHEETS[-1]))
    most = PREVIEW_SHARE * total / rate / LEAST_LOSSES / speed.call_seconds
    watch = replace(watch, heldout_n=next((n for n in LOSSES if min(n, heldout) <= most), LOSSES[-1]))
    loss = min(watch.heldout_n, heldout) * speed.call_seconds
    sheet = sheet_seconds(watch, speed)
    first = max(batch, min(round(rate * (FIRST_SIGHT - sheet)), total))
    every = max(first, total // 10, round(sheet / PREVIEW_SHARE * rate))
    return replace(
        recipe,
        train=replace(
            train, images=total, **speed.keys, warmup=min(train.warmup, total // 10),
            heldout_every=max(total // 24, batch, round(max(loss / PREVIEW_SHARE, LOSS_SECONDS) * rate)),
            checkpoint_every=max(min(round(300 * rate), total // 4), batch),
            log_every=max(min(train.log_every, first // 2), batch),
        ),
        watch=replace(_with_scores(watch, total, speed), preview_first=first, preview_every=every),
    )  # fmt: skip


def _with_scores(watch: WatchRecipe, total: int, speed: Speed) -> WatchRecipe:
    """Scores of as many samples, as often, as SCORE_SHARE of the time allows; none where it is not enough for one."""
    seconds = SCORE_SHARE * total / speed.images_a_second
    for n in SCORED:
        times = min(int(seconds / (n * watch.preview_steps * speed.call_seconds + SCORING)), MOST_SCORES)
        if times >= SCORES or (times and n == SCORED[-1]):
            return replace(watch, score_n=n, score_every=math.ceil(total / times))
    return replace(watch, score_every=0)


def expected_seconds(recipe: Recipe, speed: Speed, n_heldout: int) -> float:
    """Expected seconds of a training: steps, sheets of samples, scores, losses of held-out images."""
    train, watch = recipe.train, recipe.watch
    sheets = 0.0
    if watch.preview_every:
        last = min(watch.preview_every, train.images)
        doublings = math.ceil(math.log2(max(last / watch.preview_first, 1))) if watch.preview_first else 0
        sheets = doublings + math.ceil(train.images / watch.preview_every)
    losses = math.ceil(train.images / (train.heldout_every or train.images))
    heldout = losses * min(n_heldout, watch.heldout_n) * speed.call_seconds
    scored = watch.copies or watch.extractor not in ("auto", "none") or recipe.data.set == "fashion_mnist"
    scores = math.ceil(train.images / watch.score_every) if watch.score_every and scored else 0
    scoring = scores * (watch.score_n * watch.preview_steps * speed.call_seconds + SCORING)
    return speed.seconds(train.images) + sheets * sheet_seconds(watch, speed) + heldout + scoring


def sheet_seconds(watch: WatchRecipe, speed: Speed) -> float:
    return watch.preview_n * watch.preview_steps * speed.call_seconds
