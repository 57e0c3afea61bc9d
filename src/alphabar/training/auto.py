"""A recipe for a set of images and this machine: the network by size, the budget by number, the precision by measured speed.

The rules are few, stand here, and what they chose is printed (`AutoRecipe.lines`) before a training starts.
"""

import math
from bisect import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from alphabar.core.machine import best_device, free_memory
from alphabar.core.messages import plural
from alphabar.core.progress import duration, track
from alphabar.data.image_set import ImageSet, class_names, load
from alphabar.data.split import HOLDOUT, holdout
from alphabar.denoiser.model import Model
from alphabar.denoiser.model_spec import ModelRecipe
from alphabar.denoiser.own_networks import BUILT_IN
from alphabar.training.checkpoint import load_model
from alphabar.training.config import DataRecipe, Recipe, resolve, shipped
from alphabar.training.initial_model import cost_of_model, untrained_model
from alphabar.training.intervals import expected_seconds, heldout_share, sheet_seconds, with_intervals
from alphabar.training.speed import Speed, activation_bytes, measure, speeds_of, with_faster

PASSES = 4200  # images seen = PASSES * sqrt(images of the set): 240,000 for 3,300, a million for 57,000
LONGEST = 2 * 3600.0  # seconds that a training may take where no budget is given
LISTING = 100.0  # seconds of the trainings for which `alphabar recipes` measures, a few seconds each
STEPS, SMALLEST_BATCH = 8_000, 16  # a training on a CPU takes so many steps, where batches from this size on allow it
SMALL = 10_000  # sets below this size are augmented
WIDTHS = (32, 48, 64, 96, 128)  # channels of the first level
WIDE_FROM = {96: 5_000, 128: 20_000}  # images from which such a width is considered
ROOM = 4 / 3  # channels of the first level for every value of a patch: below 1 noise does not fit through, and samples keep it
LOWEST = 8  # widest side of the lowest level of the network, in pixels
ATTENDED = 16  # widest side of a level with attention
LR = {"adam": 2e-3, "adamw": 2e-3, "muon": 4e-3}  # of a width of 64; falls with its root
LARGE = 128  # side from which the patch is 4, and a plan names latents
MEMORY_SHARE = 0.7  # of the free memory that activations may take
DEPTHS = {"uint16": "16 bit", "float32": "floats"}


@dataclass(frozen=True)
class AutoRecipe:
    """A recipe with what decided it."""

    recipe: Recipe
    speeds: tuple[Speed, ...]
    """That were measured; the first is the recipe's."""
    images: ImageSet
    trained_on: int
    parameters: int
    gflop: float
    seconds: float
    """Expected length of the training, with previews and held-out losses."""
    minutes: float | None = None
    """The length that was asked for."""

    def record(self) -> dict[str, Any]:
        """The plan as plain data, for the run's plan.json."""
        speeds = [asdict(speed) for speed in self.speeds]
        return {"minutes": self.minutes, "seconds": self.seconds, "lines": self.lines(), "speeds": speeds}

    def lines(self) -> list[str]:
        """What will be trained, and how long it takes, in sentences."""
        train, model, speed, watch = self.recipe.train, self.recipe.model, self.speeds[0], self.recipe.watch
        n, (c, h, w), classes = len(self.images), self.images.image_shape, len(class_names(self.images))
        total = math.ceil(train.images / train.batch) * train.batch  # no step has fewer
        passes = total / max(self.trained_on, 1)
        copies, heldout = n - len(np.unique(self.images.hashes)), n - self.trained_on
        notes = [note for note in (DEPTHS.get(self.images.pixels.dtype.name), str(self.images.reading)) if note]
        attended = ["x".join(str(math.ceil(side / model.patch / 2**k)) for side in (h, w)) for k in model.attention]
        others = "".join(f", {_rate(s)} in {s.words}" for s in self.speeds[1:])
        rate = speed.images_a_second
        sheet = min(watch.preview_first or watch.preview_every, train.images) / rate + sheet_seconds(watch, speed)
        loss = min(train.log_every or train.images, train.images) / rate
        return [
            f"{plural(n, 'image')} of {h}x{w}x{c}" + (f" ({', '.join(notes)})" if notes else "")
            + (f" in {plural(classes, 'class')}" if classes else " without classes")
            + (f"; {_is(copies)} {'a copy of another' if copies == 1 else 'copies of others'}" if copies else "")
            + f"; {_is(heldout) if heldout else 'none is'} held out ({self.recipe.data.holdout:.0%} by content).",
            (f"U-Net with {plural(len(model.channels), 'level')}" if model.network in BUILT_IN else f"Network {model.network}")
            + (f", attention at {' and '.join(attended)}" if attended and model.network in BUILT_IN else "")
            + f", {self.parameters / 1e6:.1f} M parameters, {self.gflop:.2g} GFLOP a network call.",
            f"{plural(total, 'image')} ({passes:,.{0 if passes >= 10 else 1}f} passes), about {duration(self.seconds)} here "
            f"({_rate(speed)} images/s measured in {speed.words}{others}).",
            f"About {speed.mib / 1024:.1f} GiB of memory"
            + (", activations are computed twice to save some" if train.recompute else "")
            + (f", each batch in {train.accumulate} parts" if train.accumulate > 1 else "") + ".",
            f"First loss after about {duration(loss)}"
            + (f", first samples after about {duration(sheet)}." if watch.preview_every else ", no samples."),
            *([] if watch.score_every else ["No scores during training: even a few samples would take a tenth of the time."]),
            *(["The images are augmented; the network gets the augmentation as input (train.augment)."] if train.augment else []),
            *(["Such large images train in less time as latents: begin with alphabar autoencoder train SET --out PATH."]
              if self.images.latents is None and max(h, w) >= LARGE else []),
        ]  # fmt: skip


def auto_recipe(
    images: ImageSet, recipe: Recipe = Recipe(), keys: Mapping[str, Any] = MappingProxyType({}), *, minutes: float | None = None
) -> AutoRecipe:
    """Chooses a recipe for a set, and measures a few training steps of it on this machine (some seconds).

    Args:
        images: the images, held-out ones included.
        recipe: where everything comes from that is not chosen: [schedule], the optimiser, `track`, and [data] if it names a set
            (else it describes `images`).
        keys: keys that are set by hand and not chosen, as `Recipe.with_` takes them: {"train": {"images": 20000}}. With
            train.init_from, network and schedule are those of the initial model.
        minutes: length of the training. None: train.images of `keys`, or by the number of images, two hours at most.

    Raises:
        ValueError: for an unknown key, for minutes beside train.images, and where not even single images fit into memory.
    """
    by_hand = {section: dict(values) for section, values in keys.items() if isinstance(values, Mapping)}
    budget = by_hand.get("train", {}).get("images")
    if minutes is not None and (budget or not minutes > 0):
        raise ValueError(
            f"{minutes:g} minutes" + (f" and {budget} images: give one of the two" if budget else ": give more than 0")
        )
    recipe = recipe.with_(**keys)
    if recipe.data.set == DataRecipe().set and "set" not in by_hand.get("data", {}):
        recipe = recipe.with_(data={**data_keys(images), **by_hand.get("data", {})})
    if recipe.train.init_from:
        recipe = with_network_of(recipe, load_model(recipe.train.init_from))
        by_hand["model"] = asdict(recipe.model)
    if "holdout" not in by_hand.get("data", {}) and recipe.data.holdout == HOLDOUT:
        recipe = recipe.with_(data={"holdout": heldout_share(len(images))})
    indices, _ = holdout(images.pixels, recipe.data.holdout, hashes=images.hashes)
    wanted = budget or round(PASSES * math.sqrt(max(len(indices), 1)), -3)
    seconds = 60 * minutes if minutes else math.inf if budget else LONGEST
    widths = _widths(images, len(indices), by_hand.get("model", {}))
    fitted = [_for_memory(_with_network(recipe, images, width, len(indices), by_hand), images) for width in widths]
    if not (candidates := [each for each, _ in fitted if each is not None]):
        raise _does_not_fit(images, fitted[0][1])

    costs = [cost_of_model(untrained_model(each, images)) for each in candidates]
    found, k = dict[int, list[Speed]](), -1 if budget else 0
    while (k := k % len(candidates)) not in found:
        found[k] = speeds_of(candidates[k], images, indices, seconds)
        k = k if budget else _widest([c["gflop_a_call"] for c in costs], found, wanted / seconds)
    cost, speeds, heldout = costs[k], found[k], len(images) - len(indices)

    def most(speed: Speed) -> float:
        return budget or min(wanted if not minutes else math.inf, seconds * speed.images_a_second)

    by_choice = not by_hand.get("train", {}).keys() & {"batch", "accumulate"}
    best = _in_steps(candidates[k], most(speeds[0])) if by_choice else candidates[k]
    if best.train.batch < candidates[k].train.batch:  # a little less a second
        speeds = [measure(best.with_(train=speeds[0].keys), images, indices, seconds)[0], *speeds[1:]]
    speeds = with_faster(speeds, best, images, indices, seconds)
    fastest, total = speeds[0], most(speeds[0])
    for _ in range(4):  # the shorter a training, the larger the share of its time in which it is looked at
        chosen = with_intervals(best, total, fastest, heldout).with_(**by_hand)
        expected = expected_seconds(chosen, fastest, heldout)
        total *= 1 if budget else min(seconds / expected, 1)
    return AutoRecipe(chosen, tuple(speeds), images, len(indices), cost["parameters"], cost["gflop_a_call"], expected, minutes)


def _in_steps(recipe: Recipe, total: float) -> Recipe:
    """The recipe, on a CPU with smaller batches where so many images make fewer than `STEPS` steps: there they cost little."""
    train, least = recipe.train, min(recipe.train.batch, SMALLEST_BATCH)
    batch = train.batch
    while best_device() == "cpu" and batch // 2 >= least and total / batch < STEPS:
        batch //= 2
    return recipe.with_(train={"batch": batch, "accumulate": max(train.accumulate * batch // train.batch, 1)})


def _widest(gflops: list[float], found: Mapping[int, list[Speed]], rate: float) -> int:
    """The widest network that trains `rate` images a second, else the narrowest, number 0, by the speeds of those that were
    measured. A power law of the operations through the nearest two stands for the others: wide networks do more a second."""
    known = sorted(found)
    if len(known) == 1 and found[0][0].images_a_second > rate:
        return len(gflops) // 2  # the law takes two
    x, y = np.log(gflops), np.log([found[k][0].images_a_second for k in known])

    def law(k: int) -> float:
        near = max(bisect(known[:-1], k), 1)  # the first of `known` above k, or the last one
        slope = (y[near] - y[near - 1]) / (x[known[near]] - x[known[near - 1]])
        return float(y[near] + slope * (x[k] - x[known[near]]))

    fits = [k for k in range(1, len(gflops)) if len(known) > 1 and law(k) >= math.log(rate)]
    return max(fits, default=0)


def _widths(images: ImageSet, n: int, by_hand: Mapping[str, Any]) -> list[int]:
    """The widths that are considered for n training images: those with `ROOM`, of which the wide ones need many images."""
    patch = by_hand.get("patch") or network_for(images.image_shape, latents=images.latents is not None).patch
    enough = [w for w in WIDTHS if w >= ROOM * images.image_shape[0] * patch**2] or [WIDTHS[-1]]
    return [w for w in enough if w == enough[0] or n >= WIDE_FROM.get(w, 0)]


def measured(recipe: Recipe, images: ImageSet) -> AutoRecipe:
    """A recipe with what it costs on this machine, by a few measured training steps."""
    indices, _ = holdout(images.pixels, recipe.data.holdout, hashes=images.hashes)
    model = untrained_model(recipe, images)
    fits, each = _for_memory(recipe, images)
    if fits is None:
        raise _does_not_fit(images, each)
    cost = cost_of_model(model)
    speed, _ = measure(recipe, images, indices)
    seconds = expected_seconds(recipe, speed, len(images) - len(indices))
    return AutoRecipe(recipe, (speed,), images, len(indices), cost["parameters"], cost["gflop_a_call"], seconds)


def data_keys(images: ImageSet) -> dict[str, Any]:
    """The keys of [data] that say where images come from and how they were read."""
    reading = images.reading
    return {
        "set": images.name if images.known or images.name.startswith("hf:") else images.source, "axes": reading.axes or "",
        "range": reading.value_range or (), "skip_broken": reading.skip_broken,
        "alpha": reading.alpha if isinstance(reading.alpha, str) else ",".join(map(str, reading.alpha)),
        "size": "x".join(map(str, reading.size or ())), "fit": reading.fit or "crop",
    }  # fmt: skip


def shipped_recipes() -> list[dict[str, Any]]:
    """What `alphabar recipes` lists: purpose, cost, and seconds on this machine, from a few measured steps of each."""
    found, files = [], shipped()
    with track(len(files), "measuring", "recipes") as advance:
        for name, file in files.items():
            recipe = resolve(name)
            shape = (32, 32, 3) if recipe.data.set == "cifar10" else (28, 28, 1)
            noise = np.random.default_rng(0).integers(0, 256, (256, *shape), dtype=np.uint8)
            images = load(noise, labels=np.arange(256) % 10)
            purpose = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            cost = cost_of_model(untrained_model(recipe, images))
            speed, _ = measure(recipe, images, np.arange(256), LISTING)
            seconds = recipe.train.images / speed.images_a_second
            found.append({"name": name, "purpose": purpose, "images": recipe.train.images, **cost, "seconds": seconds})
            advance(1)
    return found


def network_for(image_shape: tuple[int, int, int], width: int = 64, latents: bool = False) -> ModelRecipe:
    """The U-Net for images or latents of a size: a patch for large images, levels until the lowest is at most 8 pixels wide.

    The patch of images with many channels is smaller (`ROOM`).

    >>> [network_for((1, side, side)).channels for side in (8, 28, 64)]
    [(64, 128), (64, 128), (64, 128, 192)]
    """
    side = max(image_shape[1:])
    patch = 1 if side <= 16 or latents else 2 if side < LARGE else 4
    while patch > 1 and ROOM * image_shape[0] * patch**2 > WIDTHS[-1]:
        patch //= 2
    sides = [math.ceil(side / patch)]
    while sides[-1] > LOWEST or len(sides) < 2:
        sides.append(math.ceil(sides[-1] / 2))
    attention = tuple(k for k, s in enumerate(sides) if k > 0 and s <= ATTENDED) if len(sides) > 2 or latents else ()
    return ModelRecipe(
        channels=tuple(width * min(k + 1, 4) for k in range(len(sides))),
        blocks=2 if latents else 1,
        patch=patch,
        attention=attention,
    )


def _with_network(recipe: Recipe, images: ImageSet, width: int, n: int, by_hand: Mapping[str, Any]) -> Recipe:
    """The recipe with the network of a width, and what depends on it and on the number of images."""
    model = replace(network_for(images.image_shape, width, images.latents is not None), conditional=bool(class_names(images)))
    set_by_hand = by_hand.get("train", {})
    optimizer = set_by_hand.get("optimizer", "adamw" if set_by_hand.get("parallel") == "fsdp" else "muon")
    lr = round(LR[optimizer] * math.sqrt(64 / max(width, 64)), 5)
    train = replace(recipe.train, optimizer=optimizer, lr=lr, augment=0.12 if n < SMALL else 0.0)
    if by_hand.get("model", {}).get("network", "unet") != "unet" or recipe.train.init_from or images.latents:
        train = replace(train, augment=0.0)  # the network must take it as input; latents allow none
    watch = replace(recipe.watch, copies=n < SMALL)
    return replace(recipe, model=model, train=replace(train, early_stop=True), watch=watch).with_(**by_hand)


def with_network_of(recipe: Recipe, model: Model) -> Recipe:
    """The recipe with the network, the prediction and the schedule of a model, whose weights it can then begin with."""
    spec = model.spec
    if spec["network"] != "unet":
        raise ValueError("train.init_from a UNet2DModel: name a recipe with its [model] and [schedule], as --recipe FILE.toml")
    known = {**spec["arguments"], "groups": spec["arguments"]["group_size"], "conditional": bool(spec.get("classes"))}
    network = {k: known[k] for k in ("channels", "blocks", "patch", "attention", "embedding", "groups", "dropout", "conditional")}
    network |= {"channels": tuple(network["channels"]), "attention": tuple(network["attention"])}
    about = {"prediction": spec["prediction"], "data_range": spec["data_range"] / (model.latents.limit if model.latents else 1)}
    return recipe.with_(model={"network": "unet", **network, **about}, schedule=spec["schedule"])


def _for_memory(recipe: Recipe, images: ImageSet) -> tuple[Recipe | None, int]:
    """The recipe with batches in as many parts as fit into the memory, and activations that are computed twice if need be; None
    where a single image does not fit. And the bytes that it takes."""
    free, train = MEMORY_SHARE * free_memory(), recipe.train
    network, each = untrained_model(recipe, images), 0
    for recompute in (False, True) if recipe.model.network == "unet" else (False,):
        each = activation_bytes(network, recompute)
        for parts in (1, 2, 4) if not recompute else (1, 2, 4, 8, 16, 32, 64):
            if train.batch % parts == 0 and each * train.batch / parts <= free:
                return replace(recipe, train=replace(train, accumulate=max(parts, train.accumulate), recompute=recompute)), each
    return None, each


def _does_not_fit(images: ImageSet, each: int) -> ValueError:
    """The refusal of images that do not fit into memory, with the size that would."""
    (c, h, w), free = images.image_shape, MEMORY_SHARE * free_memory()
    share = math.sqrt(free / each)
    fits = "x".join(str(max(int(side * share) // 8 * 8, 1)) for side in (h, w))
    return ValueError(
        f"training on images of {h}x{w}x{c} takes {each / 2**30:.1f} GiB for a single image, and {free / 2**30:.1f} GiB are "
        f"free: --size {fits} would fit; or give fewer --model.channels, or use a machine with more memory"
    )


def _rate(speed: Speed) -> str:
    return f"{speed.images_a_second:,.0f}" if speed.images_a_second >= 100 else f"{speed.images_a_second:.3g}"


def _is(n: int) -> str:
    return f"{n:,} {'is' if n == 1 else 'are'}"
