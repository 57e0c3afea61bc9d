"""`distill`: a diffusion model tuned for one or two network calls an image, in a new run."""

import math
import sys
from pathlib import Path

from alphabar.core.messages import as_path, say
from alphabar.core.options import takes
from alphabar.core.progress import duration
from alphabar.core.run import Run
from alphabar.data.image_set import ImageSet
from alphabar.data.split import holdout
from alphabar.denoiser.model import Model
from alphabar.fitting.drawn_loss import DrawnLikeReal
from alphabar.training.auto import with_network_of
from alphabar.training.checkpoint import BUNDLED_FILES, load_model
from alphabar.training.config import Recipe, resolve
from alphabar.training.speed import speeds_of, with_faster
from alphabar.training.targets import reference_size
from alphabar.verbs.options import DistillOptions
from alphabar.verbs.train import images_of, recipe_images, train

# Statistics are of the last images, so they lag behind the weights: at 2e-4 distances grow from a few to thirty.
LIKE_LR = 3e-5


def distilled_recipe(run: str | Path, options: DistillOptions = DistillOptions()) -> Recipe:
    """The recipe of the tuning: images, network and schedule of the run, whose averaged weights it begins with.

    Noise levels as Geng et al. 2024 (arXiv:2406.14548): log sigma ~ N(-1.1, 2.0^2).

    Raises ValueError for a model without a run that names its images, for a second tuning of the first stage, and for a second
    stage of a run that is not distilled.
    """
    base = load_model(run)
    if base.consistency and not options.like:
        raise ValueError(
            f"{run} is a distilled model: give the run that it was made from, or --like EXTRACTOR for the second stage"
        )
    if options.like and not base.consistency:
        raise ValueError(f"{run} is not distilled, and --like is for a distilled run: leave it out for the first stage")
    if str(run) in BUNDLED_FILES:
        recipe = with_network_of(Recipe.named("garments"), base)
    elif (file := Run(run).recipe).exists():
        recipe = resolve(file)
    else:
        raise ValueError(f"{run} does not say which images it was trained on: give a run folder, or bundled")
    train_keys = {
        "init_from": str(run), "consistency": options.q[-1:] if options.like else options.q, "drawn_like": options.like,
        "images": options.images, "lr": options.lr or (LIKE_LR if options.like else 1e-3), "batch": options.batch,
        "seed": options.seed, "optimizer": "adamw", "policy": "cosine", "warmup": 10 * options.batch, "weight_decay": 0.0,
        "betas": (0.9, 0.99), "density": "log_normal", "density_mean": -1.1, "density_std": 2.0, "ema_half_life": 10_000.0,
        "ema_snapshots": 0, "heldout_every": 0, "checkpoint_every": 20_000, "log_every": 20 * options.batch,
    }  # fmt: skip
    watch = {"preview_first": 5_000, "preview_every": 50_000, "preview_steps": options.calls, "score_every": 100_000}
    return recipe.with_(train=train_keys, watch=watch)


@takes(DistillOptions)
def distill(
    run: str | Path, out: str | Path | None = None, *, options: DistillOptions = DistillOptions(), resume: bool = False,
    minutes: float | None = None, image_set: ImageSet | None = None, progress: bool = True,
) -> Model:  # fmt: skip
    """Tunes a trained model so that one or two network calls give an image (easy consistency tuning), or, with options.like, a
    tuned one so that its images have the feature statistics of real ones (FD-loss).

    It becomes a new run, with the recipe, previews, checkpoints and exact resume of a training. Its model no longer
    estimates E[x0 | x], so that only the sampler "consistency" takes it.

    Args:
        run: a run folder, bundled, or, with options.like, also bundled/distilled.
        out: the folder of the new run; distilled/ in the run if left out.
        options: see `DistillOptions`; its fields may also be passed as keywords.
        resume: continue from the last checkpoint of `out`.
        minutes: length of the tuning on this machine, in place of options.images.
        image_set: the images of the run; None loads them by its recipe.
        progress: show progress bars.

    Returns:
        The tuned model, ready to sample.

    Raises:
        ValueError: for a run whose images are not known, or are other images now, and for bundled or bundled/distilled without
            `out`.
    """
    out = _folder(run, out)
    if resume:
        return train(resolve(Run(out).recipe), out, resume=True, images=image_set, progress=progress)
    recipe = distilled_recipe(run, options)
    image_set = recipe_images(recipe, image_set)
    if images_of(Run(run).path) not in (None, image_set.fingerprint):
        raise ValueError(f"{recipe.data.set} holds other images than those that {run} was trained on: put those back there")
    trained_on, _ = holdout(image_set.pixels, recipe.data.holdout, hashes=image_set.hashes)
    reference = reference_size(len(trained_on), image_set.image_shape, recipe.train.batch)
    recipe = recipe.with_(train={"stable_targets": reference})
    drawn_loss = DrawnLikeReal.of(options.like, image_set, trained_on, load_model(run), progress)
    length = 60 * minutes if minutes else math.inf
    speeds = speeds_of(recipe, image_set, trained_on, length, drawn_loss)
    speed = with_faster(speeds, recipe, image_set, trained_on, length, drawn_loss)[0]
    if minutes is not None:
        steps = max(round((60 * minutes - speed.prepare_seconds) * speed.images_a_second / recipe.train.batch), len(options.q))
        recipe = recipe.with_(train={"images": steps * recipe.train.batch})
    recipe = recipe.with_(train=speed.keys)
    if progress:
        n, rate = recipe.train.images, speed.images_a_second
        say(f"{n:,} images, about {duration(speed.seconds(n))} here ({rate:.3g} images/s in {speed.words})", sys.stderr)
    return train(recipe, out, images=image_set, progress=progress)


def _folder(run: str | Path, out: str | Path | None) -> Path:
    if out is None and str(run) in BUNDLED_FILES:
        raise ValueError(f"{run} is part of the package: name the folder of the new run, as --out runs/distilled")
    return Run(run).distilled if out is None else as_path(out)
