"""precision="auto": bfloat16 products, where they are faster on this machine and draw the same images but for rounding."""

import time
from typing import Any

import torch

from alphabar.core.seeds import starting_noise
from alphabar.denoiser.runtime.fast_model import FastModel, speed_up
from alphabar.sampling.model import Model
from alphabar.sampling.samplers.ddim import ddim
from alphabar.schedule.grid import make_grid

IMAGES, CALLS = 8, 10  # that are drawn by DDIM in both precisions
AGREEMENT = 0.02  # largest root mean square difference of the middle image, of [-1, 1]; 0.003 for the bundled model
FASTER = 0.9  # of the time in float32 that bfloat16 takes at most
ROUNDS = 3  # timed calls of a batch in each precision
WORTH = 5  # least ratio of the work to that of finding out


def faster_precision(model: Model, fast: str, batch: int, work: int) -> tuple[FastModel | None, dict[str, Any]]:
    """The model in bfloat16, or None where float32 is to be kept, and why, for the record.

    Args:
        model: a model with a network.
        fast: how the network is run, in both precisions.
        batch: images in a network call.
        work: images times network calls that are to come; too little of it is not worth finding out.
    """
    if work < WORTH * 2 * (ROUNDS * batch + IMAGES * CALLS):
        return None, {"why": "too few images to find out whether bf16 is faster"}
    if not getattr(model, "null_class", True):
        return None, {"why": "the model needs a class for every image"}
    try:
        plain, coarse = (speed_up(model, fast, batch=batch, precision=p, work=work) for p in ("float32", "bf16"))
    except (RuntimeError, ValueError) as e:  # no network, or no bfloat16 here
        return None, {"why": str(e)}
    noise, grid = starting_noise(0, range(batch), model.image_shape).to(plain.device), make_grid(model.schedule, CALLS)
    seconds: dict[FastModel, list[float]] = {plain: [], coarse: []}
    for _ in range(ROUNDS):
        for each, taken in seconds.items():
            start = time.perf_counter()
            float(each(noise, torch.ones(batch, device=plain.device)).sum())  # waits for the device
            taken.append(time.perf_counter() - start)
    found: dict[str, Any] = {"time": min(seconds[coarse]) / min(seconds[plain])}
    if found["time"] > FASTER:
        return None, {**found, "why": "bf16 is not faster here"}
    a, b = (ddim(each, noise[:IMAGES] * float(grid[0]), grid) for each in (plain, coarse))
    found["difference"] = float((a - b).square().flatten(1).mean(1).sqrt().median())
    if not found["difference"] <= AGREEMENT:
        return None, {**found, "why": f"images in bf16 differ by more than {AGREEMENT}"}
    return coarse, found
