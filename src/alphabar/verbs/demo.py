"""`demo`: the same garments by DDPM, skipped calls, DDIM, fitted samplers and a distilled model, scored, without a download."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphabar.core.files import json_text, write_json
from alphabar.core.machine import device_of
from alphabar.core.messages import as_path, say
from alphabar.core.options import takes
from alphabar.core.outputs import check_folder, check_output
from alphabar.core.progress import track
from alphabar.core.run import DISTILLED
from alphabar.core.stored_values import read_object
from alphabar.core.types import Features, Pixels
from alphabar.data.cache import fingerprint_of
from alphabar.data.image_set import ImageSet
from alphabar.data.images import check_images
from alphabar.data.split import image_hashes
from alphabar.denoiser.plan import parse_plan, timesteps
from alphabar.evaluation.floor import floor_sets
from alphabar.evaluation.image_eval import ImageEval
from alphabar.features.extractor import FeatureExtractor
from alphabar.features.load import load_extractor
from alphabar.report.demo_page import print_demo, write_demo
from alphabar.results.demo import SETTINGS, Demo, DemoResult, DemoSetting
from alphabar.sampling.batches import SamplingStep
from alphabar.sampling.model import Model, fingerprint
from alphabar.sampling.precision import faster_precision
from alphabar.sampling.sample import sample
from alphabar.sampling.samples import Samples
from alphabar.schedule.grid import make_grid
from alphabar.training.checkpoint import load_model
from alphabar.verbs.options import DemoOptions

MOST = 2_000  # images of a setting
ROUND = 40  # images of a setting are a multiple of it
MEASURE = 0.4  # seconds spent on each measurement of speed
WORK = 50_000  # images times network calls of the least demo
SLOW = 6 * 60  # seconds for the fewest images, above which a message says that the machine is slow
REAL_IMAGES = Path(__file__).parents[1] / "assets" / "fashion_mnist_test.npz"


@takes(DemoOptions)
def demo(
    *, options: DemoOptions = DemoOptions(), model: str | Path | Model = "bundled",
    distilled: str | Path | Model = "bundled/distilled", extractor: str | Path | FeatureExtractor = "bundled",
    images: ImageSet | Any | None = None, settings: Sequence[DemoSetting] = SETTINGS,
) -> Path:  # fmt: skip
    """Samples by every setting, scores, prints a table, and writes OUT/index.html and OUT/results.json.

    Ctrl-C writes the page from what there is and raises KeyboardInterrupt; the same call then continues.

    Args:
        options: see `DemoOptions`; its fields may also be passed as keywords.
        model: a run, or a denoiser.
        distilled: likewise, for the settings of the sampler "distilled".
        extractor: of the scores.
        images: real images; None takes the bundled test images of Fashion-MNIST.
        settings: the ways to sample.

    Returns:
        The path of the page.

    Raises:
        OSError: if the bundled files are missing, or OUT holds files that are not of a demo.
        ValueError: if n is too small for FID.
    """
    start = time.monotonic()
    out, device = as_path(options.out), str(device_of(options.device))
    check_folder(out, "demo", ours=("unfinished.json", "results.json"))
    for path, kind in ((out / "index.html", "page"), (out / "results.json", "results of a demo")):
        check_output(path, kind)
    network: Any = load_model(model) if isinstance(model, str | Path) else model
    if not any(s.sampler == DISTILLED for s in settings):
        distilled = network
    elif isinstance(distilled, str | Path):
        distilled = load_model(distilled)
    features: FeatureExtractor = load_extractor(extractor) if isinstance(extractor, str | Path) else extractor
    real = bundled_images() if images is None else as_image_set(images)
    speed = _speed(out, options, (network, distilled), features, real, settings, device)
    drawn = [s.key for s in settings if (out / "samples" / f"{s.key}.npz").exists()]
    _print(expectation(speed, int(speed["n"]), settings, drawn))
    about = {
        "n": int(speed["n"]), "speed": speed, "extractor": features.fingerprint, "model": fingerprint(network),
        "reference": real.name,
    }  # fmt: skip
    made = Demo(options.minutes, options.seed, options.few, real, about)
    try:
        _sample_all(made, network, distilled, settings, out / "samples", device)
        _score_all(made, features)
        made.finished = True
        (out / "unfinished.json").unlink(missing_ok=True)
    except KeyboardInterrupt:
        _print("stopped: the page holds what there is, and the same command continues")
        raise
    finally:
        made.seconds = time.monotonic() - start
        page = write_demo(made, out)
    print_demo(made, page)
    return page


def bundled_images() -> ImageSet:
    """The real images of the package: all 10,000 of Fashion-MNIST's test split."""
    if not REAL_IMAGES.exists():
        raise FileNotFoundError(f"the bundled test images are not at {REAL_IMAGES}: install alphabar again, or pass images=...")
    with np.load(REAL_IMAGES, allow_pickle=False) as file:
        return as_image_set(file["images"], file["labels"], tuple(str(c) for c in file["classes"]), "bundled Fashion-MNIST")


def as_image_set(images: Any, labels: Any = None, classes: tuple[str, ...] | None = None, name: str = "images given") -> ImageSet:
    """Pixels as an ImageSet; an ImageSet is returned unchanged."""
    if isinstance(images, ImageSet):
        return images
    pixels = check_images(images)
    hashes = image_hashes(pixels)
    return ImageSet(name, "test", pixels, labels, classes, fingerprint_of(pixels.shape[1:], hashes), hashes, name)


def _speed(
    out: Path, options: DemoOptions, models: Sequence[Any], extractor: FeatureExtractor, real: ImageSet,
    settings: Sequence[DemoSetting], device: str,
) -> dict[str, Any]:  # fmt: skip
    """The machine's speed and the number of images that follows: of the same demo, if it was stopped in `out`, or measured.

    Samples of other demos are removed.
    """
    least = math.ceil(max(640, extractor.dim * 5 / 4) / ROUND) * ROUND
    if options.n is not None and options.n <= extractor.dim:
        raise ValueError(
            f"n = {options.n}: FID takes more images than the extractor has features ({extractor.dim}); give {least} or more"
        )
    wanted = {
        "models": [fingerprint(m) for m in models], "extractor": extractor.fingerprint, "real": real.fingerprint,
        "seed": options.seed, "few": options.few, "minutes": options.minutes, "asked": options.n,
        "settings": [s.key for s in settings],
    }  # fmt: skip
    unfinished = out / "unfinished.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        found = read_object(unfinished)
        if found["wanted"] == json.loads(json_text(wanted)):
            _print(f"continuing the demo that was stopped in {out}")
            return dict(found["pace"])
    for key in [*(s.key for s in settings), "trajectory"]:
        (out / "samples" / f"{key}.npz").unlink(missing_ok=True)
        shutil.rmtree(out / "samples" / f"{key}.part", ignore_errors=True)
    _print("measuring the speed of a network call on this machine ...")
    speed = measure_speed(models[0], extractor, real.pixels, settings, options.few, device)
    speed["n"] = options.n or images_that_fit(speed, options.minutes, least)
    write_json(unfinished, {"wanted": wanted, "pace": speed})
    return speed


def _sample_all(
    demo: Demo, model: Any, distilled: Any, settings: Sequence[DemoSetting], folder: Path, device: str
) -> None:  # fmt: skip
    """Samples by every setting, each into its file, which is read where an earlier call has finished it."""
    speed = demo.about["speed"]
    how = {"seed": demo.seed, "progress": False, "device": device, "channels_last": bool(speed["channels_last"])}
    how["precision"] = speed["precision"]
    costs = [(demo.about["n"] if s.scored else demo.few) * speed["calls"][s.key] for s in settings]
    steps = min(10, model.schedule.steps or 10)
    on_the_way = min(6, demo.few)
    with track(sum(costs) + on_the_way * steps, "sampling", unit="calls") as advance:
        for setting, cost in zip(settings, costs, strict=True):
            path, n = folder / f"{setting.key}.npz", demo.about["n"] if setting.scored else demo.few
            steps_done = _Calls(advance, setting.title + (f", {setting.steps} calls" if setting.scored else ""))
            other = setting.sampler == DISTILLED
            samples = Samples.load(path) if path.exists() else sample(
                distilled if other else model, n, sampler=None if other else setting.sampler, steps=steps_of(model, setting),
                plan=setting.plan, eta=setting.eta if setting.sampler == "ddim" else None,
                batch=speed["batch"] if setting.scored else demo.few, out=path, on_step=steps_done, **how,
            )  # fmt: skip
            demo.results.append(DemoResult(setting, samples))
            steps_done.add(cost - steps_done.image_calls)  # those of an earlier, stopped demo
        trajectory_steps = _Calls(advance, "from noise to image")
        demo.trajectory = sample(model, on_the_way, steps=steps, keep_x0=True, on_step=trajectory_steps, **how)


class _Calls:
    """An `on_step` that moves a progress bar forward by the network calls of each step, times the images of the batch."""

    def __init__(self, advance: Callable[..., None], note: str) -> None:
        self.advance, self.note = advance, note
        self.image_calls = 0.0
        self.batch: tuple[int, float] = (-1, 0.0)  # its first image, and the calls of it that are counted

    def __call__(self, now: SamplingStep) -> None:
        counted = self.batch[1] if self.batch[0] == now.first else 0.0
        self.batch = (now.first, now.calls)
        self.add(len(now.x0_hat) * (now.calls - counted))

    def add(self, image_calls: float) -> None:
        self.image_calls += image_calls
        self.advance(image_calls, self.note)


class _CountedExtractor:
    """An extractor that moves a progress bar forward by every image."""

    def __init__(self, extractor: FeatureExtractor, advance: Callable[..., None]) -> None:
        self.extractor, self.advance = extractor, advance
        self.name, self.dim, self.fingerprint = extractor.name, extractor.dim, extractor.fingerprint
        self.preprocessing = extractor.preprocessing

    def features(self, pixels: Pixels) -> Features:
        out = self.extractor.features(pixels)
        self.advance(len(pixels))
        return out


def _score_all(demo: Demo, extractor: FeatureExtractor) -> None:
    """FID and KID of the scored settings. One half of the real images, by content, is the reference, the other the floor."""
    scored = [r for r in demo.results if r.setting.scored]
    if not scored:
        return
    images = sum(len(r.samples.images) for r in scored)
    half = len(demo.real) - len(demo.real) // 2
    n, pool = len(scored[0].samples.images), len(demo.real) // 2
    with track(images + half + min(n, pool) * floor_sets(n, pool), "scoring", unit="images") as advance:
        evaluator = ImageEval(_CountedExtractor(extractor, advance), demo.real, cache=False)
        for result in scored:
            result.scores = evaluator.score(result.samples, metrics=("fid", "kid"))


def _print(text: str) -> None:
    say(text, sys.stderr)


def measure_speed(
    model: Any, extractor: FeatureExtractor, pixels: Pixels, settings: Sequence[DemoSetting], few: int, device: str
) -> dict[str, Any]:
    """Seconds of a network call per image (in the fastest memory layout, batch and precision, and in batches of `few`) and of
    an image's features, with the network calls that the settings take."""
    layouts = [False]
    if isinstance(model, torch.nn.Module):
        model.to(device).eval()
        layouts.append(True)
    seconds, channels_last, batch = min(
        (_call_seconds(model, batch, channels_last, device) / batch, channels_last, batch)
        for channels_last in layouts for batch in (32, 64, 128)
    )  # fmt: skip
    coarse, found = faster_precision(model, "channels_last" if channels_last else "eager", batch, WORK)
    ratio = 1.0 if coarse is None else found["time"]
    some = np.ascontiguousarray(pixels[: min(len(pixels), 256)])
    extractor.features(some[:8])
    start = time.perf_counter()
    extractor.features(some)
    seconds_a_feature = (time.perf_counter() - start) / len(some)
    calls = {s.key: _calls(model, s) for s in settings}
    return {
        "seconds_a_call": seconds * ratio, "channels_last": channels_last, "batch": batch,
        "precision": "float32" if coarse is None else "bf16",
        "seconds_a_call_few": _call_seconds(model, few, channels_last, device) / few * ratio,
        "seconds_a_feature": seconds_a_feature, "calls": calls, "few": few,
        "calls_few": sum(calls[s.key] for s in settings if not s.scored) + 10,  # and those of the trajectory
        "calls_scored": sum(calls[s.key] for s in settings if s.scored), "scored": sum(s.scored for s in settings),
        "real": len(pixels) - len(pixels) // 2,
    }  # fmt: skip


@torch.inference_mode()
def _call_seconds(model: Any, batch: int, channels_last: bool, device: str) -> float:
    """Seconds of a call of `model` on `batch` images: the median of several, after a first one that does not count."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if isinstance(model, torch.nn.Module):
        model.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.zeros(batch, *model.image_shape, device=device).contiguous(memory_format=layout)
    sigma = torch.ones(batch, device=device)
    taken: list[float] = []
    while len(taken) < 4 or (sum(taken) < MEASURE and len(taken) < 30):
        start = time.perf_counter()
        model(x, sigma).flatten()[0].item()  # waits for the device
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def steps_of(model: Model, setting: DemoSetting) -> int:
    return setting.steps or model.schedule.steps or 1000


def _calls(model: Model, setting: DemoSetting) -> int:
    """Network calls per image that a setting is expected to take; the record of its samples has the number counted."""
    steps = steps_of(model, setting)
    if setting.plan is None:
        return steps
    return int(parse_plan(setting.plan)(steps, timesteps(model.schedule, make_grid(model.schedule, steps))).sum())


def images_that_fit(speed: Mapping[str, Any], minutes: float, least: int) -> int:
    """Images of a scored setting: as many as the minutes allow, between `least` and 2,000."""
    if not speed["scored"]:
        return least
    fixed = speed["few"] * speed["calls_few"] * speed["seconds_a_call_few"] + speed["real"] * speed["seconds_a_feature"]
    each = speed["calls_scored"] * speed["seconds_a_call"] * 1.05 + (speed["scored"] + 1) * speed["seconds_a_feature"]
    fits = int((minutes * 60 - fixed) / each) // ROUND * ROUND
    return max(least, min(fits, MOST))


def expectation(speed: Mapping[str, Any], n: int, settings: Sequence[DemoSetting], done: Collection[str] = ()) -> str:
    """What will be sampled, and how long that should take, in a sentence. done: settings that a stopped demo has drawn."""
    few = speed["few"] * speed["calls_few"] * speed["seconds_a_call_few"]
    features = speed["real"] + n * (speed["scored"] + floor_sets(n, speed["real"]))
    seconds = few + n * speed["calls_scored"] * speed["seconds_a_call"] + features * speed["seconds_a_feature"]
    for s in settings:
        if s.key in done:
            cost = n * speed["seconds_a_call"] if s.scored else speed["few"] * speed["seconds_a_call_few"]
            seconds -= cost * speed["calls"][s.key]
    drawn = f"; {len(done)} settings are drawn already" if done else ""
    slow = " (this machine is slow, but a score of fewer images would mean little)" if seconds > SLOW else ""
    scored, slow_ones, minutes = speed["scored"], len(settings) - speed["scored"], max(seconds, 1) / 60
    return (
        f"one network call takes {speed['seconds_a_call'] * 1e3:.3g} ms an image: {n:,} images by each of {scored} settings, "
        f"{speed['few']} by {slow_ones} slow ones, in about {minutes:.1f} minutes{slow}{drawn}"
    )
