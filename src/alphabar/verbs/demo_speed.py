"""How fast this machine samples and extracts features, and how many images the demo can therefore make."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from alphabar.core.types import Pixels
from alphabar.denoiser.plan import parse_plan, timesteps
from alphabar.evaluation.floor import floor_sets
from alphabar.features.extractor import FeatureExtractor
from alphabar.results.demo import DemoSetting
from alphabar.sampling.model import Model
from alphabar.schedule.grid import make_grid

MOST = 2_000  # images of a setting
ROUND = 40  # images of a setting are a multiple of it
MEASURE = 0.4  # seconds spent on each measurement of speed
SLOW = 6 * 60  # seconds for the fewest images, above which a message says that the machine is slow


def measure_speed(
    model: Any, extractor: FeatureExtractor, pixels: Pixels, settings: Sequence[DemoSetting], few: int, device: str
) -> dict[str, Any]:
    """Seconds of a network call per image (in the fastest memory layout and batch, and in batches of `few`) and of an image's
    features, with the network calls that the settings take."""
    layouts = [False]
    if isinstance(model, torch.nn.Module):
        model.to(device).eval()
        layouts.append(True)
    seconds, channels_last, batch = min(
        (_call_seconds(model, batch, channels_last, device) / batch, channels_last, batch)
        for channels_last in layouts for batch in (32, 64, 128)
    )  # fmt: skip
    some = np.ascontiguousarray(pixels[: min(len(pixels), 256)])
    extractor.features(some[:8])
    start = time.perf_counter()
    extractor.features(some)
    seconds_a_feature = (time.perf_counter() - start) / len(some)
    calls = {s.key: _calls(model, s) for s in settings}
    return {
        "seconds_a_call": seconds, "channels_last": channels_last, "batch": batch,
        "seconds_a_call_few": _call_seconds(model, few, channels_last, device) / few,
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


def expectation(speed: Mapping[str, Any], n: int, settings: Sequence[DemoSetting]) -> str:
    """What will be sampled, and how long that should take, in a sentence."""
    few = speed["few"] * speed["calls_few"] * speed["seconds_a_call_few"]
    features = speed["real"] + n * (speed["scored"] + floor_sets(n, speed["real"]))
    seconds = few + n * speed["calls_scored"] * speed["seconds_a_call"] + features * speed["seconds_a_feature"]
    slow = " (this machine is slow, but a score of fewer images would mean little)" if seconds > SLOW else ""
    scored, slow_ones, minutes = speed["scored"], len(settings) - speed["scored"], max(seconds, 1) / 60
    return (
        f"one network call takes {speed['seconds_a_call'] * 1e3:.3g} ms an image: {n:,} images by each of {scored} settings, "
        f"{speed['few']} by {slow_ones} slow ones, in about {minutes:.1f} minutes{slow}"
    )
