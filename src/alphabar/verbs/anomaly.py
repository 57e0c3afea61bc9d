"""`anomaly`: how unusual images are to a run, and how well the scores tell them from usual ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from alphabar.core.bounds import Count
from alphabar.core.files import Record
from alphabar.core.machine import best_device
from alphabar.core.options import takes
from alphabar.core.progress import track
from alphabar.denoiser.precondition import eval_mode
from alphabar.denoiser.wrappers import CountCalls
from alphabar.evaluation.anomaly import anomaly_scores
from alphabar.evaluation.estimate import Estimate
from alphabar.evaluation.heldout import losses_by_level
from alphabar.evaluation.memorisation import auc
from alphabar.sampling.given_images import given_images
from alphabar.sampling.model import Model, check_denoises_pixels, fingerprint, move_model
from alphabar.training.checkpoint import load_model
from alphabar.verbs.likelihood import labels_of
from alphabar.verbs.memorisation import with_heldout
from alphabar.verbs.options import AnomalyOptions

COUNT = 10  # levels


@dataclass(frozen=True, eq=False)
class Anomaly(Record):
    """Scores of images, higher for unusual ones.

    Attributes:
        auc: the probability that an image has a higher score than a usual one that decided nothing (0.5: they are alike).
        n, n_usual: images, and usual images that the scores were made with; as many again are in `auc`.
        kind: of the score.
        nfe: network calls per image.
        model: its fingerprint.
        scores: of the images.
        usual_scores: of the usual images in `auc`.
    """

    auc: Estimate | None
    n: int
    n_usual: int
    kind: str
    nfe: float
    model: str | None
    scores: Float64[np.ndarray, " n"]
    usual_scores: Float64[np.ndarray, " m"]


def levels_of(model: Model) -> list[float]:
    """The noise levels at which losses are compared, 0.02 to 20 where the schedule has them."""
    low, high = max(0.02, model.schedule.sigma_min), min(20.0, model.schedule.sigma_max)
    levels: list[float] = np.geomspace(low, high, COUNT).tolist()
    return levels


@takes(AnomalyOptions)
def anomaly(
    run: Model | str | Path, images: Any, usual: Any, *, options: AnomalyOptions = AnomalyOptions(), n: Count | None = None,
    reading: Mapping[str, Any] | None = None, progress: bool = True, device: torch.device | str | None = None,
) -> Anomaly:  # fmt: skip
    """Scores how unusual images are to a model, from their denoising losses at ten noise levels.

    Args:
        run: a model, or what `load_model` takes; not a distilled one, nor one of latents.
        images: as for `given_images`: SET[:SPLIT], the path of an image or of an .npz, or images in memory.
        usual: images of the kind that the model was trained on, but not trained on: those with even numbers decide what is usual,
            those with odd ones are compared with the images.
        options: see `AnomalyOptions`; its fields may also be passed as keywords.
        n: the first n images of the set; None: all.
        reading: options of `alphabar.load` for both.
        progress: show a progress bar.
        device: where to compute; None: the fastest there is for a run, and for a model where it is.

    Raises:
        ValueError: for a distilled model, images of another size or range, and fewer than 40 usual images.
    """
    home = run
    if isinstance(run, str | Path):
        run, device = load_model(run), device or best_device()
    check_denoises_pixels(run, "an anomaly score")
    sets = [
        given_images(run, with_heldout(home, images, reading), n, reading),
        given_images(run, with_heldout(home, usual, reading), None, reading),
    ]
    sets[1] = sets[1].limited(options.usual_n)
    if len(sets[1]) < 4 * COUNT:
        raise ValueError(f"{len(sets[1])} usual images: give at least {4 * COUNT}, a few hundred as a rule")
    sigmas = levels_of(run)
    device = move_model(run, device, channels_last=True)
    count = CountCalls(run)
    total = sum(map(len, sets))
    with track(total * COUNT * options.draws, "denoising", show=progress) as advance, eval_mode(run):
        losses = [
            losses_by_level(
                count, np.asarray(one.pixels), sigmas, options.draws, options.seed, options.batch, device, advance,
                labels_of(run, one), int(getattr(run, "crop", 0)),
            )
            for one in sets
        ]  # fmt: skip
    levels, known = torch.tensor(sigmas, dtype=torch.float64), losses[1][:, ::2]
    scores, others = (anomaly_scores(one, known, levels, options.score) for one in (losses[0], losses[1][:, 1::2]))
    area = auc(others, scores) if len(scores) > 1 else None
    return Anomaly(
        area, len(scores), known.shape[1], options.score, count.images / total, fingerprint(run), scores.numpy(), others.numpy()
    )
