"""Scores of images wherever they lie: a run, an .npz, a folder that any program has made. What `score` and `compare` stand on."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar.core import processes
from alphabar.core.files import append_jsonl
from alphabar.core.machine import best_device
from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.data.images import check_images
from alphabar.data.sources import ImageSet, load, parse_set
from alphabar.data.split import HOLDOUT, holdout
from alphabar.evaluation.compare import Comparison, compare_measured
from alphabar.evaluation.heldout import DenoisingLoss, heldout_loss
from alphabar.evaluation.image_eval import ImageEval, Measured
from alphabar.evaluation.memorisation import Memorisation, memorisation, pixel_features
from alphabar.evaluation.score import METRICS, ProtocolError, Score
from alphabar.features.load import load_extractor
from alphabar.features.store import extract
from alphabar.sampling.sample import Samples, every_class, sample
from alphabar.training.checkpoint import home_of, load_model
from alphabar.training.config import resolve

_PART = re.compile(r"(.+)\[(\d*):(\d*)\]")  # samples.npz[5000:] are the images from number 5,000 on
DRAWN = 2000  # images that are drawn of a run unless their number is said


@dataclass(frozen=True, eq=False)
class Opened:
    """Images to be scored: as they were named, their record (None where another program made them), and their run."""

    name: str
    images: ImageSet | Pixels
    record: dict[str, Any] | None
    run: Path | None = None

    @property
    def pixels(self) -> Pixels:
        return self.images.pixels if isinstance(self.images, ImageSet) else self.images

    def first(self, n: int | None) -> "Opened":
        """The first n images. Raises ValueError where there are fewer."""
        if n is None or n == len(self.pixels):
            return self
        if n > len(self.pixels):
            raise ValueError(f"{self.name} holds {len(self.pixels)} images, {n} were asked for: make more, or pass --n less")
        return self._part(0, n)

    def _part(self, start: int, stop: int) -> "Opened":
        record = self.record
        if record is not None and record.get("first_index") is not None:
            record = {**record, "first_index": int(record["first_index"]) + start, "n": stop - start}
        return Opened(self.name, self.pixels[start:stop], record, self.run)


def open_samples(
    samples: str | Path,
    *,
    n: int | None = None,
    steps: int = 50,
    eta: float = 0.0,
    seed: int = 0,
    reading: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Opened:
    """Images of an .npz or a folder (of which PATH[a:b] is a part), or n images drawn from a run by DDIM (of all
    classes in turns, where it knows some), kept in its samples/.

    reading: options of `load` for images of another program; our own samples are pixels as they were stored.
    Raises FileNotFoundError, or ValueError for a part that is empty or fewer images than n.
    """
    text = str(samples)
    part = None if Path(text).exists() else _PART.fullmatch(text)
    path = Path(part[1] if part else text)
    if n is not None and n < 1:
        raise ValueError(f"n = {n}: give the number of images, 1 or more, or leave it out")
    if home_of(path) is not None or path.suffix == ".safetensors":
        if part:
            raise ValueError(
                f"{text}: a model has as many images as one draws, so no part of them; say how many (--n), or draw them with "
                f"`alphabar sample {path} --out PATH` and take a part of that"
            )
        return _drawn(text, n or DRAWN, steps, eta, seed, progress)
    images, record = load_samples(path, reading)
    opened = Opened(text, images, record)
    if part:
        whole = len(opened.pixels)
        start, stop = int(part[2] or 0), min(int(part[3] or whole), whole)
        if start >= stop:
            raise ValueError(f"{text} is empty: {path} holds {whole} images, numbered from 0")
        opened = opened._part(start, stop)
    return opened.first(n)


def _drawn(text: str, n: int, steps: int, eta: float, seed: int, progress: bool) -> Opened:
    model = load_model(text)
    home = None if text == "bundled" else model.home
    out = None
    if home is not None:
        name = f"{model.fingerprint}_ddim_{steps}_{eta:g}_{n}" + (f"_seed{seed}" if seed else "")
        out = Run(home).samples / f"{name}.npz"
        out.parent.mkdir(parents=True, exist_ok=True)
    with processes.rank_zero_first():
        if out is not None and out.exists():
            made = Samples.load(out)
        else:
            show = progress and processes.world()[0] == 0
            made = sample(
                model, n, steps=steps, eta=eta, seed=seed, classes=every_class(model), out=out, device=best_device(),
                channels_last=True, progress=show,
            )  # fmt: skip
    return Opened(text, made.images, {**made.record, "value_range": model.value_range}, home)


def load_samples(path: Path, reading: Mapping[str, Any] | None = None) -> tuple[ImageSet | Pixels, dict[str, Any] | None]:
    """Images and their sampling record (None where another program made them) from an .npz or a folder."""
    options = dict(reading or {})
    if not path.exists():
        raise FileNotFoundError(f"there are no samples at {path}: give an .npz, a folder of images, or a run")
    if path.suffix == ".npz" or (path / "record.json").exists():
        try:
            made = Samples.load(path if path.suffix == ".npz" else f"{path}/")
        except (ValueError, KeyError, BadZipFile):  # an .npz of another program: no record in it, or none that can be read
            return load(str(path), **options), None
        if made.record.get("n") not in (None, len(made.images)):
            raise ValueError(
                f"{path} holds {len(made.images)} images, but its record is of {made.record['n']}: some were taken away or "
                "added, so which is which is not known; draw them again"
            )
        return check_images(made.images), made.record
    return load(str(path), **options), None


def evaluator(
    against: str, extractor: str = "bundled", *, reading: Mapping[str, Any] | None = None, progress: bool = True
) -> tuple[ImageEval, ImageSet]:
    """An ImageEval against SET[:SPLIT], and those real images."""
    real = load(*parse_set(against), **dict(reading or {}))
    return ImageEval(load_extractor(extractor), real, progress=progress and processes.world()[0] == 0), real


def measure(judge: ImageEval, real: ImageSet, opened: Opened, metrics: Sequence[str] = METRICS) -> Measured:
    """Scores of opened images; a run's are added to its scores.jsonl."""
    _check_range(opened.record, real)
    measured = judge.measure(opened.images, opened.record, metrics)
    if opened.run is not None and processes.world()[0] == 0:
        for row in measured.scores.values():
            append_jsonl(Run(opened.run).scores, row.to_json())
    return measured


def score(
    samples: str | Path,
    against: str,
    extractor: str = "bundled",
    *,
    n: int | None = None,
    steps: int = 50,
    eta: float = 0.0,
    metrics: Sequence[str] = METRICS,
    reading: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> tuple[Score, ...]:
    """Every metric of an .npz, a folder of images, or n samples drawn from a run, against the real images SET[:SPLIT].

    reading: options of `load` (value_range, alpha, skip_broken, axes) for the real images, and for those to be scored where
    another program made them. Raises ValueError for fewer images than features.
    """
    judge, real = evaluator(against, extractor, reading=reading, progress=progress)
    opened = open_samples(samples, n=n, steps=steps, eta=eta, reading=reading, progress=progress)
    return tuple(measure(judge, real, opened, metrics).scores.values())


def compare(
    a: Opened,
    b: Opened,
    judge: ImageEval,
    real: ImageSet,
    metrics: Sequence[str] = METRICS,
    names: tuple[str, str] = ("A", "B"),
    keep: Sequence[Path] = (),
) -> list[Comparison]:
    """a against b by every metric, with intervals and verdicts; added to comparisons.jsonl of the runs that a or b were drawn
    from, and of those in `keep`, where `report` finds it.

    Raises ProtocolError for unlike numbers of images, and FileNotFoundError for a `keep` that is no run.
    """
    for run in keep:
        if not Run(run).recipe.exists():
            raise FileNotFoundError(f"the comparison cannot be kept with {run}, which is no run folder: it has no recipe.toml")
    if len(a.pixels) != len(b.pixels):  # before the features, which take long
        raise ProtocolError("n", len(a.pixels), len(b.pixels))
    found = compare_measured(measure(judge, real, a, metrics), measure(judge, real, b, metrics), names=names)
    row = {
        "time": round(time.time(), 3), "names": list(names), "sets": [a.name, b.name],
        "models": [(x.record or {}).get("model") for x in (a, b)], "comparisons": [c.to_json() for c in found],
    }  # fmt: skip
    runs = [run for run in (a.run, b.run, *keep) if run is not None]
    if processes.world()[0] == 0:
        for path in dict.fromkeys(Run(run).comparisons.resolve() for run in runs):
            append_jsonl(path, row)
    return found


@dataclass(frozen=True, eq=False)
class Copied:
    """Whether images are copies, as the extractor's features see it and as pixels do, and the training images."""

    features: Memorisation
    pixels: Memorisation
    train: Pixels

    def to_json(self) -> dict[str, Any]:
        """Plain data, without what is said of every image."""
        return {"features": self.features.to_json(), "pixels": self.pixels.to_json()}


def copied(judge: ImageEval, opened: Opened, trained_on: str, *, reading: Mapping[str, Any] | None = None) -> Copied:
    """Whether images are copies of the training images of SET; judged by the images that `train` holds out of it by content.

    Of a run on that very set, its limit, its held-out share, its way of reading and its mirroring are taken from its recipe;
    reading: of any other, the options of `load`. In features and in pixels, since each sees copies that the other does not
    (docs/memorisation.md).
    """
    images, kept, held, flip = _trained(opened.run, trained_on, reading)
    _check_range(opened.record, images)
    options = {**dict(reading or {}), "value_range": images.value_range}
    try:
        unseen = images.subset(held) if len(held) else load(parse_set(trained_on)[0], "test", **options)
    except FileNotFoundError as error:
        raise ValueError(
            f"nothing of {trained_on} was held out, so nothing tells how near images lie that nobody copied"
        ) from error
    train = np.asarray(images.pixels[kept])
    if flip:
        train = np.concatenate([train, train[:, :, ::-1]])
    features = [
        extract(one, judge.extractor, cache=judge.cache, progress=judge.progress, what=what).all()
        for one, what in ((opened.images, "features"), (train, "features of the training images"), (unseen, "features held out"))
    ]
    pixels = [pixel_features(np.asarray(p)) for p in (opened.pixels, train, unseen.pixels)]
    found = [memorisation(generated=g, train=t, heldout=h) for g, t, h in (features, pixels)]
    return Copied(found[0], found[1], train)


def loss(run: str, train: str, *, n: int = 1000, progress: bool = True) -> DenoisingLoss:
    """The denoising loss of a run's averaged model by noise level, of n images held out of SET by content and of n that
    were trained on. Of a run on that very set, which ones these are is taken from its recipe."""
    model = load_model(run)
    images, kept, held, _ = _trained(Path(run), train, {"value_range": model.value_range})
    chosen = [np.sort(_some(k, n)) for k in (kept, held)]
    seen, unseen = (np.asarray(images.pixels[rows]) for rows in chosen)
    labels = None
    if every_class(model) and images.labels is not None:
        known = [torch.from_numpy(np.asarray(images.labels[rows], np.int64)) for rows in chosen]
        labels = known[1], known[0]
    return heldout_loss(model.to(best_device()), unseen, seen, progress=progress, labels=labels)


def _trained(
    run: Path | None, trained_on: str, reading: Mapping[str, Any] | None
) -> tuple[ImageSet, NDArray[np.int64], NDArray[np.int64], bool]:
    """SET with the numbers of its images that `train` trains on and of those that it holds out, and whether it mirrors them."""
    options, limit, fraction, flip = dict(reading or {}), 0, HOLDOUT, False
    if run is not None and Run(run).recipe.exists():
        recipe = resolve(Run(run).recipe, [])
        if parse_set(trained_on) == (recipe.data.set, "train"):
            options, limit = recipe.data.reading(), recipe.data.limit
            fraction, flip = recipe.data.holdout, recipe.train.flip
    images = load(*parse_set(trained_on), **options)
    if limit:
        images = images.subset(range(min(limit, len(images))))
    return images, *holdout(images.pixels, fraction, hashes=images.hashes), flip


def _some(numbers: Any, n: int) -> Any:
    from alphabar.core import seeds

    return seeds.generator(0, stream=seeds.SUBSET).permutation(numbers)[:n]


def _check_range(record: Mapping[str, Any] | None, real: ImageSet) -> None:
    """Refuses samples whose levels stand for other values than those of the real images."""
    if record is None:
        return
    declared = record.get("value_range")
    made = None if declared is None else (float(declared[0]), float(declared[1]))
    if made != real.value_range:
        typed = "leave --range out" if made is None else f"--range {made[0]:.6g} {made[1]:.6g}"
        raise ValueError(
            f"the samples' range is {made}, that of {real.name}:{real.split} is {real.value_range}: the same level stands for "
            f"different values. Read the real images as those that the model was trained on: {typed}"
        )
