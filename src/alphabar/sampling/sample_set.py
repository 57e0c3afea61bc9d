"""Generated images to be scored: from an .npz file, a folder of images, or drawn from a run."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphabar.core import processes
from alphabar.core.machine import best_device
from alphabar.core.messages import as_path, command
from alphabar.core.run import Run
from alphabar.core.types import Pixels
from alphabar.data.image_set import ImageSet, load
from alphabar.data.images import check_images
from alphabar.data.latents import holds_latents
from alphabar.denoiser.external import split_run
from alphabar.denoiser.from_hub import local_run
from alphabar.denoiser.model import Model
from alphabar.sampling.guidance import every_class
from alphabar.sampling.model import image_shape
from alphabar.sampling.options import Precision
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples, read_record
from alphabar.training.checkpoint import BUNDLED_FILES, EMA, home_of, load_model

_PART = re.compile(r"(.+)\[(\d*):(\d*)\]")  # samples.npz[5000:] are the images from number 5,000 on
DRAWN = 2000  # images that are drawn from a run where their number is not given


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Images to be scored. `record` is None where another program made them, `run` is the folder that they were drawn from."""

    name: str
    images: ImageSet | Pixels
    record: dict[str, Any] | None
    run: Path | None = None

    @property
    def pixels(self) -> Pixels:
        return self.images.pixels if isinstance(self.images, ImageSet) else self.images

    def first(self, n: int | None) -> "SampleSet":
        """The first n images, all of them if n is None. Raises ValueError where there are fewer."""
        if n is None or n == len(self.pixels):
            return self
        if n > len(self.pixels):
            raise ValueError(f"{self.name} holds {len(self.pixels)} images, {n} were asked for: make more, or pass --n less")
        return self.part(0, n)

    def part(self, start: int, stop: int) -> "SampleSet":
        """Images start to stop - 1; the record keeps the place of their noise."""
        record = self.record
        if record is not None and record.get("first_index") is not None:
            record = {**record, "first_index": int(record["first_index"]) + start, "n": stop - start}
        return SampleSet(self.name, self.pixels[start:stop], record, self.run)


def open_samples(
    samples: str | Path, *, n: int | None = None, steps: int = 50, eta: float = 0.0, seed: int = 0,
    precision: Precision = "float32", reading: Mapping[str, Any] | None = None, progress: bool = True,
    check: Callable[[Model, int], None] | None = None,
) -> SampleSet:  # fmt: skip
    """The images that `score` and `compare` are given.

    Args:
        samples: an .npz file or a folder of images (PATH[a:b] is images a to b - 1), or a run, a checkpoint or a file of weights,
            from which images are drawn by DDIM, of all classes in turn where the model is conditional, and kept in the run's
            samples/.
        n: the first n images, or the number to draw from a run; None is all of them, or 2,000 from a run.
        steps: of DDIM, where images are drawn.
        eta: of DDIM, where images are drawn: 0 to 1.
        seed: of the noise, where images are drawn.
        precision: of the network, where images are drawn; see `SampleOptions`.
        reading: options of `load` for images of another program. Samples of alphabar are read as they were stored.
        progress: show a progress bar while images are drawn.
        check: called with the model and the number of images before any is drawn, which may take hours; it may raise.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: for a part that is empty, a part of a run, or fewer images than n.
    """
    text = str(samples)
    part = None if as_path(text).exists() else _PART.fullmatch(text)
    path = as_path(part[1] if part else text)
    if n is not None and n < 1:
        raise ValueError(f"n = {n}: give the number of images, 1 or more, or leave it out")
    if home_of(path) is not None or path.suffix == ".safetensors" or (path / EMA).is_file():
        if part:
            raise ValueError(
                f"{text}: a part can be taken of stored images only, not of a model; pass the number of images (--n), or draw "
                f"them with `{command('alphabar', 'sample', path, '--out', 'PATH')}` and take a part of PATH"
            )
        return _drawn(text, n or DRAWN, steps, eta, seed, precision, progress, check)
    opened = SampleSet(text, *load_samples(path, reading))
    if part:
        whole = len(opened.pixels)
        start, stop = int(part[2] or 0), min(int(part[3] or whole), whole)
        if start >= stop:
            raise ValueError(f"{text} is empty: {path} holds {whole} images, numbered from 0")
        opened = opened.part(start, stop)
    return opened.first(n)


def _drawn(
    text: str,
    n: int,
    steps: int,
    eta: float,
    seed: int,
    precision: Precision,
    progress: bool,
    check: Callable[[Model, int], None] | None,
) -> SampleSet:
    """n images of a run by DDIM, read from its samples/ where they were drawn before."""
    model = load_model(text)
    if check is not None:
        check(model, n)
    home = None if text in BUNDLED_FILES else model.home
    name = f"{model.fingerprint}_ddim_{steps}_{eta:g}_{n}" + (f"_seed{seed}" if seed else "")
    name += "" if precision == "float32" else f"_{precision}"
    out = None if home is None else Run(home).samples / f"{name}.npz"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    with processes.rank_zero_first():
        made = Samples.load(out) if out is not None and out.exists() else sample(
            model, n, steps=steps, eta=eta, seed=seed, precision=precision, classes=every_class(model), out=out,
            device=best_device(), channels_last=True, progress=progress and processes.world()[0] == 0,
        )  # fmt: skip
    return SampleSet(text, made.images, {**made.record, "value_range": model.value_range}, home)


def load_samples(path: Path, reading: Mapping[str, Any] | None = None) -> tuple[ImageSet | Pixels, dict[str, Any] | None]:
    """Images and their sampling record (None where another program made them) from an .npz file or a folder."""
    path = as_path(path)
    if holds_latents(path):
        raise ValueError(f"{path} holds latents of a set: give samples of a run, or `alphabar autoencoder check` it")
    if not path.exists():
        raise FileNotFoundError(f"there are no samples at {path}: give an .npz, a folder of images, or a run")
    if read_record(path) is None:
        return load(str(path), **dict(reading or {})), None  # images of another program
    made = Samples.load(path)
    if made.record.get("n") not in (None, len(made.images)):
        raise ValueError(
            f"{path} holds {len(made.images)} images, but its record is of {made.record['n']}: images were removed or "
            "added, so their numbers are not known; draw them again"
        )
    return check_images(made.images), made.record


def reading_for(made: Any, reading: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options of `load` for real images to be compared with others: with their size, and the way to it, if none is named.

    Args:
        made: a model, an extractor, or samples or a run as `open_samples` takes them. Images of other programs have no such
            record.
        reading: the options that are named.
    """
    given = dict(reading or {})
    size, fit = _fit_of(made) or (None, None)
    return given | {"size": given.get("size") or size, "fit": given.get("fit") or fit} if fit else given


def _fit_of(made: Any) -> tuple[tuple[int, int], str] | None:
    """((height, width), fit) of the images of a model, a run or samples that were brought to one size."""
    if isinstance(made, (str, Path)):
        text = str(local_run(made))
        path = as_path(text if as_path(text).exists() else text.partition("[")[0])
        if split_run(text)[0] or not (path.exists() or text in BUNDLED_FILES):
            return None
        if home_of(path) is None and path.suffix != ".safetensors":
            record = read_record(path) or {}
            return ((shape[-2], shape[-1]), fit) if (fit := record.get("fit")) and (shape := record.get("image_shape")) else None
        made = load_model(text)
    if not (fit := getattr(made, "fit", None)):
        return None
    _, h, w = image_shape(made) if isinstance(made, Model) else made.image_shape  # of an extractor, which has no padding
    return (h, w), fit


def check_value_range(record: Mapping[str, Any] | None, real: ImageSet) -> None:
    """Refuses samples whose stored levels stand for other values than those of the real images, or that got their size in
    another way."""
    made, fit = (record or {}).get("fit"), real.reading.fit
    if made is not None and fit not in (None, made):
        raise ValueError(
            f"the model of the samples was trained on images that got their size by --fit {made}, and the real ones are "
            f"{real.title}: leave --size and --fit out, and the model's are taken"
        )
    declared = (record or {}).get("value_range")
    made = None if declared is None else (float(declared[0]), float(declared[1]))
    if record is not None and made != real.value_range:
        typed = "leave --range out" if made is None else f"--range {made[0]:.6g} {made[1]:.6g}"
        raise ValueError(
            f"the samples' range is {made}, that of {real.name}:{real.split} is {real.value_range}: the same level stands for "
            f"different values. Read the real images in the range that the model was trained in: {typed}"
        )
